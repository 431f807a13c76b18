//! Several ledgers and one store: what one replica has idle is another's when it is needed, and never both's.

mod recalls;

use std::sync::Arc;
use std::time::Duration;

use super::store::{TTL, TestStore};
use super::world::{wall, workspace};
use crate::domain::budget::{Budget, Dimension, Limits, WhenUnavailable};
use crate::domain::credits;
use crate::domain::decision::{Decision, RefusalCode};
use crate::domain::estimate::Estimate;
use crate::domain::ids::{BudgetId, HolderId, ReservationId};
use crate::domain::ledger::escrow::{self, AccountKey};
use crate::domain::ledger::{Actual, Ledger, OnTimeout, Sharing, Terms, Verdict, WaiterId};
use crate::domain::money::{Amounts, NanoUsd, Tokens, Units};
use crate::domain::period::{Period, Schedule, WeekStart, Zone};
use crate::domain::settlement::Certainty;
use crate::domain::subject::{Scope, ScopeKind, Subject, Target};
use crate::domain::time::{Mono, Now, Wall};

const BUDGET: BudgetId = BudgetId(1);
/// Longer than others have to hand back what they do not use.
const RECALL: Duration = Duration::from_millis(30);

struct Fleet {
    ledgers: Vec<Ledger>,
    store: TestStore,
    now: Now,
    made: u128,
    exchanges: usize,
}

impl Fleet {
    /// So many replicas and one budget.
    fn new(replicas: u128, limits: Limits) -> Self {
        Self::sharing(Sharing::Fleet, replicas, limits)
    }

    fn sharing(sharing: Sharing, replicas: u128, limits: Limits) -> Self {
        let terms = Terms {
            reservation_timeout: Duration::from_secs(600),
            on_timeout: OnTimeout::Charge,
            lease_ttl: TTL,
            sharing,
        };
        let now = Now { wall: wall("2026-11-22T10:00"), mono: Mono::from_ns(1_000_000_000_000) };
        let ledgers =
            (1..=replicas).map(|holder| Ledger::new(workspace(), HolderId(holder), terms));
        let mut fleet = Self {
            ledgers: ledgers.collect(),
            store: TestStore::default(),
            now,
            made: 0,
            exchanges: 0,
        };
        fleet.put(limits);
        fleet
    }

    /// Puts the budget in force at the store and everywhere.
    fn put(&mut self, limits: Limits) {
        let schedule =
            Schedule { period: Period::Daily, zone: Zone::utc(), week_start: WeekStart::Monday };
        let budget = Budget {
            workspace: workspace(),
            id: BUDGET,
            generation: 0,
            resets: 0,
            scope: Scope { kind: ScopeKind::Workspace, target: Target::One(workspace()) },
            limits: Limits { schedule: Some(schedule), ..limits },
            is_active: true,
            expires_at: None,
            shadow: false,
            when_unavailable: WhenUnavailable::Deny,
            name: None,
            created_at: Wall::from_ms(0),
            updated_at: Wall::from_ms(0),
        };
        self.store.budgets.insert(BUDGET, budget.clone());
        for ledger in &mut self.ledgers {
            ledger.put_budget(budget.clone(), self.now);
        }
    }

    fn tick(&mut self, by: Duration) {
        self.now = Now { wall: self.now.wall.plus(by), mono: self.now.mono.plus(by) };
    }

    /// One replica tells the store all that is due.
    fn exchange(&mut self, at: usize) {
        while let Some(batch) = self.ledgers[at].next_batch(self.now) {
            self.exchanges += 1;
            let grants = self.store.commit(&batch, self.now.wall).unwrap();
            self.ledgers[at].apply(&grants, self.now);
        }
    }

