//! A store in memory, for tests and benchmarks. Nothing survives the process.

mod books;
mod credits;
mod fleet;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

pub use self::books::NamedLease;
use self::credits::{Entries, Purse};
use self::fleet::{Ear, Words};
use crate::domain::budget::{Budget, Dimension};
use crate::domain::credits::{Alert, BUDGET, Entry};
use crate::domain::ids::{BudgetId, HolderId, Id, ReservationId};
use crate::domain::keys::{ApiKey, KeyHash};
use crate::domain::ledger::escrow::{
    self, Account, AccountKey, CLOSED_KEPT, Due, Grant, Lease, LeaseState,
};
use crate::domain::period::Window;
use crate::domain::settlement::{Charge, Road, Settlement};
use crate::domain::time::Wall;
use crate::store::posting::{self, Allowance, Rows};
use crate::store::{AdoptedLease, Batch, BudgetFilter, Cursor, Page, Store, StoreError};

/// Every method is one turn under one lock, so each is a transaction. A clone is the same store in the hands of another
/// replica: each hears all words from the moment it was made.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    ttl: Duration,
    tables: Arc<Mutex<Tables>>,
    ear: Ear,
}

#[derive(Debug, Default)]
struct Tables {
    budgets: BTreeMap<(Id, BudgetId), Budget>,
    keys: BTreeMap<(Id, Id), ApiKey>,
    accounts: BTreeMap<AccountKey, Account>,
    /// By account, opener and epoch.
    leases: BTreeMap<(AccountKey, HolderId, u32), Lease>,
    takeovers: BTreeMap<HolderId, Takeover>,
    settlements: BTreeMap<(Id, Id), Settlement>,
    /// Ids of the settlements of a reservation, oldest first.
    by_reservation: BTreeMap<(Id, ReservationId), Vec<Id>>,
    purses: BTreeMap<Id, Purse>,
    entries: BTreeMap<Id, Entries>,
    alerts: BTreeMap<Id, Alert>,
    words: Words,
}

/// What became of a holder that was taken over.
#[derive(Debug, Clone, Copy)]
struct Takeover {
    successor: HolderId,
    /// Its leases do not expire before that.
    spared_until: Wall,
}

impl MemoryStore {
    /// An empty store whose leases last this long.
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        let tables = Tables::default();
        let ear = tables.words.ear();
        Self { ttl, tables: Arc::new(Mutex::new(tables)), ear }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn create_budget(&self, budget: &Budget) -> Result<(), StoreError> {
        let mut tables = self.tables();
        tables.check_scope_is_free(budget)?;
        let key = (budget.workspace.clone(), budget.id);
        if tables.budgets.contains_key(&key) {
            return Err(StoreError::Conflict { existing: budget.id.to_string() });
        }
        tables.budgets.insert(key, budget.clone());
        tables.words.changed_budget(&budget.workspace, budget.id);
        Ok(())
    }

    async fn replace_budget(
        &self,
        budget: &Budget,
        read: Option<&Budget>,
        seed: Option<&Window>,
    ) -> Result<Budget, StoreError> {
        let mut tables = self.tables();
        let key = (budget.workspace.clone(), budget.id);
        let on_record = tables.budgets.get(&key).ok_or(StoreError::NotFound)?;
        let new = budget.replacing(on_record, read).ok_or(StoreError::Changed)?;
        let generation = on_record.generation;
        tables.check_scope_is_free(budget)?;
        if let Some(window) = seed.filter(|_| new.generation > generation) {
            tables.seed(&new, window);
        }
        tables.budgets.insert(key, new.clone());
        tables.words.changed_budget(&budget.workspace, budget.id);
        Ok(new)
    }

    async fn delete_budget(&self, workspace: &Id, id: BudgetId) -> Result<(), StoreError> {
        let mut tables = self.tables();
        tables.budgets.remove(&(workspace.clone(), id)).ok_or(StoreError::NotFound)?;
        let is_other =
            |account: &AccountKey| account.workspace != *workspace || account.budget != id;
        tables.accounts.retain(|account, _| is_other(account));
        tables.leases.retain(|(account, ..), _| is_other(account));
        tables.words.changed_budget(workspace, id);
        Ok(())
    }

    async fn budget(&self, workspace: &Id, id: BudgetId) -> Result<Option<Budget>, StoreError> {
        Ok(self.tables().budgets.get(&(workspace.clone(), id)).cloned())
    }

