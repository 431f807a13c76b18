//! Settle: the actual amount replaces what was set aside. It never fails; what cannot be covered is recorded as overrun.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::budget::Dimension;
use crate::domain::ids::{Id, ReservationId};
use crate::domain::ledger::account::{AccountIndex, Standing};
use crate::domain::ledger::escrow::AccountKey;
use crate::domain::ledger::gates::Gate;
use crate::domain::ledger::{Ledger, NamedHold, OnTimeout, Sharing, UNSENT_MAX, Unsent};
use crate::domain::money::{Amounts, Units};
use crate::domain::settlement::{Certainty, Charge, Road, Settlement};
use crate::domain::subject::Subject;
use crate::domain::time::{Now, Wall};
use crate::domain::usage::Usage;

/// What was really used, ready to be booked.
#[derive(Debug, Clone)]
pub struct Actual {
    /// Chosen by the reporter.
    pub settlement: Id,
    /// How sure the amounts are.
    pub certainty: Certainty,
    /// What was used.
    pub amounts: Amounts,
    /// Token counts, where reported.
    pub usage: Option<Usage>,
    /// The model that was priced.
    pub model: Option<Id>,
    /// Table version and rates.
    pub rates: Option<Arc<str>>,
}

/// The entry that an adjustment corrects, with everything that earlier entries charged for the same reservation.
#[derive(Debug, Clone)]
pub struct Correcting {
    /// Who is charged.
    pub subject: Arc<Subject>,
    /// The reservation.
    pub reservation: Option<ReservationId>,
    /// When the usage took place.
    pub at: Wall,
    /// Every charge so far.
    pub charges: Vec<Charge>,
}

impl Correcting {
    /// All entries of a reservation, of which this is the last.
    #[must_use]
    pub fn all(earlier: &[Settlement], last: &Settlement) -> Self {
        Self {
            subject: Arc::clone(&last.subject),
            reservation: last.reservation,
            at: last.at,
            charges: earlier.iter().flat_map(|entry| entry.charges.iter().cloned()).collect(),
        }
    }
}

/// A reservation whose holder is gone, as whoever settles it in its place was told of it.
#[derive(Debug, Clone)]
pub struct Orphan {
    /// Its id.
    pub reservation: ReservationId,
    /// Who asked.
    pub subject: Arc<Subject>,
    /// When it was made.
    pub at: Wall,
    /// What it holds of money and tokens; `None` where nobody knows.
    pub holds: Option<Vec<NamedHold>>,
}

impl Ledger {
    /// Settles an open reservation: queues the entry for the store and returns it. `None` when it is not open here.
    pub fn settle(&mut self, id: ReservationId, actual: Actual, now: Now) -> Option<Settlement> {
        let reservation = self.reservations.remove(&id)?;
        let mut charges = Vec::with_capacity(reservation.holds.len());
        for hold in &reservation.holds {
            self.end_hold(*hold);
            charges.extend(self.charge(hold.account, actual.amounts));
        }
        self.give_leftovers(&reservation, now);
        let subject = Arc::clone(&reservation.subject);
        let settlement = entry(actual, subject, Some(id), reservation.made_at.wall, charges);
        self.send(settlement.clone());
        Some(settlement)
    }

    /// Books usage that was not asked about before to whatever budgets apply to the subject. Usage of an earlier window
    /// is booked there. `None` when there is no room for another account or settlement.
    pub fn book(
        &mut self,
        subject: Arc<Subject>,
        actual: Actual,
        at: Wall,
        now: Now,
    ) -> Option<Settlement> {
        if self.outbox.len() >= UNSENT_MAX {
            return None;
        }
        let gates = self.gates(&subject, actual.amounts, now)?;
        let mut charges = Vec::new();
        for gate in gates.iter().filter(|gate| gate.dimension != Dimension::Requests) {
            match self.earlier_account(gate.account, at) {
                None => charges.extend(self.charge(gate.account, actual.amounts)),
                Some(account) => {
                    charges.push(Charge { account, amount: gate.asked, road: Road::Direct })
                }
            }
        }
        let settlement = entry(actual, subject, None, at, charges);
        self.send(settlement.clone());
        Some(settlement)
    }

