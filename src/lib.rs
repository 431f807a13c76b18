//! Bursar decides whether an LLM request can be paid for.

pub mod config;
pub mod domain;
pub mod engine;
pub mod store;
pub mod telemetry;
