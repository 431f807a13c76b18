//! The end of a world: everything is healed, whoever can be served is served, and when all is closed the books are even.

use std::collections::BTreeSet;
use std::sync::Arc;

use bursar::domain::budget::Dimension;
use bursar::domain::credits::BUDGET;
use bursar::domain::ledger::account;
use bursar::domain::ledger::escrow::{AccountKey, LeaseState};
use bursar::domain::money::{Amounts, NanoUsd, Tokens, Units};
use bursar::domain::subject::Subject;
use bursar::store::Store as _;

use super::clients::{Fate, Request, Standing};
use super::plan::{SECOND, room_of};
use super::replica::replica_of;
use super::store::{Fault, at_once};
use super::truth::in_dimension;
use super::world::{World, budget_of};

/// After healing, everything under way has found its end by then.
const CALM: u64 = 8 * SECOND;
/// A request that fits is admitted within so many tries, one each second: the second comes after whoever was told of the recall has
/// heeded it.
const TRIES_WHEN_TOLD: u32 = 2;
/// Likewise where replicas have to ask, once a second, whether something was recalled.
const TRIES_WHEN_ASKING: u32 = 4;
/// Where so many hold leases, who has asked others in vain before is refused as long as that is remembered, which is two tries' time, then
/// asks without waiting for them, and is refused as long again; then it waits for them.
const MANY: u32 = 7;
const TRIES_MORE_AMONG_MANY: u32 = 4;

impl World {
    /// Lives through everything.
    pub(crate) fn live(&mut self) -> Result<(), Fault> {
        self.run_until(self.plan.length)?;
        self.heal();
        let awake = self.replicas.iter().map(|replica| replica.stopped_until).max();
        self.run_until(awake.unwrap_or(0).max(self.now) + CALM)?;
        self.probe_credits()?;
        self.let_all_know()?;
        // Nobody can promise anything to those who leave before a batch that was under way and then their own can be answered.
        self.plan.patience = self.plan.patience.max(4 * self.plan.latency);
        for _ in 0..4 {
            self.probe()?;
        }
        let ttl = u64::try_from(self.plan.ttl.as_nanos()).expect("a short time");
        let timeout =
            u64::try_from(self.plan.reservation_timeout.as_nanos()).expect("a short time");
        self.run_until(self.now + timeout + ttl * 4 + 180 * SECOND)?;
        self.check_end()
    }

    /// Credits that are paid now are in force everywhere before two seconds have passed.
    fn probe_credits(&mut self) -> Result<(), Fault> {
        if self.plan.weather.between_grants.is_none() {
            return Ok(());
        }
        self.make_grant();
        self.run_until(self.now + 2 * SECOND)?;
        match self.grants.iter().position(|payment| !payment.is_confirmed) {
            Some(number) => Err(format!("grant {number} is not confirmed")),
            None => Ok(()),
        }
    }

    /// Two seconds after the last change all replicas know what is in force.
    fn let_all_know(&mut self) -> Result<(), Fault> {
        loop {
            let version = self.store.version();
            self.run_until(self.now + 2 * SECOND)?;
            if self.store.version() == version {
                return self.check_known();
            }
        }
    }

    /// I11: a request that fits is admitted soon, even one that needs most of what others have idle.
    fn probe(&mut self) -> Result<(), Fault> {
        let at = self.random.index(self.replicas.len());
        let room = self.random.index(self.plan.workspaces);
        let subject = self.plan.subject(room, &mut self.random);
        self.spread(at, &subject)?;
        let mut tries = if self.plan.is_notified { TRIES_WHEN_TOLD } else { TRIES_WHEN_ASKING };
        let mut estimate = None;
        while tries > 0 {
            tries -= 1;
            let number = self.request(at, subject.clone(), Fate::Released);
            if estimate.is_none() && self.gates(number).iter().any(|key| self.is_held_by_many(key))
            {
                tries += TRIES_MORE_AMONG_MANY;
            }
            let estimate = *estimate.get_or_insert_with(|| self.demanding(number));
            self.requests[number].estimate = estimate;
            self.run_until(self.now + self.plan.patience + SECOND / 2)?;
            if self.requests[number].standing == Standing::Admitted || self.short(number) {
                return Ok(());
            }
            self.run_until(self.now + SECOND / 2)?;
            if self.short(number) {
                return Ok(());
            }
        }
        let last = self.requests.last();
        Err(format!("I11: r{at} does not admit {last:?}, which fits"))
    }

