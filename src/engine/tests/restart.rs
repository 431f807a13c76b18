//! The end of a process and the start of the next: asked to stop it gives its leases back, killed it forfeits nothing.

use std::collections::BTreeSet;

use super::unsteady::Weather;
use super::*;
use crate::domain::ids::HolderId;
use crate::domain::ledger::escrow::GRACE;
use crate::engine::journal::{Recovered, boot_id};
use crate::engine::renewal::{Renewal, Step};
use crate::store::{FleetStore, Handoff};

fn both(cost: i64, requests: u32) -> Budget {
    let limits = Limits { requests_per_minute: Some(requests), ..dollars(cost).limits };
    Budget { limits, ..dollars(cost) }
}

#[tokio::test]
async fn a_shutdown_hands_everything_back_that_nothing_depends_on() {
    let bench = Bench::with([dollars(10_000)]).await;
    // The lease is used up and just about to be refilled.
    for _ in 0..4 {
        bench.admitted(100).await;
    }
    bench.clock.advance(TIMEOUT);
    bench.engine.shared.tick();
    bench.engine.shutdown().await;
    let account = bench.stored(Dimension::Cost).await;
    assert_eq!((account.spent, account.leased, account.holders), (units(400), units(0), 0));
    let asked = bench.engine.reserve(request(1), FOREVER).await.hand_over();
    assert_eq!(asked, Decision::Undecided { budget: None });
}

#[tokio::test]
async fn a_shutdown_leaves_open_reservations_to_the_next_start() {
    let bench = Bench::with([both(100, 10)]).await;
    let open = bench.admitted(30).await;
    bench.engine.shutdown().await;
    let Bench { engine, store, clock, settings, _directory } = bench;
    kill(engine).await;
    clock.advance(TTL + GRACE + SHORT);
    store.inner.sweep(clock.now().wall).await.unwrap();
    let engine = start(&settings, Arc::clone(&store) as _, Arc::clone(&clock) as _).await;
    let bench = Bench { engine, store, clock, settings, _directory };
    assert_eq!(bench.refused(71).await, RefusalCode::BudgetInFlight);
    bench.engine.report(cost_of(open, "s", 30)).await.unwrap();
    bench.admitted(70).await;
    let account = bench.account(Dimension::Cost).await;
    assert_eq!((account.spent, account.forfeited), (units(30), units(0)));
}

#[tokio::test]
async fn what_was_open_when_the_process_was_killed_is_open_again_and_nothing_is_forfeited() {
    let bench = Bench::with([both(100, 4)]).await;
    let settled = bench.admitted(20).await;
    bench.engine.report(cost_of(settled, "settled", 20)).await.unwrap();
    let open = bench.admitted(30).await;
    let released = bench.admitted(10).await;
    bench.engine.release(&id(WORKSPACE), released).await.unwrap();
    drop(bench.ask(10).await);
    bench.engine.shared.tick();
    let bench = bench.killed_and_restarted().await;
    assert_eq!(bench.open(), 1);
    assert_eq!(bench.refused(51).await, RefusalCode::BudgetInFlight);
    bench.engine.report(cost_of(open, "open", 25)).await.unwrap();
    // Three slots were used: settled, open and released.
    let last = bench.admitted(55).await;
    assert_eq!(bench.refused(1).await, RefusalCode::RequestsPerMinuteExceeded);
    bench.engine.report(cost_of(last, "last", 55)).await.unwrap();
    let account = bench.account(Dimension::Cost).await;
    assert_eq!((account.spent, account.forfeited), (units(100), units(0)));
}

/// A report to a store that takes no batch, or does not say that it did.
async fn unanswered(bench: &Bench, weather: Weather) -> Report {
    let reservation = bench.admitted(40).await;
    bench.store.turn_only("commit", weather);
    let report = cost_of(reservation, "s", 40);
    let answer = tokio::time::timeout(SHORT, bench.engine.report(report.clone())).await;
    assert!(answer.is_err());
    report
}

