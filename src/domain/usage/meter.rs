//! The meter: response bytes in, in pieces of any size; what was used out. It never fails, keeps no body and gives the same result however
//! the bytes were cut.

use crate::domain::usage::Metered;
use crate::domain::usage::document::Document;
use crate::domain::usage::event_stream::EventStream;
use crate::domain::usage::fields::Fields;
use crate::domain::usage::places::{Place, Source};
use crate::domain::usage::scan::{Scanner, Sink};
use crate::domain::usage::shape::Route;
use crate::domain::usage::sse::{Piece, Sse};
use crate::domain::usage::tally::{Ending, Tally};

/// What is known of a response besides its bytes. All of it is a hint, except the headers in which Bedrock counts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hints<'a> {
    /// The request's path, with or without its query.
    pub path: &'a str,
    /// The response's `content-type`; empty where there is none.
    pub content_type: &'a str,
    /// The provider that the route leads to, where it is known: whose word on its own charge is taken.
    pub provider: Option<&'a str>,
    /// The response's headers, in any case and order.
    pub headers: &'a [(&'a str, &'a str)],
}

/// Reads one response.
#[derive(Debug)]
pub struct Meter {
    framing: Framing,
    reader: Reader,
    /// What Bedrock's headers count.
    counted: Option<Fields>,
    events: Events,
}

/// How the body is framed, as its first bytes tell.
#[derive(Debug)]
enum Framing {
    /// Before the first byte that tells.
    Unknown,
    Json(Scanner),
    Sse(Sse, Scanner, Head),
    EventStream(Box<EventStream>),
    /// Nothing that holds usage.
    Other,
}

/// What may come as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Events {
    /// Events or JSON.
    Possible,
    /// Said to be events, so that they may begin with any field.
    Likely,
    /// Neither: media, or text that the caller dictated.
    No,
}

impl Meter {
    /// A meter for one response.
    #[must_use]
    pub fn new(hints: Hints<'_>) -> Self {
        let route = hints.provider.map(Route::of).unwrap_or_default();
        let framing = if is_free(hints.path) { Framing::Other } else { Framing::Unknown };
        Self {
            framing,
            reader: Reader {
                document: Document::default(),
                tally: Tally::new(route),
                documents: 0,
                frames: Frames::No,
            },
            counted: counted(hints.headers),
            events: events(hints),
        }
    }

    /// Reads the next bytes of the body, decoded from any content-encoding.
    pub fn push(&mut self, mut bytes: &[u8]) {
        if let Framing::Unknown = self.framing {
            let Some((at, framing)) = self.sniffed(bytes) else { return };
            if let Framing::EventStream(_) = framing {
                self.reader.frames = Frames::Yes;
            }
            self.framing = framing;
            bytes = bytes.get(at..).unwrap_or_default();
        }
        let reader = &mut self.reader;
        match &mut self.framing {
            Framing::Json(scanner) => scanner.push(bytes, reader),
            Framing::Sse(sse, scanner, head) => sse.push(bytes, |piece| match piece {
                Piece::Data(data) => {
                    head.push(data);
                    scanner.push(data, reader);
                }
                Piece::End => {
                    reader.end_event(head);
                    scanner.reset();
                }
            }),
            Framing::EventStream(stream) => stream.push(bytes, reader),
            Framing::Unknown | Framing::Other => {}
        }
    }

    /// What the provider calls the response, as far as it came.
    #[must_use]
    pub fn response_id(&self) -> Option<&str> {
        self.reader.tally.response_id()
    }

    /// The result, after the last byte of a body that was seen to its end.
    #[must_use]
    pub fn finish(self) -> Metered {
        let ending = match &self.framing {
            Framing::Json(scanner) if !scanner.is_complete() => Ending::Cut,
            Framing::Json(scanner) if scanner.has_closed_list() || self.reader.documents == 1 => {
                Ending::Whole
            }
            Framing::Json(_)
            | Framing::Sse(..)
            | Framing::EventStream(_)
            | Framing::Unknown
            | Framing::Other => Ending::Open,
        };
        self.result(ending)
    }

    /// The result of a body whose rest nobody saw or could read. Exact only where the response told its end before.
    #[must_use]
    pub fn finish_cut(self) -> Metered {
        let ending = match &self.framing {
            Framing::Json(scanner) if !scanner.is_complete() => Ending::Cut,
            Framing::Json(_)
            | Framing::Sse(..)
            | Framing::EventStream(_)
            | Framing::Unknown
            | Framing::Other => Ending::Open,
        };
        self.result(ending)
    }

