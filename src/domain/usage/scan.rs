//! Reads JSON as it comes in, in pieces of any size, and keeps only what stands at the few places that matter.
//!
//! Memory is constant and nesting is counted, not followed. What is skipped is not validated: only strings and brackets
//! matter there. One document, one after another and an array of documents all read the same.

use memchr::memchr2;

use crate::domain::usage::key::{Key, Pushed};
use crate::domain::usage::places::{DEPTH_MAX, DOCUMENT, Node, Place};

/// Who is told what the scanner finds.
pub(super) trait Sink {
    /// A whole value, as it is written; `None` when it is longer than its place allows.
    fn found(&mut self, place: Place, text: Option<&[u8]>);
    /// A piece of the inside of the string at [`Place::Bytes`], escapes and all.
    fn piece(&mut self, text: &[u8]);
    /// The end of a document.
    fn end(&mut self);
}

/// A place in a run of JSON documents.
#[derive(Debug)]
pub(super) struct Scanner {
    at: At,
    open: Vec<Frame>,
    list: List,
    /// The value that comes next, if it matters.
    next: Option<&'static Node>,
    key: Key,
    /// What the value being skipped is kept for.
    kept_for: Option<Place>,
    kept: Kept,
}

/// What is expected, or being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Between,
    FirstKey,
    Key,
    InKey,
    Colon,
    FirstItem,
    Value,
    After,
    /// Inside of a value that is skipped.
    Skipped {
        depth: u64,
        string: InString,
    },
    /// In a number or a literal.
    Bare,
    /// Behind something that is no JSON.
    Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InString {
    No,
    Yes,
    Escaped,
}

/// An open container on the way to a place, with the members that matter: its own, or those of its elements.
#[derive(Debug, Clone, Copy)]
enum Frame {
    Object(&'static [(&'static str, Node)]),
    Array(&'static [(&'static str, Node)]),
}

/// Whether the documents stand in an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    Possible,
    No,
    Open,
    Closed,
}

impl Scanner {
    pub(super) fn new() -> Self {
        Self {
            at: At::Between,
            open: Vec::with_capacity(DEPTH_MAX),
            list: List::Possible,
            next: None,
            key: Key::default(),
            kept_for: None,
            kept: Kept::default(),
        }
    }

    /// Forgets the document that it is in, and what is broken.
    pub(super) fn reset(&mut self) {
        self.at = At::Between;
        self.open.clear();
        self.list = List::Possible;
    }

    /// Whether it stands between documents, and at the end of an array of them if there is one.
    pub(super) fn is_complete(&self) -> bool {
        self.at == At::Between && self.list != List::Open
    }

    /// Whether it came to the end of an array of documents.
    pub(super) fn has_closed_list(&self) -> bool {
        self.list == List::Closed
    }

    /// Reads on.
    pub(super) fn push(&mut self, mut bytes: &[u8], sink: &mut impl Sink) {
        while let Some(first) = bytes.first() {
            let read = match self.at {
                At::Skipped { depth, string } => self.skip(bytes, depth, string, sink),
                At::InKey => self.key(bytes),
                At::Bare => self.bare(bytes, sink),
                At::Broken => return,
                At::Between
                | At::FirstKey
                | At::Key
                | At::Colon
                | At::FirstItem
                | At::Value
                | At::After => {
                    if !matches!(first, b' ' | b'\t' | b'\r' | b'\n') {
                        self.at = self.step(*first, sink);
                    }
                    1
                }
            };
            bytes = bytes.get(read..).unwrap_or_default();
        }
    }

    /// Takes one byte of structure.
    fn step(&mut self, byte: u8, sink: &mut impl Sink) -> At {
        match (self.at, byte) {
            (At::Between, _) => self.between(byte),
            (At::FirstKey | At::Key, b'"') => {
                self.key = Key::default();
                At::InKey
            }
            (At::Colon, b':') => At::Value,
            (At::FirstKey | At::After, b'}')
                if matches!(self.open.last(), Some(Frame::Object(_))) =>
            {
                self.close(sink)
            }
            (At::FirstItem | At::After, b']')
                if matches!(self.open.last(), Some(Frame::Array(_))) =>
            {
                self.close(sink)
            }
            (At::After, b',') => match self.open.last() {
                Some(Frame::Object(_)) => At::Key,
                Some(Frame::Array(_)) => At::Value,
                None => At::Broken,
            },
            (At::Value | At::FirstItem, _) => self.value(byte),
            _ => At::Broken,
        }
    }

    fn between(&mut self, byte: u8) -> At {
        self.list = match (byte, self.list) {
            (b'{', list) => {
                self.open.push(Frame::Object(&DOCUMENT));
                self.list = if list == List::Possible { List::No } else { list };
                return At::FirstKey;
            }
            (b'[', List::Possible) | (b',', List::Open) => List::Open,
            (b']', List::Open) => List::Closed,
            _ => return At::Broken,
        };
        At::Between
    }

    fn close(&mut self, sink: &mut impl Sink) -> At {
        self.open.pop();
        if self.open.is_empty() {
            sink.end();
            return At::Between;
        }
        At::After
    }

