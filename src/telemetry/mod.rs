//! Floor 1: what an operator sees of a running Bursar: metrics and logs. Passed as an argument, never a global; imports
//! nothing of ours, so that every floor above may count and log.

pub mod logging;
mod metrics;

pub use metrics::{CONTENT_TYPE, Metrics};
