//! The gates of one request: which accounts it must pass, and how each stands.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::domain::budget::{Dimension, WhenUnavailable};
use crate::domain::credits;
use crate::domain::decision::{self, DimensionInfo, Refusal, RefusalCode, RefusingGate};
use crate::domain::ids::{BudgetId, Id};
use crate::domain::ledger::Ledger;
use crate::domain::ledger::account::{AccountIndex, BudgetIndex, LocalAccount, Standing};
use crate::domain::ledger::minute::MINUTE;
use crate::domain::ledger::recall::Recall;
use crate::domain::money::{Amounts, Units};
use crate::domain::subject::{ScopeKind, Subject};
use crate::domain::time::{Now, Wall};

/// A client whose request is in the way of others may try again after this.
pub(super) const IN_FLIGHT_RETRY: Duration = Duration::from_secs(1);
/// Stands for "never" when refusals are compared by how long they stand.
const FOREVER: Duration = Duration::MAX;

/// One budget × one dimension, as applied to one request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gate {
    /// The account behind it.
    pub account: AccountIndex,
    /// The budget behind it.
    pub id: BudgetId,
    /// The budget's kind of scope.
    pub kind: ScopeKind,
    /// What is counted.
    pub dimension: Dimension,
    /// What the budget allows.
    pub limit: Units,
    /// What the request sets aside here.
    pub asked: Units,
    /// Counts, but never refuses.
    pub shadow: bool,
    /// What to do when the store is away.
    pub when_unavailable: WhenUnavailable,
    /// When a one-time budget ends.
    pub expires_at: Option<Wall>,
}

/// The gates of one request, in the order in which ties are broken.
pub(super) type Gates = SmallVec<[Gate; 8]>;

/// What a gate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// There is enough here.
    Pass,
    /// Not enough here; the store may have more.
    Lack,
    /// Not enough here; others were asked to hand back what they do not use.
    Wait,
    /// Not enough anywhere, as far as is known.
    Short,
}

impl Gate {
    /// The least that must be available.
    pub(super) fn need(&self) -> Units {
        self.asked.max(Units::ONE)
    }

    /// How this gate stands towards its request.
    pub(super) fn judge(
        &self,
        account: &mut LocalAccount,
        recall: Option<Recall>,
        now: Now,
    ) -> Judgement {
        if self.limit <= Units::ZERO && !self.is_credits() {
            // A limit of zero blocks all, and no store has to be asked for it. Credits may have been added elsewhere.
            return Judgement::Short;
        }
        let need = self.need();
        let (here, elsewhere) = self.in_hand(account, now);
        if account.is_leased(now) && here >= need {
            return Judgement::Pass;
        }
        if !account.is_leased(now) || !account.is_known(now) {
            return Judgement::Lack;
        }
        // Where all are in need, the little that was free when the store answered is gone by now.
        let is_gone = matches!(recall, Some(Recall::Failed(_)))
            && account.is_in_vain()
            && account.is_scarce();
        if here.plus(elsewhere) >= need && !is_gone {
            return Judgement::Lack;
        }
        match recall {
            Some(Recall::Waiting(_) | Recall::Asking) => Judgement::Wait,
            Some(Recall::Failed(_)) => Judgement::Short,
            None if here.plus(elsewhere).plus(account.lent_elsewhere(self.limit)) < need => {
                Judgement::Short
            }
            None => Judgement::Lack,
        }
    }

    /// Whether it would refuse if it were not a shadow, by what is known without a lease: settlements everywhere, and
    /// requests in flight here.
    pub(super) fn would_refuse(&self, account: &mut LocalAccount, now: Now) -> bool {
        let left = match &mut account.minute {
            Some(minute) => self.limit.minus(Units::new(i64::from(minute.used(now.mono)))),
            None => account.left(self.limit).minus(account.reserved),
        };
        left < self.need()
    }

    /// The numbers of this gate for headers and refusals.
    pub(super) fn info(&self, account: &mut LocalAccount, now: Now) -> DimensionInfo {
        let (here, elsewhere) = self.in_hand(account, now);
        let remaining = here.plus(elsewhere).or_zero().min(self.limit);
        DimensionInfo {
            limit: self.limit,
            remaining,
            reset_seconds: self.reset_seconds(account, now),
        }
    }

    /// The refusal that this gate stands for, when a retry can succeed, and for how long it will stand.
    pub(super) fn refusal(
        &self,
        account: &mut LocalAccount,
        now: Now,
    ) -> (RefusalCode, Option<Duration>, Duration) {
        if account.minute.is_some() {
            let wait = self.wait_for_slot(account, now);
            return (RefusalCode::RequestsPerMinuteExceeded, wait, wait.unwrap_or(FOREVER));
        }
        let reset = self.reset_seconds(account, now).map(Duration::from_secs);
        let stands = reset.unwrap_or(FOREVER);
        let left = account.left(self.limit);
        if left <= Units::ZERO {
            let code = match self.dimension {
                Dimension::Cost if self.is_credits() => RefusalCode::CreditsExhausted,
                Dimension::Tokens => RefusalCode::TokenBudgetExceeded,
                Dimension::Cost | Dimension::Requests => RefusalCode::CostBudgetExceeded,
            };
            return (code, reset, stands);
        }
        if left < self.need() {
            return (RefusalCode::RequestExceedsBudget, None, stands);
        }
        (RefusalCode::BudgetInFlight, Some(IN_FLIGHT_RETRY), IN_FLIGHT_RETRY)
    }

    fn is_credits(&self) -> bool {
        self.id == credits::BUDGET
    }

