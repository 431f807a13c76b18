//! Reads single values out of a JSON text that may be hostile or cut off, without parsing the rest.
//!
//! Linear in the text for each step of a path, constant memory, no recursion: nesting is counted, not followed. Text
//! that is skipped is not validated: what a strict parser would refuse, the provider refuses too. A key that
//! occurs twice has the value that stands last, as in the parsers of Python, JavaScript and Go; in a text that was cut off
//! that is the last one in sight.

pub mod edit;
mod strings;
mod value;
mod walk;

pub use strings::{Strings, strings};
pub use value::{Extent, Raw, Text};
pub use walk::{Elements, Ending, Members, elements, members};
use walk::{length, trimmed, without_mark};

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'a> {
    /// A whole value.
    Value(Raw<'a>),
    /// Nothing: every value on the way was seen to its end.
    Absent,
    /// The text ends before it can be told.
    Cut,
    /// The text is no JSON, so that no parser would find anything.
    Malformed,
}

/// Finds the value at a path of object keys; a step into an array is its index, as in `["messages", "0", "role"]`.
#[must_use]
pub fn find<'a>(body: &'a [u8], path: &[&str]) -> Found<'a> {
    let body = without_mark(body);
    let Some((first, others)) = path.split_first() else { return whole(body) };
    let mut found = child(body, first);
    for step in others {
        found = match found {
            (_, Ending::Malformed) => return Found::Malformed,
            (Some(value), _) => child(value.bytes(), step),
            (None, Ending::Cut) => return Found::Cut,
            (None, Ending::Closed) => return Found::Absent,
        };
    }
    match found {
        (_, Ending::Malformed) => Found::Malformed,
        (Some(value), _) if value.extent() == Extent::Whole => Found::Value(value),
        (Some(_), _) | (None, Ending::Cut) => Found::Cut,
        (None, Ending::Closed) => Found::Absent,
    }
}

/// The last child of that name and how the container ended.
fn child<'a>(container: &'a [u8], step: &str) -> (Option<Raw<'a>>, Ending) {
    match trimmed(container).first() {
        Some(b'{') => {
            let mut members = members(container);
            let mut last = None;
            for (key, value) in members.by_ref() {
                if key.is(step) {
                    last = Some(value);
                }
            }
            (last, members.ending())
        }
        Some(b'[') => {
            let mut elements = elements(container);
            let index = step.parse().unwrap_or(usize::MAX);
            let found = elements.by_ref().nth(index);
            (found, if found.is_some() { Ending::Closed } else { elements.ending() })
        }
        Some(_) => (None, Ending::Closed),
        None => (None, Ending::Cut),
    }
}

