//! Takes AWS's binary event stream apart as it comes in: frames of a prelude, headers, a payload and two checksums. In an invoke stream the
//! payload holds the model's own document in base64.

use crate::domain::usage::base64::Base64;
use crate::domain::usage::meter::Reader;
use crate::domain::usage::places::Place;
use crate::domain::usage::scan::{Scanner, Sink};

/// A place in an event stream.
#[derive(Debug)]
pub(super) struct EventStream {
    at: At,
    /// The prelude, the headers or the checksum being read.
    held: Vec<u8>,
    checksum: crc32fast::Hasher,
    headers_len: usize,
    payload_len: usize,
    payload: Payload,
    outer: Scanner,
    inner: Scanner,
    base64: Base64,
    decoded: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Prelude,
    Headers,
    Payload,
    Checksum,
    /// Behind something that is no frame.
    Broken,
}

/// What a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Payload {
    /// A document of Bedrock's own.
    Document,
    /// One that holds the model's, at `bytes`.
    Chunk,
    /// An exception, or nothing that is known.
    Other,
}

/// Total length, headers' length and the checksum of both.
const PRELUDE_LEN: usize = 12;
const CHECKSUM_LEN: usize = 4;
/// The most that the protocol allows a frame to have.
const FRAME_BYTES_MAX: usize = 24 * 1024 * 1024;
/// Bedrock's frames have a hundred bytes of headers; the protocol allows 128 KiB, which nobody needs.
const HEADER_BYTES_MAX: usize = 8 * 1024;

impl EventStream {
    pub(super) fn new() -> Self {
        Self {
            at: At::Prelude,
            held: Vec::new(),
            checksum: crc32fast::Hasher::new(),
            headers_len: 0,
            payload_len: 0,
            payload: Payload::Other,
            outer: Scanner::new(),
            inner: Scanner::new(),
            base64: Base64::default(),
            decoded: Vec::new(),
        }
    }

    /// Reads on. What a frame says counts when its checksum is right.
    pub(super) fn push(&mut self, mut bytes: &[u8], reader: &mut Reader) {
        while !bytes.is_empty() {
            let wanted = match self.at {
                At::Prelude => PRELUDE_LEN.saturating_sub(self.held.len()),
                At::Headers => self.headers_len.saturating_sub(self.held.len()),
                At::Payload => self.payload_len,
                At::Checksum => CHECKSUM_LEN.saturating_sub(self.held.len()),
                At::Broken => return,
            };
            let (piece, rest) = bytes.split_at_checked(wanted).unwrap_or((bytes, &[]));
            bytes = rest;
            if self.at != At::Checksum {
                self.checksum.update(piece);
            }
            if self.at == At::Payload {
                self.payload_len = self.payload_len.saturating_sub(piece.len());
                self.payload(piece, reader);
            } else {
                self.held.extend_from_slice(piece);
            }
            if piece.len() == wanted {
                self.step(reader);
            }
        }
    }

    /// Goes on from a part that is whole, past parts that are empty.
    fn step(&mut self, reader: &mut Reader) {
        self.at = match self.at {
            At::Prelude => self.begin(),
            At::Headers => {
                self.payload = payload_by(&self.held);
                At::Payload
            }
            At::Payload => At::Checksum,
            At::Checksum => {
                let checksum = std::mem::take(&mut self.checksum).finalize();
                reader.release(self.held == checksum.to_be_bytes());
                At::Prelude
            }
            At::Broken => At::Broken,
        };
        self.held.clear();
        let is_empty = (self.at == At::Headers && self.headers_len == 0)
            || (self.at == At::Payload && self.payload_len == 0);
        if is_empty {
            self.step(reader);
        }
    }

    fn begin(&mut self) -> At {
        let word = |at: usize| {
            let bytes = self.held.get(at..)?.first_chunk::<4>()?;
            usize::try_from(u32::from_be_bytes(*bytes)).ok()
        };
        let (Some(total), Some(headers)) = (word(0), word(4)) else { return At::Broken };
        let lengths = crc32fast::hash(self.held.get(..8).unwrap_or_default());
        let frame = PRELUDE_LEN.saturating_add(CHECKSUM_LEN).saturating_add(headers);
        let is_sound = self.held.get(8..) == Some(&lengths.to_be_bytes())
            && total <= FRAME_BYTES_MAX
            && headers <= HEADER_BYTES_MAX;
        let Some(payload) = total.checked_sub(frame).filter(|_| is_sound) else {
            return At::Broken;
        };
        self.headers_len = headers;
        self.payload_len = payload;
        self.payload = Payload::Other;
        self.outer.reset();
        self.inner.reset();
        self.base64 = Base64::default();
        At::Headers
    }

    fn payload(&mut self, piece: &[u8], reader: &mut Reader) {
        match self.payload {
            Payload::Document => self.inner.push(piece, reader),
            Payload::Chunk => {
                let mut chunk = Chunk {
                    base64: &mut self.base64,
                    decoded: &mut self.decoded,
                    inner: &mut self.inner,
                    reader,
                };
                // In slices, so that what is decoded at once is bounded.
                piece.chunks(SLICE_BYTES).for_each(|slice| self.outer.push(slice, &mut chunk));
            }
            Payload::Other => {}
        }
    }
}

/// Base64 is decoded in slices of this size.
const SLICE_BYTES: usize = 4096;

/// The document in a chunk's base64.
struct Chunk<'a> {
    base64: &'a mut Base64,
    decoded: &'a mut Vec<u8>,
    inner: &'a mut Scanner,
    reader: &'a mut Reader,
}

impl Sink for Chunk<'_> {
    fn found(&mut self, _: Place, _: Option<&[u8]>) {}

    fn piece(&mut self, text: &[u8]) {
        self.decoded.clear();
        self.base64.push(text, self.decoded);
        self.inner.push(self.decoded, self.reader);
    }

    fn end(&mut self) {}
}

/// What the headers say that the payload is.
fn payload_by(headers: &[u8]) -> Payload {
    let (mut message, mut event): (&[u8], &[u8]) = (b"", b"");
    let mut rest = headers;
    while let Some((name, value, behind)) = header(rest) {
        match name {
            b":message-type" => message = value,
            b":event-type" => event = value,
            _ => {}
        }
        rest = behind;
    }
    match (message, event) {
        (b"event", b"chunk") => Payload::Chunk,
        (b"event", _) => Payload::Document,
        _ => Payload::Other,
    }
}

/// The name and value of the first header, and what follows. A value that is no string is empty.
fn header(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (len, rest) = bytes.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(*len))?;
    let (kind, rest) = rest.split_first()?;
    let fixed = match kind {
        0 | 1 => 0,
        2 => 1,
        3 => 2,
        4 => 4,
        5 | 8 => 8,
        9 => 16,
        6 | 7 => {
            let (len, rest) = rest.split_first_chunk::<2>()?;
            let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
            return Some((name, if *kind == 7 { value } else { b"" }, rest));
        }
        _ => return None,
    };
    let (_, rest) = rest.split_at_checked(fixed)?;
    Some((name, b"", rest))
}
