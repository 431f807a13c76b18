//! A PostgreSQL for the tests of one process: made in a directory of its own, and gone with the process.
