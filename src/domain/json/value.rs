//! Single JSON values as they are written, decoded only when somebody asks.

use std::borrow::Cow;

/// One value, as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raw<'a> {
    text: &'a [u8],
    extent: Extent,
}

/// Whether a value was seen to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// It was.
    Whole,
    /// The text ends within it. A number at the very end of a text counts as cut, for more digits may follow.
    Cut,
}

/// The inside of a string as it is written, escapes and all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text<'a>(&'a [u8]);

impl<'a> Raw<'a> {
    pub(in crate::domain) const fn new(text: &'a [u8], extent: Extent) -> Self {
        Self { text, extent }
    }

    /// The bytes, with the quotes of a string and the brackets of a container.
    #[must_use]
    pub const fn bytes(self) -> &'a [u8] {
        self.text
    }

    /// Whether it was seen to its end.
    #[must_use]
    pub const fn extent(self) -> Extent {
        self.extent
    }

    /// The inside of a whole string.
    #[must_use]
    pub fn as_text(self) -> Option<Text<'a>> {
        match (self.extent, self.text) {
            (Extent::Whole, [b'"', inside @ .., b'"']) => Some(Text(inside)),
            _ => None,
        }
    }

    /// A string, decoded. `None` for another kind, a cut one, invalid UTF-8, a lone surrogate or an unknown escape.
    #[must_use]
    pub fn as_str(self) -> Option<Cow<'a, str>> {
        self.as_text()?.decoded()
    }

    /// A non-negative integer written in digits only: neither `1.0` nor `1e3`.
    #[must_use]
    pub fn as_u64(self) -> Option<u64> {
        let digits = self.scalar()?;
        let plain = digits.bytes().all(|b| b.is_ascii_digit())
            && (digits == "0" || !digits.starts_with('0'));
        if plain { digits.parse().ok() } else { None }
    }

    /// `true` or `false`.
    #[must_use]
    pub fn as_bool(self) -> Option<bool> {
        match self.scalar()? {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }

    /// Whether it is `null`.
    #[must_use]
    pub fn is_null(self) -> bool {
        self.scalar() == Some("null")
    }

    /// A whole number, literal or whatever stands in the place of one, as text.
    #[must_use]
    pub fn scalar(self) -> Option<&'a str> {
        let begins_otherwise = matches!(self.text.first(), None | Some(b'"' | b'{' | b'['));
        if begins_otherwise || self.extent == Extent::Cut {
            return None;
        }
        std::str::from_utf8(self.text).ok()
    }
}

/// Raw bytes that one decoded byte may take: `\u0041`.
const ESCAPE_BYTES: usize = 6;

impl<'a> Text<'a> {
    pub(super) const fn new(inside: &'a [u8]) -> Self {
        Self(inside)
    }

    /// Whether this is `text` once it is decoded. Never allocates more than a few times `text`.
    #[must_use]
    pub fn is(self, text: &str) -> bool {
        self.0 == text.as_bytes()
            || (self.0.contains(&b'\\')
                && self.0.len() <= text.len().saturating_mul(ESCAPE_BYTES)
                && self.decoded().as_deref() == Some(text))
    }

    /// The bytes as they are written, without the quotes.
    #[must_use]
    pub const fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// The text, or `None` for invalid UTF-8, a lone surrogate or an unknown escape.
    #[must_use]
    pub fn decoded(self) -> Option<Cow<'a, str>> {
        let written = std::str::from_utf8(self.0).ok()?;
        let Some((plain, mut rest)) = written.split_once('\\') else {
            return Some(Cow::Borrowed(written));
        };
        let mut decoded = String::with_capacity(written.len());
        decoded.push_str(plain);
        loop {
            let (character, behind) = unescape(rest)?;
            decoded.push(character);
            let Some((plain, next)) = behind.split_once('\\') else {
                decoded.push_str(behind);
                return Some(Cow::Owned(decoded));
            };
            decoded.push_str(plain);
            rest = next;
        }
    }
}

/// The character that an escape stands for, and what follows it. `text` begins behind the backslash.
fn unescape(text: &str) -> Option<(char, &str)> {
    let mut rest = text.chars();
    let character = match rest.next()? {
        c @ ('"' | '\\' | '/') => c,
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => return unescape_unicode(rest.as_str()),
        _ => return None,
    };
    Some((character, rest.as_str()))
}

/// The same for four hex digits, and for a second escape where they are the first half of a surrogate pair.
fn unescape_unicode(text: &str) -> Option<(char, &str)> {
    let (high, rest) = hex4(text)?;
    if let Some(character) = char::from_u32(u32::from(high)) {
        return Some((character, rest));
    }
    let (low, rest) = hex4(rest.strip_prefix("\\u")?)?;
    let character = char::decode_utf16([high, low]).next()?.ok()?;
    Some((character, rest))
}

fn hex4(text: &str) -> Option<(u16, &str)> {
    let (digits, rest) = text.split_at_checked(4)?;
    let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
    if plain { Some((u16::from_str_radix(digits, 16).ok()?, rest)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Raw<'_> {
        Raw::new(text.as_bytes(), Extent::Whole)
    }

    #[test]
    fn strings_are_decoded_exactly_or_not_at_all() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(raw(text).as_str().as_deref(), expected, "{text}")
        };
        check(r#""gpt-4o""#, Some("gpt-4o"));
        check(r#""\"\\\/\b\f\n\r\t""#, Some("\"\\/\u{8}\u{c}\n\r\t"));
        check(r#""gpt\u002D4o \u00fc""#, Some("gpt-4o ü"));
        check(r#""\ud83d\ude00!""#, Some("😀!"));
        for broken in [
            r#""\ud83d""#,
            r#""\ude00""#,
            r#""\ud83d\u0041""#,
            r#""\x""#,
            r#""\u12""#,
            r#""\u+123""#,
            "1",
            "\"",
        ] {
            check(broken, None);
        }
        assert_eq!(Raw::new(b"\"\xff\"", Extent::Whole).as_str(), None);
        assert_eq!(Raw::new(b"\"cut\"", Extent::Cut).as_str(), None);
    }

    #[test]
    fn only_plain_digits_are_an_integer() {
        assert_eq!(raw("0").as_u64(), Some(0));
        assert_eq!(raw("18446744073709551615").as_u64(), Some(u64::MAX));
        for other in [
            "18446744073709551616",
            "-1",
            "+1",
            "1.0",
            "1e3",
            "01",
            "NaN",
            "\"1\"",
            "null",
            "[1]",
            "",
        ] {
            assert_eq!(raw(other).as_u64(), None, "{other}");
        }
        assert_eq!(Raw::new(b"12", Extent::Cut).as_u64(), None);
    }

    #[test]
    fn an_escaped_key_is_the_same_key() {
        assert!(Text(br"\u006d\u006f\u0064\u0065\u006c").is("model"));
        assert!(!Text(br"model\u0000").is("model"));
        assert!(!Text("\\u006d".repeat(100_000).as_bytes()).is("model"));
    }
}
