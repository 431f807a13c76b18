//! Takes server-sent events apart as they come in: the data of each, and where it ends.

use memchr::memchr2;

/// A place in a stream of events.
#[derive(Debug, Default)]
pub(super) struct Sse {
    line: Line,
    /// A line feed that follows belongs to the carriage return before it.
    after_return: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// In the name of a field, of which so many bytes are those of `data`; `None` when it is another.
    Name(Option<usize>),
    Data,
    Other,
}

impl Default for Line {
    fn default() -> Self {
        Self::Name(Some(0))
    }
}

/// What a stream of events is made of.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// Data of the current event, or a part of it. Lines of data are parted by a line feed.
    Data(&'a [u8]),
    /// The event is over.
    End,
}

/// The one field that matters.
const DATA: &[u8] = b"data";

impl Sse {
    /// Reads on.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut tell: impl FnMut(Piece<'_>)) {
        while let Some(first) = bytes.first() {
            if std::mem::take(&mut self.after_return) && *first == b'\n' {
                bytes = bytes.get(1..).unwrap_or_default();
                continue;
            }
            let read = match self.line {
                Line::Name(matched) => {
                    self.name(*first, matched, &mut tell);
                    1
                }
                Line::Data | Line::Other => self.rest_of_line(bytes, &mut tell),
            };
            bytes = bytes.get(read..).unwrap_or_default();
        }
    }

    fn name(&mut self, byte: u8, matched: Option<usize>, tell: &mut impl FnMut(Piece<'_>)) {
        self.line = match (byte, matched) {
            (b'\r' | b'\n', _) => {
                self.after_return = byte == b'\r';
                if matched == Some(0) {
                    tell(Piece::End);
                }
                Line::default()
            }
            (b':', Some(matched)) if matched == DATA.len() => Line::Data,
            (b':', _) => Line::Other,
            (_, Some(matched)) if DATA.get(matched) == Some(&byte) => {
                Line::Name(matched.checked_add(1))
            }
            _ => Line::Name(None),
        };
    }

    fn rest_of_line(&mut self, bytes: &[u8], tell: &mut impl FnMut(Piece<'_>)) -> usize {
        let end = memchr2(b'\n', b'\r', bytes);
        let data = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        let is_data = self.line == Line::Data;
        if is_data && !data.is_empty() {
            tell(Piece::Data(data));
        }
        let Some(end) = end else { return bytes.len() };
        if is_data {
            tell(Piece::Data(b"\n"));
        }
        self.after_return = bytes.get(end) == Some(&b'\r');
        self.line = Line::default();
        end.saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(stream: &[u8], size: usize) -> Vec<String> {
        let (mut sse, mut events, mut event) = (Sse::default(), Vec::new(), Vec::new());
        for chunk in stream.chunks(size) {
            sse.push(chunk, |piece| match piece {
                Piece::Data(data) => event.extend_from_slice(data),
                Piece::End => {
                    events.push(String::from_utf8(std::mem::take(&mut event)).unwrap());
                }
            });
        }
        events.push(String::from_utf8(event).unwrap());
        events
    }

    #[test]
    fn events_are_the_same_by_every_line_end_and_every_chunking() {
        let stream = ": comment\nevent: x\ndata: {\"a\":\ndata:1}\nid: 1\n\ndatum: no\ndata\ndata: \u{2028}[DONE]\n\nretry: 1";
        for end in ["\n", "\r\n", "\r"] {
            let stream = stream.replace('\n', end);
            for size in [1, 2, 3, 7, 1000] {
                let expected = [" {\"a\":\n1}\n", " \u{2028}[DONE]\n", ""];
                assert_eq!(events(stream.as_bytes(), size), expected, "{end:?} by {size}");
            }
        }
    }
}
