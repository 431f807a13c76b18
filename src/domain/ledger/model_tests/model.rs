//! What the ledger should do, told in the simplest way: per account what was spent and what is held, and a list of
//! stamps for each rolling minute. No lease, no store, no waiting.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;

use crate::domain::budget::Dimension;
use crate::domain::decision::RefusalCode;
use crate::domain::period::Period;
use crate::domain::subject::ScopeKind;

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;
/// The clock starts at ten in the morning of 22 November.
const START_MS: u64 = DAY_MS / 24 * 10;
/// After this an open reservation is charged in full.
const TIMEOUT_MS: u64 = 10 * MINUTE_MS;
const BUDGETS: usize = 6;

/// A budget of the model. `None` as a target stands for `*`.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) kind: ScopeKind,
    pub(super) target: Option<&'static str>,
    pub(super) cost: Option<i64>,
    pub(super) tokens: Option<i64>,
    pub(super) rpm: Option<i64>,
    pub(super) period: Period,
    pub(super) shadow: bool,
    pub(super) active: bool,
    /// `None` while it is deleted. Each time it is made it has another.
    pub(super) id: Option<u128>,
    pub(super) generation: u32,
}

/// Who asks: project, identity, key and model.
pub(super) type Who = [Option<&'static str>; 4];

/// One step.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Reserve { who: Who, cost: i64, tokens: i64 },
    Settle { which: usize, cost: i64, tokens: i64 },
    Release { which: usize },
    Withdraw { which: usize },
    Tick { ms: u64 },
    Limit { which: usize, dimension: Dimension, limit: i64 },
    Reset { which: usize },
    Delete { which: usize },
    Create { which: usize },
    Switch { which: usize },
    Reschedule { which: usize, period: Period },
}

/// (budget, generation, dimension, target, window).
type Key = (u128, u32, Dimension, &'static str, u64);

#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    spent: i64,
    held: i64,
}

#[derive(Debug, Clone)]
struct Open {
    made_ms: u64,
    cost: i64,
    tokens: i64,
    /// Accounts, and what is held of them.
    holds: Vec<(Key, i64)>,
}

#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) ms: u64,
    pub(super) rules: Vec<Rule>,
    accounts: BTreeMap<Key, Totals>,
    minutes: BTreeMap<(u128, &'static str), Vec<u64>>,
    open: BTreeMap<u64, Open>,
    pub(super) made: u64,
    /// The reservation that the last step ended.
    pub(super) picked: Option<u64>,
    /// Codes of the gates that refused the last request; empty when it was admitted.
    pub(super) refusals: BTreeSet<RefusalCode>,
    pub(super) shadow_refusals: u32,
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self {
            ms: 0,
            rules: rules(),
            accounts: BTreeMap::new(),
            minutes: BTreeMap::new(),
            open: BTreeMap::new(),
            made: 100,
            picked: None,
            refusals: BTreeSet::new(),
            shadow_refusals: 0,
        })
        .boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Step> {
        let which = || 0..BUDGETS;
        let dimension =
            proptest::sample::select(vec![Dimension::Cost, Dimension::Tokens, Dimension::Requests]);
        let period = proptest::sample::select(Period::ALL.to_vec());
        let reserve = (anyone(), 0i64..16, 0i64..16)
            .prop_map(|(who, cost, tokens)| Step::Reserve { who, cost, tokens });
        let settle = (any::<usize>(), 0i64..20, 0i64..20)
            .prop_map(|(which, cost, tokens)| Step::Settle { which, cost, tokens });
        let tick = prop_oneof![0..400u64, 0..20_000u64, 0..90_000u64, 0..20 * 3_600_000u64];
        prop_oneof![
            20 => reserve,
            8 => settle,
            3 => any::<usize>().prop_map(|which| Step::Release { which }),
            2 => any::<usize>().prop_map(|which| Step::Withdraw { which }),
            6 => tick.prop_map(|ms| Step::Tick { ms }),
            2 => (which(), dimension, 0i64..80)
                .prop_map(|(which, dimension, limit)| Step::Limit { which, dimension, limit }),
            1 => which().prop_map(|which| Step::Reset { which }),
            1 => which().prop_map(|which| Step::Delete { which }),
            2 => which().prop_map(|which| Step::Create { which }),
            1 => which().prop_map(|which| Step::Switch { which }),
            1 => (which(), period).prop_map(|(which, period)| Step::Reschedule { which, period }),
        ]
        .boxed()
    }

    fn preconditions(state: &Self, step: &Step) -> bool {
        match step {
            Step::Settle { .. } | Step::Release { .. } | Step::Withdraw { .. } => {
                !state.open.is_empty()
            }
            Step::Create { which } => state.rules[*which].id.is_none(),
            Step::Limit { which, .. }
            | Step::Reset { which }
            | Step::Delete { which }
            | Step::Switch { which }
            | Step::Reschedule { which, .. } => state.rules[*which].id.is_some(),
            Step::Reserve { .. } | Step::Tick { .. } => true,
        }
    }

    fn apply(mut state: Self, step: &Step) -> Self {
        state.picked = None;
        match *step {
            Step::Reserve { who, cost, tokens } => state.reserve(who, cost, tokens),
            Step::Settle { which, cost, tokens } => {
                let (_, open) = state.take(which);
                state.end(&open, Some((cost, tokens)));
            }
            Step::Release { which } => {
                let (_, open) = state.take(which);
                state.end(&open, None);
            }
            Step::Withdraw { which } => state.withdraw(which),
            Step::Tick { ms } => state.tick(ms),
            Step::Limit { which, dimension, limit } => {
                let rule = &mut state.rules[which];
                match dimension {
                    Dimension::Cost => rule.cost = Some(limit),
                    Dimension::Tokens => rule.tokens = Some(limit),
                    Dimension::Requests => rule.rpm = Some(limit / 4),
                }
            }
            Step::Reset { which } => {
                let id = state.rules[which].id;
                for (_, totals) in state.accounts.iter_mut().filter(|(key, _)| Some(key.0) == id) {
                    totals.spent = 0;
                }
                state.minutes.retain(|key, _| Some(key.0) != id);
            }
            Step::Delete { which } => state.rules[which].id = None,
            Step::Create { which } => {
                state.made += 1;
                state.rules[which].id = Some(u128::from(state.made));
                state.rules[which].generation = 0;
            }
            Step::Switch { which } => state.rules[which].active ^= true,
            Step::Reschedule { which, period } => {
                let rule = &mut state.rules[which];
                rule.generation += u32::from(rule.period != period);
                rule.period = period;
            }
        }
        state
    }
}

