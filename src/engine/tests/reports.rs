//! Reports: each counts once, however often it comes; a better number replaces a worse one.

use super::unsteady::Weather;
use super::*;

const ALL: i64 = 1000;

async fn bench() -> Bench {
    Bench::with([dollars(ALL)]).await
}

async fn spent(bench: &Bench) -> Units {
    bench.account(Dimension::Cost).await.spent
}

#[tokio::test]
async fn a_report_that_comes_again_gives_the_first_result_and_counts_once() {
    let bench = bench().await;
    let reservation = bench.admitted(100).await;
    let first = bench.engine.report(cost_of(reservation, "s", 70)).await.unwrap();
    assert!(first.first);
    let again = bench.engine.report(cost_of(reservation, "s", 70)).await.unwrap();
    assert!(!again.first);
    assert_eq!(again.settlement, first.settlement);
    let other = bench.engine.report(cost_of(reservation, "s", 71)).await.unwrap_err();
    assert!(matches!(other, ReportError::Differs(on_record) if *on_record == first.settlement));
    assert_eq!(spent(&bench).await, units(70));
}

#[tokio::test]
async fn identical_reports_at_the_same_time_count_once() {
    let bench = bench().await;
    let reservation = bench.admitted(100).await;
    let reports = [cost_of(reservation, "of a reservation", 70), cost_of_subject("of nothing", 5)];
    let mut under_way = tokio::task::JoinSet::new();
    for report in reports.iter().cycle().take(40).cloned() {
        let engine = bench.engine.clone();
        under_way.spawn(async move { engine.report(report).await.unwrap().first });
    }
    let firsts = under_way.join_all().await.into_iter().filter(|first| *first).count();
    assert_eq!((firsts, spent(&bench).await), (2, units(75)));
    assert!(bench.engine.shared.state().turns.is_empty());
}

#[tokio::test]
async fn a_reporter_that_leaves_and_comes_again_counts_once() {
    for against_subject in [false, true] {
        let bench = bench().await;
        let reservation = bench.admitted(100).await;
        let report = match against_subject {
            false => cost_of(reservation, "s", 70),
            true => cost_of_subject("s", 70),
        };
        for weather in [Weather::Mute, Weather::Away, Weather::Fair] {
            bench.store.turn_only("commit", weather);
            let reported = bench.engine.report(report.clone());
            let _ = tokio::time::timeout(SHORT, reported).await;
        }
        bench.engine.report(report).await.unwrap();
        assert_eq!(spent(&bench).await, units(70));
    }
}

#[tokio::test]
async fn an_exact_report_replaces_the_estimate_that_a_timeout_booked() {
    for (actual, reported) in [(30, 30), (170, 170)] {
        let bench = bench().await;
        let reservation = bench.admitted(100).await;
        bench.clock.advance(TIMEOUT);
        bench.engine.shared.tick();
        assert_eq!(spent(&bench).await, units(100));
        let late = tokens_of(reservation, "late", actual);
        let settled = bench.engine.report(late).await.unwrap();
        assert_eq!(settled.settlement.certainty, Certainty::Adjustment);
        assert_eq!(spent(&bench).await, units(reported));
        bench.admitted(ALL - reported).await;
    }
}

#[tokio::test]
async fn an_exact_amount_is_replaced_only_by_a_correction() {
    let bench = bench().await;
    let reservation = bench.admitted(100).await;
    bench.engine.report(cost_of(reservation, "first", 80)).await.unwrap();
    let second = cost_of(reservation, "second", 60);
    let refused = bench.engine.report(second.clone()).await.unwrap_err();
    assert!(matches!(refused, ReportError::SettledBefore(first) if first == id("first")));
    let corrected = Report { correction: Correction::Yes, ..second };
    bench.engine.report(corrected.clone()).await.unwrap();
    assert_eq!(spent(&bench).await, units(60));
    assert!(!bench.engine.report(corrected).await.unwrap().first);
    let up = Report { correction: Correction::Yes, ..cost_of(reservation, "third", 90) };
    bench.engine.report(up).await.unwrap();
    assert_eq!(spent(&bench).await, units(90));
}

#[tokio::test]
async fn a_lower_bound_never_lowers_and_an_exact_amount_replaces_it() {
    let bench = bench().await;
    let reservation = bench.admitted(100).await;
    let at_least = |settlement: &str, cost| Report {
        certainty: Certainty::AtLeast,
        ..cost_of(reservation, settlement, cost)
    };
    for (settlement, cost, sum) in [("a", 50, 50), ("b", 40, 50), ("c", 60, 60), ("b", 40, 60)] {
        bench.engine.report(at_least(settlement, cost)).await.unwrap();
        assert_eq!(spent(&bench).await, units(sum), "{settlement}");
    }
    bench.engine.report(cost_of(reservation, "exact", 20)).await.unwrap();
    assert_eq!(spent(&bench).await, units(20));
    let late = bench.engine.report(at_least("d", 90)).await.unwrap();
    assert!(!late.first);
    assert_eq!(spent(&bench).await, units(20));
}

#[tokio::test]
async fn a_response_dearer_than_its_reservation_is_counted_and_called_overrun() {
    let bench = Bench::with([dollars(100)]).await;
    let dear = bench.admitted(60).await;
    let other = bench.admitted(40).await;
    let settled = bench.engine.report(cost_of(dear, "dear", 75)).await.unwrap();
    assert_eq!(settled.overrun.cost, NanoUsd::new(15));
    bench.engine.report(cost_of(other, "other", 40)).await.unwrap();
    let account = bench.account(Dimension::Cost).await;
    assert_eq!((account.spent, account.overdraft), (units(115), units(15)));
}

#[tokio::test]
async fn usage_that_was_not_asked_about_is_charged_to_whatever_applies() {
    let bench = bench().await;
    bench.engine.report(cost_of_subject("s", 400)).await.unwrap();
    bench.engine.report(cost_of_subject("t", 500)).await.unwrap();
    assert_eq!(spent(&bench).await, units(900));
    assert_eq!(bench.refused(101).await, RefusalCode::RequestExceedsBudget);
    bench.admitted(100).await;
}

#[tokio::test]
async fn a_report_names_what_is_wrong_with_it() {
    let bench = bench().await;
    let reservation = bench.admitted(100).await;
    let unknown = ReservationId { nonce: 1, ..reservation };
    let refused = bench.engine.report(tokens_of(unknown, "s", 1)).await.unwrap_err();
    assert!(matches!(refused, ReportError::UnknownReservation), "{refused}");
    let elsewhere = Report { workspace: id("other"), ..cost_of(reservation, "s", 1) };
    let refused = bench.engine.report(elsewhere).await.unwrap_err();
    assert!(matches!(refused, ReportError::UnknownReservation), "{refused}");
    let reserved = bench.engine.report(cost_of(reservation, "timeout:x", 1)).await.unwrap_err();
    assert!(matches!(reserved, ReportError::ReservedId), "{reserved}");
    let used = Used::Usage { model: Some(id("unheard-of")), usage: Usage::default() };
    // A reservation's own model would stand in for one without a price.
    let nameless = Arc::new(Subject::of_workspace(id(WORKSPACE)));
    let against = Against::Subject(nameless);
    let unpriced = Report { used, against, ..cost_of(reservation, "s", 0) };
    let refused = bench.engine.report(unpriced).await.unwrap_err();
    assert!(matches!(refused, ReportError::Unpriced(model) if model == "unheard-of"));
    assert_eq!((bench.open(), spent(&bench).await), (1, units(0)));
}
