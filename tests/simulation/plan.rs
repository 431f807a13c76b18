//! What a seed decides before anything happens: how many replicas, which budgets, how bad the weather is.

use std::sync::Arc;
use std::time::Duration;

use bursar::domain::budget::{Budget, Limits, WhenUnavailable};
use bursar::domain::credits::CreditGrant;
use bursar::domain::ids::{BudgetId, Id};
use bursar::domain::money::{NanoUsd, Tokens};
use bursar::domain::period::{Period, Schedule, WeekStart, Zone};
use bursar::domain::subject::{Scope, ScopeKind, Subject, Target};
use bursar::domain::time::Wall;

use super::random::Random;

/// A second, in the world's unit of time.
pub(crate) const SECOND: u64 = 1_000_000_000;
/// A millisecond.
pub(crate) const MS: u64 = 1_000_000;

/// How often things go wrong, in thousandths.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// Messages that are lost, each way.
    pub(crate) loss: u64,
    /// Requests that reach the store twice.
    pub(crate) twice: u64,
    /// Requests that the store turns down without applying them.
    pub(crate) refused: u64,
    /// Messages that take seconds.
    pub(crate) slow: u64,
    /// The mean time between two faults; `None` for none.
    pub(crate) between_faults: Option<u64>,
    /// The mean time between two changes by people; `None` for none.
    pub(crate) between_changes: Option<u64>,
    /// The mean time between two grants of credits; `None` for a workspace without.
    pub(crate) between_grants: Option<u64>,
}

/// The plan of one world.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) replicas: usize,
    /// Whether the one replica has the store for itself.
    pub(crate) is_alone: bool,
    pub(crate) ttl: Duration,
    pub(crate) reservation_timeout: Duration,
    /// How long the clients make requests.
    pub(crate) length: u64,
    /// The mean time between two requests.
    pub(crate) between_requests: u64,
    /// The most that a message takes when it is not slow.
    pub(crate) latency: u64,
    /// How long a response takes at the most.
    pub(crate) response: u64,
    /// How long a request waits for a lease.
    pub(crate) patience: u64,
    /// The largest estimate.
    pub(crate) estimate: u64,
    /// Responses in a thousand that cost more than was estimated.
    pub(crate) beyond: u64,
    /// Responses in a thousand whose usage is never reported.
    pub(crate) silent: u64,
    /// Reports in a thousand that first reach another replica.
    pub(crate) elsewhere: u64,
    pub(crate) weather: Weather,
    /// Whether the store tells replicas of recalls; otherwise they ask.
    pub(crate) is_notified: bool,
    /// The wall clock when the world begins.
    pub(crate) begins_at: Wall,
    /// How many workspaces the replicas serve. Ids, projects and identities are the same in each.
    pub(crate) workspaces: usize,
    pub(crate) budgets: Vec<Budget>,
    pub(crate) projects: u64,
    pub(crate) identities: u64,
    /// Whether each replica has a journal.
    pub(crate) journals: Vec<bool>,
}

impl Plan {
    pub(crate) fn new(random: &mut Random) -> Self {
        let replicas = match random.below(10) {
            0 => 1,
            1..=3 => 2,
            9 => usize::try_from(random.between(9, 16)).expect("a few"),
            _ => usize::try_from(random.between(3, 8)).expect("a few"),
        };
        let rate = random.between(2, 40);
        let weather = weather(random);
        let mut plan = Self {
            replicas,
            is_alone: replicas == 1 && random.chance(500),
            ttl: Duration::from_millis(random.between(2_000, 10_000)),
            reservation_timeout: reservation_timeout(random),
            length: random.between(60, 240) * SECOND,
            between_requests: SECOND / rate,
            latency: random.between(1, 60) * MS,
            response: random.between(100, 12_000) * MS,
            patience: random.between(50, 1_000) * MS,
            estimate: random.between(1, 60),
            beyond: [0, 0, 50, 200][random.index(4)],
            silent: [0, 10, 50, 200][random.index(4)],
            elsewhere: [0, 200, 500][random.index(3)],
            weather,
            is_notified: random.chance(600),
            begins_at: beginning(random),
            workspaces: [1, 1, 2, 2, 3][random.index(5)],
            budgets: Vec::new(),
            projects: random.between(1, 3),
            identities: random.between(1, 6),
            journals: Vec::new(),
        };
        let with_journal = [0, 500, 900, 1000][random.index(4)];
        plan.journals = (0..replicas).map(|_| random.chance(with_journal)).collect();
        for room in 0..plan.workspaces {
            let count = random.between(1, 4);
            for nonce in 1..=count {
                let budget = plan.budget(workspace(room), BudgetId(u128::from(nonce)), random);
                let is_taken = |other: &Budget| {
                    other.workspace == budget.workspace && other.scope == budget.scope
                };
                if !plan.budgets.iter().any(is_taken) {
                    plan.budgets.push(budget);
                }
            }
        }
        plan
    }

