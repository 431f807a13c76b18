//! Tables of bodies and what reading them gives.

use super::*;

/// What reading field `n` of a body gives, or the complaint.
fn read<'a, T>(
    body: &'a str,
    reader: impl FnOnce(Field<'a>) -> Result<T, Fault>,
) -> Result<Given<T>, String> {
    let mut object = Object::parse(body).map_err(|fault| fault.message().to_owned())?;
    let given = object.take("n").read(reader).map_err(|fault| fault.message().to_owned())?;
    object.finish().map_err(|fault| fault.message().to_owned())?;
    Ok(given)
}

fn complaint<'a, T>(body: &'a str, reader: impl FnOnce(Field<'a>) -> Result<T, Fault>) -> String {
    read(body, reader).err().unwrap_or_else(|| panic!("{body} was accepted"))
}

#[test]
fn leaving_out_and_null_are_not_the_same() {
    assert_eq!(read("{}", Field::flag), Ok(Given::Omitted));
    assert_eq!(read(r#"{"n": null}"#, Field::flag), Ok(Given::Null));
    assert_eq!(read(r#"{"n": false}"#, Field::flag), Ok(Given::Value(false)));
}

#[test]
fn malformed_bodies_are_told_apart_and_named() {
    for (body, says) in [
        ("", "the body is not JSON"),
        ("{", "the body is not JSON"),
        (r#"{"n": NaN}"#, "the body is not JSON: expected value at line 1 column 7"),
        (r#"{"n": 1e}"#, "the body is not JSON"),
        ("[]", "the body must be a JSON object"),
        ("5", "the body must be a JSON object"),
        (r#"{"n": true, "n": true}"#, "n is given twice"),
        (r#"{"m": 1, "n": true}"#, "m is not a known field; known are n"),
    ] {
        let said = complaint(body, Field::flag);
        assert!(said.starts_with(says), "{body}: {said}");
    }
}

#[test]
fn faults_of_nested_fields_give_the_whole_path() {
    let inner = |body| {
        complaint(body, |field| {
            let mut object = field.object()?;
            object.take("m").read(Field::flag)?;
            object.finish()
        })
    };
    assert_eq!(inner(r#"{"n": {"m": 1}}"#), "n.m must be true or false");
    assert_eq!(inner(r#"{"n": {"x": 1}}"#), "n.x is not a known field; known are m");
    assert_eq!(inner(r#"{"n": {"m": true, "m": true}}"#), "n.m is given twice");
    assert_eq!(inner(r#"{"n": []}"#), "n must be a JSON object");
}

#[test]
fn depth_costs_nothing() {
    let deep = format!("{{\"n\": {}{}}}", "[".repeat(200_000), "]".repeat(200_000));
    assert_eq!(complaint(&deep, Field::flag), "n must be true or false");
    let deep = format!("{{\"n\": {}1{}}}", "{\"n\":".repeat(200_000), "}".repeat(200_000));
    assert_eq!(complaint(&deep, Field::id), "n must be a string");
}

#[test]
fn long_unknown_names_are_cut_short_in_complaints() {
    let said = complaint(&format!("{{\"{}\": 1}}", "é".repeat(1000)), Field::flag);
    assert!(said.len() < 200, "{said}");
}

#[test]
fn whole_numbers_are_read_however_they_are_written() {
    for (text, number) in [
        ("0", 0),
        ("0.0", 0),
        ("60", 60),
        ("60.0", 60),
        ("6e1", 60),
        ("0.6E+2", 60),
        ("600e-1", 60),
        ("1000000", 1_000_000),
        ("9007199254740991", 9_007_199_254_740_991),
    ] {
        let given = read(&format!("{{\"n\": {text}}}"), |field| field.whole(u64::MAX));
        assert_eq!(given, Ok(Given::Value(number)), "{text}");
    }
    for text in ["-1", "1.5", "0.5", "1e-1", "\"5\"", "true", "[]", "1e-99999999999"] {
        let said = complaint(&format!("{{\"n\": {text}}}"), |field| field.whole(100));
        assert_eq!(said, "n must be a whole number, zero or more", "{text}");
    }
    for text in ["101", "1e400", "1e99999999999999999999", &"9".repeat(1000)] {
        let said = complaint(&format!("{{\"n\": {text}}}"), |field| field.whole(100));
        assert_eq!(said, "n must be at most 100", "{text}");
    }
}

#[test]
fn dollars_are_read_from_their_text() {
    let exact = read(r#"{"n": 0.000000001}"#, Field::usd);
    assert_eq!(exact, Ok(Given::Value(NanoUsd::new(1))));
    let text = read(r#"{"n": "9007199.254740993"}"#, Field::usd_or_text);
    assert_eq!(text, Ok(Given::Value(NanoUsd::new(9_007_199_254_740_993))));
    for (number, says) in [
        ("-0.01", "n must not be negative"),
        ("1e400", "n is beyond 9200000000 dollars"),
        ("0.0000000001", "n has more than 9 decimals"),
        ("\"5\"", "n is not a decimal number"),
        ("\"NaN\"", "n is not a decimal number"),
    ] {
        let said = complaint(&format!("{{\"n\": {number}}}"), Field::usd);
        assert!(said.starts_with(says), "{number}: {said}");
    }
}

#[test]
fn times_need_an_offset() {
    let time = |text: &str| read(&format!("{{\"n\": \"{text}\"}}"), Field::time);
    assert_eq!(time("1970-01-01T01:00:00.5+01:00"), Ok(Given::Value(Wall::from_ms(500))));
    for bad in ["2026-11-22", "2026-11-22T00:00:00", "yesterday", "2026-13-01T00:00:00Z"] {
        assert!(time(bad).is_err(), "{bad}");
    }
}
