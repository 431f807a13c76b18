//! Prepaid credits in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{MemoryStore, Tables};
use crate::domain::credits::{
    self, Added, Alert, AlertTerms, CreditGrant, Credits, Entry, EntryId, EntryKind, Holdings,
    InForce, Notice, OpenGrant, SPEND_LINES_MAX, Spender, Statement,
};
use crate::domain::ids::Id;
use crate::domain::ledger::escrow::Account;
use crate::domain::money::NanoUsd;
use crate::domain::time::Wall;
use crate::store::{CreditStore, EntryPage, StoreError};

/// The credits of one workspace.
#[derive(Debug, Default)]
pub(super) struct Purse {
    granted: NanoUsd,
    grants: BTreeMap<Id, OpenGrant>,
}

/// The entries of one workspace.
#[derive(Debug, Default)]
pub(super) struct Entries(BTreeMap<EntryId, Entry>);

impl Purse {
    pub(super) const fn granted(&self) -> NanoUsd {
        self.granted
    }

    fn credits(&self) -> Credits {
        let open = self.grants.values().filter(|grant| grant.left > NanoUsd::ZERO);
        Credits::new(self.granted, open.cloned().collect())
    }

    fn save(&mut self, credits: Credits) {
        self.granted = credits.granted;
        for open in credits.open {
            self.grants.insert(open.grant.id.clone(), open);
        }
    }

    fn add(
        &mut self,
        account: &Account,
        grant: &CreditGrant,
        entries: &mut Entries,
        now: Wall,
    ) -> Added {
        if let Some(before) = self.grants.get(&grant.id) {
            let same = before.grant.says_the_same(grant);
            return if same { Added::Before(before.grant.clone()) } else { Added::Differs };
        }
        let mut credits = self.credits();
        let added = credits.add(grant.clone(), account, now);
        if let Added::New(_) = added {
            self.save(credits);
            entries.record(Entry::of_grant(grant, now));
        }
        added
    }

    fn expire(&mut self, account: &Account, entries: &mut Entries, now: Wall) -> InForce {
        let mut credits = self.credits();
        for expiry in credits.expire(account, now) {
            if let Some(grant) = self.grants.get_mut(&expiry.grant) {
                grant.left = NanoUsd::ZERO;
            }
            entries.record(Entry::of_expiry(&expiry, now));
        }
        let in_force = credits.in_force();
        self.save(credits);
        in_force
    }
}

impl Entries {
    pub(super) fn record(&mut self, entry: Entry) {
        self.0.entry(entry.id.clone()).or_insert(entry);
    }

    fn page(&self, after: Option<&EntryId>, limit: usize) -> Option<EntryPage> {
        let edge = match after {
            None => None,
            Some(id) => Some((self.0.get(id)?.at, id)),
        };
        let older = |entry: &&Entry| edge.is_none_or(|edge| (entry.at, &entry.id) < edge);
        let mut entries: Vec<Entry> = self.0.values().filter(older).cloned().collect();
        entries.sort_by(|a, b| (b.at, &b.id).cmp(&(a.at, &a.id)));
        let has_more = entries.len() > limit;
        entries.truncate(limit);
        Some(EntryPage { entries, has_more })
    }

    fn statement(&self, from: Wall, to: Wall) -> Statement {
        let mut statement = Statement::default();
        let mut spend: BTreeMap<Spender, NanoUsd> = BTreeMap::new();
        for entry in self.0.values().filter(|entry| entry.at < to) {
            let sum = match entry.id.kind {
                _ if entry.at < from => &mut statement.opening,
                EntryKind::Grant => &mut statement.granted,
                EntryKind::Expiry => &mut statement.expired,
                EntryKind::Adjustment => &mut statement.adjusted,
                EntryKind::Usage => spend.entry(entry.spender.clone()).or_default(),
            };
            *sum = sum.plus(entry.amount);
        }
        statement.spend = spend.into_iter().collect();
        statement.spend.sort_by(|(a, x), (b, y)| (x, a).cmp(&(y, b)));
        let rest = statement.spend.split_off(statement.spend.len().min(SPEND_LINES_MAX));
        statement.other_spend = rest.iter().fold(NanoUsd::ZERO, |sum, (_, x)| sum.plus(*x));
        statement
    }
}

