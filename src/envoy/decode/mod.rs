//! Undoes a body's content-encoding as it comes in, piece by piece, for the meter and for the estimate.
//!
//! The header is a hint: gzip and zstd are known by their first byte, so that a body which something on the way decoded
//! already, or which nobody declared, reads as well.

mod brotli;
mod deflate;
mod gzip;
mod zstd;

use thiserror::Error;

use brotli::Brotli;
use deflate::Deflate;
use gzip::Gzip;
use zstd::Zstd;

/// Decodes one body.
#[derive(Debug)]
pub struct Decoder {
    coding: Coding,
    budget: Budget,
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
        Self { coding, budget: Budget::default() }
    }

    /// The same, but no body unpacks to more than this.
    #[must_use]
    pub const fn up_to(mut self, bytes: u64) -> Self {
        self.budget.written_max = bytes;
        self
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
        let budget = &mut self.budget;
        budget.read = budget.read.saturating_add(bytes.len() as u64);
        let mut out = |piece: &[u8]| {
            budget.spend(piece.len())?;
            out(piece);
            Ok(())
        };
        let result = match &mut self.coding {
            Coding::Undecided => Ok(()),
            Coding::Plain => out(bytes),
            Coding::Gzip(gzip) => gzip.push(bytes, &mut out),
            Coding::Deflate(deflate) => deflate.push(bytes, &mut out),
            Coding::Brotli(brotli) => brotli.push(bytes, &mut out),
            Coding::Zstd(zstd) => zstd.push(bytes, &mut out),
            Coding::Broken(error) => Err(*error),
        };
        if let Err(error) = result {
            self.coding = Coding::Broken(error);
        }
        result
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