#[tokio::test]
async fn a_report_that_the_store_took_before_the_kill_is_not_taken_again() {
    let bench = Bench::with([dollars(100)]).await;
    let report = unanswered(&bench, Weather::Mute).await;
    bench.store.turn_only("commit", Weather::Fair);
    let bench = bench.killed_and_restarted().await;
    assert_eq!(bench.open(), 0);
    assert!(!bench.engine.report(report).await.unwrap().first);
    bench.admitted(60).await;
    assert_eq!(bench.account(Dimension::Cost).await.spent, units(40));
}

#[tokio::test]
async fn a_report_that_the_store_did_not_take_before_the_kill_is_taken_when_it_comes_again() {
    let bench = Bench::with([dollars(100)]).await;
    let report = unanswered(&bench, Weather::Away).await;
    bench.store.turn_only("commit", Weather::Fair);
    let bench = bench.killed_and_restarted().await;
    assert_eq!(bench.open(), 1);
    assert!(bench.engine.report(report).await.unwrap().first);
    assert_eq!(bench.account(Dimension::Cost).await.spent, units(40));
}

#[tokio::test]
async fn a_report_that_the_store_takes_while_the_next_process_starts_is_not_taken_again() {
    let bench = Bench::with([dollars(100)]).await;
    let report = unanswered(&bench, Weather::Away).await;
    let late = bench.engine.shared.state().rooms[WORKSPACE].under_way.sent().cloned().unwrap();
    let Bench { engine, store, clock, settings, _directory } = bench;
    kill(engine).await;
    for name in ["commit", "news", "load_budgets", "load_credits", "settled_among"] {
        store.turn_only(name, Weather::Fair);
    }
    store.turn(Weather::Hanging);
    let before = store.calls_of("adopt");
    let mut starting = Box::pin(start(&settings, Arc::clone(&store) as _, clock.clone() as _));
    while store.calls_of("adopt") == before {
        assert!(tokio::time::timeout(SHORT, &mut starting).await.is_err());
    }
    store.inner.commit(&late, clock.now().wall).await.unwrap();
    store.turn(Weather::Fair);
    let engine = starting.await;
    let bench = Bench { engine, store, clock, settings, _directory };
    assert_eq!(bench.open(), 0);
    assert!(!bench.engine.report(report).await.unwrap().first);
    assert_eq!(bench.account(Dimension::Cost).await.spent, units(40));
}

#[tokio::test]
async fn reservations_of_before_the_kill_time_out_each_at_its_own_time() {
    let bench = Bench::with([dollars(1000)]).await;
    for _ in 0..8 {
        bench.admitted(100).await;
        bench.clock.advance(Duration::from_secs(1));
    }
    let bench = bench.killed_and_restarted().await;
    bench.clock.advance(TIMEOUT - Duration::from_secs(4));
    bench.engine.shared.tick();
    assert_eq!(bench.open(), 3);
    assert_eq!(bench.account(Dimension::Cost).await.spent, units(500));
}

#[tokio::test]
async fn a_journal_serves_one_process() {
    let bench = Bench::with([]).await;
    let second = try_start(&bench.settings, bench.store.clone(), bench.clock.clone()).await;
    let refused = second.map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("in use by another process"), "{refused}");
}

#[tokio::test]
async fn a_process_that_is_taken_over_while_it_starts_does_not_start() {
    let bench = Bench::with([dollars(100)]).await;
    bench.admitted(40).await;
    let Bench { engine, store, clock, settings, _directory } = bench;
    kill(engine).await;
    for name in ["news", "load_budgets", "load_credits"] {
        store.turn_only(name, Weather::Fair);
    }
    store.turn(Weather::Hanging);
    let before = store.calls_of("adopt");
    let mut starting = Box::pin(try_start(&settings, Arc::clone(&store) as _, clock.clone() as _));
    while store.calls_of("adopt") == before {
        assert!(tokio::time::timeout(SHORT, &mut starting).await.is_err());
    }
    // It believes that the journal is its own; so does the other, in whose copy it stands.
    let journal = std::fs::read(settings.journal.as_ref().unwrap()).unwrap();
    let holders = Recovered::read(&journal, &boot_id().unwrap()).unwrap().holders;
    store.inner.adopt(&holders, HolderId(99), clock.now().wall).await.unwrap();
    store.turn(Weather::Fair);
    let refused = format!("{:#}", starting.await.map(|_| ()).unwrap_err());
    assert!(refused.contains("taken over") && refused.contains("journal.path"), "{refused}");
}

