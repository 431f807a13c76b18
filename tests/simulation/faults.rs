//! What breaks, and what people change while it does.

use std::time::Duration;

use bursar::domain::budget::Budget;
use bursar::domain::ids::{BudgetId, HolderId};
use bursar::domain::money::{NanoUsd, Tokens};

use super::plan::{self, MS, SECOND, room_of};
use super::replica::Stage;
use super::store::{AHEAD_MAX_MS, Fault};
use super::world::{BudgetName, Event, Inbox, Phase, World};

impl World {
    /// Plans the next fault.
    pub(crate) fn plan_fault(&mut self) {
        if let Some(mean) = self.plan.weather.between_faults {
            let pause = self.random.between(MS, mean * 2);
            self.after(pause, Event::Break);
        }
    }

    /// Plans the next change by a person.
    pub(crate) fn plan_change(&mut self) {
        if let Some(mean) = self.plan.weather.between_changes {
            let pause = self.random.between(MS, mean * 2);
            self.after(pause, Event::Administer);
        }
    }

    /// Something breaks.
    pub(crate) fn break_something(&mut self) {
        if self.phase == Phase::Healed {
            return;
        }
        self.plan_fault();
        let at = self.random.index(self.replicas.len());
        let ttl = u64::try_from(self.plan.ttl.as_nanos()).expect("a short time");
        let while_ = if self.random.chance(150) {
            // So long that others settle what is handed over to it.
            self.random.between(62 * SECOND, 110 * SECOND)
        } else {
            self.random.between(10 * MS, ttl * 3)
        };
        match self.random.below(14) {
            0..=2 => self.kill(at, while_),
            3 => self.lose_machine(at, while_),
            4 => {
                self.replicas[at].hears_nothing = true;
                self.after(while_, Event::Mend(at));
            }
            5 => {
                self.replicas[at].says_nothing = true;
                self.after(while_, Event::Mend(at));
            }
            6..=7 => {
                // A machine that sleeps, or a process that is stopped.
                self.trace.mark(self.now, "is stopped", at, || format!("for {while_} ns"));
                let replica = &mut self.replicas[at];
                replica.stopped_until = replica.stopped_until.max(self.now + while_);
            }
            8 => self.store_away_until = self.now + while_,
            9 => {
                self.replicas[at].wall_off = self.random.signed(-1_500, 1_500);
            }
            10..=11 => {
                // Others settle what is handed over to it meanwhile.
                let while_ = self.random.between(75 * SECOND, 150 * SECOND);
                self.replicas[at].cut_until = self.now + while_;
                (self.replicas[at].hears_nothing, self.replicas[at].says_nothing) = (true, true);
                self.after(while_, Event::Mend(at));
            }
            12 => {
                self.store.ahead = Duration::from_millis(self.random.below(AHEAD_MAX_MS));
            }
            _ => {
                if self.replicas[at].stage == Stage::Running {
                    self.close(at);
                }
            }
        }
    }

    fn kill(&mut self, at: usize, while_: u64) {
        if self.replicas[at].stage == Stage::Down {
            return;
        }
        self.crash(at);
        let pause =
            if self.random.chance(500) { self.random.between(MS, 500 * MS) } else { while_ };
        self.after(pause, Event::Start(at));
    }

    /// The process is gone, and its journal with it.
    fn lose_machine(&mut self, at: usize, while_: u64) {
        if let Some(journal) = &mut self.replicas[at].journal {
            let read = bursar::engine::journal::Recovered::read(journal, "boot");
            self.gone.extend(read.iter().flat_map(|read| read.holders.iter().copied()));
            journal.clear();
        }
        let holder = self.replicas[at].holder;
        self.gone.insert(holder);
        self.kill(at, while_);
        if let Some(journal) = &mut self.replicas[at].journal {
            journal.clear();
        }
    }

    /// Whoever was away comes back just when another settles something in its place.
    pub(crate) fn come_back(&mut self, holders: &[HolderId]) {
        for at in 0..self.replicas.len() {
            let replica = &self.replicas[at];
            // One that is down may find what it was in its journal.
            if replica.stage == Stage::Down || holders.contains(&replica.holder) {
                self.mend(at);
                self.start(at);
            }
        }
    }

    /// What a replica says is lost for a while.
    pub(crate) fn silence(&mut self, at: usize) {
        let while_ = self.random.between(SECOND, 45 * SECOND);
        self.replicas[at].says_nothing = true;
        self.after(while_, Event::Mend(at));
    }

    /// Whether something breaks by chance at just this moment.
    pub(crate) fn breaks_now(&mut self, thousandths: u64) -> bool {
        let is_stormy = self.phase == Phase::Stormy && self.plan.weather.between_faults.is_some();
        is_stormy && self.random.chance(thousandths)
    }

