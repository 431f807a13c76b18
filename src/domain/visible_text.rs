//! How much text a response shows, for an estimate of the output of one that does not tell its usage.

/// Keys of the strings that are a model's output, in all dialects: text, reasoning and the arguments of tool calls.
const TEXT_KEYS: [&[u8]; 14] = [
    b"content",
    b"text",
    b"delta",
    b"arguments",
    b"partial_json",
    b"thinking",
    b"reasoning",
    b"reasoning_content",
    b"refusal",
    b"input",
    b"generation",
    b"completion",
    b"outputText",
    b"response",
];
/// Those of them that are a model's reasoning.
const REASONING_KEYS: [&[u8]; 3] = [b"thinking", b"reasoning", b"reasoning_content"];
/// Keys that stand only where a model reasons, whatever their value: of Bedrock, and of Gemini.
const REASONING_MARKS: [&[u8]; 3] = [b"reasoningContent", b"thought", b"thoughtSignature"];
/// Types of the pieces of a response that are reasoning, shown or not.
const REASONING_TYPES: [&[u8]; 3] = [b"reasoning", b"thinking", b"redacted_thinking"];
/// The longest of them, and a byte to tell longer ones.
const KEY_BYTES: usize = 18;
/// How many bytes a character has that is written as `\u` and four digits: most are above U+07FF, where it has three.
const ESCAPED_CHARACTER_BYTES: u64 = 3;

/// Counts the bytes of text in JSON of any framing (events, lines, one document) while it goes by. It keeps no text, and what it
/// cannot read it does not count.
#[derive(Debug, Clone, Default)]
pub struct VisibleText {
    bytes: u64,
    reasoning: bool,
    key: Key,
    place: Place,
    /// The string that is open, or that may turn out to be a key.
    string: Key,
    string_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    #[default]
    Between,
    String,
    Escape,
    /// So many digits of `\u` are still to come.
    Digits(u8),
    /// Behind a string: a colon makes it a key.
    Behind,
}

/// The beginning of a string.
#[derive(Debug, Clone, Copy, Default)]
struct Key {
    bytes: [u8; KEY_BYTES],
    length: usize,
}

impl VisibleText {
    /// Reads on.
    pub fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.step(*byte);
        }
    }

    /// The bytes of text so far. A string that is not at its end counts as far as it came.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let open = self.is_open() && self.key.is_text();
        self.bytes.saturating_add(if open { self.string_bytes } else { 0 })
    }

    /// Whether it shows so far that the model reasoned, though perhaps not what.
    #[must_use]
    pub fn shows_reasoning(&self) -> bool {
        self.reasoning || (self.is_open() && self.string_is_reasoning())
    }

    const fn is_open(&self) -> bool {
        !matches!(self.place, Place::Between)
    }

    fn string_is_reasoning(&self) -> bool {
        (self.string_bytes > 0 && self.key.is_one_of(&REASONING_KEYS))
            || (self.key.is_one_of(&[b"type"]) && self.string.is_one_of(&REASONING_TYPES))
    }

    fn step(&mut self, byte: u8) {
        self.place = match (self.place, byte) {
            (Place::Between, b'"') => self.open(),
            (Place::Between, _) => Place::Between,
            (Place::String, b'"') => Place::Behind,
            (Place::String, b'\\') => Place::Escape,
            (Place::String, _) => {
                self.string.push(byte);
                self.count(1)
            }
            (Place::Escape, b'u') => {
                self.count(ESCAPED_CHARACTER_BYTES);
                Place::Digits(4)
            }
            (Place::Escape, _) => self.count(1),
            (Place::Digits(0 | 1), _) => Place::String,
            (Place::Digits(left), _) => Place::Digits(left.saturating_sub(1)),
            (Place::Behind, b' ' | b'\t' | b'\r' | b'\n') => Place::Behind,
            (Place::Behind, b':') => {
                self.key = self.string;
                self.reasoning |= self.key.is_one_of(&REASONING_MARKS);
                Place::Between
            }
            (Place::Behind, b'"') => {
                self.close();
                self.open()
            }
            (Place::Behind, _) => {
                self.close();
                Place::Between
            }
        };
    }

    fn open(&mut self) -> Place {
        self.string = Key::default();
        self.string_bytes = 0;
        Place::String
    }

    fn count(&mut self, bytes: u64) -> Place {
        self.string_bytes = self.string_bytes.saturating_add(bytes);
        Place::String
    }

    /// The string was a value. Its key stays: the next one may be in the same array.
    fn close(&mut self) {
        if self.key.is_text() {
            self.bytes = self.bytes.saturating_add(self.string_bytes);
        }
        self.reasoning |= self.string_is_reasoning();
    }
}

