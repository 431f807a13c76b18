//! A workspace at a replica.

use std::collections::{BTreeMap, BTreeSet};

use bursar::domain::budget::WhenUnavailable;
use bursar::domain::ids::{HolderId, ReservationId};
use bursar::domain::ledger::account::AccountIndex;
use bursar::domain::ledger::escrow::AccountKey;
use bursar::domain::ledger::{Ledger, OnTimeout, Sharing, Terms, WaiterId};
use bursar::domain::money::Units;
use bursar::domain::time::{Mono, Now};
use bursar::engine::under_way::UnderWay;
use bursar::store::{Batch, Change};

use super::credits::Purse;
use super::plan::{Plan, workspace};
use super::replica::RETRY_MIN;
use super::world::Changed;

/// What accounts have consumed beyond their leases.
pub(crate) type Overruns = BTreeMap<AccountIndex, Units>;

/// Who waits for something to be durable.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Waiting {
    /// A report, for its entry.
    Recorded(u64),
    /// A report, for all that there is to tell.
    Flushed(u64),
    /// Whoever expires credits, likewise.
    Credits,
}

/// A workspace at a replica: its ledger, and who waits for what.
pub(crate) struct Room {
    pub(crate) ledger: Ledger,
    pub(crate) under_way: UnderWay<Waiting>,
    /// The number of the batch under way, and the call that carries it.
    pub(crate) carried: Option<(u64, Option<u64>)>,
    pub(crate) retry_pause: u64,
    /// When the alarm for recalls goes off.
    pub(crate) recall_ends: Option<Mono>,
    pub(crate) waiting: BTreeMap<WaiterId, usize>,
    pub(crate) turns: BTreeSet<ReservationId>,
    /// The number of the last change that is in force.
    pub(crate) version: Change,
    pub(crate) purse: Purse,
    /// What was passed without the store's word since it last gave one, by the account's place and serial.
    pub(crate) blind: BTreeMap<(AccountIndex, u32), Units>,
}

impl Room {
    fn new(ledger: Ledger) -> Self {
        Self {
            ledger,
            under_way: UnderWay::default(),
            carried: None,
            retry_pause: RETRY_MIN,
            recall_ends: None,
            waiting: BTreeMap::new(),
            turns: BTreeSet::new(),
            version: Change::default(),
            purse: Purse::default(),
            blind: BTreeMap::new(),
        }
    }

    /// What a process knows of it beside its ledger is gone with the process.
    pub(crate) fn forget(&mut self) {
        (self.under_way, self.carried) = (UnderWay::default(), None);
        self.turns.clear();
        self.blind.clear();
    }

    pub(crate) fn overruns(&self) -> Overruns {
        let accounts = self.ledger.accounts();
        accounts.map(|(place, account)| (place, account.lease.overrun)).collect()
    }

    /// Whether a gate may be passed without the store.
    pub(crate) fn is_lenient(&self, key: &AccountKey) -> bool {
        let budget = self.ledger.budget(key.budget);
        budget.is_some_and(|budget| budget.when_unavailable != WhenUnavailable::Deny)
    }

    /// The store has answered for these accounts.
    pub(crate) fn forget_blind(&mut self, batch: &Batch) {
        let Self { ledger, blind, .. } = self;
        let is_told = |place| {
            let key = ledger.key(place);
            key.is_some_and(|key| batch.exchanges.iter().any(|told| told.account == key))
        };
        blind.retain(|(place, _), _| !is_told(*place));
    }

    /// Puts in force what was changed.
    pub(crate) fn put_changed(&mut self, changed: &Changed, now: Now) {
        self.version.clone_from(&changed.version);
        for (id, budget) in &changed.budgets {
            match budget {
                Some(budget) if self.ledger.budget(*id) != Some(budget) => {
                    self.ledger.put_budget(budget.clone(), now);
                }
                Some(_) => {}
                None => self.ledger.remove_budget(*id, now),
            }
        }
    }
}

/// A room for each workspace.
pub(crate) fn rooms(plan: &Plan, holder: HolderId) -> Vec<Room> {
    let ledger = |room| Ledger::new(workspace(room), holder, terms(plan));
    (0..plan.workspaces).map(|room| Room::new(ledger(room))).collect()
}

/// What all replicas of a plan agree on.
pub(crate) fn terms(plan: &Plan) -> Terms {
    Terms {
        reservation_timeout: plan.reservation_timeout,
        on_timeout: OnTimeout::Charge,
        lease_ttl: plan.ttl,
        sharing: if plan.is_alone { Sharing::Alone } else { Sharing::Fleet },
    }
}
