//! Reads the rows of a table, carries them out and compares their outcome.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::world::{World, id, wall, workspace};
use crate::domain::budget::{Budget, Dimension, Limits, WhenUnavailable};
use crate::domain::credits;
use crate::domain::decision::{Decision, Standing};
use crate::domain::estimate::{Estimate, Priced};
use crate::domain::ids::{BudgetId, HolderId, ReservationId};
use crate::domain::ledger::{Actual, Correcting, OnTimeout, Verdict, WaiterId};
use crate::domain::money::{Amounts, NanoUsd, Tokens, Units};
use crate::domain::period::{Period, Schedule, WeekStart, Zone};
use crate::domain::settlement::{Certainty, Settlement};
use crate::domain::subject::{Scope, ScopeKind, Subject, Target};
use crate::domain::time::Wall;

/// Whether the store answers after each row.
#[derive(PartialEq)]
enum Link {
    Up,
    Down,
}

/// A table under way.
pub(super) struct Table {
    world: World,
    link: Link,
    subject: Arc<Subject>,
    budgets: BTreeMap<String, BudgetId>,
    /// Counts budgets and entries, to name them.
    made: u128,
    reservations: BTreeMap<String, ReservationId>,
    waiters: BTreeMap<String, WaiterId>,
    decided: BTreeMap<WaiterId, Decision>,
    settlements: BTreeMap<String, Vec<Settlement>>,
}

impl Table {
    pub(super) fn new(on_timeout: OnTimeout) -> Self {
        Self {
            world: World::new(on_timeout),
            link: Link::Up,
            subject: Arc::new(Subject::of_workspace(workspace())),
            budgets: BTreeMap::new(),
            made: 0,
            reservations: BTreeMap::new(),
            waiters: BTreeMap::new(),
            decided: BTreeMap::new(),
            settlements: BTreeMap::new(),
        }
    }

    #[track_caller]
    pub(super) fn run(&mut self, table: &str) {
        for row in table.lines().map(str::trim).filter(|row| !row.is_empty()) {
            let words: Vec<_> = row.split_whitespace().collect();
            let found = self.step(&words);
            if self.link == Link::Up {
                self.world.pump();
            }
            self.world.check();
            assert!(found.is_empty(), "\nrow:   {row}\nfound: {found}");
        }
    }

    /// Carries a row out. Says what was found where it is not as expected.
    fn step(&mut self, words: &[&str]) -> String {
        match words {
            ["reserve", name, rest @ ..] => return self.reserve(name, rest),
            ["give-up", name, expected @ ..] => {
                let decision = self.world.give_up(self.waiters[*name]).unwrap();
                return self.differs(&decision, expected);
            }
            ["decided", name, expected @ ..] => return self.decided(name, expected),
            ["overdue", names @ ..] => return self.overdue(names),
            ["spent", name, amount] => {
                let (dimension, amount) = counted(amount);
                return differs(self.world.store.spent(self.budgets[*name], dimension), amount);
            }
            ["lent", name, amount] => return self.lent(name, amount),
            ["leases", count] => {
                return differs(self.world.store.live_leases(), count.parse().unwrap());
            }
            ["accounts", count] => {
                return differs(self.world.ledger.live_accounts(), count.parse().unwrap());
            }
            ["open", count] => {
                return differs(self.world.ledger.open_reservations(), count.parse().unwrap());
            }
            ["settle", name, amounts @ ..] => return self.settle(name, amounts),
            ["release", name] => {
                return differs(self.world.release(self.reservations[*name]), true);
            }
            ["withdraw", name] => self.world.withdraw(self.reservations[*name]),
            ["abandon", name] => self.world.ledger.abandon(self.waiters[*name]),
            ["adjust", name, amounts @ ..] => self.adjust(name, amounts),
            ["book", words @ ..] => self.book(words),
            ["as", ids @ ..] => self.subject = Arc::new(subject(ids)),
            ["at", instant] => {
                let ahead = wall(instant).as_ms() - self.world.now.wall.as_ms();
                self.world.tick(Duration::from_millis(u64::try_from(ahead).unwrap()));
            }
            ["tick", time] => self.world.tick(duration(time)),
            other => self.administer(other),
        }
        String::new()
    }