    /// A partition is over, unless another goes on.
    pub(crate) fn mend_in_time(&mut self, at: usize) {
        if self.replicas[at].cut_until <= self.now {
            self.mend(at);
        }
    }

    pub(crate) fn mend(&mut self, at: usize) {
        self.replicas[at].cut_until = 0;
        self.replicas[at].hears_nothing = false;
        self.replicas[at].says_nothing = false;
    }

    /// From now on nothing breaks any more, and all replicas run.
    pub(crate) fn heal(&mut self) {
        self.trace.mark(self.now, "heals", 0, String::new);
        self.phase = Phase::Healed;
        let weather = &mut self.plan.weather;
        (weather.loss, weather.twice, weather.refused, weather.slow) = (0, 0, 0, 0);
        self.store_away_until = 0;
        for at in 0..self.replicas.len() {
            self.mend(at);
            self.after(MS, Event::Start(at));
        }
    }

    /// A person changes a budget by way of some replica, which has it in force at once.
    pub(crate) fn administer(&mut self) -> Result<(), Fault> {
        // Under what holds until now something may have been lent that nobody has used yet.
        self.store.raise_ceilings(&mut self.truth);
        if self.phase == Phase::Healed {
            return Ok(());
        }
        self.plan_change();
        let names: Vec<BudgetName> = self.store.budgets.keys().cloned().collect();
        if names.is_empty() {
            return Ok(());
        }
        let name = names[self.random.index(names.len())].clone();
        let budget = self.store.budgets[&name].clone();
        let which = self.random.below(14);
        self.trace.mark(self.now, "administers", 0, || format!("{which} {name:?}"));
        match which {
            0..=4 => self.change_limits(budget),
            5 => self.store.replace(Budget { is_active: !budget.is_active, ..budget }),
            6..=7 => {
                let now = self.store_wall();
                self.store.reset(&name, now, &mut self.truth);
                self.resets.entry(name).or_default().push(self.now);
            }
            8..=9 => self.change_rules(budget),
            10..=11 if budget.limits.schedule.is_some() => {
                let schedule = plan::schedule(&mut self.random);
                let now = self.store_wall();
                if budget.limits.schedule.as_ref() != Some(&schedule) {
                    self.store.reschedule(budget, schedule, now, &mut self.truth)?;
                }
            }
            _ => self.delete_and_make_again(budget),
        }
        self.store.raise_ceilings(&mut self.truth);
        self.store.check_all(&self.truth)?;
        self.tell_of_change();
        for at in (0..self.replicas.len())
            .filter(|at| self.replicas[*at].is_running())
            .collect::<Vec<_>>()
        {
            self.rooms_of(at).try_for_each(|place| self.talk(place))?;
        }
        Ok(())
    }

    fn change_limits(&mut self, mut budget: Budget) {
        if budget.limits.cost.is_some() {
            budget.limits.cost = Some(NanoUsd::new(self.plan.limit(&mut self.random)));
        }
        if budget.limits.tokens.is_some() && self.random.chance(500) {
            budget.limits.tokens = Some(Tokens::new(self.plan.limit(&mut self.random)));
        }
        if budget.limits.requests_per_minute.is_some() {
            let limit = self.plan.requests_per_minute(&mut self.random);
            budget.limits.requests_per_minute = Some(limit);
        }
        self.note_rate(&budget);
        self.store.replace(budget);
    }

    /// What it does without the store, and whether it refuses at all.
    fn change_rules(&mut self, mut budget: Budget) {
        budget.when_unavailable = self.plan.when_unavailable(&mut self.random);
        budget.shadow ^= self.random.chance(200);
        self.relaxed.insert((budget.workspace.clone(), budget.id));
        self.store.replace(budget);
    }

    fn delete_and_make_again(&mut self, mut budget: Budget) {
        self.store.delete(&(budget.workspace.clone(), budget.id));
        if self.random.chance(700) {
            let last = &mut self.last_budget[room_of(&budget.workspace)];
            *last += 1;
            budget.id = BudgetId(*last);
            (budget.resets, budget.generation) = (0, 0);
            self.note_rate(&budget);
            self.store.create(budget);
        }
    }

    /// One replica knows of a change at once, others soon, the rest when they ask.
    fn tell_of_change(&mut self) {
        let first = self.random.index(self.replicas.len());
        for at in 0..self.replicas.len() {
            let replica = &self.replicas[at];
            if !replica.is_running() || replica.stopped_until > self.now {
                continue;
            }
            if at == first {
                self.put_here(at);
            } else if self.random.chance(500) {
                let delay = self.random.below(SECOND / 10);
                self.later(at, delay, Inbox::Hint);
            }
        }
    }
}