impl Key {
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length = self.length.saturating_add(1);
        }
    }

    fn is_text(&self) -> bool {
        self.is_one_of(&TEXT_KEYS)
    }

    fn is_one_of(&self, texts: &[&[u8]]) -> bool {
        self.bytes.get(..self.length).is_some_and(|text| texts.contains(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn visible(body: &str) -> u64 {
        let mut text = VisibleText::default();
        text.push(body.as_bytes());
        text.bytes()
    }

    #[test]
    fn text_counts_in_every_framing_and_nothing_else_does() {
        for (body, bytes) in [
            ("data: {\"choices\":[{\"delta\":{\"content\":\"four\"}}],\"model\":\"m\"}\n\n", 4),
            ("event: x\ndata: {\"delta\":{\"type\":\"text_delta\",\"text\":\"12345\"}}\n\n", 5),
            ("{\"type\":\"response.output_text.delta\",\"delta\":\"abc\"}", 3),
            (
                "{\"message\":{\"content\":\"ab\"},\"done\":false}\n{\"message\":{\"content\":\"c\"}}",
                3,
            ),
            (
                "[{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"xy\"}]}}]}\n,{\"text\":\"z\"}]",
                3,
            ),
            ("{\"content\" : [\"a\" ,\"b\"], \"id\":\"none\"}", 2),
            ("{\"content\":\"\\\"\\n\\u00e9\\\\\"}", 6),
            ("{\"arguments\":\"{\\\"text\\\":\\\"a\\\"}\"}", 12),
            ("data: {\"content\":\"cut of", 6),
            ("{\"content\":null,\"role\":\"assistant\"}", 0),
            ("{\"id\":\"content\"", 0),
            ("{\"data\":[{\"embedding\":\"AAAA\"}]}", 0),
            ("", 0),
        ] {
            assert_eq!(visible(body), bytes, "{body}");
        }
    }

    #[test]
    fn reasoning_is_seen_in_every_dialect_even_where_it_is_hidden() {
        let shows = |body: &str| {
            let mut text = VisibleText::default();
            text.push(body.as_bytes());
            text.shows_reasoning()
        };
        for body in [
            "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"so\"}}]}",
            "data: {\"choices\":[{\"delta\":{\"reasoning\":\"s",
            "data: {\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"so\"}}",
            "data: {\"content_block\":{\"type\":\"redacted_thinking\",\"data\":\"EmwK\"}}",
            "data: {\"type\":\"response.output_item.added\",\"item\":{\"type\":\"reasoning\",\"summary\":[]}}",
            "{\"delta\":{\"reasoningContent\":{\"signature\":\"EmwK\"}}}",
            "{\"parts\":[{\"text\":\"so\",\"thought\":true}]}",
        ] {
            assert!(shows(body), "{body}");
        }
        for body in [
            "data: {\"choices\":[{\"delta\":{\"content\":\"so\",\"reasoning_content\":null,\"reasoning\":\"\"}}]}",
            "data: {\"response\":{\"reasoning\":{\"effort\":null,\"summary\":null}}}",
            "data: {\"delta\":{\"type\":\"text_delta\",\"text\":\"{\\\"type\\\":\\\"thinking\\\"}\"}}",
            "{\"usage\":{\"reasoning_tokens\":0}}",
            "",
        ] {
            assert!(!shows(body), "{body}");
        }
    }

    proptest! {
        #[test]
        fn the_pieces_in_which_it_comes_make_no_difference(body in prop::collection::vec(any::<u8>(), 0..200), cut in any::<prop::sample::Index>()) {
            let mut whole = VisibleText::default();
            whole.push(&body);
            let (a, b) = body.split_at(cut.index(body.len() + 1));
            let mut parts = VisibleText::default();
            parts.push(a);
            parts.push(b);
            prop_assert_eq!(whole.bytes(), parts.bytes());
            prop_assert_eq!(whole.shows_reasoning(), parts.shows_reasoning());
            prop_assert!(whole.bytes() <= 3 * body.len() as u64);
        }

        #[test]
        fn any_text_counts_about_its_own_length(text in ".{0,50}") {
            let body = serde_json::json!({"content": text}).to_string();
            prop_assert!(visible(&body) >= u64::try_from(text.len()).unwrap());
        }
    }
}