    fn administer(&mut self, words: &[&str]) {
        let budget = |name: &str| self.budgets[name];
        match words {
            ["budget", name, scope, rest @ ..] => self.add_budget(name, scope, rest),
            ["credits", amount] => {
                let (_, granted) = counted(amount);
                self.budgets.insert("credits".to_owned(), credits::BUDGET);
                self.world.put(credits::budget(workspace(), NanoUsd::new(granted.get())));
            }
            // The same, by another replica.
            ["credits-elsewhere", amount] => {
                let (_, granted) = counted(amount);
                let granted = credits::budget(workspace(), NanoUsd::new(granted.get()));
                self.world.store.budgets.insert(credits::BUDGET, granted);
            }
            ["change", name, rest @ ..] => self.change(name, rest),
            ["delete", name] => self.world.delete(budget(name)),
            ["reset", name] => {
                self.world.store.reset(budget(name));
                self.world.ledger.reset_budget(budget(name));
            }
            ["tend"] => self.world.ledger.tend_leases(self.world.now),
            ["store", "up"] => self.link = Link::Up,
            ["store", "down"] => self.link = Link::Down,
            ["send"] => assert!(self.world.send(), "there is nothing to send"),
            // The answer is lost: the same batch goes out again.
            ["lose"] => assert!(self.world.send(), "there is nothing to send again"),
            ["answer"] => self.world.answer(),
            ["lose-leases", name] => self.world.store.forget_leases(budget(name)),
            ["sweep"] => self.world.store.sweep(self.world.now.wall),
            ["restart"] => self.world.restart(),
            ["uncovered"] => self.world.has_uncovered = true,
            other => panic!("what is {other:?}?"),
        }
    }

    fn reserve(&mut self, name: &str, words: &[&str]) -> String {
        let from = words
            .iter()
            .position(|word| ["allow", "deny", "undecided", "starved"].contains(word))
            .unwrap();
        let (asked, expected) = words.split_at(from);
        let priced = if asked.contains(&"no-price") { Priced::No } else { Priced::Yes };
        let estimate = Estimate { priced, ..Estimate::of(amounts(asked)) };
        self.made += 1;
        let reservation = ReservationId { holder: HolderId(1), nonce: self.made };
        self.reservations.insert(name.to_owned(), reservation);
        let subject = Arc::clone(&self.subject);
        match self.world.reserve(&subject, estimate, reservation) {
            Verdict::Decided(decision) => self.differs(&decision, expected),
            Verdict::Starved(waiter) => {
                self.waiters.insert(name.to_owned(), waiter);
                if expected == ["starved"] {
                    return String::new();
                }
                if self.link == Link::Up {
                    self.world.pump();
                }
                self.decided(name, expected)
            }
        }
    }

    fn decided(&mut self, name: &str, expected: &[&str]) -> String {
        self.decided.extend(self.world.ledger.take_decided());
        match (self.decided.remove(&self.waiters[name]), expected) {
            (None, ["starved"]) => String::new(),
            (None, _) => "it waits".to_owned(),
            (Some(decision), _) => self.differs(&decision, expected),
        }
    }

    /// Compares a decision with `allow`, `deny CODE` or `undecided` and the facts that follow.
    fn differs(&self, decision: &Decision, expected: &[&str]) -> String {
        let (outcome, standing) = match decision {
            Decision::Allow(admission) => ("allow".to_owned(), Some(admission.standing)),
            Decision::Deny(refusal) => {
                (format!("deny {}", refusal.code.as_str()), Some(refusal.standing))
            }
            Decision::Undecided { .. } => ("undecided".to_owned(), None),
        };
        let facts_from = outcome.split(' ').count();
        let said = expected.iter().take(facts_from).copied().collect::<Vec<_>>().join(" ");
        let facts = expected.get(facts_from..).unwrap_or_default();
        let is_so = said == outcome
            && facts.iter().all(|fact| self.has_fact(decision, standing.as_ref(), fact));
        if is_so { String::new() } else { format!("{decision:#?}") }
    }