    async fn list_budgets(
        &self,
        workspace: &Id,
        filter: &BudgetFilter,
        cursor: Cursor,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let tables = self.tables();
        let place = |budget: &Budget| (filter.sort_by.of(budget), budget.id);
        let edge = match cursor {
            Cursor::Start => None,
            Cursor::After(id) | Cursor::Before(id) => {
                let Some(budget) = tables.budgets.get(&(workspace.clone(), id)) else {
                    return Ok(Page { budgets: Vec::new(), has_more: false });
                };
                Some(place(budget))
            }
        };
        let is_in = |budget: &&Budget| match (cursor, edge) {
            (Cursor::After(_), Some(edge)) => place(budget) < edge,
            (Cursor::Before(_), Some(edge)) => place(budget) > edge,
            (Cursor::Start | Cursor::After(_) | Cursor::Before(_), _) => true,
        };
        let mut budgets: Vec<_> = tables
            .budgets
            .values()
            .filter(|budget| budget.workspace == *workspace && filter.takes(budget))
            .filter(is_in)
            .collect();
        budgets.sort_by_key(|budget| std::cmp::Reverse(place(budget)));
        let has_more = budgets.len() > limit;
        let from = if matches!(cursor, Cursor::Before(_)) {
            budgets.len().saturating_sub(limit)
        } else {
            0
        };
        Ok(Page {
            budgets: budgets.into_iter().skip(from).take(limit).cloned().collect(),
            has_more,
        })
    }

    async fn load_budgets(&self) -> Result<Vec<Budget>, StoreError> {
        Ok(self.tables().budgets.values().cloned().collect())
    }

    async fn accounts(
        &self,
        budget: &Budget,
        label: &str,
    ) -> Result<Vec<(AccountKey, Account)>, StoreError> {
        let tables = self.tables();
        let current =
            tables.accounts.iter().filter(|(account, _)| is_current(account, budget, label));
        Ok(current.map(|(key, account)| (key.clone(), *account)).collect())
    }

    async fn reset_budget(&self, budget: &Budget, label: &str) -> Result<(), StoreError> {
        let Tables { budgets, accounts, leases, words, .. } = &mut *self.tables();
        let stored = budgets.get_mut(&(budget.workspace.clone(), budget.id));
        let stored = stored.ok_or(StoreError::NotFound)?;
        if stored.generation != budget.generation {
            return Err(StoreError::Changed);
        }
        stored.resets = stored.resets.saturating_add(1);
        let restarts = |key: &AccountKey| {
            is_current(key, budget, label) && key.dimension != Dimension::Requests
        };
        for ((key, ..), lease) in leases.iter_mut().filter(|((key, ..), _)| restarts(key)) {
            escrow::write_off(accounts.entry(key.clone()).or_default(), lease);
        }
        accounts
            .iter_mut()
            .filter(|(key, _)| restarts(key))
            .for_each(|(_, account)| escrow::reset(account));
        words.changed_budget(&budget.workspace, budget.id);
        Ok(())
    }