#[tokio::test]
async fn a_process_that_is_taken_over_while_it_runs_says_so_and_admits_nothing_more() {
    let bench = Bench::with([dollars(100)]).await;
    let open = bench.admitted(40).await;
    let shared = &bench.engine.shared;
    bench.engine.ready().await.unwrap();
    bench.store.inner.adopt(&[shared.holder], HolderId(99), bench.clock.now().wall).await.unwrap();
    let report = cost_of(open, "s", 40);
    assert!(tokio::time::timeout(SHORT, bench.engine.report(report)).await.is_err());
    until("it knows", async || shared.state().phase == Phase::TakenOver).await;
    assert_eq!(bench.ask(1).await.hand_over(), Decision::Undecided { budget: None });
    let why = bench.engine.ready().await.unwrap_err();
    assert!(why.contains("taken over") && why.contains("journal.path"), "{why}");
    assert!(shared.metrics.encode().contains("bursar_taken_over 1"));
    let untaken = bench.store.calls_of("untaken_handoffs");
    bench.engine.settle_untaken().await;
    assert_eq!(bench.store.calls_of("untaken_handoffs"), untaken, "others settle it");
    // The batch is tried again, and no other is made of it.
    let (sent, before) =
        (shared.state().rooms[WORKSPACE].under_way.sent().cloned(), bench.store.calls_of("commit"));
    until("more tries", async || bench.store.calls_of("commit") > before + 1).await;
    assert_eq!(shared.state().rooms[WORKSPACE].under_way.sent().cloned(), sent);
    assert_eq!(bench.stored(Dimension::Cost).await.spent, units(0));
}

#[tokio::test]
async fn kill_after_kill_nothing_is_lost_and_nothing_is_counted_twice() {
    let mut bench = Bench::with([both(10_000, 1000)]).await;
    let mut spent = 0;
    for round in 0..20 {
        let (first, second) = (bench.admitted(100).await, bench.admitted(100).await);
        bench.engine.report(cost_of(first, &format!("a{round}"), 60)).await.unwrap();
        bench = bench.killed_and_restarted().await;
        bench.engine.report(cost_of(second, &format!("b{round}"), 30)).await.unwrap();
        spent += 90;
        let account = bench.account(Dimension::Cost).await;
        assert_eq!((account.spent, account.forfeited), (units(spent), units(0)));
        assert_eq!(account.holders, 1);
    }
    let slots = bench.engine.consumption(&both(10_000, 1000)).await.unwrap().requests;
    assert_eq!(slots, 40);
}

#[tokio::test]
async fn a_journal_is_renewed_in_small_pieces_between_which_requests_are_admitted_and_end() {
    const OPEN: usize = 2_000;
    let bench = Bench::with([both(1_000_000, 6_000)]).await;
    let mut open = Vec::new();
    for _ in 0..OPEN {
        open.push(bench.admitted(1).await);
    }
    let shared = &bench.engine.shared;
    let journal = shared.journal.as_ref().unwrap();
    let recovered = |upto: u64| {
        let bytes = std::fs::read(bench.settings.journal.as_ref().unwrap()).unwrap();
        let upto = usize::try_from(upto).unwrap();
        let recovered = Recovered::read(&bytes[..upto], &boot_id().unwrap()).unwrap();
        assert_eq!(recovered.holders, [shared.holder]);
        assert!(recovered.reservations.iter().all(|open| open.holds.len() == 2));
        let ids: BTreeSet<_> = recovered.reservations.iter().map(|open| open.id).collect();
        (ids, recovered.stamps.len())
    };
    let mut renewal = Renewal::begin(shared, journal).unwrap();
    let (mut steps, mut written) = (0, journal.file.size());
    while renewal.step(shared).unwrap() == Step::More {
        let piece = journal.file.size() - written;
        assert!(piece < 256 * 200, "{piece} bytes were recorded at once");
        // A kill within the piece tears it anywhere.
        let left: BTreeSet<_> = open.iter().copied().collect();
        for torn in [1, 2, 3] {
            let (ids, stamps) = recovered(written + piece * torn / 3);
            assert!(ids == left && stamps == OPEN + steps, "{steps}: {} and {stamps}", ids.len());
        }
        open.push(bench.admitted(1).await);
        let over = open.swap_remove(steps * 7 % open.len());
        bench.engine.release(&id(WORKSPACE), over).await.unwrap();
        shared.write_journal(u64::MAX).unwrap();
        (steps, written) = (steps + 1, journal.file.size());
    }
    assert!(steps > OPEN / 256, "{steps} steps");
    let left: BTreeSet<_> = open.iter().copied().collect();
    let read = || {
        let (ids, stamps) = recovered(journal.file.size());
        assert_eq!(stamps, OPEN + steps);
        ids
    };
    assert_eq!(read(), left);
    let before = journal.file.size();
    renewal.end(journal).unwrap();
    assert!(journal.file.size() < before * 2 / 3);
    assert_eq!(read(), left);
    let last = bench.admitted(1).await;
    let bench = bench.killed_and_restarted().await;
    assert_eq!(bench.open(), OPEN + 1);
    assert!(bench.engine.report(cost_of(last, "last", 1)).await.unwrap().first);
}