    /// Time until the rolling minute has a slot; `None` when it never will.
    fn wait_for_slot(&self, account: &mut LocalAccount, now: Now) -> Option<Duration> {
        if self.limit <= Units::ZERO {
            return None;
        }
        let quota = u32::try_from(account.quota().min(self.limit).get()).unwrap_or(0);
        let minute = account.minute.as_mut()?;
        let too_many = minute.used(now.mono).saturating_sub(quota).saturating_add(1);
        let wait = minute.until_free(too_many, now.mono);
        // Short without slots of its own to come free, it waits for slots that are quarantined or lent elsewhere.
        Some(if wait > Duration::ZERO { wait } else { IN_FLIGHT_RETRY })
    }

    /// What this replica may still admit, and what the pool has besides. A pool in the red is made good first.
    fn in_hand(&self, account: &mut LocalAccount, now: Now) -> (Units, Units) {
        let here = account.usable(self.limit, now);
        let mut elsewhere = account.free();
        if account.minute.is_some() {
            elsewhere = elsewhere.min(self.limit.minus(account.quota()));
        }
        (here, elsewhere.or_zero())
    }

    fn reset_seconds(&self, account: &mut LocalAccount, now: Now) -> Option<u64> {
        if let Some(minute) = &mut account.minute {
            let wait = minute.until_free(1, now.mono).min(MINUTE);
            let whole = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
            return (whole > 0).then_some(whole);
        }
        account.window.end.or(self.expires_at).map(|end| now.wall.seconds_until(end))
    }
}

impl Ledger {
    /// The gates that apply to a subject now, opening accounts that are not there yet. `None` when there is no room for another
    /// account.
    pub(super) fn gates(
        &mut self,
        subject: &Subject,
        estimate: Amounts,
        now: Now,
    ) -> Option<Gates> {
        let mut gates = Gates::new();
        for (place, target) in self.budgets.applicable(subject, now.wall) {
            let Some(budget) = self.budgets.get(place) else { continue };
            let gate = Gate {
                account: AccountIndex::MAX,
                id: budget.id,
                kind: budget.scope.kind,
                dimension: Dimension::Requests,
                limit: Units::ZERO,
                asked: Units::ONE,
                shadow: budget.shadow,
                when_unavailable: budget.when_unavailable,
                expires_at: budget.expires_at,
            };
            let limits = [
                (Dimension::Cost, Units::from(estimate.cost)),
                (Dimension::Tokens, Units::from(estimate.tokens)),
                (Dimension::Requests, Units::ONE),
            ]
            .map(|(dimension, asked)| (dimension, asked, budget.limits.of(dimension)));
            for (dimension, asked, limit) in limits {
                let Some(limit) = limit else { continue };
                let account = self.live_account(place, dimension, &target, now.wall)?;
                gates.push(Gate { account, dimension, limit, asked, ..gate });
            }
        }
        Some(gates)
    }

    /// The account of a target in the current window. One whose window has passed is retired and followed by a new one.
    fn live_account(
        &mut self,
        place: BudgetIndex,
        dimension: Dimension,
        target: &Id,
        at: Wall,
    ) -> Option<AccountIndex> {
        let window = match dimension {
            Dimension::Requests => &self.always,
            Dimension::Cost | Dimension::Tokens => self.budgets.window(place, at)?,
        };
        let found = self.accounts.find(place, dimension, target.as_str());
        if found.is_some_and(|at| self.accounts.is_in(at, window)) {
            return found;
        }
        let window = Arc::clone(window);
        if let Some(past) = found {
            self.accounts.retire(past, Standing::Retired);
            self.enqueue(past);
        }
        let budget = self.budgets.get(place)?;
        self.accounts.add(LocalAccount::new((place, budget), dimension, target.clone(), window))
    }

    /// The most restrictive numbers of each dimension.
    pub(super) fn standing(&mut self, gates: &Gates, now: Now) -> decision::Standing {
        let mut standing = decision::Standing::default();
        for gate in gates.iter().filter(|gate| !gate.shadow) {
            let Some(account) = self.accounts.get_mut(gate.account) else { continue };
            if !account.was_told() {
                // The store was never asked: nobody here knows what is left.
                continue;
            }
            let info = gate.info(account, now);
            let slot = match gate.dimension {
                Dimension::Cost => &mut standing.cost,
                Dimension::Tokens => &mut standing.tokens,
                Dimension::Requests => &mut standing.requests,
            };
            if slot.is_none_or(|most| info.remaining < most.remaining) {
                *slot = Some(info);
            }
        }
        standing
    }

    /// The refusal that stands longest among the gates that are short; among equals the first in order.
    pub(super) fn refusal(&mut self, gates: &Gates, short: &[usize], now: Now) -> Option<Refusal> {
        let mut longest: Option<(Duration, Gate, RefusalCode, Option<Duration>)> = None;
        for gate in short.iter().filter_map(|at| gates.get(*at)) {
            let Some(account) = self.accounts.get_mut(gate.account) else { continue };
            let (code, retry_after, stands) = gate.refusal(account, now);
            let ahead = longest.as_ref().is_none_or(|(most, first, ..)| {
                stands > *most || (stands == *most && (gate.kind, gate.id) < (first.kind, first.id))
            });
            if ahead {
                longest = Some((stands, *gate, code, retry_after));
            }
        }
        let (_, gate, code, retry_after) = longest?;
        let standing = self.standing(gates, now);
        let account = self.accounts.get_mut(gate.account)?;
        let gate = RefusingGate {
            budget: gate.id,
            scope_kind: gate.kind,
            target: account.target.clone(),
            dimension: gate.dimension,
            info: gate.info(account, now),
            asked: gate.asked,
        };
        Some(Refusal { code, gate: Some(gate), retry_after, standing })
    }
}
