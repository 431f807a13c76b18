//! Recall: the pool has not enough, but other replicas have idle what is lacking. They are asked to hand it back, the request
//! waits a moment, asks once more, and only then is refused.

use std::time::Duration;

use crate::domain::ledger::account::{AccountIndex, LocalAccount, crumbs};
use crate::domain::ledger::escrow::{AccountKey, Draw, Exchange};
use crate::domain::ledger::gates::Gates;
use crate::domain::ledger::{Ledger, Sharing};
use crate::domain::money::Units;
use crate::domain::time::{Mono, Now};

/// How long others have to hand back what they do not use.
const RECALL_WAIT: Duration = Duration::from_millis(25);

/// Where a recall of one account stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recall {
    /// Others were told; the store is asked again at this time.
    Waiting(Mono),
    /// The store is asked again.
    Asking,
    /// Nobody had enough to give. It is taken as true until this time, whatever else the store says meanwhile.
    Failed(Mono),
}

impl Ledger {
    /// Others need what is idle of an account here: it was recalled for the n-th time. Returns whether something is handed back.
    pub fn recalled(&mut self, key: &AccountKey, recalls: u32, now: Now) -> bool {
        let Some(at) = self.find(key) else { return false };
        let Some(account) = self.accounts.get_mut(at) else { return false };
        // Whoever lacks something itself has nothing idle.
        if self.recalls.get(&at).is_some_and(|recall| recall.stands(now)) {
            return false;
        }
        let limit = self.budgets.get(account.budget).and_then(|of| of.limits.of(account.dimension));
        let crumbs = crumbs(limit.unwrap_or_default(), self.holders);
        let gives = account.heed(recalls, Units::MAX, crumbs, now) > Units::ZERO;
        if gives {
            self.press(at);
        }
        gives
    }

    /// When a recall is over and the store should be asked again; `None` when nobody waits for others.
    #[must_use]
    pub fn next_recall(&self) -> Option<Mono> {
        self.recalls.values().filter_map(|recall| recall.ends_at()).min()
    }

    /// Asks the store again for what others had time to hand back.
    pub fn tend_recalls(&mut self, now: Now) {
        let is_over = |recall: &Recall| recall.ends_at().is_some_and(|at| at <= now.mono);
        let over = self.recalls.iter().filter(|(_, recall)| is_over(recall));
        let mut over: Vec<_> = over.map(|(at, _)| *at).collect();
        over.sort_unstable();
        for at in over {
            self.recalls.insert(at, Recall::Asking);
            self.press(at);
        }
    }

    /// Notes how a draw was answered: with nothing, though others hold some, a recall begins; the second time it has failed. Who
    /// has asked in vain before waits for others only every other time, until there is more than near exhaustion.
    pub(super) fn note_draw(&mut self, at: AccountIndex, sent: &Exchange, lent: Units, now: Now) {
        if self.terms.sharing == Sharing::Alone {
            return;
        }
        let before = self.recalls.get(&at).copied();
        let Some(draw) = sent.draw.filter(|draw| draw.is_waited_for()) else {
            return self.forget_recall(at);
        };
        let next = if !self.others_may_give(at, draw, lent) {
            None
        } else {
            let gives_up = self.accounts.get(at).is_some_and(LocalAccount::gives_up_on_others);
            match before {
                None | Some(Recall::Failed(_)) if gives_up => Some(self.failed(at, now)),
                None | Some(Recall::Failed(_)) => Some(Recall::Waiting(now.mono.plus(RECALL_WAIT))),
                Some(Recall::Waiting(until)) => Some(Recall::Waiting(until)),
                Some(Recall::Asking) => Some(self.failed(at, now)),
            }
        };
        match next {
            Some(recall) => self.recalls.insert(at, recall),
            None => self.recalls.remove(&at),
        };
    }

    /// Nobody waits any more for what was recalled: what is idle here is for others again.
    pub(super) fn forget_recall(&mut self, at: AccountIndex) {
        if matches!(self.recalls.get(&at), Some(Recall::Waiting(_) | Recall::Asking)) {
            self.recalls.remove(&at);
        }
    }

    /// A recall that nobody could heed.
    fn failed(&mut self, at: AccountIndex, now: Now) -> Recall {
        let Some(account) = self.accounts.get_mut(at) else { return Recall::Failed(now.mono) };
        account.asked_in_vain();
        Recall::Failed(now.mono.plus(account.known_for()))
    }

    /// Whether nothing was lent and other replicas have what is lacking.
    fn others_may_give(&self, at: AccountIndex, draw: Draw, lent: Units) -> bool {
        let Some(account) = self.accounts.get(at) else { return false };
        let Some(limit) =
            self.budgets.get(account.budget).and_then(|budget| budget.limits.of(account.dimension))
        else {
            return false;
        };
        let found = account.free().or_zero().plus(account.lent_elsewhere(limit));
        lent == Units::ZERO && account.lent_elsewhere(limit) > Units::ZERO && found >= draw.need_min
    }

    /// A request's patience has ended: what it waits for from others will not come.
    pub(super) fn end_recalls(&mut self, gates: &Gates, now: Now) {
        for gate in gates {
            let account = self.accounts.get(gate.account);
            let until = now.mono.plus(account.map(LocalAccount::known_for).unwrap_or_default());
            if let Some(recall) = self.recalls.get_mut(&gate.account) {
                *recall = Recall::Failed(until);
            }
        }
    }

    /// A request is refused because others hold what it needs: what was drawn for it elsewhere is of more use to them.
    pub(super) fn let_go(&mut self, gates: &Gates, now: Now) {
        let in_vain = |at| matches!(self.recalls.get(&at), Some(Recall::Failed(_)));
        if !gates.iter().any(|gate| in_vain(gate.account)) {
            return;
        }
        for gate in gates {
            let Some(account) = self.accounts.get_mut(gate.account) else { continue };
            if account.give_leftovers(now) > Units::ZERO {
                self.press(gate.account);
            }
        }
    }

    /// Puts an account on the list for the next batch, which somebody waits for.
    pub(super) fn press(&mut self, at: AccountIndex) {
        self.enqueue(at);
        self.is_pressing = true;
    }

    /// Somebody waits until all that there is to tell is durable.
    pub fn hurry(&mut self) {
        self.is_pressing = true;
    }
}

impl Recall {
    const fn ends_at(self) -> Option<Mono> {
        match self {
            Self::Waiting(until) => Some(until),
            Self::Asking | Self::Failed(_) => None,
        }
    }

    /// Whether it says anything about now.
    pub(super) fn stands(self, now: Now) -> bool {
        match self {
            Self::Waiting(_) | Self::Asking => true,
            Self::Failed(until) => now.mono < until,
        }
    }
}
