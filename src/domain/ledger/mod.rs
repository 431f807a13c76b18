//! The ledger of one workspace: reserve, settle, release, and the leases behind them.
//!
//! A synchronous state machine. It admits against leases that it holds, and hands out batches for the store that report
//! what was consumed and draw what is needed. Whoever drives it sends one batch at a time, repeats it until the store has
//! answered, and brings the answer back. It reads no clock and draws no random number: both are arguments.
//!
//! Invariant: settle never fails.
//! Invariant: nothing is charged before every gate has passed.
//! Invariant: what is reserved never exceeds what was lent (plus what was recorded as overrun).

pub mod account;
mod accounts;
mod administer;
mod budgets;
pub mod escrow;
mod exchange;
mod gates;
mod minute;
#[cfg(test)]
mod model_tests;
mod recall;
mod reserve;
mod restore;
mod settle;
#[cfg(test)]
mod table_tests;

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

pub use self::accounts::ACCOUNTS_MAX;
pub use self::exchange::{Applied, Outgoing, TICK};
pub use self::reserve::{Verdict, WaiterId};
pub use self::restore::{NamedHold, RestoredReservation, Stamp};
pub use self::settle::{Actual, Correcting, Orphan};

use self::account::{AccountIndex, LocalAccount, Standing};
use self::accounts::Accounts;
use self::budgets::Budgets;
use self::recall::Recall;
use self::reserve::Waiter;
use crate::domain::budget::Dimension;
use crate::domain::decision::Decision;
use crate::domain::estimate::Lesson;
use crate::domain::ids::{HolderId, Id, ReservationId};
use crate::domain::ledger::escrow::AccountKey;
use crate::domain::money::{Amounts, Units};
use crate::domain::period::Window;
use crate::domain::settlement::Settlement;
use crate::domain::subject::Subject;
use crate::domain::time::{Mono, Now, Wall};

/// Open reservations of one workspace at the most: some 700 MB with what the journal keeps of them. Beyond it nothing more is
/// admitted.
pub const RESERVATIONS_MAX: usize = 1_000_000;
/// Settlements of one workspace that the store has not taken, at the most: some 200 MB. Beyond it nothing more is admitted, however
/// long the store is away.
pub const UNSENT_MAX: usize = 200_000;
/// Requests of one workspace that wait for the store at the most.
pub const WAITERS_MAX: usize = 10_000;

/// What the ledger's owner decides once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// After this time an open reservation is ended.
    pub reservation_timeout: Duration,
    /// How it is ended.
    pub on_timeout: OnTimeout,
    /// Time to live that leases are asked for with; leases without use are closed after it.
    pub lease_ttl: Duration,
    /// Whether other replicas draw from the same store.
    pub sharing: Sharing,
}

/// Whether other replicas draw from the same store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// This replica has the store for itself.
    #[default]
    Alone,
    /// Others have a part of what is lent: it is recalled when it is needed.
    Fleet,
}

/// What becomes of a reservation that nobody settles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnTimeout {
    /// It is charged in full and marked estimated: silence is no proof that nothing was spent.
    #[default]
    Charge,
    /// It is given back.
    Release,
}

/// The amount set aside for one request in flight.
#[derive(Debug, Clone)]
pub struct Reservation {
    /// Who asked.
    pub subject: Arc<Subject>,
    /// What it may cost.
    pub estimate: Amounts,
    /// What later estimates learn from its settlement.
    pub lesson: Lesson,
    /// When it was made.
    pub made_at: Now,
    /// What each account holds for it.
    pub holds: SmallVec<[Hold; 6]>,
}

/// The part of a reservation that one account bears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// The account.
    pub account: AccountIndex,
    /// In the account's dimension; one slot for requests.
    pub amount: Units,
}

/// A settlement that no batch has taken yet, with what it charged by way of leases.
#[derive(Debug)]
struct Unsent {
    settlement: Settlement,
    booked: Booked,
}

/// Charges by way of leases: the place of the account, its serial and the amount.
type Booked = SmallVec<[(AccountIndex, u32, Units); 4]>;

/// The ledger of one workspace.
#[derive(Debug)]
pub struct Ledger {
    workspace: Id,
    holder: HolderId,
    /// Who opened the leases: first the ledger's own holder, then those that it took over from.
    openers: Vec<HolderId>,
    terms: Terms,
    budgets: Budgets,
    accounts: Accounts,
    reservations: HashMap<ReservationId, Reservation, RandomState>,
    /// Open reservations in the order in which they time out; settled ones are passed over.
    timeouts: VecDeque<(Mono, ReservationId)>,
    waiters: VecDeque<Waiter>,
    next_waiter: u64,
    decided: Vec<(WaiterId, Decision)>,
    /// Settlements that no batch has taken yet.
    outbox: VecDeque<Unsent>,
    /// What the settlement that is being made has charged so far by way of leases.
    booked: Booked,
    /// Accounts that have something to tell the store.
    queue: Vec<AccountIndex>,
    /// The batch under way, if there is one.
    pending: Option<Vec<exchange::Sent>>,
    /// What is left of a batch that failed for a lost lease. It goes out before anything else.
    failed: Option<exchange::Parts>,
    last_epoch: u32,
    /// Accounts of passed windows that came back after a restart, until the leases are first tended.
    restored: HashMap<AccountKey, AccountIndex>,
    /// How far the search for idle accounts has come.
    swept_to: AccountIndex,
    /// Accounts that wait for others to hand back what they do not use, or did so in vain.
    recalls: HashMap<AccountIndex, Recall, RandomState>,
    /// Somebody waits for what the next batch says, or for its answer.
    is_pressing: bool,
    /// How often in a row there was something to tell when the leases were tended.
    lingered: u32,
    /// The most replicas that hold leases on one account, by the store's last word.
    holders: u32,
    /// What was admitted without a lease since the store last answered, per account.
    blind: HashMap<AccountIndex, Units, RandomState>,
    /// The window of request accounts.
    always: Arc<Window>,
}

