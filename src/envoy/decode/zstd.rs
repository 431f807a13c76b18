//! The zstd encoding: frames of blocks. The decoder wants a header or a block at a time, so that they are put together here.

use std::fmt;
use std::io::Read;

use ruzstd::decoding::FrameDecoder;

use crate::envoy::decode::{BUFFER_BYTES, DecodeError, Out};

/// A zstd body.
pub(super) struct Zstd {
    decoder: FrameDecoder,
    at: At,
    /// The header or block being put together.
    held: Vec<u8>,
    has_checksum: bool,
    /// What the frame's window holds at the most.
    window_bytes: u64,
    /// What the blocks of the frame come to at the most.
    kept_bytes: u64,
    buffer: Box<[u8]>,
}

/// Inside of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before its magic number.
    Magic,
    /// Before the length of a frame to skip.
    SkippedLength,
    Skipped(usize),
    /// In a header, of which the fifth byte tells the length.
    Descriptor,
    Header(usize),
    BlockHeader,
    Block(Last, usize),
    Checksum,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    No,
    Yes,
}

const MAGIC: u32 = 0xfd2f_b528;
const SKIPPED_MAGIC: u32 = 0x184d_2a50;
const BLOCK_HEADER_LEN: usize = 3;
/// What the standard asks every decoder to bear, and no encoder of responses exceeds.
pub(super) const WINDOW_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// What the standard lets a block have.
const BLOCK_BYTES_MAX: usize = 128 * 1024;

impl Default for Zstd {
    fn default() -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW_BYTES_MAX);
        Self {
            decoder,
            at: At::Magic,
            held: Vec::new(),
            has_checksum: false,
            window_bytes: WINDOW_BYTES_MAX,
            kept_bytes: 0,
            buffer: vec![0; BUFFER_BYTES].into(),
        }
    }
}

impl fmt::Debug for Zstd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zstd").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Zstd {
    pub(super) fn push(&mut self, mut bytes: &[u8], out: Out<'_>) -> Result<(), DecodeError> {
        while !bytes.is_empty() {
            let wanted = match self.at {
                At::Magic | At::SkippedLength | At::Checksum => 4,
                At::Descriptor => 5,
                At::BlockHeader => BLOCK_HEADER_LEN,
                At::Header(len) | At::Block(_, len) => len,
                At::Skipped(len) => len,
            };
            let (piece, rest) =
                bytes.split_at_checked(wanted - self.held.len()).unwrap_or((bytes, &[]));
            bytes = rest;
            if let At::Skipped(left) = &mut self.at {
                *left -= piece.len();
                if *left == 0 {
                    self.at = At::Magic;
                }
                continue;
            }
            self.held.extend_from_slice(piece);
            if self.held.len() == wanted {
                self.at = self.step(out)?;
            }
        }
        Ok(())
    }

    /// Whether something of a frame that has begun may be unpacked and not given out: as much as its window holds.
    pub(super) const fn keeps_back(&self) -> bool {
        !matches!(self.at, At::Magic | At::SkippedLength | At::Skipped(_))
    }

    /// What it may keep of what was unpacked. Its decoder tells only what leaves the window.
    pub(super) fn kept_max(&self) -> u64 {
        self.kept_bytes.min(self.window_bytes)
    }

    /// Takes a part that is whole.
    fn step(&mut self, out: Out<'_>) -> Result<At, DecodeError> {
        let word = self.held.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let next = match self.at {
            At::Magic if word == MAGIC => return Ok(At::Descriptor),
            At::Magic if word & !0xf == SKIPPED_MAGIC => At::SkippedLength,
            At::Magic => return Err(DecodeError::Corrupt),
            At::SkippedLength if word == 0 => At::Magic,
            At::SkippedLength => At::Skipped(word as usize),
            At::Skipped(_) | At::Checksum => At::Magic,
            At::Descriptor => {
                let descriptor = self.held.last().copied().unwrap_or_default();
                self.has_checksum = descriptor & 4 != 0;
                return Ok(At::Header(header_len(descriptor)));
            }
            At::Header(_) => {
                self.decoder.reset(&*self.held).map_err(|_| DecodeError::Corrupt)?;
                (self.window_bytes, self.kept_bytes) = (window_bytes(&self.held), 0);
                At::BlockHeader
            }
            At::BlockHeader => return self.block(),
            At::Block(last, _) => {
                self.unpack(out)?;
                match last {
                    Last::No => At::BlockHeader,
                    Last::Yes if self.has_checksum => At::Checksum,
                    Last::Yes => At::Magic,
                }
            }
        };
        self.held.clear();
        Ok(next)
    }

    /// The length of the block, with its header, which stays held.
    fn block(&mut self) -> Result<At, DecodeError> {
        let [a, b, c] = self.held.first_chunk().copied().unwrap_or_default();
        let header = u32::from_le_bytes([a, b, c, 0]);
        let last = if header & 1 == 1 { Last::Yes } else { Last::No };
        let size = (header >> 3) as usize;
        let is_repeated = (header >> 1) & 3 == 1;
        if size > BLOCK_BYTES_MAX {
            return Err(DecodeError::Corrupt);
        }
        let is_compressed = (header >> 1) & 3 == 2;
        let most = if is_compressed { BLOCK_BYTES_MAX } else { size };
        self.kept_bytes = self.kept_bytes.saturating_add(most as u64);
        Ok(At::Block(last, BLOCK_HEADER_LEN + if is_repeated { 1 } else { size }))
    }

    fn unpack(&mut self, out: Out<'_>) -> Result<(), DecodeError> {
        let corrupt = |_| DecodeError::Corrupt;
        let (_, gave) =
            self.decoder.decode_from_to(&self.held, &mut self.buffer).map_err(corrupt)?;
        out(self.buffer.get(..gave).unwrap_or_default())?;
        loop {
            let gave = self.decoder.read(&mut self.buffer).map_err(|_| DecodeError::Corrupt)?;
            if gave == 0 {
                return Ok(());
            }
            out(self.buffer.get(..gave).unwrap_or_default())?;
        }
    }
}

/// The length of a frame's header, with its magic number, by its descriptor.
fn header_len(descriptor: u8) -> usize {
    let is_single = descriptor & 0x20 != 0;
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content = match descriptor >> 6 {
        0 => usize::from(is_single),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    5 + usize::from(!is_single) + dictionary + content
}

/// The size of the window, by a frame's header with its magic number; at the most, where that is the size of the whole frame.
fn window_bytes(header: &[u8]) -> u64 {
    match header {
        [_, _, _, _, descriptor, window, ..] if descriptor & 0x20 == 0 => {
            let base = 1_u64 << (10 + (window >> 3));
            (base + base / 8 * u64::from(window & 7)).min(WINDOW_BYTES_MAX)
        }
        _ => WINDOW_BYTES_MAX,
    }
}