impl Tables {
    fn credit_account(&self, workspace: &Id) -> Account {
        self.accounts.get(&credits::account(workspace)).copied().unwrap_or_default()
    }
}

#[async_trait]
impl CreditStore for MemoryStore {
    async fn add_credit(
        &self,
        workspace: &Id,
        grant: &CreditGrant,
        now: Wall,
    ) -> Result<Added, StoreError> {
        let mut tables = self.tables();
        let account = tables.credit_account(workspace);
        let Tables { purses, entries, words, .. } = &mut *tables;
        let entries = entries.entry(workspace.clone()).or_default();
        let mut purse = purses.remove(workspace).unwrap_or_default();
        let added = purse.add(&account, grant, entries, now);
        if !purse.grants.is_empty() {
            purses.insert(workspace.clone(), purse);
        }
        if let Added::New(_) = added {
            words.changed(workspace);
        }
        Ok(added)
    }

    async fn expire_credits(
        &self,
        workspace: &Id,
        now: Wall,
    ) -> Result<Option<InForce>, StoreError> {
        let mut tables = self.tables();
        let account = tables.credit_account(workspace);
        let Tables { purses, entries, words, .. } = &mut *tables;
        let entries = entries.entry(workspace.clone()).or_default();
        let Some(purse) = purses.get_mut(workspace) else { return Ok(None) };
        let before = purse.granted;
        let in_force = purse.expire(&account, entries, now);
        if in_force.granted != before {
            words.changed(workspace);
        }
        Ok(Some(in_force))
    }

    async fn credits(&self, workspace: &Id) -> Result<Option<Holdings>, StoreError> {
        let tables = self.tables();
        let account = tables.credit_account(workspace);
        Ok(tables.purses.get(workspace).map(|purse| Holdings::new(purse.credits(), account)))
    }

    async fn load_credits(&self) -> Result<Vec<(Id, InForce)>, StoreError> {
        let tables = self.tables();
        let all = tables.purses.iter();
        Ok(all.map(|(workspace, purse)| (workspace.clone(), purse.credits().in_force())).collect())
    }

    async fn credit_entries(
        &self,
        workspace: &Id,
        after: Option<&EntryId>,
        limit: usize,
    ) -> Result<EntryPage, StoreError> {
        let tables = self.tables();
        let page = tables.entries.get(workspace).and_then(|entries| entries.page(after, limit));
        Ok(page.unwrap_or(EntryPage { entries: Vec::new(), has_more: false }))
    }

    async fn credit_statement(
        &self,
        workspace: &Id,
        from: Wall,
        to: Wall,
    ) -> Result<Statement, StoreError> {
        let tables = self.tables();
        let entries = tables.entries.get(workspace);
        Ok(entries.map(|entries| entries.statement(from, to)).unwrap_or_default())
    }

    async fn set_credit_alert(
        &self,
        workspace: &Id,
        terms: Option<&AlertTerms>,
    ) -> Result<(), StoreError> {
        let mut tables = self.tables();
        match terms {
            Some(terms) => {
                tables.alerts.insert(workspace.clone(), Alert::new(terms.clone()));
            }
            None => {
                tables.alerts.remove(workspace);
            }
        }
        Ok(())
    }

    async fn credit_alert(&self, workspace: &Id) -> Result<Option<Alert>, StoreError> {
        Ok(self.tables().alerts.get(workspace).cloned())
    }

    async fn due_notices(&self, now: Wall) -> Result<Vec<Notice>, StoreError> {
        let Tables { alerts, purses, accounts, .. } = &mut *self.tables();
        let mut notices = Vec::new();
        for (workspace, alert) in alerts {
            let Some(purse) = purses.get(workspace) else { continue };
            let account = accounts.get(&credits::account(workspace)).copied().unwrap_or_default();
            let balance = credits::balance(purse.granted, &account);
            notices.extend(alert.observe(workspace, balance, now));
        }
        Ok(notices)
    }

    async fn notice_told(&self, notice: &Notice) -> Result<(), StoreError> {
        if let Some(alert) = self.tables().alerts.get_mut(&notice.workspace) {
            alert.told(notice.crossing);
        }
        Ok(())
    }
}
