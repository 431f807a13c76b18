//! One started program: its log is kept and shown when the test fails, and it ends with the test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions, kill_process, prlimit, waitpid};

use super::until;

/// How much of a log a failed test shows.
const LOG_LINES: usize = 60;

/// A running program, killed when it is dropped.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it in this directory, where its log goes, too. What it is told later is appended.
    pub(crate) fn start(name: &'static str, directory: &Path, command: &mut Command) -> Self {
        let log = directory.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).expect("a log file");
        let copy = file.try_clone().expect("a second handle of the log");
        command.current_dir(directory).stdin(Stdio::null()).stdout(file).stderr(copy);
        let child =
            command.spawn().unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        Self { name, child, log }
    }

    /// Fails the test when it has ended.
    pub(crate) fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().expect("a child of this process") {
            panic!("{} ended: {status}", self.name);
        }
    }

    /// How it ended, once it has.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        until("the end of a process", async || child.try_wait().expect("a child of this process"))
            .await
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// It is there and does nothing, until it may go on. It has stopped when this returns.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
        let pid = Some(Pid::from_child(&self.child));
        waitpid(pid, WaitOptions::UNTRACED).expect("a child of this process");
    }

    /// After [`Process::pause`].
    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// [`Process::pause`] for it and the processes that it started.
    pub(crate) fn pause_all(&self) {
        self.signal(Signal::STOP);
        // What it starts no others any more, so that none is missed.
        for child in self.children() {
            // It may have ended meanwhile.
            let _ = kill_process(child, Signal::STOP);
        }
    }

    /// After [`Process::pause_all`].
    pub(crate) fn go_on_all(&self) {
        for child in self.children() {
            let _ = kill_process(child, Signal::CONT);
        }
        self.signal(Signal::CONT);
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child of this process").is_some()
    }

    /// The processes that it started.
    fn children(&self) -> impl Iterator<Item = Pid> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let ids: Vec<i32> = children
            .expect("it is running")
            .split_whitespace()
            .filter_map(|id| id.parse().ok())
            .collect();
        ids.into_iter().filter_map(Pid::from_raw)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is running");
    }

    /// Lets its files grow again.
    pub(crate) fn lift_file_size_limit(&self) {
        let unlimited = Rlimit { current: None, maximum: None };
        let process = Some(Pid::from_child(&self.child));
        prlimit(process, Resource::Fsize, unlimited).expect("its hard limit is no lower");
    }

    /// SIGKILL. Nothing of it is left when this returns.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Everything that it and its predecessors in the same directory said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("a readable log")
    }
}

impl Drop for Process {
    #[expect(clippy::print_stderr, reason = "what a failed test shows")]
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default();
            eprintln!("--- the end of {}'s log\n{}\n---", self.name, tail.join("\n"));
        }
    }
}