    /// What one replica's request is answered without anybody else.
    fn ask(&mut self, at: usize, cost: i64) -> Result<(ReservationId, Decision), WaiterId> {
        self.made += 1;
        let id =
            ReservationId { holder: HolderId(u128::try_from(at).unwrap() + 1), nonce: self.made };
        let amounts = Amounts { cost: NanoUsd::new(cost), tokens: Tokens::new(0) };
        let subject = Arc::new(Subject::of_workspace(workspace()));
        let verdict = self.ledgers[at].reserve(subject, Estimate::of(amounts), id, self.now);
        let waiter = match verdict {
            Verdict::Decided(decision) => return Ok((id, decision)),
            Verdict::Starved(waiter) => waiter,
        };
        self.exchange(at);
        let decided = self.ledgers[at].take_decided().into_iter().find(|(of, _)| *of == waiter);
        decided.map(|(_, decision)| (id, decision)).ok_or(waiter)
    }

    /// The same, with the others heeding what they are asked for.
    fn reserve(&mut self, at: usize, cost: i64) -> Result<ReservationId, RefusalCode> {
        let (id, decision) = match self.ask(at, cost) {
            Ok(answer) => answer,
            Err(waiter) => {
                self.tell_recalls(at);
                self.tick(RECALL);
                self.ledgers[at].tend_recalls(self.now);
                self.exchange(at);
                let decided = self.ledgers[at].take_decided();
                let found = decided.into_iter().find(|(of, _)| *of == waiter);
                let decision = found.map(|(_, decision)| decision);
                let id = ReservationId {
                    holder: HolderId(u128::try_from(at).unwrap() + 1),
                    nonce: self.made,
                };
                (id, decision.expect("the store was asked twice"))
            }
        };
        match decision {
            Decision::Allow(_) => Ok(id),
            Decision::Deny(refusal) => Err(refusal.code),
            Decision::Undecided { .. } => panic!("the store answers"),
        }
    }

    fn tell_recalls(&mut self, except: usize) {
        let recalls: Vec<_> =
            self.store.accounts.iter().map(|(key, of)| (key.clone(), of.recalls)).collect();
        for at in (0..self.ledgers.len()).filter(|at| *at != except) {
            for (key, recalls) in &recalls {
                self.ledgers[at].recalled(key, *recalls, self.now);
            }
            self.exchange(at);
        }
    }

    fn settle(&mut self, at: usize, id: ReservationId, cost: i64) {
        let actual = Actual {
            settlement: super::world::id(&format!("s{}", id.nonce)),
            certainty: Certainty::Exact,
            amounts: Amounts { cost: NanoUsd::new(cost), tokens: Tokens::new(0) },
            usage: None,
            model: None,
            rates: None,
        };
        assert!(self.ledgers[at].settle(id, actual, self.now).is_some());
    }

    fn account(&self, dimension: Dimension) -> (Units, Units) {
        let is_it = |(key, _): &(&AccountKey, _)| key.dimension == dimension;
        let (_, account) = self.store.accounts.iter().find(is_it).unwrap();
        (account.spent, account.leased)
    }
}

fn is_refusal(decision: &Decision) -> bool {
    matches!(decision, Decision::Deny(_))
}

fn cost(limit: i64) -> Limits {
    Limits { cost: Some(NanoUsd::new(limit)), ..Limits::default() }
}

fn rpm(limit: u32) -> Limits {
    Limits { requests_per_minute: Some(limit), ..Limits::default() }
}

fn units(amount: i64) -> Units {
    Units::new(amount)
}

#[test]
fn the_patience_of_a_request_ends_before_others_have_answered() {
    let mut fleet = Fleet::new(2, cost(100));
    fleet.reserve(0, 60).unwrap();
    let Err(waiter) = fleet.ask(1, 50) else { panic!("it is lent elsewhere") };
    let decision = fleet.ledgers[1].give_up(waiter, fleet.now).unwrap();
    let Decision::Deny(refusal) = decision else { panic!("{decision:?}") };
    assert_eq!(refusal.code, RefusalCode::BudgetInFlight);
    assert_eq!(refusal.retry_after, Some(Duration::from_secs(1)));
}