/// The budgets at the start.
pub(super) fn rules() -> Vec<Rule> {
    let rule = |at: u8, kind, target, (cost, tokens, rpm), period| {
        let (shadow, id) = (at == 5, Some(u128::from(at) + 1));
        Rule { kind, target, cost, tokens, rpm, period, shadow, active: true, id, generation: 0 }
    };
    vec![
        rule(0, ScopeKind::Workspace, Some("acme"), (Some(90), None, Some(20)), Period::Daily),
        rule(1, ScopeKind::Identity, None, (Some(30), Some(60), None), Period::Monthly),
        rule(2, ScopeKind::Identity, Some("ann"), (Some(40), None, None), Period::Daily),
        rule(3, ScopeKind::Model, Some("m"), (None, Some(50), Some(3)), Period::Daily),
        rule(4, ScopeKind::Project, Some("p"), (Some(50), None, None), Period::OneTime),
        rule(5, ScopeKind::ApiKey, None, (Some(20), Some(20), Some(2)), Period::Daily),
    ]
}

/// Somebody who asks.
pub(super) fn anyone() -> impl Strategy<Value = Who> {
    let id = |names: &'static [Option<&'static str>]| proptest::sample::select(names);
    let project = id(&[None, Some("p")]);
    let identity = id(&[None, Some("ann"), Some("bob")]);
    let (api_key, model) = (id(&[None, Some("k")]), id(&[None, Some("m")]));
    (project, identity, api_key, model).prop_map(|(a, b, c, d)| [a, b, c, d])
}

impl Model {
    /// What all accounts of a budget have spent.
    pub(super) fn spent(&self, id: u128, dimension: Dimension) -> i64 {
        let of = self.accounts.iter().filter(|(key, _)| key.0 == id && key.2 == dimension);
        of.map(|(_, totals)| totals.spent).sum()
    }

    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    fn take(&mut self, which: usize) -> (u64, Open) {
        let id = *self.open.keys().nth(which % self.open.len()).unwrap();
        self.picked = Some(id);
        (id, self.open.remove(&id).unwrap())
    }

    fn end(&mut self, open: &Open, actual: Option<(i64, i64)>) {
        for (key, amount) in &open.holds {
            let totals = self.accounts.entry(*key).or_default();
            totals.held -= amount;
            let (cost, tokens) = actual.unwrap_or_default();
            totals.spent += if key.2 == Dimension::Cost { cost } else { tokens };
        }
    }

