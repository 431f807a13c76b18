//! Prepaid credits: people pay, replicas confirm it, and what is over is taken out, as in `engine/credits.rs`.

use bursar::domain::credits::{self, Added, InForce};
use bursar::domain::time::{Now, Wall};

use super::plan::{MS, SECOND, workspace};
use super::replica::Purpose;
use super::room::{Room, Waiting};
use super::store::Fault;
use super::world::{Answer, Event, Inbox, Payment, Phase, Place, Query, World};

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

impl Room {
    pub(crate) fn put_credits(&mut self, in_force: Option<InForce>, now: Now) {
        let Some(InForce { granted, next_expiry }) = in_force else { return };
        self.ledger.put_budget(credits::budget(self.ledger.workspace().clone(), granted), now);
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
        self.make_grant();
    }

    /// Somebody pays for one of the workspaces. The grants of each are numbered, so that they have the same ids.
    pub(crate) fn make_grant(&mut self) {
        let room = self.random.index(self.plan.workspaces);
        let number = self.grants.iter().filter(|payment| payment.room == room).count();
        let grant = self.plan.grant(number, self.store_wall(), &mut self.random);
        self.grants.push(Payment { room, grant, is_confirmed: false });
        self.send_grant(self.grants.len() - 1);
    }

    /// A replica is told of a payment, until one has confirmed it.
    pub(crate) fn send_grant(&mut self, number: usize) {
        if self.grants[number].is_confirmed {
            return;
        }
        let at = self.random.index(self.replicas.len());
        self.later(at, MS, Inbox::Grant(number));
        self.after(PERSON_PATIENCE, Event::Grant(number));
    }

    pub(crate) fn take_grant_of_credits(&mut self, at: usize, number: usize) {
        let Payment { room, grant, is_confirmed } = self.grants[number].clone();
        if is_confirmed || !self.replicas[at].is_running() {
            return;
        }
        let purse = &mut self.room_mut(Place { at, room }).purse;
        if purse.is_taken {
            return self.later(at, 50 * MS, Inbox::Grant(number));
        }
        (purse.is_taken, purse.is_due) = (true, true);
        let now = self.clocks(at).wall;
        self.call(at, Query::Grant(workspace(room), grant, now), Purpose::Grant(number));
    }

    pub(crate) fn grant_answered(&mut self, at: usize, number: usize, answer: Answer) {
        let now = self.clocks(at);
        let room = self.grants[number].room;
        let room = self.room_mut(Place { at, room });
        room.purse.is_taken = false;
        let Answer::Granted(added) = answer else { return };
        if let Added::New(in_force) = added {
            room.put_credits(Some(in_force), now);
        }
        self.trace.mark(self.now, "confirms", at, || format!("grant {number}: {added:?}"));
        self.grants[number].is_confirmed = true;
    }

    /// What is over is handed back and taken out, and what others changed comes into force.
    pub(crate) fn keep_credits(&mut self, place: Place) {
        let now = self.clocks(place.at);
        let Room { ledger, under_way, purse, .. } = self.room_mut(place);
        if purse.is_taken {
            return;
        }
        let is_over = purse.ends_at.is_some_and(|end| end <= now.wall);
        if is_over {
            ledger.hand_back(credits::BUDGET, now);
        } else if !purse.is_due {
            return;
        }
        purse.is_taken = true;
        if !is_over || under_way.flush(ledger, Waiting::Credits).is_some() {
            self.ask_for_credits(place);
        }
    }

    pub(crate) fn ask_for_credits(&mut self, place: Place) {
        let now = self.clocks(place.at).wall;
        self.room_mut(place).purse.is_due = false;
        let query = Query::ExpireCredits(workspace(place.room), now);
        self.call(place.at, query, Purpose::Credits(place.room));
    }

    pub(crate) fn credits_answered(&mut self, place: Place, answer: Answer) {
        let now = self.clocks(place.at);
        let room = self.room_mut(place);
        room.purse.is_taken = false;
        match answer {
            Answer::Credits(in_force) => room.put_credits(in_force, now),
            _ => room.purse.is_due = true,
        }
    }

    /// All replicas know what is in force.
    pub(crate) fn check_known(&self) -> Result<(), Fault> {
        let mut places = (0..self.replicas.len()).flat_map(|at| self.rooms_of(at));
        places.try_for_each(|place| self.check_known_in(place))
    }

    fn check_known_in(&self, place: Place) -> Result<(), Fault> {
        let (ledger, workspace) = (&self.room(place).ledger, workspace(place.room));
        let granted = ledger.budget(credits::BUDGET).and_then(|budget| budget.limits.cost);
        let there = self.store.granted(&workspace);
        if granted != there {
            return Err(format!("{place:?} knows {granted:?} of credits, which are {there:?}"));
        }
        let all = self.store.budgets.values();
        let known: Vec<_> = all.filter(|budget| budget.workspace == workspace).collect();
        if known.iter().any(|budget| ledger.budget(budget.id) != Some(budget))
            || ledger.budgets().count() != known.len()
        {
            let here: Vec<_> = ledger.budgets().collect();
            return Err(format!("{place:?} has in force {here:?} and not {known:?}"));
        }
        Ok(())
    }
}