#[test]
fn two_replicas_spend_a_budget_to_its_last_unit_and_not_one_more() {
    let mut fleet = Fleet::new(2, cost(100));
    let mut admitted = 0;
    for turn in 0..200 {
        let at = turn % 2;
        if let Ok(id) = fleet.reserve(at, 3) {
            fleet.settle(at, id, 1);
            admitted += 1;
        }
        fleet.tick(Duration::from_millis(100));
    }
    // The last requests need three in hand though they use one.
    assert_eq!(admitted, 98);
    fleet.exchange(0);
    fleet.exchange(1);
    assert_eq!(fleet.account(Dimension::Cost).0, units(98));
}

#[test]
fn near_exhaustion_nothing_is_drawn_ahead_of_need() {
    let mut fleet = Fleet::new(2, cost(40));
    fleet.reserve(0, 4).unwrap();
    fleet.reserve(1, 4).unwrap();
    let id = fleet.reserve(1, 20).unwrap();
    assert_eq!(fleet.account(Dimension::Cost).1, units(40), "nothing is free");
    fleet.settle(1, id, 1);
    fleet.exchange(1);
    assert_eq!(fleet.account(Dimension::Cost), (units(1), units(20)), "19 are left, and go back");
}

#[test]
fn leftovers_that_serve_nobody_stay_where_they_are() {
    let mut fleet = Fleet::new(2, cost(40));
    fleet.reserve(0, 4).unwrap();
    fleet.reserve(1, 4).unwrap();
    let id = fleet.reserve(1, 20).unwrap();
    let told = fleet.exchanges;
    fleet.settle(1, id, 18);
    fleet.exchange(1);
    assert_eq!(fleet.exchanges, told, "two are no request's worth");
}

#[test]
fn a_first_grant_is_larger_where_the_limit_is_ample() {
    for (limit, lent) in [(40_959, 40), (40_960, 160)] {
        let mut fleet = Fleet::new(1, cost(limit));
        fleet.reserve(0, 10).unwrap();
        assert_eq!(fleet.account(Dimension::Cost).1, units(lent), "of {limit}");
    }
}

#[test]
fn among_many_who_has_asked_in_vain_pools_what_it_has_and_asks_no_others_again() {
    let mut fleet = Fleet::new(8, cost(100));
    for at in 0..8 {
        fleet.reserve(at, 12).unwrap();
    }
    assert_eq!(fleet.reserve(0, 5), Err(RefusalCode::BudgetInFlight));
    let asked = fleet.exchanges;
    fleet.tick(Duration::from_millis(1_900));
    assert_eq!(fleet.ask(0, 5).map(|(_, decision)| is_refusal(&decision)), Ok(true));
    assert_eq!(fleet.exchanges, asked, "it is remembered twice as long as news wait");
    fleet.tick(Duration::from_millis(200));
    assert_eq!(fleet.ask(0, 5).map(|(_, decision)| is_refusal(&decision)), Ok(true));
    assert_eq!(fleet.exchanges, asked + 1, "asked once, without waiting for others");
}

#[test]
fn a_large_request_in_vain_among_many_refuses_none_that_the_pool_has_enough_for() {
    let mut fleet = Fleet::new(8, cost(1_000));
    for at in 0..8 {
        fleet.reserve(at, 10).unwrap();
    }
    fleet.reserve(1, 840).unwrap();
    assert_eq!(fleet.reserve(0, 100), Err(RefusalCode::BudgetInFlight), "30 and 50 are left");
    assert!(fleet.reserve(0, 40).is_ok(), "{:?}", fleet.account(Dimension::Cost));
}