    fn has_fact(&self, decision: &Decision, standing: Option<&Standing>, fact: &str) -> bool {
        let (name, value) = fact.split_once('=').unwrap_or((fact, ""));
        match (decision, name) {
            (_, "left") => {
                let (dimension, left) = counted(value);
                standing.unwrap().of(dimension).is_some_and(|info| info.remaining == left)
            }
            (_, "no-left") => *standing.unwrap() == Standing::default(),
            (Decision::Allow(admission), "shadows") => {
                admission.shadow_refusals.to_string() == value
            }
            (Decision::Allow(admission), "blind") => admission.unavailable,
            (Decision::Undecided { budget }, "by") => *budget == Some(self.budgets[value]),
            (Decision::Deny(refusal), "by") => {
                refusal.gate.as_ref().is_some_and(|gate| gate.budget == self.budgets[value])
            }
            (Decision::Deny(refusal), "in") => {
                refusal.gate.as_ref().is_some_and(|gate| gate.dimension.as_str() == value)
            }
            (Decision::Deny(refusal), "for") => {
                refusal.gate.as_ref().is_some_and(|gate| gate.target.as_str() == value)
            }
            (Decision::Deny(refusal), "retry") => {
                refusal.retry_after == (value != "never").then(|| duration(value))
            }
            other => panic!("what is {other:?}?"),
        }
    }

    fn settle(&mut self, name: &str, words: &[&str]) -> String {
        let actual = self.actual(words, Certainty::Exact);
        match self.world.settle(self.reservations[name], actual) {
            None => "it is not open".to_owned(),
            Some(settlement) => {
                self.settlements.entry(name.to_owned()).or_default().push(settlement);
                String::new()
            }
        }
    }

    fn adjust(&mut self, name: &str, words: &[&str]) {
        let actual = self.actual(words, Certainty::Adjustment);
        let earlier = self.settlements.entry(name.to_owned()).or_default();
        let first = earlier.first().unwrap();
        let correcting = Correcting {
            subject: Arc::clone(&first.subject),
            reservation: first.reservation,
            at: first.at,
            charges: earlier.iter().flat_map(|entry| entry.charges.to_vec()).collect(),
        };
        let entry = self.world.ledger.adjust(correcting, actual);
        self.world.record(entry.clone());
        earlier.push(entry);
    }

    fn book(&mut self, words: &[&str]) {
        let at = words.iter().find_map(|word| word.strip_prefix("at="));
        let at = at.map_or(self.world.now.wall, wall);
        let actual = self.actual(words, Certainty::Exact);
        let subject = Arc::clone(&self.subject);
        let entry = self.world.ledger.book(subject, actual, at, self.world.now).unwrap();
        self.world.record(entry);
    }

    fn overdue(&mut self, names: &[&str]) -> String {
        let ended = self.world.end_overdue();
        let expected: Vec<_> = names.iter().map(|name| self.reservations[*name]).collect();
        differs(ended, expected)
    }

    fn lent(&self, name: &str, amount: &str) -> String {
        let (dimension, amount) = counted(amount);
        let of = self
            .world
            .store
            .accounts
            .iter()
            .filter(|(key, _)| key.budget == self.budgets[name] && key.dimension == dimension);
        differs(of.fold(Units::ZERO, |sum, (_, account)| sum.plus(account.leased)), amount)
    }

    fn actual(&mut self, words: &[&str], certainty: Certainty) -> Actual {
        self.made += 1;
        Actual {
            settlement: id(&format!("settlement {}", self.made)),
            certainty,
            amounts: amounts(words),
            usage: None,
            model: None,
            rates: None,
        }
    }

    fn add_budget(&mut self, name: &str, scope: &str, words: &[&str]) {
        self.made += 1;
        let (kind, target) = scope.split_once(':').unwrap_or((scope, "acme"));
        let mut budget = Budget {
            workspace: workspace(),
            id: BudgetId(self.made),
            generation: 0,
            resets: 0,
            scope: Scope { kind: kind_of(kind), target: Target::from_id(id(target)) },
            limits: Limits::default(),
            is_active: true,
            expires_at: None,
            shadow: false,
            when_unavailable: WhenUnavailable::Deny,
            name: None,
            created_at: Wall::from_ms(0),
            updated_at: Wall::from_ms(0),
        };
        set(&mut budget, words);
        self.budgets.insert(name.to_owned(), budget.id);
        self.world.put(budget);
    }

