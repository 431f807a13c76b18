//! What processes use of the processors, as Linux tells it for each thread.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// The threads of a process, by their numbers.
pub(crate) fn threads(process: u32) -> Result<Vec<u32>> {
    let mut threads = Vec::new();
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let name = thread?.file_name();
        threads.push(name.to_str().context("a thread without a number")?.parse()?);
    }
    Ok(threads)
}

/// Processor time used so far by all threads that a process has. The kernel counts it in nanoseconds in `schedstat`.
pub(crate) fn processor_time(process: u32) -> Result<Duration> {
    let mut nanoseconds = 0;
    for thread in threads(process)? {
        let path = format!("/proc/{process}/task/{thread}/schedstat");
        // It may have ended since.
        let Ok(text) = fs::read_to_string(path) else { continue };
        let time = text.split(' ').next().context("an empty schedstat")?;
        nanoseconds += time.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}
