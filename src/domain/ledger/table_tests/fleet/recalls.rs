//! What replicas have idle, asked for by others.

use super::*;

#[test]
fn what_one_replica_has_idle_is_recalled_for_another() {
    let mut fleet = Fleet::new(2, cost(100));
    let first = fleet.reserve(0, 20).unwrap();
    assert_eq!(fleet.account(Dimension::Cost).1, units(80), "a first grant is for four");
    assert!(fleet.reserve(1, 70).is_ok(), "60 of them are idle");
    assert_eq!(fleet.reserve(1, 11), Err(RefusalCode::BudgetInFlight));
    fleet.settle(0, first, 5);
    fleet.exchange(0);
    fleet.tick(Duration::from_secs(1));
    assert!(fleet.reserve(1, 15).is_ok(), "what a settlement leaves is there for others");
}

#[test]
fn a_recall_in_vain_is_remembered_and_costs_the_store_nothing_more() {
    let mut fleet = Fleet::new(2, cost(100));
    fleet.reserve(0, 60).unwrap();
    fleet.reserve(1, 20).unwrap();
    assert_eq!(fleet.reserve(1, 30), Err(RefusalCode::BudgetInFlight));
    let asked = fleet.exchanges;
    for _ in 0..100 {
        assert_eq!(fleet.reserve(1, 30), Err(RefusalCode::BudgetInFlight));
    }
    assert_eq!(fleet.exchanges, asked);
    fleet.tick(Duration::from_millis(1001));
    assert_eq!(fleet.reserve(1, 30), Err(RefusalCode::BudgetInFlight));
    assert!(fleet.exchanges > asked, "what was known is old");
}

#[test]
fn who_waits_no_more_for_others_gives_them_what_is_idle() {
    let mut fleet = Fleet::new(2, cost(100));
    fleet.reserve(0, 20).unwrap();
    fleet.reserve(1, 10).unwrap();
    let Err(waiter) = fleet.ask(0, 75) else { panic!("60 are idle here, and 10 free") };
    fleet.ledgers[0].abandon(waiter);
    fleet.tick(RECALL);
    fleet.ledgers[0].tend_recalls(fleet.now);
    fleet.exchange(0);
    assert!(fleet.reserve(1, 60).is_ok(), "{:?}", fleet.account(Dimension::Cost));
}

#[test]
fn what_goes_back_for_a_recall_is_not_drawn_again_along_with_it() {
    let mut fleet = Fleet::new(2, cost(1_000));
    fleet.reserve(0, 100).unwrap();
    let (_, lent) = fleet.account(Dimension::Cost);
    assert!(fleet.reserve(1, 850).is_ok(), "of {lent:?} all but 100 are idle");
}

#[test]
fn what_went_back_for_a_recall_is_not_drawn_again_with_the_next_news_either() {
    let mut fleet = Fleet::new(2, cost(1_000));
    let first = fleet.reserve(0, 10).unwrap();
    let Err(waiter) = fleet.ask(1, 970) else { panic!("960 are free, and 30 idle") };
    fleet.ledgers[1].abandon(waiter);
    fleet.tick(RECALL);
    fleet.tell_recalls(1);
    assert_eq!(fleet.account(Dimension::Cost), (units(0), units(10)));
    fleet.settle(0, first, 4);
    fleet.ledgers[0].hurry();
    fleet.exchange(0);
    assert_eq!(fleet.account(Dimension::Cost), (units(4), units(6)), "nobody asked since");
}

#[test]
fn crumbs_are_not_worth_a_message_but_go_with_the_next_news() {
    let mut fleet = Fleet::new(2, cost(100_000));
    let first = fleet.reserve(0, 1_000).unwrap();
    fleet.reserve(1, 95_900).unwrap();
    fleet.reserve(0, 2_900).unwrap();
    fleet.settle(0, first, 700);
    fleet.ledgers[0].hurry();
    fleet.exchange(0);
    for (quiet, is_given) in [(Duration::ZERO, false), (Duration::from_secs(1), true)] {
        fleet.tick(quiet);
        let Err(_) = fleet.ask(1, 450) else { panic!("100 are free, and 400 idle") };
        let (_, before) = fleet.account(Dimension::Cost);
        fleet.tell_recalls(1);
        let (_, after) = fleet.account(Dimension::Cost);
        assert_eq!(after < before, is_given, "{before:?}, then {after:?}");
        fleet.tick(RECALL);
        fleet.ledgers[1].tend_recalls(fleet.now);
        fleet.exchange(1);
    }
}

/// A fleet of which four replicas have spent 12 each, four hold 12 each, and the first has just asked for 5 in vain: 4 are left.
fn in_vain(fleet: &mut Fleet) -> ReservationId {
    let held: Vec<_> = (0..8).map(|at| fleet.reserve(at, 12).unwrap()).collect();
    for (at, id) in held.iter().enumerate().skip(4) {
        fleet.settle(at, *id, 12);
        fleet.ledgers[at].hurry();
        fleet.exchange(at);
    }
    assert_eq!(fleet.reserve(0, 5), Err(RefusalCode::BudgetInFlight));
    assert!(is_refused_unasked(fleet));
    held[0]
}

/// Whether the first replica refuses 5 by what it knows.
fn is_refused_unasked(fleet: &mut Fleet) -> bool {
    let told = fleet.exchanges;
    let refuses = fleet.ask(0, 5).is_ok_and(|(_, decision)| is_refusal(&decision));
    refuses && fleet.exchanges == told
}

fn is_admitted(fleet: &mut Fleet) -> bool {
    fleet.ask(0, 5).is_ok_and(|(_, decision)| matches!(decision, Decision::Allow(_)))
}

#[test]
fn among_many_who_has_asked_in_vain_admits_again_once_the_limit_is_raised_or_reset() {
    let mut fleet = Fleet::new(8, cost(100));
    in_vain(&mut fleet);
    fleet.put(cost(101));
    assert!(is_admitted(&mut fleet), "{:?}", fleet.account(Dimension::Cost));
    let mut fleet = Fleet::new(8, cost(100));
    in_vain(&mut fleet);
    fleet.store.reset(BUDGET);
    fleet.ledgers[0].reset_budget(BUDGET);
    assert!(is_admitted(&mut fleet), "{:?}", fleet.account(Dimension::Cost));
}

#[test]
fn among_many_who_has_asked_in_vain_admits_again_once_credits_are_added() {
    for hears_by_news in [true, false] {
        let mut fleet = Fleet::new(8, rpm(10_000));
        let granted = |all| credits::budget(workspace(), NanoUsd::new(all));
        fleet.store.budgets.insert(credits::BUDGET, granted(100));
        for ledger in &mut fleet.ledgers {
            ledger.put_budget(granted(100), fleet.now);
        }
        let held = in_vain(&mut fleet);
        fleet.store.budgets.insert(credits::BUDGET, granted(101));
        if !hears_by_news {
            fleet.settle(0, held, 12);
            fleet.ledgers[0].hurry();
            fleet.exchange(0);
        }
        fleet.ledgers[0].put_budget(granted(101), fleet.now);
        assert!(is_admitted(&mut fleet), "by news: {hears_by_news}");
    }
}
