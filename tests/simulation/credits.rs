//! Prepaid credits: people pay, replicas confirm it, and what is over is taken out, as in `engine/credits.rs`.

use bursar::domain::credits::{self, Added, InForce};
use bursar::domain::time::{Now, Wall};

use super::plan::{MS, SECOND, workspace};
use super::replica::{Flushing, Purpose, Replica};
use super::store::Fault;
use super::world::{Answer, Event, Inbox, Phase, Query, World};

/// A person who got no answer asks again after this time.
const PERSON_PATIENCE: u64 = 3 * SECOND;

/// What a replica knows of the credits.
#[derive(Debug, Default)]
pub(crate) struct Purse {
    /// When the next grant is over.
    ends_at: Option<Wall>,
    /// What is in force has to be asked for.
    pub(crate) is_due: bool,
    /// Whose turn it is to change them is taken.
    is_taken: bool,
}

impl Replica {
    pub(crate) fn put_credits(&mut self, in_force: Option<InForce>, now: Now) {
        let Some(InForce { granted, next_expiry }) = in_force else { return };
        self.ledger.put_budget(credits::budget(workspace(), granted), now);
        self.purse.ends_at = next_expiry;
    }
}

impl World {
    /// Plans the next grant.
    pub(crate) fn plan_grant(&mut self) {
        if let Some(mean) = self.plan.weather.between_grants {
            let pause = self.random.between(MS, mean * 2);
            self.after(pause, Event::Pay);
        }
    }

    /// Somebody pays.
    pub(crate) fn pay(&mut self) {
        if self.phase == Phase::Healed {
            return;
        }
        self.plan_grant();
        let number = self.grants.len();
        let now = self.store_wall();
        let grant = self.plan.grant(number, now, &mut self.random);
        self.grants.push((grant, false));
        self.send_grant(number);
    }

    /// A replica is told of a payment, until one has confirmed it.
    pub(crate) fn send_grant(&mut self, number: usize) {
        if self.grants[number].1 {
            return;
        }
        let at = self.random.index(self.replicas.len());
        self.later(at, MS, Inbox::Grant(number));
        self.after(PERSON_PATIENCE, Event::Grant(number));
    }

    pub(crate) fn take_grant_of_credits(&mut self, at: usize, number: usize) {
        let is_confirmed = self.grants[number].1;
        let replica = &mut self.replicas[at];
        if is_confirmed || !replica.is_running() {
            return;
        }
        if replica.purse.is_taken {
            return self.later(at, 50 * MS, Inbox::Grant(number));
        }
        (replica.purse.is_taken, replica.purse.is_due) = (true, true);
        let grant = self.grants[number].0.clone();
        let now = self.clocks(at).wall;
        self.call(at, Query::Grant(grant, now), Purpose::Grant(number));
    }

    pub(crate) fn grant_answered(&mut self, at: usize, number: usize, answer: Answer) {
        let now = self.clocks(at);
        let replica = &mut self.replicas[at];
        replica.purse.is_taken = false;
        let Answer::Granted(added) = answer else { return };
        if let Added::New(in_force) = added {
            replica.put_credits(Some(in_force), now);
        }
        self.trace.mark(self.now, "confirms", at, || format!("grant {number}: {added:?}"));
        self.grants[number].1 = true;
    }

    /// What is over is handed back and taken out, and what others changed comes into force.
    pub(crate) fn keep_credits(&mut self, at: usize) {
        let now = self.clocks(at);
        let replica = &mut self.replicas[at];
        if replica.purse.is_taken {
            return;
        }
        let is_over = replica.purse.ends_at.is_some_and(|end| end <= now.wall);
        if is_over {
            replica.ledger.hand_back(credits::BUDGET, now);
        } else if !replica.purse.is_due {
            return;
        }
        replica.purse.is_taken = true;
        match replica.ledger.batches_left() {
            left if is_over && left > 0 => {
                replica.flushing.push((left, Flushing::Credits));
                replica.ledger.hurry();
            }
            _ => self.ask_for_credits(at),
        }
    }

    pub(crate) fn ask_for_credits(&mut self, at: usize) {
        let now = self.clocks(at).wall;
        self.replicas[at].purse.is_due = false;
        self.call(at, Query::ExpireCredits(now), Purpose::Credits);
    }

    pub(crate) fn credits_answered(&mut self, at: usize, answer: Answer) {
        let now = self.clocks(at);
        let replica = &mut self.replicas[at];
        replica.purse.is_taken = false;
        match answer {
            Answer::Credits(in_force) => replica.put_credits(in_force, now),
            _ => replica.purse.is_due = true,
        }
    }

    /// All replicas know what is in force.
    pub(crate) fn check_known(&self) -> Result<(), Fault> {
        for (at, replica) in self.replicas.iter().enumerate() {
            let credits = replica.ledger.budget(credits::BUDGET);
            let granted = credits.and_then(|budget| budget.limits.cost);
            if granted != self.store.granted {
                let there = self.store.granted;
                return Err(format!("r{at} knows {granted:?} of credits, which are {there:?}"));
            }
            let known: Vec<_> = self.store.budgets.values().collect();
            if known.iter().any(|budget| replica.ledger.budget(budget.id) != Some(budget))
                || replica.ledger.budgets().count() != known.len()
            {
                let here: Vec<_> = replica.ledger.budgets().collect();
                return Err(format!("r{at} has in force {here:?} and not {known:?}"));
            }
        }
        Ok(())
    }
}