    fn withdraw(&mut self, which: usize) {
        let (_, open) = self.take(which);
        self.end(&open, None);
        for (key, _) in &open.holds {
            if let Some(stamps) = self.minutes.get_mut(&(key.0, key.3))
                && let Some(at) = stamps.iter().position(|stamp| *stamp == open.made_ms)
                && key.2 == Dimension::Requests
            {
                stamps.remove(at);
            }
        }
    }

    fn tick(&mut self, ms: u64) {
        self.ms += ms;
        let is_over = |open: &Open| open.made_ms + TIMEOUT_MS <= self.ms;
        let over: Vec<_> = self.open.extract_if(.., |_, open| is_over(open)).collect();
        for (_, open) in over {
            self.end(&open, Some((open.cost, open.tokens)));
        }
    }

    fn reserve(&mut self, who: Who, cost: i64, tokens: i64) {
        self.made += 1;
        self.refusals.clear();
        self.shadow_refusals = 0;
        let mut holds = Vec::new();
        for (rule, target) in self.applicable(who) {
            let mut gate = |dimension, limit: Option<i64>, asked| {
                let Some(limit) = limit else { return };
                let key = self.key(&rule, dimension, target);
                let refusal = self.refusal(key, limit, asked);
                match rule.shadow {
                    true => self.shadow_refusals += u32::from(refusal.is_some()),
                    false => self.refusals.extend(refusal),
                }
                holds.push((key, asked));
            };
            gate(Dimension::Cost, rule.cost, cost);
            gate(Dimension::Tokens, rule.tokens, tokens);
            gate(Dimension::Requests, rule.rpm, 0);
        }
        if !self.refusals.is_empty() {
            return;
        }
        for (key, amount) in &holds {
            if key.2 == Dimension::Requests {
                self.minutes.entry((key.0, key.3)).or_default().push(self.ms);
            }
            self.accounts.entry(*key).or_default().held += amount;
        }
        self.open.insert(self.made, Open { made_ms: self.ms, cost, tokens, holds });
    }

    fn applicable(&self, [project, identity, api_key, model]: Who) -> Vec<(Rule, &'static str)> {
        let said = |kind| match kind {
            ScopeKind::Workspace => Some("acme"),
            ScopeKind::Project => project,
            ScopeKind::Identity => identity,
            ScopeKind::ApiKey => api_key,
            ScopeKind::Provider => None,
            ScopeKind::Model => model,
        };
        let in_force = |rule: &&Rule| rule.id.is_some() && rule.active;
        let own = |kind, target| {
            self.rules
                .iter()
                .filter(in_force)
                .any(|other| other.kind == kind && other.target == Some(target) && !other.shadow)
        };
        let covers = |rule: &Rule, said| match rule.target {
            Some(target) => target == said,
            None => !own(rule.kind, said),
        };
        let rules = self.rules.iter().filter(in_force);
        let said = rules.filter_map(|rule| Some((rule, said(rule.kind)?)));
        said.filter(|(rule, said)| covers(rule, said)).map(|(r, said)| (r.clone(), said)).collect()
    }

    fn key(&self, rule: &Rule, dimension: Dimension, target: &'static str) -> Key {
        let day = (START_MS + self.ms) / DAY_MS;
        // 22 November 2026 is a Sunday, the 30th is day 8, and 1 January is day 40.
        let window = match rule.period {
            Period::Daily => day,
            Period::Weekly => day.div_ceil(7),
            Period::Monthly => [9, 40, 71, 99].iter().filter(|first| day >= **first).count() as u64,
            Period::Yearly => u64::from(day >= 40),
            Period::OneTime => 0,
        };
        let window = if dimension == Dimension::Requests { 0 } else { window };
        (rule.id.unwrap(), rule.generation, dimension, target, window)
    }

    fn refusal(&self, key: Key, limit: i64, asked: i64) -> Option<RefusalCode> {
        if key.2 == Dimension::Requests {
            let stamps = self.minutes.get(&(key.0, key.3)).into_iter().flatten();
            let used = stamps.filter(|stamp| self.ms - **stamp < MINUTE_MS).count();
            return (i64::try_from(used).unwrap() >= limit)
                .then_some(RefusalCode::RequestsPerMinuteExceeded);
        }
        let totals = self.accounts.get(&key).copied().unwrap_or_default();
        let (left, need) = (limit - totals.spent, asked.max(1));
        if left - totals.held >= need {
            return None;
        }
        Some(match key.2 {
            Dimension::Tokens if left <= 0 => RefusalCode::TokenBudgetExceeded,
            _ if left <= 0 => RefusalCode::CostBudgetExceeded,
            _ if left < need => RefusalCode::RequestExceedsBudget,
            _ => RefusalCode::BudgetInFlight,
        })
    }
}
