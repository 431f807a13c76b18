//! All accounts of a workspace in one dense table, found by budget, dimension and target. A place is given to another
//! account only when nothing refers to it any more. Nothing here is ever evicted: an account leaves after its lease was closed.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::domain::budget::Dimension;
use crate::domain::ledger::account::{
    AccountIndex, BudgetIndex, Exchanging, LocalAccount, Standing,
};
use crate::domain::period::Window;

/// Accounts of one workspace at the most: some 500 MB. Beyond it new targets are answered "unavailable".
pub const ACCOUNTS_MAX: usize = 2_000_000;

/// The table.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    slots: Vec<Option<LocalAccount>>,
    vacant: Vec<AccountIndex>,
    /// Live accounts only: a retired one has made room for its successor.
    index: HashTable<AccountIndex>,
    hasher: RandomState,
    last_serial: u32,
}

impl Accounts {
    /// The live account of a target under a budget.
    pub(super) fn find(
        &self,
        budget: BudgetIndex,
        dimension: Dimension,
        target: &str,
    ) -> Option<AccountIndex> {
        let hash = self.hash(budget, dimension, target);
        self.index
            .find(hash, |at| {
                self.get(*at).is_some_and(|account| {
                    account.budget == budget
                        && account.dimension == dimension
                        && account.target.as_str() == target
                })
            })
            .copied()
    }

    /// Adds a live account. `None` when the table is full.
    pub(super) fn add(&mut self, account: LocalAccount) -> Option<AccountIndex> {
        let hash = self.hash(account.budget, account.dimension, account.target.as_str());
        let at = self.place(account)?;
        let Self { slots, index, hasher, .. } = self;
        index.insert_unique(hash, at, |at| {
            slots.get(place(*at)).and_then(Option::as_ref).map_or(0, |account| {
                hasher.hash_one((account.budget, account.dimension, account.target.as_str()))
            })
        });
        Some(at)
    }

    /// Adds an account that no request will find. `None` when the table is full.
    pub(super) fn add_retired(&mut self, account: LocalAccount) -> Option<AccountIndex> {
        let mut account = account;
        account.standing = Standing::Retired;
        self.place(account)
    }

    /// The account at a place.
    pub(super) fn get(&self, at: AccountIndex) -> Option<&LocalAccount> {
        self.slots.get(place(at))?.as_ref()
    }

    /// The account at a place, to change.
    pub(super) fn get_mut(&mut self, at: AccountIndex) -> Option<&mut LocalAccount> {
        self.slots.get_mut(place(at))?.as_mut()
    }

    /// Whether an account counts in this window.
    pub(super) fn is_in(&self, at: AccountIndex, window: &Window) -> bool {
        self.get(at).is_some_and(|account| account.window.start == window.start)
    }

    /// Takes an account out of the index: requests no longer find it.
    pub(super) fn retire(&mut self, at: AccountIndex, standing: Standing) {
        let Some(account) = self.get(at) else { return };
        let hash = self.hash(account.budget, account.dimension, account.target.as_str());
        if let Ok(entry) = self.index.find_entry(hash, |found| *found == at) {
            entry.remove();
        }
        if let Some(account) = self.get_mut(at) {
            account.standing = standing;
        }
    }

    /// Frees a place, unless an open reservation or an exchange under way refers to it.
    pub(super) fn vacate(&mut self, at: AccountIndex) {
        let Some(account) = self.get(at) else { return };
        let is_idle = matches!(account.exchanging, Exchanging::Idle | Exchanging::Queued);
        if account.holds > 0 || !is_idle {
            return;
        }
        self.retire(at, Standing::Dead);
        if let Some(slot) = self.slots.get_mut(place(at)) {
            *slot = None;
            self.vacant.push(at);
        }
    }

    /// Places that are or were in use: all indexes are below it.
    pub(super) fn places(&self) -> AccountIndex {
        AccountIndex::try_from(self.slots.len()).unwrap_or(AccountIndex::MAX)
    }

    /// Accounts in the table.
    pub(super) fn len(&self) -> usize {
        self.slots.len().saturating_sub(self.vacant.len())
    }

    fn place(&mut self, mut account: LocalAccount) -> Option<AccountIndex> {
        self.last_serial = self.last_serial.wrapping_add(1);
        account.serial = self.last_serial;
        if let Some(at) = self.vacant.pop() {
            *self.slots.get_mut(place(at))? = Some(account);
            return Some(at);
        }
        if self.slots.len() >= ACCOUNTS_MAX {
            return None;
        }
        let at = self.places();
        self.slots.push(Some(account));
        Some(at)
    }

    fn hash(&self, budget: BudgetIndex, dimension: Dimension, target: &str) -> u64 {
        self.hasher.hash_one((budget, dimension, target))
    }
}

fn place(at: AccountIndex) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}