    fn is_held_by_many(&self, key: &AccountKey) -> bool {
        self.store.memory.books(key).is_some_and(|(account, _)| account.holders >= MANY)
    }

    /// Lets a few replicas draw for a subject, so that they have some of it idle, and at last the one that is probed.
    fn spread(&mut self, at: usize, subject: &Arc<Subject>) -> Result<(), Fault> {
        let others = (0..2).map(|_| self.random.index(self.replicas.len())).collect::<Vec<_>>();
        for at in others.into_iter().chain([at]) {
            self.request(at, Arc::clone(subject), Fate::Released);
            self.run_until(self.now + self.plan.patience)?;
        }
        self.run_until(self.now + self.plan.response)
    }

    /// What a request asks for: its estimate, or half or all of the least that its gates have idle.
    fn demanding(&mut self, number: usize) -> Amounts {
        let part = [0, 0, 2, 1][self.random.index(4)];
        let mut asked = self.requests[number].estimate;
        let gates = self.gates(number);
        let least = |of: Dimension| {
            let idle = gates.iter().filter(|key| key.dimension == of).map(|key| self.idle(key));
            idle.min()?.or_zero().get().checked_div(part)
        };
        if let Some(cost) = least(Dimension::Cost) {
            asked.cost = NanoUsd::new(cost);
        }
        if let Some(tokens) = least(Dimension::Tokens) {
            asked.tokens = Tokens::new(tokens);
        }
        asked
    }

    /// Whether some gate of a request has not enough left in the whole fleet.
    fn short(&self, number: usize) -> bool {
        let estimate = self.requests[number].estimate;
        self.gates(number).iter().any(|key| {
            let asked = match key.dimension {
                // What it admitted without the store has used up slots that are not its own.
                Dimension::Requests if self.was_lenient(key) => return true,
                Dimension::Requests => Units::ONE,
                dimension => in_dimension(dimension, estimate),
            };
            self.idle(key).minus(self.crumbs(key)) < asked.max(Units::ONE)
        })
    }

    /// What many holders together may keep of what is recalled, as long as they have no news to tell.
    fn crumbs(&self, key: &AccountKey) -> Units {
        let holders = self.store.memory.books(key).map_or(0, |(account, _)| account.holders);
        if holders < MANY || key.dimension == Dimension::Requests {
            return Units::ZERO;
        }
        let each = account::crumbs(self.store.limit(key), holders);
        Units::new(each.get().saturating_mul(i64::from(holders)))
    }

    /// The accounts that may refuse a request, as far as its replica has opened them.
    fn gates(&self, number: usize) -> Vec<AccountKey> {
        let request = &self.requests[number];
        let subject = &request.subject;
        let covers = |key: &AccountKey| {
            [&subject.workspace]
                .into_iter()
                .chain(&subject.project)
                .chain(&subject.identity)
                .any(|id| *id == key.target)
        };
        let ledger = &self.room(request.place()).ledger;
        let refuses = |key: &AccountKey| {
            ledger.budget(key.budget).is_some_and(|budget| !budget.shadow && budget.is_active)
        };
        let live = ledger.accounts().filter(|(_, account)| {
            account.standing == bursar::domain::ledger::account::Standing::Live
        });
        live.filter_map(|(place, _)| ledger.key(place))
            .filter(|key| covers(key) && refuses(key))
            .collect()
    }