    /// The first byte of a value.
    fn value(&mut self, byte: u8) -> At {
        let element = match self.open.last() {
            Some(Frame::Array(members)) => Some(Frame::Object(members)),
            Some(Frame::Object(_)) | None => None,
        };
        let inner = match (self.next, byte) {
            (Some(Node::Object(members)), b'{') => Some(Frame::Object(members)),
            (Some(Node::Array(members)), b'[') => Some(Frame::Array(members)),
            (None, b'{') => element,
            _ => None,
        };
        if let Some(frame) = inner {
            self.next = None;
            self.open.push(frame);
            return if matches!(frame, Frame::Object(_)) { At::FirstKey } else { At::FirstItem };
        }
        self.kept_for = match self.next.take() {
            Some(Node::Leaf(place)) => Some(*place),
            Some(Node::Object(_) | Node::Array(_)) | None => None,
        };
        if let Some(place) = self.kept_for {
            self.kept.begin(place, byte);
        }
        match byte {
            b'"' => At::Skipped { depth: 0, string: InString::Yes },
            b'{' | b'[' => At::Skipped { depth: 1, string: InString::No },
            b'-' | b'0'..=b'9' | b'a'..=b'z' => At::Bare,
            _ => At::Broken,
        }
    }

    /// The inside of a key.
    fn key(&mut self, bytes: &[u8]) -> usize {
        // Nearly every key comes in one piece and without escapes.
        if let (true, Some(end)) = (self.key.is_empty(), memchr2(b'"', b'\\', bytes))
            && bytes.get(end) == Some(&b'"')
        {
            self.end_key(bytes.get(..end));
            return end.saturating_add(1);
        }
        let mut read = 0_usize;
        for byte in bytes {
            read = read.saturating_add(1);
            if self.key.push(*byte) == Pushed::End {
                let key = self.key;
                self.end_key(key.text());
                break;
            }
        }
        read
    }

    /// Behind a key; `None` when it is too long to matter.
    fn end_key(&mut self, key: Option<&[u8]>) {
        self.next = match (self.open.last(), key) {
            (Some(Frame::Object(members)), Some(key)) => Node::member(members, key),
            (Some(Frame::Object(_) | Frame::Array(_)) | None, _) => None,
        };
        self.at = At::Colon;
    }

    /// A number or a literal, up to what ends it.
    fn bare(&mut self, bytes: &[u8], sink: &mut impl Sink) -> usize {
        let is_inside = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        let read = bytes.iter().position(|b| !is_inside(b));
        self.keep(bytes.get(..read.unwrap_or(bytes.len())).unwrap_or_default());
        if read.is_some() {
            self.finish_value(sink);
        }
        read.unwrap_or(bytes.len())
    }

    /// The inside of a value, up to its end.
    fn skip(
        &mut self,
        bytes: &[u8],
        mut depth: u64,
        mut string: InString,
        sink: &mut impl Sink,
    ) -> usize {
        let mut read = 0_usize;
        while let Some(rest) = bytes.get(read..).filter(|rest| !rest.is_empty()) {
            let to = match string {
                InString::Escaped => Some(0),
                InString::Yes => memchr2(b'"', b'\\', rest),
                InString::No => {
                    rest.iter().position(|b| matches!(b, b'"' | b'[' | b']' | b'{' | b'}'))
                }
            };
            let piece = rest.get(..to.unwrap_or(rest.len())).unwrap_or_default();
            let Some(byte) = rest.get(piece.len()) else {
                read = bytes.len();
                self.stream(string, piece, sink);
                break;
            };
            self.stream(string, piece, sink);
            read = read.saturating_add(piece.len()).saturating_add(1);
            match (string, byte) {
                (InString::No, b'"') => string = InString::Yes,
                (InString::No, b'[' | b'{') => depth = depth.saturating_add(1),
                (InString::No, _) => depth = depth.saturating_sub(1),
                (InString::Yes, b'\\') => {
                    self.stream(string, b"\\", sink);
                    string = InString::Escaped;
                }
                (InString::Yes, _) => string = InString::No,
                (InString::Escaped, _) => {
                    self.stream(string, std::slice::from_ref(byte), sink);
                    string = InString::Yes;
                }
            }
            if depth == 0 && string == InString::No {
                self.keep(bytes.get(..read).unwrap_or_default());
                self.finish_value(sink);
                return read;
            }
        }
        self.keep(bytes);
        self.at = At::Skipped { depth, string };
        read
    }

    fn stream(&self, string: InString, piece: &[u8], sink: &mut impl Sink) {
        if self.kept_for == Some(Place::Bytes) && string != InString::No {
            sink.piece(piece);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if let Some(place) = self.kept_for {
            self.kept.push(place, bytes);
        }
    }

    fn finish_value(&mut self, sink: &mut impl Sink) {
        if let Some(place) = self.kept_for.take() {
            sink.found(place, self.kept.text());
        }
        self.at = At::After;
    }
}

/// The text of a value, as far as its place allows.
#[derive(Debug, Default)]
struct Kept {
    text: Vec<u8>,
    is_too_long: bool,
}

impl Kept {
    fn begin(&mut self, place: Place, byte: u8) {
        self.text.clear();
        self.is_too_long = false;
        self.push(place, &[byte]);
    }

    fn push(&mut self, place: Place, bytes: &[u8]) {
        if self.is_too_long || bytes.len() > place.bytes_max().saturating_sub(self.text.len()) {
            self.is_too_long = true;
            self.text.clear();
        } else {
            self.text.extend_from_slice(bytes);
        }
    }

    fn text(&self) -> Option<&[u8]> {
        (!self.is_too_long).then_some(self.text.as_slice())
    }
}
