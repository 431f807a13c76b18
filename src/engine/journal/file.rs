//! The journal's file: appended to, rewritten when it has grown, locked by one process.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

use super::Buffer;

/// A file that has grown past this is rewritten, if it is not nearly all live.
const REWRITE_BYTES: u64 = 64 * 1024 * 1024;

/// The open journal.
#[derive(Debug)]
pub(in crate::engine) struct JournalFile {
    path: PathBuf,
    /// Held as long as the process lives.
    _lock: File,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    /// The position in the stream of records up to which all is written.
    written: u64,
    /// Bytes in the file.
    size: u64,
    /// Bytes in the file after it was last rewritten.
    size_when_new: u64,
    health: Health,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Good,
    /// A write failed: what the file should hold is no longer what it holds, until it is written anew.
    Broken,
}

impl JournalFile {
    /// Locks the journal and gives its contents; nothing of it is changed.
    pub(in crate::engine) fn open(path: &Path) -> Result<(Self, Vec<u8>)> {
        let shown = path.display();
        let lock_path = path.with_extension("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock =
            lock.with_context(|| format!("journal.path: cannot open {}", lock_path.display()))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!(
                "journal.path: {shown} is in use by another process; give each Bursar a journal of its own"
            );
        }
        let file =
            OpenOptions::new().create(true).truncate(false).read(true).append(true).open(path);
        let file = file.with_context(|| format!("journal.path: cannot open {shown}"))?;
        let contents =
            fs::read(path).with_context(|| format!("journal.path: cannot read {shown}"))?;
        let size = u64::try_from(contents.len()).unwrap_or(u64::MAX);
        let state = State { file, written: 0, size, size_when_new: size, health: Health::Good };
        Ok((Self { path: path.to_owned(), _lock: lock, state: Mutex::new(state) }, contents))
    }

    /// Cuts the file after what was believed of it.
    pub(in crate::engine) fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state();
        state.file.set_len(bytes)?;
        state.size = bytes;
        Ok(())
    }

    /// Writes everything up to a position, unless somebody else did. `take` empties the buffer under its own lock.
    pub(in crate::engine) fn flush(
        &self,
        position: u64,
        take: impl FnOnce() -> (Vec<u8>, u64),
    ) -> io::Result<()> {
        let mut state = self.state();
        if state.health == Health::Broken {
            return Err(io::Error::other(
                "the journal could not be written, and was not yet written anew",
            ));
        }
        if state.written >= position {
            return Ok(());
        }
        let (bytes, end) = take();
        if let Err(error) = state.file.write_all(&bytes) {
            state.health = Health::Broken;
            return Err(error);
        }
        state.written = end;
        state.size = state.size.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok(())
    }

    /// Whether the file should be written anew: it failed, or it is mostly history.
    pub(in crate::engine) fn wants_rewrite(&self) -> bool {
        let state = self.state();
        let grown =
            state.size > REWRITE_BYTES && state.size > state.size_when_new.saturating_mul(2);
        state.health == Health::Broken || grown
    }

    /// Puts a new file in the place of the old one, at once or not at all. `rewrite` fills the buffer with what is open, under
    /// the ledgers' lock, and empties it.
    pub(in crate::engine) fn replace(
        &self,
        rewrite: impl FnOnce() -> (Vec<u8>, u64),
    ) -> io::Result<()> {
        let mut state = self.state();
        let (bytes, end) = rewrite();
        // The buffer is empty now: until the new file stands, the old one lacks what was in it.
        state.health = Health::Broken;
        let fresh = self.path.with_extension("new");
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&fresh)?;
        file.write_all(&bytes)?;
        fs::rename(&fresh, &self.path)?;
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        *state = State { file, written: end, size, size_when_new: size, health: Health::Good };
        Ok(())
    }

    /// Bytes in the file.
    pub(in crate::engine) fn size(&self) -> u64 {
        self.state().size
    }

    /// From now on the disk is full, until the journal is written anew.
    #[cfg(test)]
    pub(in crate::engine) fn fill_the_disk(&self) {
        self.state().file = OpenOptions::new().write(true).open("/dev/full").unwrap();
    }

    /// Whether records can be written.
    pub(in crate::engine) fn is_good(&self) -> bool {
        self.state().health == Health::Good
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names the machine's current boot. `None` where that cannot be told: then no journal is believed.
pub(in crate::engine) fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

impl Buffer {
    /// Empties the buffer.
    pub(in crate::engine) fn drain(&mut self) -> (Vec<u8>, u64) {
        self.take()
    }
}
