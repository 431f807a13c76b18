//! Finds images, audio and documents inside of a request: their bytes say nothing about what they cost.

use crate::domain::json::{self, Text};

/// Media found in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Media {
    /// How many.
    pub(super) items: u64,
    /// How much of the body they take.
    pub(super) bytes: u64,
}

/// Keys under which the providers' APIs take media, as base64 or as a data URL. Text under other keys is what the model
/// reads, whatever it looks like.
const KEYS: [&str; 11] = [
    "url",
    "image_url",
    "video_url",
    "audio_url",
    "document_url",
    "file_data",
    "data",
    "bytes",
    "image",
    "images",
    "video",
];
/// Shorter payloads are counted as text: an image of this size costs no less as text.
const BYTES_MIN: usize = 256;
/// A data URL's media type and parameters end within this.
const DATA_URL_HEAD_MAX: usize = 128;

pub(super) fn inline_media(body: &[u8]) -> Media {
    let mut media = Media::default();
    for (key, value) in json::strings(body) {
        if value.bytes().len() >= BYTES_MIN
            && KEYS.iter().any(|name| key.is(name))
            && is_payload(value)
        {
            media.items = media.items.saturating_add(1);
            media.bytes =
                media.bytes.saturating_add(u64::try_from(value.bytes().len()).unwrap_or(u64::MAX));
        }
    }
    media
}

/// Whether a text is base64, or a data URL of base64.
fn is_payload(text: Text<'_>) -> bool {
    let text = text.bytes();
    let payload = match text.strip_prefix(b"data:") {
        Some(url) => {
            let comma = url.iter().take(DATA_URL_HEAD_MAX).position(|b| *b == b',');
            let Some((head, payload)) = comma.and_then(|at| url.split_at_checked(at)) else {
                return false;
            };
            if !head.ends_with(b";base64") {
                return false;
            }
            payload.strip_prefix(b",").unwrap_or(payload)
        }
        None => text,
    };
    // JSON may escape the slash and line ends.
    payload
        .iter()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=' | b'-' | b'_' | b'\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_counts_as_media_only_where_an_api_takes_media() {
        let base64 = "iVBORw0KGgo+\\/".repeat(40);
        let check = |body: String, items| {
            assert_eq!(inline_media(body.as_bytes()).items, items, "{body:.60}")
        };
        check(format!(r#"{{"image_url":{{"url":"data:image/png;base64,{base64}"}}}}"#), 1);
        check(format!(r#"{{"source":{{"type":"base64","data":"{base64}"}}}}"#), 1);
        check(format!(r#"{{"inlineData":{{"mimeType":"image/png","data":"{base64}"}}}}"#), 1);
        check(format!(r#"{{"image":{{"source":{{"bytes":"{base64}"}}}}}}"#), 1);
        check(format!(r#"{{"images":["{base64}","{base64}"]}}"#), 2);
        check(format!(r#"{{"images":["{base64}"#), 1);
        check(format!(r#"{{"content":"{base64}","text":"data:image/png;base64,{base64}"}}"#), 0);
        check(format!(r#"{{"url":"data:text/plain,{base64}"}}"#), 0);
        check(format!(r#"{{"data":"{}"}}"#, "a text of words ".repeat(40)), 0);
        check(r#"{"data":"iVBORw0KGgo="}"#.to_owned(), 0);
    }

    #[test]
    fn the_bytes_of_media_are_counted_apart() {
        let body = format!(r#"{{"data":"{}"}}"#, "A".repeat(1_000));
        assert_eq!(inline_media(body.as_bytes()), Media { items: 1, bytes: 1_000 });
    }
}