#[test]
fn a_large_request_among_many_small_ones_gets_what_they_leave_idle() {
    let mut fleet = Fleet::new(8, cost(1_000));
    for at in 0..8 {
        fleet.reserve(at, 10).unwrap();
    }
    fleet.reserve(1, 800).unwrap();
    let held = fleet.reserve(2, 90).unwrap();
    assert_eq!(fleet.reserve(0, 40), Err(RefusalCode::BudgetInFlight), "30 are left");
    fleet.settle(2, held, 0);
    let mut tries = 1;
    while fleet.reserve(0, 40).is_err() {
        tries += 1;
        assert!(tries < 6, "120 are idle: {:?}", fleet.account(Dimension::Cost));
        fleet.tell_recalls(0);
        for other in 1..8 {
            let small = fleet.reserve(other, 12).unwrap();
            fleet.settle(other, small, 0);
        }
        fleet.tick(Duration::from_secs(1));
    }
}

#[test]
fn a_rolling_minute_is_one_for_all_replicas() {
    let mut fleet = Fleet::new(3, rpm(5));
    for at in [0, 1, 2, 0, 1] {
        fleet.reserve(at, 0).unwrap();
        fleet.tick(Duration::from_secs(2));
    }
    assert_eq!(fleet.reserve(2, 0), Err(RefusalCode::RequestsPerMinuteExceeded));
    // The first slot is free after a minute and the guard, whoever asks for it.
    fleet.tick(Duration::from_millis(60_050) - Duration::from_secs(10) - RECALL * 4);
    assert!(fleet.reserve(2, 0).is_err());
    fleet.tick(Duration::from_secs(1));
    fleet.reserve(2, 0).unwrap();
    assert_eq!(fleet.reserve(2, 0), Err(RefusalCode::RequestsPerMinuteExceeded));
}

#[test]
fn news_that_nobody_waits_for_wait_for_each_other() {
    for sharing in [Sharing::Alone, Sharing::Fleet] {
        let mut fleet = Fleet::sharing(sharing, 1, cost(1_000));
        let ids: Vec<_> = (0..5).map(|_| fleet.reserve(0, 2).unwrap()).collect();
        fleet.exchange(0);
        let told = fleet.exchanges;
        for id in ids {
            fleet.settle(0, id, 2);
            fleet.exchange(0);
        }
        assert_eq!(fleet.exchanges, told, "{sharing:?}");
        fleet.ledgers[0].tend_leases(fleet.now);
        fleet.exchange(0);
        assert_eq!(fleet.exchanges, told, "{sharing:?}");
        fleet.ledgers[0].tend_leases(fleet.now);
        fleet.exchange(0);
        assert_eq!(fleet.exchanges, told + 1, "{sharing:?}");
        assert_eq!(fleet.account(Dimension::Cost).0, units(10), "{sharing:?}");
    }
}

#[test]
fn a_lowered_limit_is_in_force_as_soon_as_it_is_told() {
    let mut fleet = Fleet::new(2, cost(1_000));
    fleet.reserve(0, 100).unwrap();
    fleet.reserve(1, 100).unwrap();
    fleet.put(cost(250));
    assert!(fleet.reserve(0, 60).is_err());
    assert!(fleet.reserve(1, 50).is_ok());
}

#[test]
fn what_a_store_has_missed_is_told_in_batches_that_it_can_take() {
    let mut fleet = Fleet::new(1, cost(100_000));
    let ids: Vec<_> = (0..1_200).map(|_| fleet.reserve(0, 10).unwrap()).collect();
    for id in ids {
        fleet.settle(0, id, 7);
    }
    let left = fleet.ledgers[0].batches_left();
    let (mut batches, mut told) = (0, 0);
    while let Some(batch) = fleet.ledgers[0].next_batch(fleet.now) {
        batches += 1;
        told += batch.settlements.len();
        assert!(batch.settlements.len() <= 500, "{}", batch.settlements.len());
        let grants = fleet.store.commit(&batch, fleet.now.wall).unwrap();
        fleet.ledgers[0].apply(&grants, fleet.now);
        let (spent, _) = fleet.account(Dimension::Cost);
        assert_eq!(spent, units(7 * i64::try_from(told).unwrap()), "entries and totals agree");
        fleet.ledgers[0].hurry();
    }
    assert_eq!((told, left), (1_200, batches));
}

