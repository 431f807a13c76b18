//! The ledger against a model that is ten times simpler: after every step both must have said the same and have the same
//! amounts spent. The store answers after each step.

mod faults;
mod model;

use std::sync::Arc;
use std::time::Duration;

use proptest::test_runner::Config;
use proptest_state_machine::{StateMachineTest, prop_state_machine};

use self::model::{Model, Rule, Step, Who};
use crate::domain::budget::{Budget, Dimension, Limits, WhenUnavailable};
use crate::domain::decision::Decision;
use crate::domain::estimate::Estimate;
use crate::domain::ids::{BudgetId, HolderId, ReservationId};
use crate::domain::ledger::table_tests::world::{World, id, workspace};
use crate::domain::ledger::{Actual, OnTimeout, Verdict};
use crate::domain::money::{Amounts, NanoUsd, Tokens};
use crate::domain::period::{Schedule, WeekStart, Zone};
use crate::domain::settlement::Certainty;
use crate::domain::subject::{Scope, Subject, Target};
use crate::domain::time::Wall;

prop_state_machine! {
    #![proptest_config(Config { cases: 256, failure_persistence: None, ..Config::default() })]

    #[test]
    fn the_ledger_says_and_spends_what_the_model_does(sequential 1..80 => LedgerAgainstModel);
}

struct LedgerAgainstModel;

impl StateMachineTest for LedgerAgainstModel {
    type SystemUnderTest = World;
    type Reference = Model;

    fn init_test(model: &Model) -> World {
        let mut world = World::new(OnTimeout::Charge);
        for rule in &model.rules {
            world.put(budget(rule));
        }
        world
    }

    fn apply(mut world: World, model: &Model, step: Step) -> World {
        match step {
            Step::Reserve { who, cost, tokens } => {
                reserve(&mut world, model, who, amounts(cost, tokens))
            }
            Step::Settle { cost, tokens, .. } => {
                let picked = model.picked.unwrap();
                let settled =
                    world.settle(reservation(picked), actual(picked, amounts(cost, tokens)));
                assert!(settled.is_some(), "it is open");
            }
            Step::Release { .. } => assert!(world.release(reservation(model.picked.unwrap()))),
            Step::Withdraw { .. } => world.withdraw(reservation(model.picked.unwrap())),
            Step::Tick { ms } => {
                world.tick(Duration::from_millis(ms));
                world.store.sweep(world.now.wall);
                world.end_overdue();
                world.ledger.tend_leases(world.now);
            }
            Step::Reset { which } => {
                let id = BudgetId(model.rules[which].id.unwrap());
                world.store.reset(id);
                world.ledger.reset_budget(id);
            }
            Step::Delete { which } => {
                let scope = scope(&model.rules[which]);
                let budgets = world.store.budgets.values();
                let id = budgets.into_iter().find(|budget| budget.scope == scope).unwrap().id;
                world.delete(id);
            }
            Step::Limit { which, .. }
            | Step::Create { which }
            | Step::Switch { which }
            | Step::Reschedule { which, .. } => world.put(budget(&model.rules[which])),
        }
        world.pump();
        world
    }

    fn check_invariants(world: &World, model: &Model) {
        world.check();
        assert_eq!(world.ledger.open_reservations(), model.open());
        for id in model.rules.iter().filter_map(|rule| rule.id) {
            for dimension in [Dimension::Cost, Dimension::Tokens] {
                assert_eq!(
                    world.store.spent(BudgetId(id), dimension).get(),
                    model.spent(id, dimension),
                    "{dimension:?} of budget {id}"
                );
            }
        }
    }
}

fn reserve(world: &mut World, model: &Model, who: Who, amounts: Amounts) {
    let estimate = Estimate::of(amounts);
    let decision = match world.reserve(&subject(who), estimate, reservation(model.made)) {
        Verdict::Decided(decision) => decision,
        Verdict::Starved(waiter) => {
            world.pump();
            let decided = world.ledger.take_decided();
            let answer = decided.into_iter().find(|(id, _)| *id == waiter);
            answer.expect("the store has answered, so it is decided").1
        }
    };
    match decision {
        Decision::Allow(admission) => {
            assert!(model.refusals.is_empty(), "admitted against {:?}", model.refusals);
            // A shadow account that was let go does not wait for the store to say again what was spent.
            assert!(admission.shadow_refusals <= model.shadow_refusals);
        }
        Decision::Deny(refusal) => {
            let refusals = &model.refusals;
            assert!(refusals.contains(&refusal.code), "{refusal:?} instead of {refusals:?}");
        }
        Decision::Undecided { .. } => panic!("a store that answers leaves nothing undecided"),
    }
}

fn reservation(nonce: u64) -> ReservationId {
    ReservationId { holder: HolderId(1), nonce: u128::from(nonce) }
}

fn amounts(cost: i64, tokens: i64) -> Amounts {
    Amounts { cost: NanoUsd::new(cost), tokens: Tokens::new(tokens) }
}

fn actual(settlement: u64, amounts: Amounts) -> Actual {
    Actual {
        settlement: id(&settlement.to_string()),
        certainty: Certainty::Exact,
        amounts,
        usage: None,
        model: None,
        rates: None,
    }
}

fn subject([project, identity, api_key, model]: Who) -> Arc<Subject> {
    Arc::new(Subject {
        workspace: workspace(),
        project: project.map(id),
        identity: identity.map(id),
        api_key: api_key.map(id),
        provider: None,
        model: model.map(id),
    })
}

fn scope(rule: &Rule) -> Scope {
    Scope {
        kind: rule.kind,
        target: rule.target.map_or(Target::Each, |name| Target::One(id(name))),
    }
}

fn budget(rule: &Rule) -> Budget {
    let schedule =
        Schedule { period: rule.period, zone: Zone::utc(), week_start: WeekStart::Monday };
    Budget {
        workspace: workspace(),
        id: BudgetId(rule.id.unwrap()),
        generation: rule.generation,
        resets: 0,
        scope: scope(rule),
        limits: Limits {
            cost: rule.cost.map(NanoUsd::new),
            tokens: rule.tokens.map(Tokens::new),
            schedule: Some(schedule),
            requests_per_minute: rule.rpm.map(|limit| u32::try_from(limit).unwrap()),
        },
        is_active: rule.active,
        expires_at: None,
        shadow: rule.shadow,
        when_unavailable: WhenUnavailable::Deny,
        name: None,
        created_at: Wall::from_ms(0),
        updated_at: Wall::from_ms(0),
    }
}