    /// Books usage of a reservation whose holder is gone: straight to the accounts that the holder would have charged, because
    /// what it forfeited there covers it and gives way to it. Where nobody knows what it holds, the budgets that apply now are
    /// charged, in the windows in which it was made. `None` when there is no room for another account.
    pub fn book_directly(
        &mut self,
        orphan: Orphan,
        actual: Actual,
        now: Now,
    ) -> Option<Settlement> {
        let Orphan { reservation, subject, at, holds } = orphan;
        let accounts = match holds {
            Some(holds) => holds.into_iter().map(|hold| hold.account).collect(),
            None => self.accounts_in_force(&subject, at, now)?,
        };
        let due = accounts.into_iter().filter_map(|account| self.due(account, actual.amounts));
        let direct = due.map(|(account, amount)| Charge { account, amount, road: Road::Direct });
        let charges = direct.collect();
        let settlement = entry(actual, subject, Some(reservation), at, charges);
        self.send(settlement.clone());
        Some(settlement)
    }

    /// Replaces what was charged for a reservation by other amounts: an entry of the given certainty carries the difference.
    pub fn adjust(&mut self, earlier: Correcting, actual: Actual) -> Settlement {
        let mut charged: HashMap<AccountKey, Units> = HashMap::new();
        let mut order = Vec::new();
        for charge in earlier.charges {
            let sum = charged.entry(charge.account.clone()).or_insert_with(|| {
                order.push(charge.account.clone());
                Units::ZERO
            });
            *sum = sum.plus(charge.amount);
        }
        let mut charges = Vec::with_capacity(order.len());
        for account in order {
            let due = amount_in(account.dimension, actual.amounts);
            let difference = due.minus(charged.get(&account).copied().unwrap_or_default());
            charges.extend(self.correct(account, difference));
        }
        let settlement = entry(actual, earlier.subject, earlier.reservation, earlier.at, charges);
        self.send(settlement.clone());
        settlement
    }

    /// Open reservations whose time is up.
    pub fn overdue(&self, now: Now) -> impl Iterator<Item = ReservationId> {
        let overdue = self.timeouts.iter().take_while(move |(deadline, _)| *deadline <= now.mono);
        overdue.map(|(_, id)| *id).filter(|id| self.reservations.contains_key(id))
    }

    /// Ends reservations whose time is up. Returns what was ended, settled or released.
    pub fn end_overdue(&mut self, now: Now) -> Vec<ReservationId> {
        let mut ended = Vec::new();
        while let Some((deadline, id)) = self.timeouts.front().copied() {
            if now.mono < deadline {
                break;
            }
            self.timeouts.pop_front();
            let Some(estimate) = self.reservations.get(&id).map(|reservation| reservation.estimate)
            else {
                continue;
            };
            match self.terms.on_timeout {
                OnTimeout::Release => {
                    self.release(id, now);
                }
                OnTimeout::Charge => {
                    self.settle(id, charged_in_full(id, estimate), now);
                }
            }
            ended.push(id);
        }
        ended
    }

    /// Charges an account with its part of the amounts.
    fn charge(&mut self, at: AccountIndex, amounts: Amounts) -> Option<Charge> {
        let (account, amount) = self.due(self.key(at)?, amounts)?;
        self.consume(at, amount)?;
        Some(Charge { account, amount, road: Road::Lease })
    }

    /// What an account is charged for a reservation that holds of it. Nothing for a rolling minute, nor where the budget was
    /// deleted; one that is not in force now, or has another calendar, is charged for what was asked of it before.
    fn due(&self, account: AccountKey, amounts: Amounts) -> Option<(AccountKey, Units)> {
        self.budgets.index_of(account.budget)?;
        if account.dimension == Dimension::Requests {
            return None;
        }
        let amount = amount_in(account.dimension, amounts);
        Some((account, amount))
    }

