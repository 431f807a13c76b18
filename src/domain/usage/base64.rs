//! Decodes base64 that stands in a JSON string and comes in pieces.

/// A place in a base64 text.
#[derive(Debug, Default)]
pub(super) struct Base64 {
    bits: u32,
    held: u8,
    escape: Escape,
    is_broken: bool,
}

/// A place in a JSON escape: `\/`, or `\u002b` as some encoders write a plus.
#[derive(Debug, Clone, Copy, Default)]
enum Escape {
    #[default]
    No,
    Backslash,
    Unicode(u8, u32),
}

impl Base64 {
    /// Decodes on, up to as many bytes as `decoded` holds after three quarters of `text`. What follows something that is no base64
    /// is dropped.
    pub(super) fn push(&mut self, text: &[u8], decoded: &mut Vec<u8>) {
        for byte in text {
            if let Some(byte) = self.unescaped(*byte) {
                self.character(byte, decoded);
            }
        }
    }

    fn unescaped(&mut self, byte: u8) -> Option<u8> {
        match (self.escape, byte) {
            (Escape::No, b'\\') => self.escape = Escape::Backslash,
            (Escape::No, _) => return Some(byte),
            (Escape::Backslash, b'u') => self.escape = Escape::Unicode(0, 0),
            (Escape::Backslash, _) => {
                self.escape = Escape::No;
                return Some(byte);
            }
            (Escape::Unicode(digits, value), _) => {
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                let value = value.saturating_mul(16).saturating_add(digit);
                if digits < 3 {
                    self.escape = Escape::Unicode(digits.saturating_add(1), value);
                } else {
                    self.escape = Escape::No;
                    return Some(u8::try_from(value).unwrap_or(0));
                }
            }
        }
        None
    }

    fn character(&mut self, byte: u8, decoded: &mut Vec<u8>) {
        let (base, offset) = match byte {
            b'A'..=b'Z' => (b'A', 0),
            b'a'..=b'z' => (b'a', 26),
            b'0'..=b'9' => (b'0', 52),
            b'+' => (b'+', 62),
            b'/' => (b'/', 63),
            _ => {
                // Padding ends the text, and so does everything else.
                self.is_broken = true;
                return;
            }
        };
        if self.is_broken {
            return;
        }
        let value = byte.saturating_sub(base).saturating_add(offset);
        self.bits = (self.bits << 6) | u32::from(value);
        self.held = self.held.saturating_add(6);
        if self.held >= 8 {
            self.held = self.held.saturating_sub(8);
            let [.., whole] = (self.bits >> self.held).to_be_bytes();
            decoded.push(whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_pieces_decodes_as_text_in_one() {
        let check = |text: &str, expected: &[u8]| {
            for size in [1, 2, 3, 100] {
                let (mut base64, mut decoded) = (Base64::default(), Vec::new());
                text.as_bytes().chunks(size).for_each(|piece| base64.push(piece, &mut decoded));
                assert_eq!(decoded, expected, "{text} by {size}");
            }
        };
        check("", b"");
        check("eyJhIjoxfQ==", b"{\"a\":1}");
        check("eyJhIjoxfQ", b"{\"a\":1}");
        check("+/+/", &[0xfb, 0xff, 0xbf]);
        check(r"+\/\u002b\u002F", &[0xfb, 0xff, 0xbf]);
        check("eyJh!eyJh", b"{\"a");
    }
}
