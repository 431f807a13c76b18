//! What is handed over is read as what was written.

use std::sync::Arc;

use super::wire::{self, Said};
use super::*;
use crate::domain::budget::Dimension;
use crate::domain::ids::{BudgetId, HolderId};
use crate::domain::ledger::NamedHold;
use crate::domain::ledger::escrow::AccountKey;
use crate::domain::money::{Amounts, NanoUsd, Tokens, Units};
use crate::domain::settlement::Certainty;
use crate::domain::time::Wall;
use crate::domain::usage::{Extras, MediaTokens, Part, Usage};
use crate::engine::report::{Against, Correction, Origin};

fn id(text: &str) -> Id {
    Id::parse(text).unwrap()
}

fn usage() -> Usage {
    Usage { input: 1, cached: 2, cache_write: 3, cache_write_1h: 4, output: 5, reasoning: 6 }
}

/// A record with something in every field.
fn record() -> Record {
    Record {
        usage: usage(),
        media: MediaTokens {
            input_audio: 1,
            cached_audio: 2,
            input_image: 3,
            output_audio: 4,
            output_image: 5,
        },
        extras: Extras {
            seconds: 1,
            search_units: 2,
            web_searches: 3,
            images: 4,
            pages: 5,
            characters: 6,
        },
        parts: vec![Part { model: Some("m".into()), usage: usage() }],
        bill: Some(NanoUsd::new(7)),
        model: Some("m".into()),
        service_tier: Some("flex".into()),
        response_id: Some("r".into()),
    }
}

fn report(used: Used) -> Report {
    let subject = Subject {
        project: Some(id("p")),
        identity: Some(id("i \"quoted\"")),
        api_key: Some(id("k")),
        provider: Some(id("o")),
        model: Some(id("m")),
        ..Subject::of_workspace(id("ws"))
    };
    Report {
        settlement: id("s"),
        workspace: id("ws"),
        against: Against::Reservation(ReservationId { holder: HolderId(1), nonce: 2 }),
        used,
        certainty: Certainty::AtLeast,
        correction: Correction::Yes,
        at: None,
        origin: Some(Origin {
            subject: Arc::new(subject),
            at: Wall::from_ms(9),
            estimate: Amounts { cost: NanoUsd::new(70), tokens: Tokens::new(7) },
            holds: Some(vec![hold("ws", Dimension::Cost), hold("x", Dimension::Tokens)]),
        }),
    }
}

fn hold(target: &str, dimension: Dimension) -> NamedHold {
    let account = AccountKey {
        workspace: id("ws"),
        budget: BudgetId(3),
        generation: 4,
        dimension,
        target: id(target),
        window: "2026-11".into(),
    };
    NamedHold { account, amount: Units::new(70) }
}

fn handoff(report: String) -> Handoff {
    let reservation = ReservationId { holder: HolderId(1), nonce: 2 };
    Handoff { workspace: id("ws"), reservation, settlement: id("s"), report }
}

#[test]
fn a_report_is_read_as_what_was_written_whatever_it_says() {
    let all = [
        Used::Usage { model: Some(id("m")), usage: usage() },
        Used::Cost { cost: NanoUsd::new(i64::MAX), model: None, usage: Some(usage()) },
        Used::Metered { record: Box::new(record()), path: "/v1/x?y=\"z\"".into() },
        Used::Seen { record: Box::new(record()), path: "/v1/x".into() },
        Used::Reserved,
    ];
    for used in all {
        let report = report(used);
        let Ok(Said::Report(read)) = wire::read(&handoff(wire::report(&report))) else {
            panic!("{report:?} is not read")
        };
        assert_eq!(format!("{read:?}"), format!("{report:?}"));
    }
    assert!(matches!(wire::read(&handoff(wire::release())), Ok(Said::Release)));
}

#[test]
fn what_this_version_does_not_know_is_not_read_as_something_else() {
    let written = wire::report(&report(Used::Reserved));
    let changed = [
        written.replace("\"v\":1", "\"v\":2"),
        written.replace("at_least", "perhaps"),
        written.replace("\"report\"", "\"rumour\""),
        written.replace("\"reserved\"", "\"stolen\""),
        written.replace("\"m\"", "\"\""),
        written[1..].to_owned(),
        String::new(),
    ];
    for text in changed {
        assert!(wire::read(&handoff(text.clone())).is_err(), "{text} is read");
    }
}

#[test]
fn what_was_set_aside_names_whom_the_subject_says_by_its_kind() {
    let said = |provider: &str, model: &str| Subject {
        provider: Some(id(provider)),
        model: Some(id(model)),
        ..Subject::of_workspace(id("ws"))
    };
    let subject = Arc::new(said("openai", "openai/gpt-4o"));
    let all =
        [("ws", "WORKSPACE"), ("openai/gpt-4o", "MODEL"), ("gpt-4o", "BARE_MODEL"), ("=x", "==x")];
    for (target, text) in all {
        let holds = vec![hold(target, Dimension::Cost)];
        let origin = Origin {
            subject: Arc::clone(&subject),
            at: Wall::from_ms(9),
            estimate: Amounts::default(),
            holds: Some(holds.clone()),
        };
        let written = origin.holds_text().unwrap();
        assert_eq!(written, format!(r#"[["{}",4,"cost","{text}","2026-11",70]]"#, BudgetId(3)));
        assert_eq!(Origin::read_holds(&written, &subject), Some(holds));
    }
}

#[test]
fn of_what_was_set_aside_all_is_read_or_nothing() {
    let subject = Arc::new(Subject::of_workspace(id("ws")));
    let written = |count| {
        let holds = Some(vec![hold("ws", Dimension::Cost); count]);
        let (at, estimate) = (Wall::from_ms(9), Amounts::default());
        Origin { subject: Arc::clone(&subject), at, estimate, holds }.holds_text().unwrap()
    };
    let read = |text: &str| Origin::read_holds(text, &subject).map(|holds| holds.len());
    assert_eq!(
        (read(&written(0)), read(&written(32)), read(&written(33))),
        (Some(0), Some(32), None)
    );
    let two = written(2);
    for (from, to) in
        [("cost", "time"), ("WORKSPACE", "PROJECT"), ("00000", "U0000"), ("70]]", "7e1]]")]
    {
        assert_eq!(read(&two.replacen(from, to, 1)), None, "{from}");
    }
}
