//! The smallest change to a JSON text that makes one member have a value: every other byte stays as it was written.

use crate::domain::json::walk::{Ending, members};
use crate::domain::json::{Extent, Raw};

/// Where a member's value stands, or where a new member can stand.
enum Place<'a> {
    /// The value of the last member of that name, which is the one that counts.
    Value(Raw<'a>),
    /// No such member: behind the opening bracket. Whether others follow.
    Opening(Others),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Others {
    None,
    Some,
}

/// An object in which a member has a value: the bytes of `object` with `value` in the place of the member's own, or as a new
/// first member. `None` where the text is no whole object, or has the value already.
#[must_use]
pub fn with_member(object: &[u8], key: &str, value: &str) -> Option<Vec<u8>> {
    match place(object, key)? {
        Place::Value(found) if found.bytes() == value.as_bytes() => None,
        Place::Value(found) => replaced(object, found, value.as_bytes()),
        Place::Opening(others) => {
            let bracket = object.iter().position(|byte| *byte == b'{')?;
            let (before, after) = object.split_at_checked(bracket.checked_add(1)?)?;
            let comma = if others == Others::Some { "," } else { "" };
            let member = format!("\"{key}\":{value}{comma}");
            Some([before, member.as_bytes(), after].concat())
        }
    }
}

/// `text` with `other` in the place of one of its values.
#[must_use]
pub fn replaced(text: &[u8], value: Raw<'_>, other: &[u8]) -> Option<Vec<u8>> {
    // A value is a part of the text that it was read from, so its address tells where it stands.
    let start = value.bytes().as_ptr().addr().checked_sub(text.as_ptr().addr())?;
    let (before, rest) = text.split_at_checked(start)?;
    let (_, after) = rest.split_at_checked(value.bytes().len())?;
    Some([before, other, after].concat())
}

fn place<'a>(object: &'a [u8], key: &str) -> Option<Place<'a>> {
    let mut found = None;
    let mut others = Others::None;
    let mut all = members(object);
    for (name, value) in all.by_ref() {
        others = Others::Some;
        if name.is(key) {
            found = Some(value);
        }
    }
    if all.ending() != Ending::Closed {
        return None;
    }
    match found {
        Some(value) if value.extent() == Extent::Whole => Some(Place::Value(value)),
        Some(_) => None,
        None => Some(Place::Opening(others)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn edited(object: &str) -> Option<String> {
        with_member(object.as_bytes(), "a", "true").map(|text| String::from_utf8(text).unwrap())
    }

    #[test]
    fn a_member_is_replaced_where_it_stands_or_put_first() {
        for (object, expected) in [
            ("{}", "{\"a\":true}"),
            (" { } ", " {\"a\":true } "),
            ("{\"b\":1}", "{\"a\":true,\"b\":1}"),
            ("{\n  \"b\": [1]\n}", "{\"a\":true,\n  \"b\": [1]\n}"),
            ("{\"a\":null,\"b\":1}", "{\"a\":true,\"b\":1}"),
            ("{\"a\" : {\"x\":[\"}\"]} ,\"b\":1}", "{\"a\" : true ,\"b\":1}"),
            ("{\"b\":{\"a\":1}}", "{\"a\":true,\"b\":{\"a\":1}}"),
            ("{\"a\":1,\"\\u0061\":2}", "{\"a\":1,\"\\u0061\":true}"),
            ("\u{feff}{\"b\":1}", "\u{feff}{\"a\":true,\"b\":1}"),
        ] {
            assert_eq!(edited(object).as_deref(), Some(expected), "{object}");
        }
    }

    #[test]
    fn what_is_no_whole_object_or_needs_no_change_is_left_alone() {
        for object in
            ["", "[]", "{", "{\"b\":1", "{\"b\":1,}", "{\"a\":", "true", "{\"a\":true}", "{b:1}"]
        {
            assert_eq!(edited(object), None, "{object}");
        }
    }

    proptest! {
        #[test]
        fn near_json_never_panics(object in r#"[{}\[\]",:\\u0-9a ]{0,60}"#) {
            let _ = edited(&object);
        }

        #[test]
        fn everything_else_stays_as_it_was(map in prop::collection::hash_map("[ab\"é]{0,2}", any::<i64>(), 0..6)) {
            let mut expected: serde_json::Map<_, _> =
                map.into_iter().map(|(key, value)| (key, value.into())).collect();
            let object = serde_json::Value::from(expected.clone()).to_string();
            expected.insert("a".to_owned(), true.into());
            let edited: serde_json::Value = serde_json::from_str(&edited(&object).unwrap()).unwrap();
            prop_assert_eq!(edited, serde_json::Value::from(expected));
        }
    }
}
