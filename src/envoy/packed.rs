//! Request bodies in a content-encoding: the mapping and the estimate read what they unpack to.

use hyper::header::CONTENT_ENCODING;

use crate::domain::estimate::Body;
use crate::envoy::attributes::Attributes;
use crate::envoy::decode::Decoder;

/// What a request's body unpacks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// As much of it as Envoy shows and may be kept.
    seen: Vec<u8>,
    rest: Rest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// It is whole.
    Nothing,
    /// There is more: in all likelihood the whole has no more than so many bytes.
    Likely(u64),
}

/// Any body may unpack to this much, or to so many times its size, and none to more than the most: a decision is made in between, and
/// what it costs must stay in proportion to what was sent. What is longer counts as cut off there.
const SEEN_BYTES_FREE: u64 = 64 * 1024;
const SEEN_BYTES_MAX: u64 = 4 * 1024 * 1024;
const SEEN_RATIO_MAX: u64 = 32;
/// How far what was not seen unpacks at the most, in all likelihood: text packs to a third, JSON that repeats itself in every line to a
/// fifteenth.
const RATIO_LIKELY: u64 = 20;
/// What is unpacked at once: so exactly is it known what the rest is.
const PIECE_BYTES: usize = 4 * 1024;
/// Stands for a header that is there several times or is no text. It names no encoding.
const SEVERAL: &str = "*";

impl Unpacked {
    /// `None` where nothing is packed, or nothing is known of the body at all.
    #[must_use]
    pub fn of(attributes: &Attributes<'_>) -> Option<Self> {
        let encoding = encoding(attributes)?;
        let (packed, whole_size) = match attributes.body() {
            Body::Whole(seen) => (seen, size_of(seen)),
            Body::Cut { seen, whole_size } => (seen, whole_size.unwrap_or(0).max(size_of(seen))),
            Body::Unseen { size } => (&[][..], size.filter(|size| *size > 0)?),
            Body::Packed { .. } => return None,
        };
        // No encoding of a JSON object begins so. A provider that does not look at the header reads it as it is.
        let is_plain = packed.trim_ascii_start().first() == Some(&b'{');
        (!is_plain).then(|| Self::unpack(encoding, packed, whole_size))
    }

    /// What is to be read in place of what was sent.
    #[must_use]
    pub fn body(&self) -> Body<'_> {
        match self.rest {
            Rest::Nothing => Body::Whole(&self.seen),
            Rest::Likely(likely_size) => Body::Packed { seen: &self.seen, likely_size },
        }
    }

    fn unpack(encoding: &str, packed: &[u8], whole_size: u64) -> Self {
        let room = size_of(packed).saturating_mul(SEEN_RATIO_MAX);
        let mut decoder = Decoder::new(encoding).up_to(room.clamp(SEEN_BYTES_FREE, SEEN_BYTES_MAX));
        let (mut seen, mut read) = (Vec::new(), 0_u64);
        for piece in packed.chunks(PIECE_BYTES) {
            if decoder.push(piece, |bytes| seen.extend_from_slice(bytes)).is_err() {
                break;
            }
            read = read.saturating_add(size_of(piece));
        }
        if read == whole_size {
            return Self { seen, rest: Rest::Nothing };
        }
        let ratio = size_of(&seen).div_ceil(read.max(1)).clamp(RATIO_LIKELY, SEEN_RATIO_MAX);
        let unread = whole_size.saturating_sub(read).saturating_mul(ratio);
        let likely = size_of(&seen).saturating_add(unread);
        // What cannot be read at all is not the same as nothing: whatever may be in a request may be in it.
        let seen = if seen.is_empty() { packed.to_vec() } else { seen };
        Self { seen, rest: Rest::Likely(likely) }
    }
}

fn encoding<'a>(attributes: &Attributes<'a>) -> Option<&'a str> {
    let encoding = attributes.header(&CONTENT_ENCODING).unwrap_or(Some(SEVERAL))?;
    (!encoding.trim().eq_ignore_ascii_case("identity")).then_some(encoding)
}

fn size_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