    /// What nobody holds of an account: free in the pool, or lent and not set aside.
    fn idle(&self, key: &AccountKey) -> Units {
        let Some((account, _)) = self.store.memory.books(key) else { return self.store.limit(key) };
        let mut idle = account.free(self.store.limit(key));
        for replica in &self.replicas {
            let ledger = &replica.rooms[room_of(&key.workspace)].ledger;
            for (index, local) in ledger.accounts() {
                if ledger.key(index).as_ref() != Some(key) {
                    continue;
                }
                let lease = self.store.memory.lease(key, replica.holder, local.lease.epoch);
                let is_active = lease.is_some_and(|lease| lease.state == LeaseState::Active);
                // What a rolling minute has lent may be in use, and what is forfeited is nobody's before its holder speaks.
                if key.dimension != Dimension::Requests && is_active {
                    idle = idle.plus(local.available().or_zero());
                }
            }
        }
        idle
    }

    /// I12, and that every acknowledged report is on record with what was used.
    fn check_end(&self) -> Result<(), Fault> {
        self.store.check_all(&self.truth)?;
        self.store.check_expired(self.store_wall(), &self.truth)?;
        self.check_all_covers()?;
        for key in self.store.memory.account_keys() {
            self.check_closed(&key)?;
        }
        for place in (0..self.replicas.len()).flat_map(|at| self.rooms_of(at)) {
            let room = self.room(place);
            let (open, live) = (room.ledger.open_reservations(), room.ledger.live_accounts());
            if open > 0 || live > 0 || room.carried.is_some() {
                return Err(format!(
                    "I12: {place:?} still has {open} reservations and {live} accounts"
                ));
            }
        }
        self.check_acknowledged()
    }

    fn check_closed(&self, key: &AccountKey) -> Result<(), Fault> {
        let Some((account, leases)) = self.store.memory.books(key) else { return Ok(()) };
        let sums = self.truth.accounts.get(key).cloned().unwrap_or_default();
        if account.leased > Units::ZERO {
            return Err(format!("I12: {key:?} still lends: {account:?} {leases:?}"));
        }
        for (holder, epoch, lease) in &leases {
            // What others charged in its place gave way among what it forfeited, so that it lost the lease.
            let taken_back = self.taken_back.contains(&(key.clone(), replica_of(*holder)));
            let is_over = self.gone.contains(holder) || taken_back;
            if lease.state == LeaseState::Expired && !is_over {
                return Err(format!("I12: {holder:?} {epoch} forfeits {lease:?} of {key:?}"));
            }
        }
        let is_even = account.spent == sums.recorded;
        if key.dimension != Dimension::Requests && !is_even && !sums.written_off {
            return Err(format!(
                "I12: {key:?}: {account:?} is not the sum of its entries: {sums:?}"
            ));
        }
        Ok(())
    }

    /// Whether its holder may have ended it by another report, or for its time was up, while another charged it in its place: both are
    /// on record then.
    fn was_ended_otherwise(&self, request: &Request) -> bool {
        let timeout = request.reservation.timeout_settlement();
        request.fate == Fate::InParts
            || self.truth.is_recorded(&request.subject.workspace, &timeout)
    }

    fn check_acknowledged(&self) -> Result<(), Fault> {
        let mut seen = BTreeSet::new();
        for (id, number) in &self.acknowledged {
            let request = &self.requests[*number];
            let workspace = &request.subject.workspace;
            let entry = at_once(self.store.memory.settlement(workspace, id));
            // A lower bound has nothing to say beside what is known exactly.
            let is_there =
                id.as_str().starts_with("part-") || entry.is_ok_and(|entry| entry.is_some());
            if !seen.insert((workspace, id)) || !is_there {
                return Err(format!(
                    "{id} was acknowledged and is not on record once: {request:?}"
                ));
            }
            if request.fate == Fate::InParts && request.acknowledged < 2 {
                continue;
            }
            let may_be_more = self.contested.contains(number) && self.was_ended_otherwise(request);
            let charged = self.truth.charged(request.reservation);
            for (key, charged) in charged.filter(|(key, _)| key.workspace == *workspace) {
                let used = in_dimension(key.dimension, request.actual);
                let is_there =
                    key.budget == BUDGET || self.store.budgets.contains_key(&budget_of(key));
                let is_right = charged == used || may_be_more && charged > used;
                if !is_right && is_there {
                    return Err(format!("{charged:?} charged to {key:?} for {request:?}"));
                }
            }
        }
        Ok(())
    }
}
