//! The same random trace on every store gives the same results.