    async fn create_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        let mut tables = self.tables();
        let place = (key.workspace.clone(), key.id.clone());
        let taken = tables.keys.contains_key(&place).then_some(&key.id);
        let same_secret =
            || tables.keys.values().find(|other| other.hash == key.hash).map(|other| &other.id);
        if let Some(existing) = taken.or_else(same_secret) {
            return Err(StoreError::Conflict { existing: existing.to_string() });
        }
        tables.keys.insert(place, key.clone());
        tables.words.changed(&key.workspace);
        Ok(())
    }

    async fn key_by_hash(&self, hash: &KeyHash) -> Result<Option<ApiKey>, StoreError> {
        Ok(self.tables().keys.values().find(|key| key.hash == *hash).cloned())
    }

    async fn list_keys(&self, workspace: &Id) -> Result<Vec<ApiKey>, StoreError> {
        let tables = self.tables();
        let mut keys: Vec<_> =
            tables.keys.values().filter(|key| key.workspace == *workspace).cloned().collect();
        keys.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        Ok(keys)
    }

    async fn delete_key(&self, workspace: &Id, id: &Id) -> Result<(), StoreError> {
        let mut tables = self.tables();
        tables.keys.remove(&(workspace.clone(), id.clone())).ok_or(StoreError::NotFound)?;
        tables.words.changed(workspace);
        Ok(())
    }

    async fn commit(&self, batch: &Batch, now: Wall) -> Result<Vec<Grant>, StoreError> {
        let mut tables = self.tables();
        let mut rows = Rows::named_by(batch);
        tables.load(batch, &mut rows);
        let (fresh, grants) = posting::post(batch, &mut rows, self.ttl, now)?;
        tables.save(batch, &rows, &fresh, now);
        Ok(grants)
    }

    async fn settlement(&self, workspace: &Id, id: &Id) -> Result<Option<Settlement>, StoreError> {
        Ok(self.tables().settlements.get(&(workspace.clone(), id.clone())).cloned())
    }

    async fn settlements_of(
        &self,
        workspace: &Id,
        reservation: ReservationId,
    ) -> Result<Vec<Settlement>, StoreError> {
        let tables = self.tables();
        let ids =
            tables.by_reservation.get(&(workspace.clone(), reservation)).into_iter().flatten();
        Ok(ids
            .filter_map(|id| tables.settlements.get(&(workspace.clone(), id.clone())))
            .cloned()
            .collect())
    }

    async fn settled_among(
        &self,
        workspace: &Id,
        reservations: &[ReservationId],
    ) -> Result<Vec<ReservationId>, StoreError> {
        let tables = self.tables();
        let is_settled =
            |id: &ReservationId| tables.by_reservation.contains_key(&(workspace.clone(), *id));
        Ok(reservations.iter().copied().filter(is_settled).collect())
    }

    async fn adopt(
        &self,
        from: &[HolderId],
        to: HolderId,
        now: Wall,
    ) -> Result<Vec<AdoptedLease>, StoreError> {
        let Tables { leases, takeovers, .. } = &mut *self.tables();
        if takeovers.contains_key(&to) {
            return Err(StoreError::TakenOver);
        }
        let takeover = Takeover { successor: to, spared_until: now.plus(self.ttl) };
        let others = from.iter().filter(|holder| **holder != to);
        takeovers.extend(others.map(|holder| (*holder, takeover)));
        let is_open = |opener: &HolderId, lease: &Lease| {
            (*opener == to || from.contains(opener)) && lease.state != LeaseState::Closed
        };
        let open = leases.iter().filter(|((_, opener, _), lease)| is_open(opener, lease));
        let adopted = open.map(|((account, opener, epoch), lease)| AdoptedLease {
            account: account.clone(),
            opener: *opener,
            epoch: *epoch,
            lease: *lease,
        });
        Ok(adopted.collect())
    }

    async fn sweep(&self, now: Wall) -> Result<u64, StoreError> {
        let Tables { accounts, leases, takeovers, words, .. } = &mut *self.tables();
        words.is_now(now);
        let mut touched = 0;
        leases.retain(|(key, opener, _), lease| {
            let spared = Lease { expires_at: expires_at(takeovers, *opener, lease), ..*lease };
            let due = escrow::due(key.dimension, &spared, now);
            touched += u64::from(due.is_some());
            match due {
                Some(Due::Expire) => escrow::run_out(
                    key.dimension,
                    accounts.entry(key.clone()).or_default(),
                    lease,
                    now,
                ),
                Some(Due::FreeSlots) => {
                    escrow::free_slots(accounts.entry(key.clone()).or_default(), lease)
                }
                Some(Due::Forget) | None => {}
            }
            due != Some(Due::Forget)
        });
        takeovers.retain(|holder, takeover| {
            takeover.spared_until.plus(CLOSED_KEPT) >= now
                || leases.keys().any(|(_, opener, _)| opener == holder)
        });
        Ok(touched)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Tables {
    fn check_scope_is_free(&self, budget: &Budget) -> Result<(), StoreError> {
        let stands_in_the_way = |other: &&Budget| {
            other.workspace == budget.workspace
                && other.scope == budget.scope
                && other.id != budget.id
        };
        match self.budgets.values().find(stands_in_the_way) {
            Some(other) => Err(StoreError::Conflict { existing: other.id.to_string() }),
            None => Ok(()),
        }
    }

    /// Opens the accounts of a new generation with what was charged in the window.
    fn seed(&mut self, budget: &Budget, window: &Window) {
        let is_inside = |at: Wall| window.start <= at && window.end.is_none_or(|end| at < end);
        let charges = self
            .settlements
            .values()
            .filter(|settlement| is_inside(settlement.at))
            .flat_map(|settlement| settlement.charges.iter())
            .filter(|charge| {
                charge.account.workspace == budget.workspace && charge.account.budget == budget.id
            })
            .filter(|charge| charge.account.dimension != Dimension::Requests);
        for charge in charges {
            let key = AccountKey {
                generation: budget.generation,
                window: window.label.clone(),
                ..charge.account.clone()
            };
            let account = self.accounts.entry(key).or_default();
            account.spent = account.spent.plus(charge.amount);
        }
    }

    fn load<'a>(&self, batch: &'a Batch, rows: &mut Rows<'a>) {
        for (key, account) in &mut rows.accounts {
            *account = self.accounts.get(key).copied();
            if let Some(budget) = self.budgets.get(&(batch.workspace.clone(), key.budget)) {
                let allowance =
                    Allowance { generation: budget.generation, limits: budget.limits.clone() };
                rows.budgets.insert(key.budget, allowance);
            }
        }
        if let Some(purse) = self.purses.get(&batch.workspace) {
            rows.budgets.insert(BUDGET, Allowance::of_credits(purse.granted()));
        }
        for (key, lease) in &mut rows.leases {
            *lease = self.leases.get(&(key.account.clone(), key.holder, key.epoch)).copied();
        }
        for (holder, successor) in &mut rows.successors {
            *successor = self.takeovers.get(holder).map(|takeover| takeover.successor);
        }
        let ids = batch.settlements.iter().map(|settlement| &settlement.id);
        rows.on_record = ids
            .filter(|id| self.settlements.contains_key(&(batch.workspace.clone(), (*id).clone())))
            .collect();
        rows.note_charged(batch, |id, account| {
            let entry = self.settlements.get(&(batch.workspace.clone(), id.clone()));
            let direct =
                |charge: &Charge| charge.road == Road::Direct && charge.account == *account;
            entry.is_some_and(|entry| entry.charges.iter().any(direct))
        });
    }

    fn save(&mut self, batch: &Batch, rows: &Rows<'_>, fresh: &[&Settlement], now: Wall) {
        for (key, account) in &rows.accounts {
            if let Some(account) = account {
                let before = self.accounts.insert((*key).clone(), *account).unwrap_or_default();
                if account.recalls > before.recalls {
                    self.words.recalled(key, account.recalls);
                }
            }
        }
        for (key, lease) in &rows.leases {
            if let Some(lease) = lease {
                self.leases.insert((key.account.clone(), key.holder, key.epoch), *lease);
            }
        }
        for settlement in fresh {
            let place = (batch.workspace.clone(), settlement.id.clone());
            if let Some(entry) = Entry::of_settlement(settlement, now) {
                self.entries.entry(batch.workspace.clone()).or_default().record(entry);
            }
            self.settlements.insert(place, on_record(settlement));
            if let Some(reservation) = settlement.reservation {
                let place = (batch.workspace.clone(), reservation);
                self.by_reservation.entry(place).or_default().push(settlement.id.clone());
            }
        }
    }
}