impl Ledger {
    /// A ledger without budgets.
    #[must_use]
    pub fn new(workspace: Id, holder: HolderId, terms: Terms) -> Self {
        Self {
            workspace,
            holder,
            openers: vec![holder],
            terms,
            budgets: Budgets::default(),
            accounts: Accounts::default(),
            reservations: HashMap::default(),
            timeouts: VecDeque::new(),
            waiters: VecDeque::new(),
            next_waiter: 0,
            decided: Vec::new(),
            outbox: VecDeque::new(),
            booked: Booked::new(),
            queue: Vec::new(),
            pending: None,
            failed: None,
            last_epoch: 0,
            restored: HashMap::new(),
            swept_to: 0,
            recalls: HashMap::default(),
            is_pressing: false,
            lingered: 0,
            holders: 0,
            blind: HashMap::default(),
            always: Arc::new(Window { start: Wall::from_ms(0), end: None, label: Arc::from("") }),
        }
    }

    /// An open reservation.
    #[must_use]
    pub fn reservation(&self, id: ReservationId) -> Option<&Reservation> {
        self.reservations.get(&id)
    }

    /// What a reservation holds of money and tokens, by the names of the accounts. Deleted budgets are left out.
    #[must_use]
    pub fn named_holds(&self, reservation: &Reservation) -> Vec<NamedHold> {
        let named = reservation.holds.iter().filter_map(|hold| {
            Some(NamedHold { account: self.key(hold.account)?, amount: hold.amount })
        });
        named.filter(|hold| hold.account.dimension != Dimension::Requests).collect()
    }

    /// How many reservations are open.
    #[must_use]
    pub fn open_reservations(&self) -> usize {
        self.reservations.len()
    }

    /// All open reservations, in no particular order.
    pub fn reservations(&self) -> impl Iterator<Item = (ReservationId, &Reservation)> {
        self.reservations.iter().map(|(id, reservation)| (*id, reservation))
    }

    /// How many accounts are in memory.
    #[must_use]
    pub fn live_accounts(&self) -> usize {
        self.accounts.len()
    }

    /// All accounts in memory by their places, for those who check the books.
    pub fn accounts(&self) -> impl Iterator<Item = (AccountIndex, &LocalAccount)> {
        let places = 0..self.accounts.places();
        places.filter_map(|at| Some((at, self.accounts.get(at)?)))
    }

    /// Whether nothing would be lost with it: no budget, no reservation, nothing to tell, and no lease was ever opened.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.last_epoch == 0
            && self.budgets.is_empty()
            && self.reservations.is_empty()
            && self.waiters.is_empty()
            && self.outbox.is_empty()
            && self.pending.is_none()
            && self.accounts.len() == 0
    }

    /// Whose ledger it is.
    #[must_use]
    pub const fn workspace(&self) -> &Id {
        &self.workspace
    }

    /// Who holds its leases.
    #[must_use]
    pub const fn holder(&self) -> HolderId {
        self.holder
    }

    /// What an account counts.
    #[must_use]
    pub fn dimension(&self, at: AccountIndex) -> Option<Dimension> {
        self.accounts.get(at).map(|account| account.dimension)
    }

    /// The full name of an account; `None` once its budget was deleted.
    #[must_use]
    pub fn key(&self, at: AccountIndex) -> Option<AccountKey> {
        let account = self.accounts.get(at).filter(|account| account.standing != Standing::Dead)?;
        Some(AccountKey {
            workspace: self.workspace.clone(),
            budget: self.budgets.get(account.budget)?.id,
            generation: account.generation,
            dimension: account.dimension,
            target: account.target.clone(),
            window: Arc::clone(&account.window.label),
        })
    }

    /// What all leases on a dimension have lent to this replica and is not settled, in its unit.
    #[must_use]
    pub fn leased(&self, dimension: Dimension) -> Units {
        let accounts = (0..self.accounts.places()).filter_map(|at| self.accounts.get(at));
        accounts
            .filter(|account| account.dimension == dimension)
            .fold(Units::ZERO, |sum, account| {
                sum.plus(account.quota().minus(account.lease.consumed).or_zero())
            })
    }

    /// A number that no other account of this ledger ever had.
    #[must_use]
    pub fn serial(&self, at: AccountIndex) -> Option<u32> {
        self.accounts.get(at).map(|account| account.serial)
    }

    /// Where all accounts are.
    #[must_use]
    pub fn places(&self) -> Range<AccountIndex> {
        0..self.accounts.places()
    }

    /// All slots of rolling minutes that are taken of the accounts in these places: the account, when, and how many.
    pub fn stamps(
        &mut self,
        places: Range<AccountIndex>,
        now: Now,
    ) -> Vec<(AccountIndex, Mono, u32)> {
        let mut stamps = Vec::new();
        for at in places {
            let Some(minute) =
                self.accounts.get_mut(at).and_then(|account| account.minute.as_mut())
            else {
                continue;
            };
            stamps.extend(minute.stamps(now.mono).map(|(taken, count)| (at, taken, count)));
        }
        stamps
    }

    /// Answers for requests that were waiting, since the last call.
    pub fn take_decided(&mut self) -> Vec<(WaiterId, Decision)> {
        std::mem::take(&mut self.decided)
    }
}
