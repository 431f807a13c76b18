//! Walks every string of a JSON text, however deep, in one pass.

use crate::domain::json::Text;
use crate::domain::json::walk::{is_space, split_string};

/// Walks the strings that are values, each with the key that last stood before it: its own, or that of the array it is in.
/// A string that the end of the text cuts counts as far as it was seen. Linear, and constant in memory.
#[must_use]
pub fn strings(text: &[u8]) -> Strings<'_> {
    Strings { rest: text, key: Text::new(&[]) }
}

/// The strings of a text: see [`strings`].
#[derive(Debug, Clone)]
pub struct Strings<'a> {
    rest: &'a [u8],
    key: Text<'a>,
}

impl<'a> Iterator for Strings<'a> {
    type Item = (Text<'a>, Text<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let quote = self.rest.iter().position(|b| *b == b'"')?;
            let (_, behind) = self.rest.split_at_checked(quote)?;
            let (_, behind) = behind.split_first()?;
            let (inside, rest) = split_string(behind).unwrap_or((behind, &[]));
            self.rest = rest;
            let text = Text::new(inside);
            if rest.iter().find(|b| !is_space(**b)) != Some(&b':') {
                return Some((self.key, text));
            }
            self.key = text;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &[u8]) -> Vec<String> {
        let show = |text: Text<'_>| String::from_utf8_lossy(text.bytes()).into_owned();
        strings(text).map(|(key, value)| format!("{}={}", show(key), show(value))).collect()
    }

    #[test]
    fn every_string_comes_with_the_key_before_it() {
        let body = br#"{"a":"1","b":{"c" : ["2",{"d":"3\""}], "e":4},"f":["5","6"],"g":"cu"#;
        assert_eq!(shown(body), ["a=1", "c=2", "d=3\\\"", "f=5", "f=6", "g=cu"]);
        assert_eq!(shown(b"\"alone\""), ["=alone"]);
        assert!(shown(b"{1:[}").is_empty());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes: usize = strings(&text).map(|(_, value)| value.bytes().len()).sum();
            prop_assert!(bytes <= text.len());
        }
    }
}
