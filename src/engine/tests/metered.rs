//! What roads settle that cannot wait: booked at once, with the best price there is.

use super::unsteady::Weather;
use super::*;
use crate::domain::usage::{Part, Record};

const ALL: i64 = 1000;

async fn bench() -> Bench {
    Bench::with([dollars(ALL)]).await
}

async fn spent(bench: &Bench) -> Units {
    bench.account(Dimension::Cost).await.spent
}

fn record(model: Option<&str>, output: u64) -> Record {
    let usage = Usage { output, ..Usage::default() };
    Record { usage, model: model.map(Into::into), ..Record::default() }
}

fn metered(reservation: ReservationId, certainty: Certainty, record: Record) -> Report {
    let used = Used::Metered { record: Box::new(record), path: "/v1/chat/completions".into() };
    let settlement = reservation.settlement(certainty.as_str());
    Report { settlement, used, certainty, ..cost_of(reservation, "s", 0) }
}

#[tokio::test]
async fn a_reservation_is_settled_while_the_store_is_away_and_recorded_when_it_is_back() {
    let bench = bench().await;
    let reservation = bench.admitted(100).await;
    bench.account(Dimension::Cost).await;
    bench.store.turn(Weather::Away);
    let report = metered(reservation, Certainty::Exact, record(Some("m"), 70));
    bench.engine.settle(&report).await.unwrap();
    bench.engine.settle(&report).await.unwrap();
    assert_eq!(bench.open(), 0);
    bench.store.turn(Weather::Fair);
    assert_eq!(spent(&bench).await, units(70));
    bench.engine.settle(&report).await.unwrap();
    assert_eq!(spent(&bench).await, units(70));
}

#[tokio::test]
async fn what_is_known_better_replaces_what_was_booked_and_what_is_known_worse_does_not() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let bench = bench().await;
        let reservation = bench.admitted(100).await;
        let reports = [
            metered(reservation, Certainty::AtLeast, record(Some("m"), 20)),
            metered(reservation, Certainty::Estimated, record(Some("m"), 90)),
            metered(reservation, Certainty::Exact, record(Some("m"), 70)),
        ];
        for at in order {
            bench.engine.settle(&reports[at]).await.unwrap();
        }
        assert_eq!(spent(&bench).await, units(70), "{order:?}");
    }
}

#[tokio::test]
async fn a_model_without_a_price_costs_what_the_model_that_was_asked_costs() {
    for named in [None, Some("m"), Some("m-2026-11-22"), Some("bad\nname")] {
        let bench = bench().await;
        let reservation = bench.admitted(100).await;
        let report = metered(reservation, Certainty::Exact, record(named, 70));
        bench.engine.settle(&report).await.unwrap();
        assert_eq!(spent(&bench).await, units(70), "{named:?}");
    }
}

#[tokio::test]
async fn what_has_no_price_at_all_costs_what_was_set_aside_and_is_marked() {
    let bench = bench().await;
    let mut ask = request(100);
    ask.subject = Arc::new(Subject { model: None, ..(*subject()).clone() });
    let held = bench.engine.reserve(ask, FOREVER).await.hand_over();
    let reservation = admission(held).reservation.unwrap();
    let report = metered(reservation, Certainty::Exact, record(Some("unknown"), 70));
    bench.engine.settle(&report).await.unwrap();
    assert_eq!(spent(&bench).await, units(100));
    let booked = bench.store.inner.settlements_of(&id(WORKSPACE), reservation).await.unwrap();
    assert_eq!(booked[0].certainty, Certainty::Estimated);
    assert_eq!(booked[0].amounts.tokens, Tokens::new(70));
}

#[tokio::test]
async fn each_call_within_a_response_is_priced_and_a_bill_goes_before() {
    let part = |output| Part { model: None, usage: Usage { output, ..Usage::default() } };
    let parts = Record { parts: vec![part(30), part(12)], ..record(Some("m"), 30) };
    let billed = Record { bill: Some(NanoUsd::new(55)), ..record(Some("m"), 70) };
    for (record, cost) in [(parts, 42), (billed, 55)] {
        let bench = bench().await;
        let reservation = bench.admitted(100).await;
        bench.engine.settle(&metered(reservation, Certainty::Exact, record)).await.unwrap();
        assert_eq!(spent(&bench).await, units(cost));
    }
}

#[tokio::test]
async fn what_nobody_can_tell_costs_what_was_set_aside_until_somebody_tells() {
    let bench = bench().await;
    let reservation = bench.admitted(100).await;
    let estimated = Report {
        used: Used::Reserved,
        ..metered(reservation, Certainty::Estimated, Record::default())
    };
    bench.engine.settle(&estimated).await.unwrap();
    assert_eq!(spent(&bench).await, units(100));
    bench.engine.settle(&metered(reservation, Certainty::Exact, record(None, 7))).await.unwrap();
    assert_eq!(spent(&bench).await, units(7));
}