#[test]
fn who_was_refused_before_gives_what_it_does_not_use() {
    let mut fleet = Fleet::new(2, cost(1_000));
    let first = fleet.reserve(0, 20).unwrap();
    fleet.reserve(1, 500).unwrap();
    assert_eq!(fleet.reserve(0, 490), Err(RefusalCode::BudgetInFlight));
    fleet.settle(0, first, 1);
    fleet.exchange(0);
    fleet.tick(Duration::from_secs(2));
    let before = fleet.account(Dimension::Cost);
    assert!(fleet.reserve(1, 490).is_ok(), "{before:?}");
}

#[test]
fn a_rolling_minute_is_one_for_all_replicas_whatever_becomes_of_the_schedule() {
    let mut fleet = Fleet::new(2, rpm(5));
    for _ in 0..5 {
        fleet.reserve(0, 0).unwrap();
    }
    fleet.tick(Duration::from_secs(2));
    assert_eq!(fleet.reserve(1, 0), Err(RefusalCode::RequestsPerMinuteExceeded));
    let mut budget = fleet.store.budgets[&BUDGET].clone();
    budget.generation += 1;
    budget.limits.schedule.as_mut().unwrap().period = Period::Monthly;
    fleet.store.budgets.insert(BUDGET, budget.clone());
    for at in [1, 0] {
        fleet.ledgers[at].put_budget(budget.clone(), fleet.now);
    }
    fleet.tick(Duration::from_secs(2));
    assert_eq!(fleet.reserve(1, 0), Err(RefusalCode::RequestsPerMinuteExceeded));
}

#[test]
fn amounts_that_no_number_holds_leave_the_books_in_order() {
    let mut fleet = Fleet::new(2, cost(1_000));
    let held = fleet.reserve(1, 10).unwrap();
    let ids: Vec<_> = (0..3).map(|_| fleet.reserve(0, 20).unwrap()).collect();
    assert!(fleet.reserve(1, 700).is_ok(), "what the other has idle is handed back");
    for id in ids {
        fleet.settle(0, id, i64::MAX);
        fleet.ledgers[0].hurry();
        fleet.exchange(0);
    }
    fleet.settle(1, held, 1);
    fleet.ledgers[1].hurry();
    fleet.exchange(1);
    assert_eq!(fleet.account(Dimension::Cost).0, Units::MAX);
    for lease in fleet.store.leases.values() {
        assert!(lease.outstanding() >= units(0), "{lease:?}");
    }
    for account in fleet.store.accounts.values() {
        assert!(account.leased >= units(0), "{account:?}");
    }
}

#[test]
fn what_the_store_says_of_a_deleted_budget_says_nothing_of_the_credits_in_its_place() {
    let mut fleet = Fleet::new(1, cost(100));
    let ledger = &mut fleet.ledgers[0];
    let (id, subject) = (ReservationId { holder: HolderId(1), nonce: 1 }, workspace());
    let asked = Estimate::of(Amounts { cost: NanoUsd::new(50), tokens: Tokens::new(0) });
    let subject = Arc::new(Subject::of_workspace(subject));
    assert!(matches!(ledger.reserve(subject, asked, id, fleet.now), Verdict::Starved(_)));
    let sent = ledger.next_batch(fleet.now).unwrap().exchanges;
    ledger.remove_budget(BUDGET, fleet.now);
    ledger.put_budget(credits::budget(workspace(), NanoUsd::new(7)), fleet.now);
    let gone: Vec<_> = sent.iter().map(|exchange| escrow::gone(exchange, TTL)).collect();
    ledger.apply(&gone, fleet.now);
    assert_eq!(ledger.budget(credits::BUDGET).unwrap().limits.cost, Some(NanoUsd::new(7)));
}
