//! The gzip encoding: members one after another, each a header, a deflate stream and a checksum.

use crate::envoy::decode::deflate::Inflate;
use crate::envoy::decode::{DecodeError, Out};

/// A gzip body.
#[derive(Debug)]
pub(super) struct Gzip {
    at: At,
    flags: u8,
    inflate: Inflate,
    checksum: crc32fast::Hasher,
    trailer: Vec<u8>,
}

/// Inside of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// So far into the ten bytes that every member begins with.
    Fixed(usize),
    ExtraLength,
    /// The other half of the length, and the first.
    ExtraLengthHigh(u8),
    Extra(u16),
    Name,
    Comment,
    HeaderChecksum(u8),
    Body,
    Trailer,
    /// Behind a member, of which another may follow.
    Next,
    /// Behind the last.
    Done,
}

const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
const FIXED_LEN: usize = 10;
const FLAGS_AT: usize = 3;
/// Checksum and length, of which only the checksum is compared.
const TRAILER_LEN: usize = 8;
/// What a header may go on with, in this order, by the flag that tells it.
const OPTIONAL: [(u8, At); 4] =
    [(4, At::ExtraLength), (8, At::Name), (16, At::Comment), (2, At::HeaderChecksum(0))];

impl Default for Gzip {
    fn default() -> Self {
        Self {
            at: At::Fixed(0),
            flags: 0,
            inflate: Inflate::new(false),
            checksum: crc32fast::Hasher::new(),
            trailer: Vec::with_capacity(TRAILER_LEN),
        }
    }
}

impl Gzip {
    pub(super) fn push(&mut self, mut bytes: &[u8], out: Out<'_>) -> Result<(), DecodeError> {
        while let Some((first, rest)) = bytes.split_first() {
            match self.at {
                At::Body => {
                    let checksum = &mut self.checksum;
                    let read = self.inflate.push(bytes, &mut |piece| {
                        checksum.update(piece);
                        out(piece)
                    })?;
                    let Some(read) = read else { return Ok(()) };
                    self.at = At::Trailer;
                    bytes = bytes.get(read..).unwrap_or_default();
                }
                At::Done => return Ok(()),
                at @ (At::Fixed(_)
                | At::ExtraLength
                | At::ExtraLengthHigh(_)
                | At::Extra(_)
                | At::Name
                | At::Comment
                | At::HeaderChecksum(_)
                | At::Trailer
                | At::Next) => {
                    self.at = self.header(at, *first)?;
                    bytes = rest;
                }
            }
        }
        Ok(())
    }

    /// Takes one byte of a header or a trailer.
    fn header(&mut self, at: At, byte: u8) -> Result<At, DecodeError> {
        Ok(match at {
            At::Fixed(index) => match MAGIC.get(index) {
                Some(magic) if *magic != byte => return Err(DecodeError::Corrupt),
                _ if index + 1 == FIXED_LEN => self.part(0),
                _ => {
                    if index == FLAGS_AT {
                        self.flags = byte;
                    }
                    At::Fixed(index + 1)
                }
            },
            At::ExtraLength => At::ExtraLengthHigh(byte),
            At::ExtraLengthHigh(low) => match u16::from_le_bytes([low, byte]) {
                0 => self.part(1),
                len => At::Extra(len),
            },
            At::Extra(1) => self.part(1),
            At::Extra(left) => At::Extra(left.saturating_sub(1)),
            At::Name if byte == 0 => self.part(2),
            At::Comment if byte == 0 => self.part(3),
            At::HeaderChecksum(1) => self.part(4),
            At::HeaderChecksum(_) => At::HeaderChecksum(1),
            At::Trailer => {
                self.trailer.push(byte);
                if self.trailer.len() < TRAILER_LEN { At::Trailer } else { self.end_member()? }
            }
            At::Next if byte == MAGIC[0] => At::Fixed(1),
            // Members may stand apart: some readers pass over zeros in between.
            At::Next if byte == 0 => At::Next,
            At::Next => At::Done,
            at @ (At::Name | At::Comment | At::Body | At::Done) => at,
        })
    }

    /// The first optional part of a header, from this one on, that there is; else the body.
    fn part(&self, from: usize) -> At {
        let mut parts = OPTIONAL.iter().skip(from);
        parts.find(|(flag, _)| self.flags & flag != 0).map_or(At::Body, |(_, at)| *at)
    }

    fn end_member(&mut self) -> Result<At, DecodeError> {
        let checksum = std::mem::take(&mut self.checksum).finalize();
        if self.trailer.first_chunk() != Some(&checksum.to_le_bytes()) {
            return Err(DecodeError::Corrupt);
        }
        self.trailer.clear();
        self.inflate.reset();
        Ok(At::Next)
    }
}