fn whole(text: &[u8]) -> Found<'_> {
    let text = trimmed(text);
    match length(text) {
        Ok(Some(length)) => match text.get(..length) {
            Some(text) => Found::Value(Raw::new(text, Extent::Whole)),
            None => Found::Cut,
        },
        Ok(None) | Err(Ending::Cut) => Found::Cut,
        Err(Ending::Malformed | Ending::Closed) => Found::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::borrow::Cow;

    /// The value's text, or what else was found.
    fn show(body: &[u8], path: &[&str]) -> String {
        match find(body, path) {
            Found::Value(value) => String::from_utf8_lossy(value.bytes()).into_owned(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn only_keys_at_the_depth_asked_for_count() {
        let body = br#" {"tool":{"model":"a","model2":[{"model":"b"}]},"text":"\"model\":\"c\"", "model" : "d"} "#;
        assert_eq!(show(body, &["model"]), r#""d""#);
        assert_eq!(show(body, &["tool", "model"]), r#""a""#);
        assert_eq!(show(body, &["tool", "model2", "0", "model"]), r#""b""#);
        assert_eq!(show(body, &["tool", "model2", "1"]), "Absent");
        assert_eq!(show(body, &["text", "model"]), "Absent");
        assert_eq!(show(body, &["missing"]), "Absent");
        assert_eq!(show(b"[1, 2,3 ]", &["2"]), "3");
        assert_eq!(show(b" {} ", &[]), "{}");
    }

    #[test]
    fn of_a_key_that_occurs_twice_the_last_value_counts() {
        assert_eq!(show(br#"{"model":"a","model":"b"}"#, &["model"]), r#""b""#);
        assert_eq!(show(br#"{"a":{"x":1},"a":{"y":2}}"#, &["a", "x"]), "Absent");
        assert_eq!(show(br#"{"model":"a","\u006dodel":"b"}"#, &["model"]), r#""b""#);
    }

    #[test]
    fn a_cut_is_told_from_an_absence() {
        let body = br#"{"a":1,"b":{"c":"text"}}"#;
        assert_eq!(show(&body[..5], &["a"]), "Cut");
        assert_eq!(show(&body[..6], &["a"]), "Cut", "more digits may follow");
        assert_eq!(show(&body[..7], &["a"]), "1");
        assert_eq!(show(&body[..7], &["b"]), "Cut");
        assert_eq!(show(&body[..22], &["b"]), "Cut");
        assert_eq!(show(&body[..22], &["b", "c"]), r#""text""#);
        assert_eq!(show(&body[..22], &["b", "d"]), "Cut");
        assert_eq!(show(b"", &["a"]), "Cut");
        assert_eq!(show(b"  ", &[]), "Cut");
    }

    #[test]
    fn what_is_no_json_is_malformed() {
        for body in ["{a:1}", "{\"a\" 1}", "{\"a\":1 \"b\":2}", "{\"a\":,}", "{\"a\":1,}", "{,}"] {
            assert_eq!(show(body.as_bytes(), &["a"]), "Malformed", "{body}");
        }
        assert_eq!(show(b"plain", &["a"]), "Absent");
        assert_eq!(show(b"}", &[]), "Malformed");
    }

    #[test]
    fn nesting_a_million_deep_is_only_counted() {
        let mut body = b"{\"deep\":".to_vec();
        body.extend(std::iter::repeat_n(b'[', 1_000_000));
        assert_eq!(show(&body, &["model"]), "Cut");
        body.extend(std::iter::repeat_n(b']', 1_000_000));
        body.extend(b",\"model\":\"x\"}");
        assert_eq!(show(&body, &["model"]), r#""x""#);
    }

    fn json_value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                prop::collection::hash_map(".{0,3}", inner, 0..5)
                    .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..200), key in ".{0,3}") {
            let _ = find(&body, &[&key, "0"]);
            for (key, value) in members(&body) {
                let _ = (key.decoded(), value.as_str(), value.as_u64(), value.as_bool());
            }
        }

        #[test]
        fn near_json_never_panics(body in r#"[{}\[\]",:\\u0-9a ]{0,60}"#) {
            let _ = find(body.as_bytes(), &["a", "a"]);
            prop_assert!(elements(body.as_bytes()).count() <= body.len());
        }

        #[test]
        fn a_member_is_what_a_full_parser_finds(value in json_value(), pretty in any::<bool>()) {
            let body = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            if let serde_json::Value::Object(map) = &value {
                for (key, expected) in map {
                    let Found::Value(raw) = find(body.as_bytes(), &[key]) else { panic!("{key} in {body}") };
                    prop_assert_eq!(&serde_json::from_slice::<serde_json::Value>(raw.bytes()).unwrap(), expected);
                    prop_assert_eq!(raw.as_str().map(Cow::into_owned), expected.as_str().map(str::to_owned));
                    prop_assert_eq!(raw.as_u64(), expected.as_u64());
                    prop_assert_eq!(raw.as_bool(), expected.as_bool());
                }
            }
        }

        #[test]
        fn a_cut_never_changes_what_was_seen_whole(value in json_value(), cut in any::<prop::sample::Index>()) {
            let body = serde_json::json!({"a": value, "b": 1}).to_string();
            let part = &body.as_bytes()[..cut.index(body.len())];
            let found = find(part, &["a"]);
            prop_assert!(found == Found::Cut || found == find(body.as_bytes(), &["a"]));
        }
    }
}