/// Whose leases there may be, as the journal of a killed process says.
fn on_record(bench: &Bench) -> BTreeSet<HolderId> {
    let journal = std::fs::read(bench.settings.journal.as_ref().unwrap()).unwrap();
    Recovered::read(&journal, &boot_id().unwrap()).unwrap().holders.into_iter().collect()
}

#[tokio::test]
async fn earlier_holders_are_known_as_long_as_they_opened_a_lease_that_is_there() {
    let mut bench = Bench::with([dollars(1000)]).await;
    let first = bench.engine.shared.holder;
    let reservation = bench.admitted(100).await;
    for round in 0..4 {
        bench = bench.killed_and_restarted().await;
        let open = bench.admitted(10).await;
        bench.engine.report(cost_of(open, &format!("s{round}"), 10)).await.unwrap();
        assert_eq!(on_record(&bench), BTreeSet::from([first, bench.engine.shared.holder]));
    }
    bench.engine.report(cost_of(reservation, "last", 100)).await.unwrap();
    bench.clock.advance(TTL + SHORT);
    bench.engine.shared.tick();
    bench.engine.flush(&id(WORKSPACE)).await.unwrap();
    bench = bench.killed_and_restarted().await;
    assert_eq!(on_record(&bench), BTreeSet::from([bench.engine.shared.holder]));
    bench.admitted(860).await;
    let account = bench.account(Dimension::Cost).await;
    assert_eq!((account.spent, account.holders), (units(140), 1));
}

#[tokio::test]
async fn a_reservation_whose_lease_is_gone_is_covered_again_at_once() {
    let bench = Bench::with([dollars(1000)]).await;
    bench.admitted(100).await;
    let Bench { engine, store, clock, settings, _directory } = bench;
    kill(engine).await;
    clock.advance(TTL + GRACE + SHORT);
    store.inner.sweep(clock.now().wall).await.unwrap();
    store.inner.reset_budget(&dollars(1000), "2026-11").await.unwrap();
    let engine = start(&settings, Arc::clone(&store) as _, Arc::clone(&clock) as _).await;
    let bench = Bench { engine, store, clock, settings, _directory };
    assert_eq!(bench.account(Dimension::Cost).await.leased, units(100));
}

