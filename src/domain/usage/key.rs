//! Reads the keys of JSON objects as they come in, escapes and all: an escaped key is the same key.

use crate::domain::usage::places::KEY_BYTES_MAX;

/// A key being read, decoded. One that is too long to matter, or not in ASCII, is no key that matters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    text: [u8; KEY_BYTES_MAX],
    len: usize,
    escape: Escape,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    No,
    Backslash,
    /// So many hex digits of a `\u` escape, and their value.
    Unicode(u8, u16),
}

/// Whether a key goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    More,
    End,
}

impl Default for Key {
    fn default() -> Self {
        Self { text: [0; KEY_BYTES_MAX], len: 0, escape: Escape::No }
    }
}

impl Key {
    /// Whether nothing of it was read.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0 && self.escape == Escape::No
    }

    /// The text, unless it is too long.
    pub(super) fn text(&self) -> Option<&[u8]> {
        self.text.get(..self.len)
    }

    /// Takes the next byte as it is written.
    pub(super) fn push(&mut self, byte: u8) -> Pushed {
        match (self.escape, byte) {
            (Escape::No, b'"') => return Pushed::End,
            (Escape::No, b'\\') => self.escape = Escape::Backslash,
            (Escape::No, _) => self.add(byte),
            (Escape::Backslash, b'u') => self.escape = Escape::Unicode(0, 0),
            // No key that matters has a character that only an escape can write; the others stand for themselves.
            (Escape::Backslash, _) => {
                self.escape = Escape::No;
                self.add(if byte == b'/' { byte } else { 0 });
            }
            (Escape::Unicode(digits, value), _) => self.hex(digits, value, byte),
        }
        Pushed::More
    }

    fn hex(&mut self, digits: u8, value: u16, byte: u8) {
        let digit = char::from(byte).to_digit(16).and_then(|digit| u16::try_from(digit).ok());
        let value = value.checked_mul(16).and_then(|value| value.checked_add(digit?));
        self.escape = match (digits, value) {
            (0..=2, Some(value)) => Escape::Unicode(digits.saturating_add(1), value),
            (_, Some(value)) => {
                self.add(u8::try_from(value).ok().filter(u8::is_ascii).unwrap_or(0));
                Escape::No
            }
            // A byte that is no hex digit may be the quote that ends the key.
            (_, None) => {
                self.add(0);
                Escape::No
            }
        };
    }

    fn add(&mut self, byte: u8) {
        if let Some(slot) = self.text.get_mut(self.len) {
            *slot = byte;
        }
        // One past the end is past every key that matters.
        self.len = self.len.saturating_add(1).min(KEY_BYTES_MAX.saturating_add(1));
    }
}