    fn result(mut self, ending: Ending) -> Metered {
        if let Framing::Sse(_, _, head) = &mut self.framing {
            self.reader.end_event(head);
        }
        if ending == Ending::Cut {
            self.reader.take_cut_document();
        }
        self.reader.tally.finish(ending, self.counted)
    }

    /// The framing, and where in the bytes it begins, past a byte order mark and white space.
    fn sniffed(&self, bytes: &[u8]) -> Option<(usize, Framing)> {
        let is_blank = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n' | 0xef | 0xbb | 0xbf);
        let at = bytes.iter().position(|b| !is_blank(b))?;
        let framing = match (bytes.get(at)?, self.events) {
            (0, _) => Framing::EventStream(Box::new(EventStream::new())),
            (_, Events::No) => Framing::Other,
            (b'{' | b'[', _) => Framing::Json(Scanner::new()),
            // The fields of an event and its comments.
            (b'd' | b'e' | b'i' | b'r' | b':', _) | (_, Events::Likely) => {
                Framing::Sse(Sse::default(), Scanner::new(), Head::default())
            }
            (_, Events::Possible) => Framing::Other,
        };
        Some((at, framing))
    }
}

/// Answers that cost nothing, though they count tokens or hand back what was stored.
fn is_free(path: &str) -> bool {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    last == "count_tokens"
        || last == "input_tokens"
        || last.ends_with(":countTokens")
        || (last == "content" && path.contains("/files/"))
}

fn events(hints: Hints<'_>) -> Events {
    let kind = hints.content_type.to_ascii_lowercase();
    if kind.starts_with("text/event-stream") {
        return Events::Likely;
    }
    let is_text = kind.starts_with("text/") && hints.path.contains("/audio/");
    let is_media = ["audio/", "image/", "video/"].iter().any(|media| kind.starts_with(media));
    if is_text || is_media { Events::No } else { Events::Possible }
}

/// What Bedrock's headers count, in the fields of its own shape.
fn counted(headers: &[(&str, &str)]) -> Option<Fields> {
    let mut fields = Fields::default();
    for (name, value) in headers {
        fields.header(name, value);
    }
    fields.converse_input.is_there().then_some(fields)
}

/// The beginning of an event's data, as far as it may be OpenAI's last word.
#[derive(Debug, Default)]
struct Head {
    text: [u8; HEAD_BYTES],
    len: usize,
}

/// One more than the last word has, with the blanks around it.
const HEAD_BYTES: usize = 12;

impl Head {
    fn push(&mut self, data: &[u8]) {
        for byte in data.iter().take(HEAD_BYTES) {
            if let Some(slot) = self.text.get_mut(self.len) {
                *slot = *byte;
                self.len = self.len.saturating_add(1);
            }
        }
    }

    fn is_done(&self) -> bool {
        self.text.get(..self.len).is_some_and(|text| text.trim_ascii() == b"[DONE]")
    }
}

/// Takes documents in, each when it is whole.
#[derive(Debug)]
pub(super) struct Reader {
    document: Document,
    tally: Tally,
    documents: u64,
    frames: Frames,
}

/// Whether documents come in frames with a checksum, and count only when it is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frames {
    No,
    Yes,
}

impl Reader {
    /// Takes the document of a frame in, or drops it.
    pub(super) fn release(&mut self, is_sound: bool) {
        if is_sound {
            self.tally.add(&mut self.document);
        }
        self.document.clear();
    }

    fn end_event(&mut self, head: &mut Head) {
        if head.is_done() {
            self.tally.end();
        }
        *head = Head::default();
        self.document.clear();
    }

    /// What stood in a document that was cut was itself seen whole. It must not stand for what came before.
    fn take_cut_document(&mut self) {
        if self.documents == 0 {
            self.tally.add(&mut self.document);
        }
    }
}

impl Sink for Reader {
    fn found(&mut self, place: Place, text: Option<&[u8]>) {
        if place != Place::Usage(Source::Metadata) || self.frames == Frames::Yes {
            self.document.note(place, text);
        }
    }

    fn piece(&mut self, _: &[u8]) {}

    fn end(&mut self) {
        self.documents = self.documents.saturating_add(1);
        if self.frames == Frames::No {
            self.tally.add(&mut self.document);
            self.document.clear();
        }
    }
}
