//! Compresses a reply piece by piece, so that each can be read as soon as it has arrived.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

/// A gzip stream in the making.
pub(super) struct Zipped(GzEncoder<Vec<u8>>);

impl Zipped {
    pub(super) fn new() -> Self {
        Self(GzEncoder::new(Vec::new(), Compression::default()))
    }

    /// The compressed bytes of this text.
    pub(super) fn piece(&mut self, text: &str) -> Vec<u8> {
        // Writing to memory does not fail.
        let _ = self.0.write_all(text.as_bytes()).and_then(|()| self.0.flush());
        std::mem::take(self.0.get_mut())
    }

    /// What stands at the end.
    pub(super) fn end(self) -> Vec<u8> {
        self.0.finish().unwrap_or_default()
    }
}