    /// A budget that a person could have made.
    pub(crate) fn budget(&self, workspace: Id, id: BudgetId, random: &mut Random) -> Budget {
        let scope = match random.below(6) {
            0 | 1 => Scope { kind: ScopeKind::Workspace, target: Target::One(workspace.clone()) },
            2 => Scope { kind: ScopeKind::Project, target: Target::One(name("p", 0)) },
            3 => Scope { kind: ScopeKind::Project, target: Target::Each },
            4 => Scope { kind: ScopeKind::Identity, target: Target::One(name("u", 0)) },
            _ => Scope { kind: ScopeKind::Identity, target: Target::Each },
        };
        let mut limits = Limits::default();
        let which = random.between(1, 7);
        if which & 1 > 0 {
            limits.cost = Some(NanoUsd::new(self.limit(random)));
        }
        if which & 2 > 0 {
            limits.tokens = Some(Tokens::new(self.limit(random)));
        }
        if which & 3 > 0 {
            limits.schedule = Some(schedule(random));
        }
        if which & 4 > 0 {
            limits.requests_per_minute = Some(self.requests_per_minute(random));
        }
        Budget {
            workspace,
            id,
            generation: 0,
            resets: 0,
            scope,
            limits,
            is_active: true,
            expires_at: None,
            shadow: random.chance(60),
            when_unavailable: self.when_unavailable(random),
            name: None,
            created_at: Wall::from_ms(0),
            updated_at: Wall::from_ms(0),
        }
    }

    /// Most refuse what they cannot ask about.
    pub(crate) fn when_unavailable(&self, random: &mut Random) -> WhenUnavailable {
        match random.below(10) {
            0 => WhenUnavailable::Allow,
            1 => WhenUnavailable::AllowUpTo(NanoUsd::new(self.limit(random))),
            _ => WhenUnavailable::Deny,
        }
    }

    /// A grant of credits, some of which are over before the world ends.
    pub(crate) fn grant(&self, number: usize, now: Wall, random: &mut Random) -> CreditGrant {
        let lasts = random.chance(500).then(|| random.between(1_000, 90_000));
        CreditGrant {
            id: Id::parse(&format!("grant-{number}")).expect("a name"),
            amount: NanoUsd::new(self.limit(random).max(1)),
            priority: u8::try_from(random.below(3)).expect("a small number"),
            expires_at: lasts.map(|ms| now.plus(Duration::from_millis(ms))),
            reason: Id::parse("paid").expect("a name"),
            created_at: now,
        }
    }

    /// Small enough to be used up in most worlds.
    pub(crate) fn limit(&self, random: &mut Random) -> i64 {
        let estimate = i64::try_from(self.estimate).expect("small");
        match random.below(20) {
            0 => 0,
            1..=5 => random.signed(1, estimate.saturating_mul(10)),
            6..=14 => random.signed(estimate, estimate.saturating_mul(200)),
            _ => random.signed(estimate, estimate.saturating_mul(5_000)),
        }
    }

    pub(crate) fn requests_per_minute(&self, random: &mut Random) -> u32 {
        let limit = match random.below(20) {
            0 => 0,
            1..=8 => random.between(1, 30),
            9..=17 => random.between(10, 1_000),
            _ => random.between(1_000, 6_000),
        };
        u32::try_from(limit).expect("a small limit")
    }

    pub(crate) fn subject(&self, room: usize, random: &mut Random) -> Arc<Subject> {
        let mut subject = Subject::of_workspace(workspace(room));
        subject.project = Some(name("p", random.below(self.projects)));
        subject.identity = Some(name("u", random.below(self.identities)));
        Arc::new(subject)
    }
}

/// A calendar or none, of which some windows end in the world's time.
pub(crate) fn schedule(random: &mut Random) -> Schedule {
    let period = [Period::Daily, Period::Weekly, Period::Monthly, Period::OneTime][random.index(4)];
    let zone = ["UTC", "UTC", "Asia/Kolkata"][random.index(3)];
    let zone = Zone::parse(zone).expect("a zone");
    Schedule { period, zone, week_start: WeekStart::Monday }
}

/// In some worlds reservations stay open until others settle them in the place of a holder that is away, in the rest most run out before.
fn reservation_timeout(random: &mut Random) -> Duration {
    let seconds = if random.chance(400) { random.between(100, 240) } else { random.between(8, 60) };
    Duration::from_secs(seconds)
}

/// Every third world is calm, so that what happens without faults is looked at as well.
fn weather(random: &mut Random) -> Weather {
    let pick = |random: &mut Random, from: [u64; 4]| from[random.index(4)];
    let calm = random.chance(300);
    let minutes = |random: &mut Random| Some(random.between(2, 60) * SECOND);
    Weather {
        loss: if calm { 0 } else { pick(random, [0, 5, 50, 200]) },
        twice: if calm { 0 } else { pick(random, [0, 10, 50, 200]) },
        refused: if calm { 0 } else { pick(random, [0, 5, 50, 200]) },
        slow: if calm { 0 } else { pick(random, [0, 0, 10, 50]) },
        between_faults: if calm { None } else { minutes(random) },
        between_changes: if random.chance(400) { None } else { minutes(random) },
        between_grants: if random.chance(650) { None } else { minutes(random) },
    }
}

/// Some worlds see a day or a month end.
fn beginning(random: &mut Random) -> Wall {
    // 2026-12-01T00:00:00Z
    let midnight = 1_796_083_200_000;
    match random.below(3) {
        0 => Wall::from_ms(midnight - random.signed(1_000, 200_000)),
        _ => Wall::from_ms(midnight + 10 * 3_600_000),
    }
}

/// The names of the workspaces.
const WORKSPACES: [&str; 3] = ["acme", "acme-2", "birch"];

pub(crate) fn workspace(room: usize) -> Id {
    Id::parse(WORKSPACES[room]).expect("a name")
}

/// The number of the workspace of this name.
pub(crate) fn room_of(workspace: &Id) -> usize {
    WORKSPACES.iter().position(|name| *name == workspace.as_str()).expect("one of ours")
}

fn name(kind: &str, number: u64) -> Id {
    Id::parse(&format!("{kind}{number}")).expect("a name")
}
