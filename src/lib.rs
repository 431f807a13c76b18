//! Bursar decides whether an LLM request can be paid for.

pub mod admin;
pub mod cli;
pub mod config;
pub mod domain;
pub mod engine;
pub mod envoy;
pub mod serve;
pub mod store;
pub mod telemetry;
