//! Undoes a body's content-encoding as it comes in, piece by piece, for the meter and for the estimate.
//!
//! The header is a hint: gzip and zstd are known by their first byte, so that a body which something on the way decoded
//! already, or which nobody declared, reads as well.

mod brotli;
mod deflate;
mod gzip;
#[cfg(test)]
pub(in crate::envoy) mod packing;
mod room;
mod zstd;

use thiserror::Error;

use brotli::Brotli;
use deflate::Deflate;
use gzip::Gzip;
use room::Share;
use zstd::Zstd;

pub use room::Room;

/// Decodes one body.
#[derive(Debug)]
pub struct Decoder {
    coding: Coding,
    budget: Budget,
    share: Option<Share>,
}

/// Why the rest of a body cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// A content-encoding other than gzip, deflate, br and zstd, or several.
    #[error("content-encoding is none of gzip, deflate, br, zstd and identity")]
    Unknown,
    /// The body is not in the encoding that it is said to be in.
    #[error("the body is not in its content-encoding")]
    Corrupt,
    /// It unpacks to more than any honest response does, or than is wanted.
    #[error("the body unpacks to more than {RATIO_MAX} times its size")]
    TooDense,
    /// All decoders together hold as much as they may.
    #[error("too many other bodies are being unpacked")]
    NoRoom,
}

impl DecodeError {
    /// `unknown`, `corrupt`, `too_dense` or `no_room`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Corrupt => "corrupt",
            Self::TooDense => "too_dense",
            Self::NoRoom => "no_room",
        }
    }
}

/// What a declared encoding is, or turned out to be.
#[derive(Debug)]
enum Coding {
    /// Before the first byte, which tells gzip, zstd and neither apart.
    Undecided,
    Plain,
    Gzip(Gzip),
    Deflate(Box<Deflate>),
    Brotli(Box<Brotli>),
    Zstd(Box<Zstd>),
    Broken(DecodeError),
}

/// How many times larger than itself a body may unpack, for the amplification that a peer can cause is bounded. A stream of the same
/// few bytes of JSON over and over again comes to about fifty.
pub const RATIO_MAX: u64 = 100;
/// What any body may unpack to: short ones are mostly header, and this much costs nobody anything.
const UNPACKED_BYTES_FREE: u64 = 1024 * 1024;
/// What is unpacked at once.
const BUFFER_BYTES: usize = 16 * 1024;

impl Decoder {
    /// A decoder for a body with this `content-encoding` header; empty where there is none.
    #[must_use]
    pub fn new(content_encoding: &str) -> Self {
        let coding = match content_encoding.trim().to_ascii_lowercase().as_str() {
            "" | "identity" | "gzip" | "x-gzip" | "zstd" => Coding::Undecided,
            "deflate" => Coding::Deflate(Box::default()),
            "br" => Coding::Brotli(Box::default()),
            _ => Coding::Broken(DecodeError::Unknown),
        };
        Self { coding, budget: Budget::default(), share: None }
    }

    /// The same, but no body unpacks to more than this.
    #[must_use]
    pub const fn up_to(mut self, bytes: u64) -> Self {
        self.budget.written_max = bytes;
        self
    }

    /// The same, with no more than what there is room for.
    #[must_use]
    pub fn within(mut self, room: &Room) -> Self {
        self.share = Some(room.share());
        self
    }

    /// Whether there may be more in what was pushed than was handed out.
    #[must_use]
    pub const fn keeps_back(&self) -> bool {
        match &self.coding {
            Coding::Zstd(zstd) => zstd.keeps_back(),
            Coding::Broken(_) => true,
            Coding::Undecided
            | Coding::Plain
            | Coding::Gzip(_)
            | Coding::Deflate(_)
            | Coding::Brotli(_) => false,
        }
    }

    /// Decodes on, handing what it comes to to `out` in bounded pieces. After an error the rest is dropped.
    ///
    /// # Errors
    /// [`DecodeError`], and the same one again for all that follows.
    pub fn push(&mut self, bytes: &[u8], mut out: impl FnMut(&[u8])) -> Result<(), DecodeError> {
        if let (Coding::Undecided, Some(first)) = (&self.coding, bytes.first()) {
            self.coding = match first {
                0x1f => Coding::Gzip(Gzip::default()),
                0x28 => Coding::Zstd(Box::default()),
                _ => Coding::Plain,
            };
        }
        let Self { coding, budget, share } = self;
        budget.read = budget.read.saturating_add(bytes.len() as u64);
        let window_max = coding.window_max();
        let mut hold = |written: u64| match (share.as_mut(), window_max) {
            (Some(share), Some(window_max)) => share.hold(written.min(window_max)),
            _ => Ok(()),
        };
        let begun = hold(budget.written);
        let mut out = |piece: &[u8]| {
            budget.spend(piece.len())?;
            hold(budget.written)?;
            out(piece);
            Ok(())
        };
        let result = begun.and_then(|()| match coding {
            Coding::Undecided => Ok(()),
            Coding::Plain => out(bytes),
            Coding::Gzip(gzip) => gzip.push(bytes, &mut out),
            Coding::Deflate(deflate) => deflate.push(bytes, &mut out),
            Coding::Brotli(brotli) => brotli.push(bytes, &mut out),
            Coding::Zstd(zstd) => zstd.push(bytes, &mut out),
            Coding::Broken(error) => Err(*error),
        });
        let kept = if let Coding::Zstd(zstd) = coding { zstd.kept_max() } else { 0 };
        let result = result.and_then(|()| hold(kept));
        if let Err(error) = result {
            // What it held is free again.
            (self.coding, self.share) = (Coding::Broken(error), None);
        }
        result
    }
}

impl Coding {
    /// How much of what it unpacked a decoder may have to keep; `None` for one that keeps nothing. What it reserves and has not
    /// written yet takes no memory.
    const fn window_max(&self) -> Option<u64> {
        match self {
            Self::Undecided | Self::Plain | Self::Broken(_) => None,
            Self::Gzip(_) | Self::Deflate(_) => Some(0),
            Self::Brotli(_) => Some(brotli::WINDOW_BYTES_MAX),
            Self::Zstd(_) => Some(zstd::WINDOW_BYTES_MAX),
        }
    }
}

/// Where decoded bytes go; it may refuse more.
type Out<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), DecodeError>;

/// What went in and came out.
#[derive(Debug)]
struct Budget {
    read: u64,
    written: u64,
    written_max: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { read: 0, written: 0, written_max: u64::MAX }
    }
}

impl Budget {
    fn spend(&mut self, bytes: usize) -> Result<(), DecodeError> {
        self.written = self.written.saturating_add(bytes as u64);
        let allowed = self.read.saturating_mul(RATIO_MAX).saturating_add(UNPACKED_BYTES_FREE);
        if self.written > allowed.min(self.written_max) {
            Err(DecodeError::TooDense)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
