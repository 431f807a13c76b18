//! The credits at the store of the world: each grant counts once in its workspace and until it is over, and the balance is the sum of the
//! entries.

use std::collections::BTreeMap;
use std::time::Duration;

use bursar::domain::credits::{self, Added, CreditGrant, InForce};
use bursar::domain::ids::Id;
use bursar::domain::ledger::escrow;
use bursar::domain::money::{NanoUsd, Units};
use bursar::domain::time::Wall;
use bursar::store::CreditStore as _;

use super::store::{Fault, Store, at_once};
use super::truth::Truth;

/// More than any two clocks here are apart.
const CLOCKS_APART: Duration = Duration::from_secs(4);

/// The credits of a workspace.
#[derive(Debug, Default)]
pub(crate) struct Paid {
    /// What is granted and not expired.
    granted: NanoUsd,
    /// All grants that were ever added.
    grants: BTreeMap<Id, CreditGrant>,
    /// Σ of what was lent when some of them were over.
    kept: Units,
}

impl Store {
    /// Adds a grant of credits, at the time of some replica.
    pub(crate) fn grant(
        &mut self,
        (workspace, grant): (&Id, &CreditGrant),
        at: Wall,
        now: Wall,
        truth: &Truth,
    ) -> Result<Added, Fault> {
        let added = at_once(self.memory.add_credit(workspace, grant, at));
        let added = added.map_err(|error| error.to_string())?;
        let known = self.paid.get(workspace).and_then(|paid| paid.grants.get(&grant.id));
        match &added {
            Added::New(in_force) => {
                let paid = self.paid.entry(workspace.clone()).or_default();
                paid.grants.insert(grant.id.clone(), grant.clone());
                paid.granted = in_force.granted;
            }
            Added::Before(before) if known == Some(before) => {}
            Added::Expired if grant.expires_at.is_some_and(|end| end <= at) => {}
            _ => return Err(format!("{grant:?} came to {added:?}")),
        }
        self.check_credits(now, truth)?;
        Ok(added)
    }

    /// Takes out what is over of the credits by the clock of some replica.
    pub(crate) fn expire_credits(
        &mut self,
        workspace: &Id,
        at: Wall,
        now: Wall,
        truth: &Truth,
    ) -> Result<Option<InForce>, Fault> {
        let account = self.memory.books(&credits::account(workspace));
        let before = self.credits_in_force(workspace);
        let in_force = at_once(self.memory.expire_credits(workspace, at));
        let in_force = in_force.map_err(|error| error.to_string())?;
        if let Some(in_force) = in_force {
            let paid = self.paid.entry(workspace.clone()).or_default();
            paid.granted = in_force.granted;
            if before.is_some_and(|before| before.next_expiry.is_some_and(|end| end <= at)) {
                // What is lent just then counts as drawn, and stays when it is handed back.
                let held = account.map(|(account, _)| account.leased.plus(account.forfeited));
                paid.kept = paid.kept.plus(held.unwrap_or_default());
            }
            self.check_credits(now, truth)?;
        }
        Ok(in_force)
    }

    /// What is granted of a workspace's credits and not expired; `None` before the first grant.
    pub(crate) fn granted(&self, workspace: &Id) -> Option<NanoUsd> {
        self.paid.get(workspace).map(|paid| paid.granted)
    }

    /// What a replica that starts is told of the credits.
    pub(crate) fn credits_in_force(&self, workspace: &Id) -> Option<InForce> {
        let all = at_once(self.memory.load_credits()).ok()?;
        all.into_iter().find(|(of, _)| of == workspace).map(|(_, in_force)| in_force)
    }

    /// In each workspace each grant counts once, until it is over, and the balance is the sum of the entries.
    pub(crate) fn check_credits(&self, now: Wall, truth: &Truth) -> Result<(), Fault> {
        self.paid.iter().try_for_each(|(of, paid)| self.check_paid((of, paid), now, truth))
    }

    fn check_paid(
        &self,
        (workspace, paid): (&Id, &Paid),
        now: Wall,
        truth: &Truth,
    ) -> Result<(), Fault> {
        let granted = paid.granted;
        let holdings = at_once(self.memory.credits(workspace)).ok().flatten();
        let holdings = holdings.ok_or("the credits are gone")?;
        let (first, last) = (Wall::from_ms(0), Wall::from_ms(i64::MAX));
        let statement = at_once(self.memory.credit_statement(workspace, first, last));
        let statement = statement.map_err(|error| error.to_string())?;
        let sum = |is_meant: &dyn Fn(&CreditGrant) -> bool| {
            let meant = paid.grants.values().filter(|grant| is_meant(grant));
            meant.fold(NanoUsd::ZERO, |sum, grant| sum.plus(grant.amount))
        };
        let later = now.plus(CLOCKS_APART);
        let left = sum(&|grant| grant.expires_at.is_none_or(|end| end > later));
        let (balance, all) = (holdings.balance(), sum(&|_| true));
        let closing = statement.closing();
        let (entered, expired) = (statement.granted, statement.expired);
        let is_even = holdings.credits.granted == granted
            && balance == closing
            && entered == all
            && entered.plus(expired) == granted
            && granted >= left;
        if !is_even {
            return Err(format!(
                "the credits of {workspace} are not even: {all:?} paid, {entered:?} and {expired:?} entered, {granted:?} in force and \
                 {left:?} not over, {balance:?} left, which is {closing:?} by the entries"
            ));
        }
        check_balance(workspace, &holdings.account, truth)
    }

    /// At rest nothing is left of grants that are over but what was lent then, and what was given back afterwards.
    pub(crate) fn check_expired(&self, now: Wall, truth: &Truth) -> Result<(), Fault> {
        self.check_credits(now, truth)?;
        for (workspace, Paid { granted, grants, kept }) in &self.paid {
            let key = credits::account(workspace);
            let account = self.memory.books(&key).map(|(account, _)| account).unwrap_or_default();
            let good = grants.values().filter(|grant| grant.expires_at.is_none_or(|at| at > now));
            let good = good.fold(NanoUsd::ZERO, |sum, grant| sum.plus(grant.amount));
            let refunded = truth.accounts.get(&key).map_or(Units::ZERO, |sums| sums.refunded);
            let left = Units::from(credits::balance(*granted, &account));
            if left > Units::from(good).plus(*kept).plus(refunded) {
                return Err(format!(
                    "{left:?} left of credits, of which {good:?} are good: {account:?}"
                ));
            }
        }
        Ok(())
    }
}

/// The balance is what was granted and has not expired, less what is on record.
pub(crate) fn check_balance(
    workspace: &Id,
    account: &escrow::Account,
    truth: &Truth,
) -> Result<(), Fault> {
    let recorded = truth.accounts.get(&credits::account(workspace)).map(|sums| sums.recorded);
    if account.spent == recorded.unwrap_or_default() {
        return Ok(());
    }
    Err(format!("the credits of {workspace}: {account:?}, and {recorded:?} on record"))
}
