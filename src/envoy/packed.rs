//! Request bodies in a content-encoding: the mapping and the estimate read what they unpack to.

use hyper::header::CONTENT_ENCODING;

use crate::domain::estimate::Body;
use crate::envoy::attributes::Attributes;
use crate::envoy::decode::{DecodeError, Decoder, RATIO_MAX};

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
/// fifteenth. What is denser than any may be counts as so many times its size as no honest body has.
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
            // Of one that is cut off there is more, though its sender may not say how much.
            Body::Cut { seen, whole_size } => {
                (seen, whole_size.unwrap_or(0).max(size_of(seen).saturating_add(1)))
            }
            Body::Unseen { size } => (&[][..], size.filter(|size| *size > 0)?),
            Body::Packed { .. } => return None,
        };
        // No encoding of a JSON object begins so. A provider that does not look at the header reads it as it is.
        let is_plain = packed.first() == Some(&b'{');
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
        // How much was pushed, and of how much all that it unpacks to was seen.
        let (mut seen, mut pushed, mut read) = (Vec::new(), 0_u64, 0_u64);
        let mut rest_is = Ok(());
        for piece in packed.chunks(PIECE_BYTES) {
            rest_is = decoder.push(piece, |bytes| seen.extend_from_slice(bytes));
            if rest_is.is_err() {
                break;
            }
            pushed = pushed.saturating_add(size_of(piece));
            read = if decoder.keeps_back() { read } else { pushed };
        }
        let seen_size = size_of(&seen);
        let is_object = |bytes: &[u8]| bytes.trim_ascii_start().first() == Some(&b'{');
        // Space may begin an encoding too. If that is what it is, an object is what it comes to.
        let is_plain = is_object(packed) && !is_object(&seen);
        // What cannot be read at all is not the same as nothing: whatever may be in a request may be in it.
        let seen = if seen.is_empty() || is_plain { packed.to_vec() } else { seen };
        if read == whole_size && !is_plain {
            return Self { seen, rest: Rest::Nothing };
        }
        let so_far = seen_size.div_ceil(pushed.max(1));
        let is_dense = so_far > SEEN_RATIO_MAX || room < SEEN_BYTES_MAX;
        let ratio = match rest_is {
            Err(DecodeError::TooDense) if is_dense => RATIO_MAX,
            Ok(()) | Err(_) => so_far.clamp(RATIO_LIKELY, SEEN_RATIO_MAX),
        };
        let unread = whole_size.saturating_sub(read).saturating_mul(ratio);
        let likely = seen_size.saturating_add(unread);
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
