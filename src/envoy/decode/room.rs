//! What the decoders of many bodies may hold together. A body tells by itself how much of it must be kept, so that a bound for each
//! is none for all.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::envoy::decode::DecodeError;

/// Memory is given out in such parts. One is what a decoder without any window has: its tables and its buffer.
const PART_BYTES: u64 = 64 * 1024;

/// Memory for decoders. Clones are the same.
#[derive(Debug, Clone)]
pub struct Room(Arc<Semaphore>);

/// What one decoder has of it, until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    room: Room,
    held: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Room for so many bytes.
    #[must_use]
    pub fn of(bytes: u64) -> Self {
        let parts = usize::try_from(bytes.div_ceil(PART_BYTES)).unwrap_or(usize::MAX);
        Self(Arc::new(Semaphore::new(parts.min(Semaphore::MAX_PERMITS))))
    }

    pub(super) fn share(&self) -> Share {
        Share { room: self.clone(), held: None }
    }
}

impl Share {
    /// Holds a window of this size.
    pub(super) fn hold(&mut self, window_bytes: u64) -> Result<(), DecodeError> {
        let wanted = window_bytes.div_ceil(PART_BYTES).saturating_add(1);
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        let more = wanted.saturating_sub(u32::try_from(held).unwrap_or(u32::MAX));
        if more == 0 {
            return Ok(());
        }
        let permit = Arc::clone(&self.room.0).try_acquire_many_owned(more);
        let permit = permit.map_err(|_| DecodeError::NoRoom)?;
        match &mut self.held {
            Some(held) => held.merge(permit),
            none => *none = Some(permit),
        }
        Ok(())
    }
}