    /// The accounts of the budgets that apply to a subject now, in the windows of an instant.
    fn accounts_in_force(
        &mut self,
        subject: &Subject,
        at: Wall,
        now: Now,
    ) -> Option<Vec<AccountKey>> {
        let gates = self.gates(subject, Amounts::default(), now)?;
        let account =
            |gate: &Gate| self.earlier_account(gate.account, at).or_else(|| self.key(gate.account));
        Some(gates.iter().filter_map(account).collect())
    }

    /// Books what a settlement charges by way of a lease.
    fn consume(&mut self, at: AccountIndex, amount: Units) -> Option<()> {
        let account = self.accounts.get_mut(at)?;
        let amount = account.consume(amount);
        account.unsent = account.unsent.plus(amount);
        self.booked.push((at, account.serial, amount));
        self.enqueue(at);
        Some(())
    }

    /// Queues a settlement for the store, with what it has booked.
    fn send(&mut self, settlement: Settlement) {
        let booked = std::mem::take(&mut self.booked);
        self.outbox.push_back(Unsent { settlement, booked });
    }

    /// Charges a difference to an account by its name: more goes through the live lease where there is one, so that what it has
    /// in hand covers it; less is given back to the pool. In a fleet two replicas may be told of the same correction, and what
    /// goes through a lease is counted by both, so there the entry itself carries the difference.
    fn correct(&mut self, account: AccountKey, difference: Units) -> Option<Charge> {
        if difference == Units::ZERO {
            return None;
        }
        let live = self.find(&account);
        if let Some(at) = live {
            if difference > Units::ZERO && self.terms.sharing == Sharing::Alone {
                self.consume(at, difference)?;
                return Some(Charge { account, amount: difference, road: Road::Lease });
            }
            // The pool grows by what is given back, so what the store said last no longer counts.
            self.accounts.get_mut(at)?.doubt();
            self.enqueue(at);
        }
        Some(Charge { account, amount: difference, road: Road::Direct })
    }

    /// The live account of this name.
    pub(super) fn find(&self, key: &AccountKey) -> Option<AccountIndex> {
        let place = self.budgets.index_of(key.budget)?;
        let at = self.accounts.find(place, key.dimension, key.target.as_str())?;
        let account = self.accounts.get(at)?;
        let same = account.generation == key.generation
            && account.window.label == key.window
            && account.standing == Standing::Live;
        same.then_some(at)
    }

    /// The name of the account that was in force at an instant before the current window; `None` when the instant lies in it.
    fn earlier_account(&self, at: AccountIndex, instant: Wall) -> Option<AccountKey> {
        let account = self.accounts.get(at)?;
        if instant >= account.window.start {
            return None;
        }
        let schedule = self.budgets.get(account.budget)?.limits.schedule.as_ref()?;
        Some(AccountKey { window: schedule.window_at(instant).label, ..self.key(at)? })
    }
}

/// The amount that counts in a dimension.
fn amount_in(dimension: Dimension, amounts: Amounts) -> Units {
    match dimension {
        Dimension::Cost => amounts.cost.into(),
        Dimension::Tokens => amounts.tokens.into(),
        Dimension::Requests => Units::ZERO,
    }
}

/// What is booked for a reservation that nobody settled in time.
fn charged_in_full(id: ReservationId, estimate: Amounts) -> Actual {
    // The reservation's own name makes the entry idempotent, whoever writes it.
    let settlement = id.timeout_settlement();
    Actual {
        settlement,
        certainty: Certainty::Estimated,
        amounts: estimate,
        usage: None,
        model: None,
        rates: None,
    }
}

fn entry(
    actual: Actual,
    subject: Arc<Subject>,
    reservation: Option<ReservationId>,
    at: Wall,
    charges: Vec<Charge>,
) -> Settlement {
    let Actual { settlement: id, certainty, amounts, usage, model, rates } = actual;
    Settlement {
        id,
        subject,
        reservation,
        certainty,
        amounts,
        usage,
        model,
        rates,
        at,
        charges: charges.into(),
    }
}