impl BudgetFilter {
    fn takes(&self, budget: &Budget) -> bool {
        let target = budget.scope.target.as_str();
        let period = budget.limits.schedule.as_ref().map(|schedule| schedule.period);
        (self.scope_kinds.is_empty() || self.scope_kinds.contains(&budget.scope.kind))
            && self.target.as_ref().is_none_or(|wanted| wanted == target)
            && self.is_active.is_none_or(|wanted| wanted == budget.is_active)
            && (self.periods.is_empty()
                || period.is_some_and(|period| self.periods.contains(&period)))
            && self.target_contains.as_ref().is_none_or(|part| target.contains(part.as_str()))
    }
}

/// Whether this is an account of the budget's generation in the window with this label, or counts its requests.
fn is_current(account: &AccountKey, budget: &Budget, label: &str) -> bool {
    account.workspace == budget.workspace
        && account.budget == budget.id
        && (account.generation == budget.generation && *account.window == *label
            || account.dimension == Dimension::Requests)
}

/// When a lease expires: not before the time that is given to who took its opener over.
fn expires_at(takeovers: &BTreeMap<HolderId, Takeover>, opener: HolderId, lease: &Lease) -> Wall {
    takeovers.get(&opener).map_or(lease.expires_at, |to| to.spared_until.max(lease.expires_at))
}

/// The form in which a settlement is on record.
fn on_record(settlement: &Settlement) -> Settlement {
    let charges = posting::charges_on_record(settlement).map(|(account, amount, road)| Charge {
        account: account.clone(),
        amount,
        road,
    });
    Settlement { charges: charges.collect(), ..settlement.clone() }
}
