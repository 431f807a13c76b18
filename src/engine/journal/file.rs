//! The journal's file: appended to, rewritten when it has grown, locked by one process.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

/// A file that has grown past this is rewritten, if it is not nearly all live.
const REWRITE_BYTES: u64 = 64 * 1024 * 1024;

/// The open journal.
#[derive(Debug)]
pub(in crate::engine) struct JournalFile {
    path: PathBuf,
    /// Held as long as the process lives.
    _lock: File,
    rewrite_bytes: u64,
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
    /// What was written last; its memory takes turns with the buffer's.
    writing: Vec<u8>,
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
        let state = State {
            file,
            written: 0,
            size,
            size_when_new: size,
            writing: Vec::new(),
            health: Health::Good,
        };
        let file = Self {
            path: path.to_owned(),
            _lock: lock,
            rewrite_bytes: REWRITE_BYTES,
            state: Mutex::new(state),
        };
        Ok((file, contents))
    }

    /// Cuts the file after what was believed of it.
    pub(in crate::engine) fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.state();
        state.file.set_len(bytes)?;
        state.size = bytes;
        Ok(())
    }

    /// Writes everything up to a position, unless somebody else did. `swap` exchanges the buffer under its own lock, and
    /// says where it ended.
    pub(in crate::engine) fn flush(
        &self,
        position: u64,
        swap: impl FnOnce(&mut Vec<u8>) -> u64,
    ) -> io::Result<()> {
        let state = &mut *self.state();
        if state.health == Health::Broken {
            return Err(io::Error::other(
                "the journal could not be written, and was not yet written anew",
            ));
        }
        if state.written >= position {
            return Ok(());
        }
        let end = swap(&mut state.writing);
        if let Err(error) = state.file.write_all(&state.writing) {
            state.health = Health::Broken;
            return Err(error);
        }
        let added = u64::try_from(state.writing.len()).unwrap_or(u64::MAX);
        state.written = end;
        state.size = state.size.saturating_add(added);
        Ok(())
    }

    /// Whether the file should be written anew: it failed, or it is mostly history.
    pub(in crate::engine) fn wants_rewrite(&self) -> bool {
        let state = self.state();
        let grown =
            state.size > self.rewrite_bytes && state.size > state.size_when_new.saturating_mul(2);
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
        *state = State {
            file,
            written: end,
            size,
            size_when_new: size,
            writing: Vec::new(),
            health: Health::Good,
        };
        Ok(())
    }

    /// Puts a file without what stands before this position of the stream of records in the place of the old one, at once or not at
    /// all. Others go on writing while most of it is copied. Where it fails, the old one is as good as it was, and grows to
    /// twice its size before it is tried again.
    pub(in crate::engine) fn cut_head(&self, from: u64) -> io::Result<()> {
        let cut = self.cut(from);
        if cut.is_err() {
            // Half of a copy helps nobody, and on a full disk it takes the room of the records to come.
            let _ = fs::remove_file(self.path.with_extension("new"));
            let mut state = self.state();
            state.size_when_new = state.size;
        }
        cut
    }

    fn cut(&self, from: u64) -> io::Result<()> {
        let mut old = File::open(&self.path)?;
        let (begin, end) = {
            let state = self.state();
            (state.size.saturating_sub(state.written.saturating_sub(from)), state.size)
        };
        old.seek(SeekFrom::Start(begin))?;
        let fresh = self.path.with_extension("new");
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&fresh)?;
        io::copy(&mut Read::by_ref(&mut old).take(end.saturating_sub(begin)), &mut file)?;
        let state = &mut *self.state();
        // Now nobody writes: what came meanwhile is all that is left.
        io::copy(&mut old, &mut file)?;
        let size = file.metadata()?.len();
        if state.health == Health::Broken || begin.saturating_add(size) != state.size {
            return Err(io::Error::other("the journal does not hold all that was recorded"));
        }
        fs::rename(&fresh, &self.path)?;
        (state.file, state.size, state.size_when_new) = (file, size, size);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A journal that is rewritten past 100 bytes.
    fn small(directory: &Path) -> JournalFile {
        let (journal, contents) = JournalFile::open(&directory.join("b.journal")).unwrap();
        assert_eq!(contents, b"");
        JournalFile { rewrite_bytes: 100, ..journal }
    }

    /// Appends bytes that end at this position.
    fn append(journal: &JournalFile, bytes: &[u8], end: u64) -> io::Result<()> {
        journal.flush(end, |buffer| {
            buffer.clear();
            buffer.extend_from_slice(bytes);
            end
        })
    }

    fn contents(journal: &JournalFile) -> Vec<u8> {
        fs::read(&journal.path).unwrap()
    }

    #[test]
    fn a_journal_that_has_grown_is_written_anew_and_grows_again_from_there() {
        let directory = tempfile::tempdir().unwrap();
        let journal = small(directory.path());
        let mut longest = 0;
        for round in 1..=20u64 {
            append(&journal, &[b'.'; 30], round * 40).unwrap();
            if journal.wants_rewrite() {
                journal.replace(|| (b"open".to_vec(), round * 40 + 10)).unwrap();
                assert_eq!(contents(&journal), b"open");
            }
            longest = longest.max(journal.size());
            assert_eq!(u64::try_from(contents(&journal).len()).unwrap(), journal.size());
        }
        assert_eq!(longest, 94, "never longer than the bound and what is open");
    }

    #[test]
    fn a_journal_that_is_nearly_all_live_is_not_written_anew_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let journal = small(directory.path());
        journal.replace(|| (vec![b'.'; 150], 150)).unwrap();
        assert!(!journal.wants_rewrite());
        append(&journal, &[b'.'; 151], 301).unwrap();
        assert!(journal.wants_rewrite());
    }

    #[test]
    fn a_file_loses_its_head_and_nothing_behind_it() {
        let directory = tempfile::tempdir().unwrap();
        let journal = small(directory.path());
        append(&journal, b"head", 1_004).unwrap();
        append(&journal, b"kept", 1_008).unwrap();
        journal.cut_head(1_004).unwrap();
        assert_eq!((contents(&journal), journal.size()), (b"kept".to_vec(), 4));
        append(&journal, b"next", 1_012).unwrap();
        journal.cut_head(1_008).unwrap();
        append(&journal, b"last", 1_016).unwrap();
        assert_eq!(contents(&journal), b"nextlast");
    }

    #[test]
    fn a_file_that_cannot_lose_its_head_is_as_good_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let journal = small(directory.path());
        append(&journal, &[b'.'; 150], 150).unwrap();
        assert!(journal.wants_rewrite());
        fs::create_dir(journal.path.with_extension("new")).unwrap();
        assert!(journal.cut_head(50).is_err());
        assert!(journal.is_good() && !journal.wants_rewrite());
        append(&journal, &[b'.'; 151], 301).unwrap();
        assert_eq!(contents(&journal).len(), 301);
        assert!(journal.wants_rewrite());
    }

    #[test]
    fn a_copy_that_came_to_nothing_takes_no_room() {
        let directory = tempfile::tempdir().unwrap();
        let journal = small(directory.path());
        append(&journal, b"head", 4).unwrap();
        append(&journal, b"kept", 8).unwrap();
        fs::write(&journal.path, b"headke").unwrap();
        assert!(journal.cut_head(4).is_err());
        let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }

    #[test]
    fn what_somebody_else_wrote_is_not_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let journal = small(directory.path());
        append(&journal, b"one", 3).unwrap();
        append(&journal, b"never", 3).unwrap();
        append(&journal, b"two", 6).unwrap();
        assert_eq!(contents(&journal), b"onetwo");
    }

    #[test]
    fn after_a_failed_write_nothing_is_written_until_the_file_is_new() {
        let directory = tempfile::tempdir().unwrap();
        let journal = small(directory.path());
        journal.state().file = File::open(&journal.path).unwrap();
        assert!(append(&journal, b"lost", 4).is_err(), "the file is open for reading only");
        assert!(append(&journal, b"more", 8).is_err());
        assert!(!journal.is_good() && journal.wants_rewrite());
        journal.replace(|| (b"open".to_vec(), 8)).unwrap();
        append(&journal, b"next", 12).unwrap();
        assert_eq!(contents(&journal), b"opennext");
    }
}
