//! Tables of usage reports and what is made of them.

use super::*;

const NOW: Wall = Wall::from_ms(1_795_305_600_000);

fn report(body: &str) -> Result<Report, String> {
    let read = |body| {
        let workspace = Id::parse("ws").unwrap();
        read(Object::parse(body)?, |_| Ok(workspace))?.checked(NOW)
    };
    read(body).map_err(|fault: Fault| fault.message().to_owned())
}

fn subject_of(report: &Report) -> &Subject {
    match &report.against {
        Against::Subject(subject) => subject,
        Against::Reservation(_) => panic!("a reservation"),
    }
}

#[test]
fn usage_of_a_subject_is_read_with_every_count() {
    let report = report(
        r#"{"settlement_id": "s1", "project_id": "p", "identity_external_id": "i", "api_key_id": "k",
            "provider": "openai", "model_id": "openai/gpt-4o", "model": "gpt-4o-2024-08-06",
            "usage": {"input_tokens": 100, "output_tokens": 20.0, "cached_input_tokens": 60,
                      "cache_write_tokens": 40, "reasoning_tokens": 20},
            "correction": true, "at": "2026-11-21T23:00:00Z"}"#,
    )
    .unwrap();
    assert_eq!(report.settlement.as_str(), "s1");
    assert_eq!(report.workspace.as_str(), "ws");
    assert_eq!(subject_of(&report).model.as_ref().map(Id::as_str), Some("openai/gpt-4o"));
    assert_eq!(report.correction, Correction::Yes);
    assert_eq!(report.at, Some(Wall::from_ms(1_795_302_000_000)));
    let Used::Usage { model, usage } = report.used else { panic!("a cost") };
    assert_eq!(model.as_ref().map(Id::as_str), Some("gpt-4o-2024-08-06"));
    let counts = Usage {
        input: 100,
        cached: 60,
        cache_write: 40,
        output: 20,
        reasoning: 20,
        ..Usage::default()
    };
    assert_eq!(usage, counts);
}

#[test]
fn cost_is_exact_as_a_number_and_as_text() {
    for cost in ["0.0000184", "1.84e-5", "\"0.0000184\""] {
        let report = report(&format!(r#"{{"settlement_id": "s1", "cost": {cost}}}"#)).unwrap();
        let Used::Cost { cost: amount, .. } = report.used else { panic!("usage") };
        assert_eq!(amount, NanoUsd::new(18_400), "{cost}");
    }
}

#[test]
fn one_model_stands_for_both() {
    let usage = r#""usage": {"input_tokens": 1, "output_tokens": 1}"#;
    for field in ["model", "model_id"] {
        let body = format!(r#"{{"settlement_id": "s1", "{field}": "gpt-4o", {usage}}}"#);
        let report = report(&body).unwrap();
        assert_eq!(subject_of(&report).model.as_ref().map(Id::as_str), Some("gpt-4o"), "{field}");
        let Used::Usage { model, .. } = report.used else { panic!("a cost") };
        assert_eq!(model.as_ref().map(Id::as_str), Some("gpt-4o"), "{field}");
    }
}

#[test]
fn what_is_no_report_is_refused_with_its_field() {
    let counts = |counts: &str| format!(r#""settlement_id": "s1", "usage": {{{counts}}}"#);
    let reservation = format!(
        r#""settlement_id": "s1", "cost": 1, "reservation_id": "{0}.{0}""#,
        "00000000000000000000000007"
    );
    for (fields, says) in [
        (r#""cost": 1"#.to_owned(), "settlement_id is missing"),
        (r#""settlement_id": "s1""#.to_owned(), "usage is missing"),
        (r#""settlement_id": "", "cost": 1"#.to_owned(), "settlement_id is empty"),
        (r#""settlement_id": "s1", "cost": -1"#.to_owned(), "cost must not be negative"),
        (r#""settlement_id": "s1", "cost": "NaN""#.to_owned(), "cost is not a decimal number"),
        (
            r#""settlement_id": "s1", "cost": 1000000.000000001"#.to_owned(),
            "cost must be at most 1000000 dollars",
        ),
        (
            r#""settlement_id": "response:r1", "cost": 1"#.to_owned(),
            "settlement_id begins with \"response:\", which is reserved",
        ),
        (
            r#""settlement_id": "s1", "cost": 1, "price": 1"#.to_owned(),
            "price is not a known field",
        ),
        (
            r#""settlement_id": "s1", "cost": 1, "reservation_id": "r1""#.to_owned(),
            "reservation_id is not a reservation id",
        ),
        (
            format!(r#"{reservation}, "project_id": "p""#),
            "reservation_id and the subject's ids exclude each other",
        ),
        (
            format!(r#"{reservation}, "at": "2026-11-21T00:00:00Z""#),
            "at goes only with subject ids",
        ),
        (
            r#""settlement_id": "s1", "cost": 1, "at": "2026-11-22T00:05:01Z""#.to_owned(),
            "at lies in the future",
        ),
        (counts(r#""output_tokens": 1"#), "usage.input_tokens is missing"),
        (counts(r#""input_tokens": 1"#), "usage.output_tokens is missing"),
        (
            counts(r#""input_tokens": -1, "output_tokens": 1"#),
            "usage.input_tokens must be a whole number",
        ),
        (
            counts(r#""input_tokens": 1e9, "output_tokens": 1"#),
            "usage.input_tokens must be at most 100000000",
        ),
        (
            counts(
                r#""input_tokens": 1, "output_tokens": 1, "cached_input_tokens": 1, "cache_write_tokens": 1"#,
            ),
            "usage.cached_input_tokens and usage.cache_write_tokens are parts",
        ),
        (
            counts(r#""input_tokens": 1, "output_tokens": 1, "reasoning_tokens": 2"#),
            "usage.reasoning_tokens is a part",
        ),
    ] {
        let said = report(&format!("{{{fields}}}")).err();
        let said = said.unwrap_or_else(|| panic!("{fields} was accepted"));
        assert!(said.starts_with(says), "{fields}: {said}");
    }
}
