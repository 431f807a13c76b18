//! Servers as processes of their own, held to one processor, and what processor time they used.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::processor::processor_time;

/// How long a server may take to come up, in steps of [`STEP`].
const STEPS: u32 = 1_500;
const STEP: Duration = Duration::from_millis(20);

/// A server that runs. It is killed when it is dropped.
pub(crate) struct Server {
    child: Child,
    /// What it wrote into its ready file.
    pub(crate) ready: Value,
}

impl Server {
    /// Starts a command on a processor of its own where there is one, and waits for its ready file.
    pub(crate) fn start(command: &mut Command, ready_file: &Path) -> Result<Self> {
        let child = command.stdin(Stdio::null()).spawn().context("a server cannot be started")?;
        let mut server = Self { child, ready: Value::Null };
        for _ in 0..STEPS {
            if let Ok(text) = fs::read_to_string(ready_file) {
                server.ready = serde_json::from_str(&text)?;
                return Ok(server);
            }
            if let Some(status) = server.child.try_wait()? {
                bail!("a server ended at once: {status}");
            }
            sleep(STEP);
        }
        bail!("a server was not ready in time")
    }

    /// An address of the ready file.
    pub(crate) fn address(&self, name: &str) -> Result<String> {
        let address = self.ready[name].as_str().with_context(|| format!("no address {name:?}"))?;
        Ok(address.to_owned())
    }

    /// Processor time used so far by all its threads.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        processor_time(self.child.id())
    }

    /// Memory in use, in bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.context("no VmRSS")?.trim().trim_end_matches(" kB");
        Ok(kilobytes.parse::<u64>()? * 1024)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing left to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether processors can be told apart: servers on the first, the load on the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pinning {
    Pinned,
    /// There is no `taskset`, or one processor only.
    Shared,
}

impl Pinning {
    /// Moves this process to the second processor.
    pub(crate) fn choose() -> Self {
        let own = std::process::id().to_string();
        let moved = Command::new("taskset")
            .args(["--all-tasks", "--cpu-list", "--pid", "1", &own])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if moved.is_ok_and(|status| status.success()) { Self::Pinned } else { Self::Shared }
    }

    /// A command for a server.
    pub(crate) fn command(self, program: &Path) -> Command {
        match self {
            Self::Shared => Command::new(program),
            Self::Pinned => {
                let mut command = Command::new("taskset");
                command.args(["--cpu-list", "0"]).arg(program);
                command
            }
        }
    }
}

/// Fails unless the platform tells processor time per thread.
pub(crate) fn ensure_measurable() -> Result<()> {
    ensure!(
        Path::new("/proc/self/task").exists(),
        "this benchmark reads processor time from /proc, which only Linux has"
    );
    Ok(())
}
