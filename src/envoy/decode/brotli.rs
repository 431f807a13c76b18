//! The br encoding.

use std::fmt;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};

use crate::envoy::decode::{BUFFER_BYTES, DecodeError, Out};

/// What the standard lets a window have.
pub(super) const WINDOW_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A br body. Its window takes no more than has been unpacked.
pub(super) struct Brotli {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    buffer: Box<[u8]>,
    is_done: bool,
}

impl Default for Brotli {
    fn default() -> Self {
        let alloc = StandardAlloc::default;
        Self {
            // Strict: without the windows of up to 1 GiB that are no part of the content-encoding.
            state: BrotliState::new_strict(alloc(), alloc(), alloc()),
            buffer: vec![0; BUFFER_BYTES].into(),
            is_done: false,
        }
    }
}

impl fmt::Debug for Brotli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Brotli").field("is_done", &self.is_done).finish_non_exhaustive()
    }
}

impl Brotli {
    pub(super) fn push(&mut self, bytes: &[u8], out: Out<'_>) -> Result<(), DecodeError> {
        let (mut left, mut read) = (bytes.len(), 0);
        while !self.is_done {
            let (mut room, mut gave, mut total) = (self.buffer.len(), 0, 0);
            let result = BrotliDecompressStream(
                &mut left,
                &mut read,
                bytes,
                &mut room,
                &mut gave,
                &mut self.buffer,
                &mut total,
                &mut self.state,
            );
            out(self.buffer.get(..gave).unwrap_or_default())?;
            match result {
                BrotliResult::ResultSuccess => self.is_done = true,
                BrotliResult::NeedsMoreInput => return Ok(()),
                BrotliResult::NeedsMoreOutput => {}
                BrotliResult::ResultFailure => return Err(DecodeError::Corrupt),
            }
        }
        Ok(())
    }
}