    fn change(&mut self, name: &str, words: &[&str]) {
        let mut budget = self.world.ledger.budget(self.budgets[name]).unwrap().clone();
        let schedule = budget.limits.schedule.clone();
        set(&mut budget, words);
        budget.generation += u32::from(budget.limits.schedule != schedule);
        self.world.put(budget);
    }
}

/// Sets what the words of a budget say.
fn set(budget: &mut Budget, words: &[&str]) {
    for word in words {
        if let Some(period) = Period::from_name(word) {
            let schedule = Schedule { period, zone: Zone::utc(), week_start: WeekStart::Monday };
            budget.limits.schedule = Some(schedule);
            continue;
        }
        match word.split_once('=').unwrap_or((*word, "")) {
            ("shadow", _) => budget.shadow = true,
            ("enforced", _) => budget.shadow = false,
            ("inactive", _) => budget.is_active = false,
            ("active", _) => budget.is_active = true,
            ("until", instant) => budget.expires_at = Some(wall(instant)),
            ("down", "allow") => budget.when_unavailable = WhenUnavailable::Allow,
            ("down", up_to) => {
                budget.when_unavailable = WhenUnavailable::AllowUpTo(amounts(&[up_to]).cost);
            }
            _ => match counted(word) {
                (Dimension::Cost, limit) => budget.limits.cost = Some(NanoUsd::new(limit.get())),
                (Dimension::Tokens, limit) => budget.limits.tokens = Some(Tokens::new(limit.get())),
                (Dimension::Requests, limit) => {
                    budget.limits.requests_per_minute = u32::try_from(limit.get()).ok();
                }
            },
        }
    }
}

fn kind_of(name: &str) -> ScopeKind {
    ScopeKind::from_name(&name.to_uppercase()).unwrap()
}

fn subject(ids: &[&str]) -> Subject {
    let mut subject = Subject::of_workspace(workspace());
    for said in ids {
        let (kind, value) = said.split_once('=').unwrap();
        let value = id(value);
        match kind_of(kind) {
            ScopeKind::Workspace => subject.workspace = value,
            ScopeKind::Project => subject.project = Some(value),
            ScopeKind::Identity => subject.identity = Some(value),
            ScopeKind::ApiKey => subject.api_key = Some(value),
            ScopeKind::Provider => subject.provider = Some(value),
            ScopeKind::Model => subject.model = Some(value),
        }
    }
    subject
}

/// Reads `$1.50`, `100tok` or `2rpm`.
fn counted(word: &str) -> (Dimension, Units) {
    if let Some(dollars) = word.strip_prefix('$') {
        return (Dimension::Cost, NanoUsd::from_usd_text(dollars).unwrap().into());
    }
    let number = |text: &str| Units::new(text.parse().unwrap());
    match word.strip_suffix("tok") {
        Some(tokens) => (Dimension::Tokens, number(tokens)),
        None => (Dimension::Requests, number(word.strip_suffix("rpm").unwrap())),
    }
}

/// The amounts among some words.
fn amounts(words: &[&str]) -> Amounts {
    let mut amounts = Amounts::default();
    for word in words.iter().filter(|word| word.starts_with('$') || word.ends_with("tok")) {
        match counted(word) {
            (Dimension::Cost, units) => amounts.cost = NanoUsd::new(units.get()),
            (_, units) => amounts.tokens = Tokens::new(units.get()),
        }
    }
    amounts
}

/// Reads `250ms`, `10s`, `5m` or `2h`.
fn duration(text: &str) -> Duration {
    let from = text.find(|c: char| c.is_ascii_alphabetic()).unwrap();
    let (number, unit) = text.split_at(from);
    let number: u64 = number.parse().unwrap();
    match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number * 60),
        "h" => Duration::from_secs(number * 3600),
        other => panic!("what is {other}?"),
    }
}

fn differs<T: PartialEq + std::fmt::Debug>(found: T, expected: T) -> String {
    if found == expected { String::new() } else { format!("{found:?}") }
}
