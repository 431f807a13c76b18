//! Where log lines go and how they look. Lines go to standard error: standard output belongs to what a command prints.

use std::io::{self, IsTerminal};

use anyhow::{Context, Result, anyhow};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For a person at a terminal.
    Text,
    /// One JSON object a line, its fields at the top level, for a log collector.
    Json,
}

/// Sends this process's log lines to standard error. `filter` is in the syntax of `RUST_LOG`, such as `info` or
/// `info,bursar::engine=debug`.
///
/// # Errors
/// When the filter cannot be read, or logging was set up before.
pub fn init(format: Format, filter: &str) -> Result<()> {
    let filter = EnvFilter::try_new(filter)
        .with_context(|| format!("cannot read the log filter {filter:?}"))?;
    let lines =
        fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    match format {
        Format::Text => lines.try_init(),
        Format::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .try_init(),
    }
    .map_err(|cause| anyhow!("cannot set up logging: {cause}"))
}