#[tokio::test]
async fn what_covers_a_reservation_gives_way_to_its_charge_however_often_it_was_taken_over() {
    let bench = Bench::with([dollars(1000)]).await;
    let reservation = bench.admitted(100).await;
    let Bench { engine, store, clock, settings, _directory } = bench;
    let expire = async || {
        clock.advance(TTL + GRACE + SHORT);
        store.inner.sweep(clock.now().wall).await.unwrap();
    };
    kill(engine).await;
    expire().await;
    // The lease is lost, so that from now on those of later processes cover the reservation.
    store.inner.release_forfeits(&id(WORKSPACE), BudgetId(1), clock.now().wall).await.unwrap();
    for _ in 0..2 {
        let engine = start(&settings, Arc::clone(&store) as _, Arc::clone(&clock) as _).await;
        engine.flush(&id(WORKSPACE)).await.unwrap();
        kill(engine).await;
        expire().await;
    }
    let label = dollars(0).limits.schedule.map(|s| s.window_at(NOON).label).unwrap();
    let stored = async || store.inner.accounts(&dollars(0), &label).await.unwrap().remove(0);
    let (key, before) = stored().await;
    assert!(before.forfeited >= units(100), "{before:?}");
    let (settlement, report) = (id("s"), String::new());
    let handoff = Handoff { workspace: id(WORKSPACE), reservation, settlement, report };
    store.inner.hand_over(&handoff).await.unwrap();
    store.inner.handoff_settled(&handoff, &[(key, units(100))]).await.unwrap();
    assert_eq!(stored().await.1.forfeited, before.forfeited.minus(units(100)));
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_before_more_is_written() {
    let bench = Bench::with([dollars(100)]).await;
    bench.admitted(10).await;
    let Bench { engine, store, clock, settings, _directory } = bench;
    kill(engine).await;
    let journal = settings.journal.clone().unwrap();
    let whole = std::fs::read(&journal).unwrap();
    std::fs::write(&journal, [&whole[..], &whole[..7]].concat()).unwrap();
    let engine = start(&settings, Arc::clone(&store) as _, Arc::clone(&clock) as _).await;
    let bench = Bench { engine, store, clock, settings, _directory };
    bench.admitted(20).await;
    let bench = bench.killed_and_restarted().await;
    assert_eq!(bench.open(), 2);
    assert_eq!(bench.refused(71).await, RefusalCode::BudgetInFlight);
}

#[tokio::test]
async fn nothing_is_admitted_while_the_journal_cannot_be_written() {
    let bench = Bench::with([both(100, 3)]).await;
    let before = bench.admitted(10).await;
    let journal = bench.settings.journal.clone().unwrap();
    // Where the new journal would be written, something stands in the way.
    let obstacle = journal.with_extension("new");
    std::fs::create_dir(&obstacle).unwrap();
    bench.engine.shared.journal.as_ref().unwrap().file.fill_the_disk();
    for _ in 0..5 {
        let asked = bench.ask(10).await.hand_over();
        assert_eq!(asked, Decision::Undecided { budget: None });
        bench.engine.shared.tick();
    }
    assert_eq!(bench.open(), 1);
    assert!(bench.engine.ready().await.is_err());
    std::fs::remove_dir(&obstacle).unwrap();
    bench.engine.shared.tick();
    bench.engine.ready().await.unwrap();
    let after = bench.admitted(10).await;
    let bench = bench.killed_and_restarted().await;
    for (name, reservation) in [("before", before), ("after", after)] {
        assert!(bench.engine.report(cost_of(reservation, name, 10)).await.unwrap().first);
    }
    bench.admitted(80).await;
    assert_eq!(bench.refused(1).await, RefusalCode::RequestsPerMinuteExceeded);
}

#[tokio::test]
async fn what_an_unconfirmed_settlement_freed_is_not_lent_twice_after_a_kill() {
    for rewritten in ["no", "at once", "in pieces"] {
        let bench = Bench::with([dollars(100)]).await;
        let settling = bench.admitted(50).await;
        bench.admitted(50).await;
        bench.store.turn_only("commit", Weather::Away);
        let report = cost_of(settling, "s", 10);
        let mut unanswered = Box::pin(bench.engine.report(report.clone()));
        while bench.open() > 1 {
            assert!(tokio::time::timeout(SHORT, &mut unanswered).await.is_err());
        }
        drop(unanswered);
        // What the report left over is lent to another at once.
        bench.admitted(40).await;
        let shared = &bench.engine.shared;
        let journal = shared.journal.as_ref().unwrap();
        match rewritten {
            "at once" => shared.rewrite_journal(journal).unwrap(),
            "in pieces" => {
                Renewal::begin(shared, journal).unwrap().finish(shared, journal).unwrap();
            }
            _ => {}
        }
        bench.store.turn_only("commit", Weather::Fair);
        let bench = bench.killed_and_restarted().await;
        assert_eq!(bench.open(), 3);
        assert!(bench.engine.report(report).await.unwrap().first);
        assert_eq!(bench.refused(1).await, RefusalCode::BudgetInFlight);
        assert_eq!(bench.account(Dimension::Cost).await.overdraft, units(0));
    }
}
