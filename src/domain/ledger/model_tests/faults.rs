//! Any order of requests, answers that are late or lost, crashes and changes: the invariants hold after each step, and when
//! all is well again nothing is lent and what was spent is what was used.

use std::time::Duration;

use proptest::prelude::*;

use super::model::{Who, anyone, rules};
use super::{actual, amounts, budget, reservation, subject};
use crate::domain::budget::WhenUnavailable;
use crate::domain::estimate::Estimate;
use crate::domain::ids::{BudgetId, ReservationId};
use crate::domain::ledger::account::Standing;
use crate::domain::ledger::escrow::LeaseState;
use crate::domain::ledger::table_tests::world::World;
use crate::domain::ledger::{OnTimeout, Verdict, WaiterId};
use crate::domain::money::{NanoUsd, Units};

/// One step.
#[derive(Debug, Clone)]
enum Act {
    Reserve {
        who: Who,
        cost: i64,
        tokens: i64,
    },
    Settle {
        which: usize,
        cost: i64,
        tokens: i64,
    },
    Release {
        which: usize,
    },
    Withdraw {
        which: usize,
    },
    GiveUp,
    Abandon,
    Tick {
        ms: u64,
    },
    /// The batch goes out, or again if its answer has not come.
    Send,
    Answer,
    Limit {
        which: usize,
        limit: i64,
    },
    Switch {
        which: usize,
    },
    Reset {
        which: usize,
    },
    Delete {
        which: usize,
    },
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    let which = || any::<usize>();
    let tick = prop_oneof![0..400u64, 0..14_000u64, 0..90_000u64, 0..20 * 3_600_000u64];
    prop_oneof![
        14 => (anyone(), 0i64..16, 0i64..16)
            .prop_map(|(who, cost, tokens)| Act::Reserve { who, cost, tokens }),
        8 => (which(), 0i64..20, 0i64..20)
            .prop_map(|(which, cost, tokens)| Act::Settle { which, cost, tokens }),
        2 => which().prop_map(|which| Act::Release { which }),
        2 => which().prop_map(|which| Act::Withdraw { which }),
        2 => Just(Act::GiveUp),
        1 => Just(Act::Abandon),
        6 => tick.prop_map(|ms| Act::Tick { ms }),
        12 => Just(Act::Send),
        10 => Just(Act::Answer),
        1 => (which(), 0i64..80).prop_map(|(which, limit)| Act::Limit { which, limit }),
        1 => which().prop_map(|which| Act::Switch { which }),
        1 => which().prop_map(|which| Act::Reset { which }),
        1 => which().prop_map(|which| Act::Delete { which }),
        1 => Just(Act::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_whatever_happens_to_the_answers(
        acts in prop::collection::vec(act(), 1..80),
        blind in any::<bool>(),
    ) {
        let mut run = Run::new(blind);
        for act in &acts {
            run.step(act);
            run.world.check();
        }
        run.come_to_rest();
        run.check_the_end(acts.iter().any(|act| matches!(act, Act::Reset { .. })));
    }
}

struct Run {
    world: World,
    waiters: Vec<WaiterId>,
    made: u64,
}

impl Run {
    fn new(blind: bool) -> Self {
        let mut world = World::new(OnTimeout::Charge);
        world.has_uncovered = blind;
        for rule in rules() {
            let mut budget = budget(&rule);
            if blind {
                budget.when_unavailable = WhenUnavailable::AllowUpTo(NanoUsd::new(20));
            }
            world.put(budget);
        }
        Self { world, waiters: Vec::new(), made: 0 }
    }

    fn step(&mut self, act: &Act) {
        let world = &mut self.world;
        match *act {
            Act::Reserve { who, cost, tokens } => self.reserve(who, cost, tokens),
            Act::Settle { which, cost, tokens } => {
                if let Some(id) = self.pick(which) {
                    self.settle(id, cost, tokens);
                }
            }
            Act::Release { which } => {
                if let Some(id) = self.pick(which) {
                    assert!(self.world.release(id));
                }
            }
            Act::Withdraw { which } => {
                if let Some(id) = self.pick(which) {
                    self.world.withdraw(id);
                }
            }
            Act::GiveUp => {
                if let Some(waiter) = self.waiters.pop() {
                    world.give_up(waiter);
                }
            }
            Act::Abandon => {
                if let Some(waiter) = self.waiters.pop() {
                    world.ledger.abandon(waiter);
                }
            }
            Act::Tick { ms } => {
                world.tick(Duration::from_millis(ms));
                world.store.sweep(world.now.wall);
                world.end_overdue();
                world.ledger.tend_leases(world.now);
            }
            Act::Send => {
                world.send();
            }
            Act::Answer => world.answer(),
            Act::Restart => {
                world.restart();
                self.waiters.clear();
            }
            Act::Limit { which, limit } => {
                self.change(which, |budget| budget.limits.cost = Some(NanoUsd::new(limit)));
            }
            Act::Switch { which } => self.change(which, |budget| budget.is_active ^= true),
            Act::Reset { which } => {
                if let Some(id) = self.budget(which) {
                    self.world.store.reset(id);
                    self.world.ledger.reset_budget(id);
                }
            }
            Act::Delete { which } => {
                if let Some(id) = self.budget(which) {
                    self.world.delete(id);
                }
            }
        }
        self.world.ledger.take_decided();
    }

    fn reserve(&mut self, who: Who, cost: i64, tokens: i64) {
        self.made += 1;
        let estimate = Estimate::of(amounts(cost, tokens));
        let id = reservation(self.made);
        if let Verdict::Starved(waiter) = self.world.reserve(&subject(who), estimate, id) {
            self.waiters.push(waiter);
        }
    }

    fn settle(&mut self, id: ReservationId, cost: i64, tokens: i64) {
        self.made += 1;
        assert!(self.world.settle(id, actual(self.made, amounts(cost, tokens))).is_some());
    }

    fn change(&mut self, which: usize, change: impl FnOnce(&mut crate::domain::budget::Budget)) {
        let Some(id) = self.budget(which) else { return };
        let mut budget = self.world.store.budgets[&id].clone();
        change(&mut budget);
        self.world.put(budget);
    }

    fn budget(&self, which: usize) -> Option<BudgetId> {
        let budgets = &self.world.store.budgets;
        budgets.keys().nth(which % budgets.len().max(1)).copied()
    }

    fn pick(&self, which: usize) -> Option<ReservationId> {
        let mut open: Vec<_> = self.world.ledger.reservations().map(|(id, _)| id).collect();
        open.sort_unstable();
        open.get(which % open.len().max(1)).copied()
    }

    /// The store answers, everybody reports, and time passes until no lease is of use any more.
    fn come_to_rest(&mut self) {
        self.world.heal();
        self.world.pump();
        assert!(self.world.ledger.waiters.is_empty(), "a store that answers keeps nobody waiting");
        while let Some(id) = self.pick(0) {
            self.settle(id, 3, 3);
        }
        for _ in 0..10 {
            self.world.pump();
            self.world.check();
            self.world.tick(Duration::from_secs(11));
            self.world.store.sweep(self.world.now.wall);
            self.world.ledger.tend_leases(self.world.now);
        }
    }

    /// I12.
    fn check_the_end(&self, was_reset: bool) {
        let store = &self.world.store;
        assert_eq!(store.live_leases(), 0, "{:#?}", store.leases);
        assert!(store.leases.values().all(|lease| lease.state == LeaseState::Closed));
        for (key, account) in &store.accounts {
            assert_eq!((account.leased, account.forfeited), (Units::ZERO, Units::ZERO), "{key:?}");
            let used = self.world.consumed(key);
            // A reset posts as spent what an expired lease has outstanding.
            let may_be_more = was_reset || self.world.has_lost_lease;
            let is_right = account.spent == used || may_be_more && account.spent > used;
            assert!(is_right, "{used:?} used of {key:?}: {account:?}");
        }
        let ledger = &self.world.ledger;
        let places = (0..ledger.accounts.places()).filter_map(|at| ledger.accounts.get(at));
        assert_eq!(places.filter(|account| account.standing != Standing::Live).count(), 0);
        assert_eq!(ledger.live_accounts(), 0, "{:#?}", ledger.accounts);
    }
}
