//! Changes of budgets. They are in force with the next decision.

use crate::domain::budget::{Budget, Dimension};
use crate::domain::credits;
use crate::domain::ids::BudgetId;
use crate::domain::ledger::Ledger;
use crate::domain::ledger::account::{
    AccountIndex, BudgetIndex, Exchanging, LocalAccount, Standing,
};
use crate::domain::money::Units;
use crate::domain::time::Now;

impl Ledger {
    /// Puts a budget in force, or replaces it. Leases drawn under other limits are handed back; accounts of money and
    /// tokens of another generation only wait for their open reservations; counters that were started anew are asked for.
    pub fn put_budget(&mut self, budget: Budget, now: Now) {
        let (id, generation, limits, shadow, resets) =
            (budget.id, budget.generation, budget.limits.clone(), budget.shadow, budget.resets);
        let (place, old) = self.budgets.put(budget);
        let Some(old) = old else { return };
        if old.resets != resets {
            self.reset_budget(id);
        }
        for at in self.accounts_of(place) {
            let counts_slots = self.dimension(at) == Some(Dimension::Requests);
            if old.generation != generation && !counts_slots {
                self.accounts.retire(at, Standing::Retired);
                self.forget_if_done(at);
            } else if old.limits != limits || old.shadow != shadow {
                self.change(at, |account| {
                    account.hand_back(Units::MAX, now);
                });
            }
        }
        self.retry_waiters(now);
    }

    /// Takes a budget out. Its reservations settle at the gates that remain.
    pub fn remove_budget(&mut self, id: BudgetId, now: Now) {
        let Some(place) = self.budgets.index_of(id) else { return };
        for at in self.accounts_of(place) {
            self.accounts.retire(at, Standing::Dead);
            self.forget_if_done(at);
        }
        self.budgets.remove(id);
        self.retry_waiters(now);
    }

    /// The store has started the budget's counters anew: the rolling minutes are empty, and the totals must be asked for.
    pub fn reset_budget(&mut self, id: BudgetId) {
        let Some(place) = self.budgets.index_of(id) else { return };
        for at in self.accounts_of(place) {
            self.change(at, |account| {
                if let Some(minute) = &mut account.minute {
                    minute.clear();
                }
            });
        }
    }

    /// Hands back what no reservation holds of a budget's leases, before what is unused of it is taken away.
    pub fn hand_back(&mut self, id: BudgetId, now: Now) {
        let Some(place) = self.budgets.index_of(id) else { return };
        for at in self.accounts_of(place) {
            self.change(at, |account| {
                account.hand_back(Units::MAX, now);
            });
        }
    }

    /// Requests in the rolling minutes of a budget, all its targets together.
    pub fn requests_in_window(&mut self, id: BudgetId, now: Now) -> u64 {
        let Some(place) = self.budgets.index_of(id) else { return 0 };
        let mut sum = 0u64;
        for at in self.accounts_of(place) {
            if let Some(minute) =
                self.accounts.get_mut(at).and_then(|account| account.minute.as_mut())
            {
                sum = sum.saturating_add(u64::from(minute.used(now.mono)));
            }
        }
        sum
    }

    /// All budgets that people made.
    pub fn budgets(&self) -> impl Iterator<Item = &Budget> {
        self.budgets.all().filter(|budget| budget.id != credits::BUDGET)
    }

    /// A budget as this replica enforces it.
    #[must_use]
    pub fn budget(&self, id: BudgetId) -> Option<&Budget> {
        self.budgets.get(self.budgets.index_of(id)?)
    }

    /// Changes an account and makes the store's next word the one that counts.
    fn change(&mut self, at: AccountIndex, change: impl FnOnce(&mut LocalAccount)) {
        let Some(account) = self.accounts.get_mut(at) else { return };
        change(account);
        account.doubt();
        if matches!(account.exchanging, Exchanging::Sent | Exchanging::SentAndQueued) {
            account.exchanging = Exchanging::Overtaken;
        }
        self.enqueue(at);
    }

    /// All accounts of a budget. A walk over the whole table: for changes that people make.
    fn accounts_of(&self, budget: BudgetIndex) -> Vec<AccountIndex> {
        let of_budget = |at: &AccountIndex| {
            self.accounts.get(*at).is_some_and(|account| {
                account.budget == budget && account.standing != Standing::Dead
            })
        };
        (0..self.accounts.places()).filter(of_budget).collect()
    }
}
