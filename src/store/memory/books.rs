//! The rows of the lease protocol in memory, for those who check the books.

use super::MemoryStore;
use crate::domain::ids::HolderId;
use crate::domain::ledger::escrow::{Account, AccountKey, Lease};

/// A lease with the holder and the epoch that name it.
pub type NamedLease = (HolderId, u32, Lease);

impl MemoryStore {
    /// The names of all accounts, in their order.
    #[must_use]
    pub fn account_keys(&self) -> Vec<AccountKey> {
        self.tables().accounts.keys().cloned().collect()
    }

    /// An account and every lease on it that is on record. `None` when there is no such account.
    #[must_use]
    pub fn books(&self, key: &AccountKey) -> Option<(Account, Vec<NamedLease>)> {
        let tables = self.tables();
        let account = *tables.accounts.get(key)?;
        let from = (key.clone(), HolderId(0), 0);
        let leases = tables.leases.range(from..).take_while(|((account, ..), _)| account == key);
        Some((
            account,
            leases.map(|((_, holder, epoch), lease)| (*holder, *epoch, *lease)).collect(),
        ))
    }

    /// One lease; `None` when it is not on record.
    #[must_use]
    pub fn lease(&self, key: &AccountKey, holder: HolderId, epoch: u32) -> Option<Lease> {
        self.tables().leases.get(&(key.clone(), holder, epoch)).copied()
    }
}
