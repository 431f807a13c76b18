//! Floor 2: the async driver. It runs the ledgers' batches against a store, keeps the journal, and owns the one clock.
//!
//! All ledgers stand behind one plain mutex: a decision takes about a microsecond, and nothing waits while it is held.
//! Background tasks do the rest: one, woken by a `Notify`, brings batches to the store (`driver`); another does what time asks for,
//! whatever the store does (`tend`).

mod adjust;
mod administer;
pub mod clock;
mod credits;
mod decide;
mod driver;
mod elsewhere;
mod entropy;
mod forfeits;
mod handoff;
pub mod journal;
mod keys;
mod learning;
mod metered;
mod news;
mod pace;
mod priced;
mod renewal;
mod report;
mod start;
mod tend;
#[cfg(test)]
mod tests;
mod turn;
pub mod under_way;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;

use self::clock::Clock;
use self::entropy::Entropy;
use self::journal::JournalFile;
use self::keys::KeyCache;
use self::under_way::UnderWay;
use crate::domain::decision::Decision;
use crate::domain::estimate::{Learned, Unpriced};
use crate::domain::ids::{HolderId, Id};
use crate::domain::ledger::escrow::AccountKey;
use crate::domain::ledger::{Ledger, Sharing, Terms, WaiterId};
use crate::domain::pricing::PriceTable;
use crate::domain::time::{Mono, Now, Wall};
use crate::store::{Store, StoreError};
use crate::telemetry::Metrics;

pub use self::administer::Consumption;
pub use self::decide::{Ask, Held};
pub use self::handoff::Released;
pub use self::report::{Against, Correction, Origin, Report, ReportError, Settled, Used};
pub use self::tend::has_jumped;

/// The price table in force; whoever holds the other end puts a new one in its place.
pub type Prices = watch::Receiver<Arc<PriceTable>>;

/// Workspaces of one replica at the most. Beyond it requests of new ones are answered "unavailable".
const WORKSPACES_MAX: usize = 10_000;
/// How long the store's last answer to whether it is there is believed.
const PING_BELIEVED: Duration = Duration::from_millis(500);

/// The handle that adapters hold. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

/// What the engine's owner decides.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How reservations and leases end.
    pub terms: Terms,
    /// Where the journal is; `None` for none, and then a crash forfeits what was in flight.
    pub journal: Option<PathBuf>,
    /// What usage of a model without a price is booked at.
    pub unpriced: Unpriced,
}

struct Shared {
    holder: HolderId,
    /// All whose reservations this process answers for: itself, and those that it took over.
    holders: Vec<HolderId>,
    terms: Terms,
    unpriced: Unpriced,
    clock: Arc<dyn Clock>,
    store: Arc<dyn Store>,
    metrics: Metrics,
    prices: Prices,
    keys: KeyCache,
    learned: Mutex<Learned>,
    journal: Option<Journal>,
    state: Mutex<State>,
    /// When the store was last asked whether it is there, and what it said.
    pinged: tokio::sync::Mutex<Option<(Mono, Result<(), String>)>>,
    /// Wakes the driver: some ledger may have something for the store.
    work: Notify,
    /// Wakes the driver for the workspaces that are noted as stirred.
    stirred: Notify,
    /// Has the store asked for news at once.
    ask_news: Notify,
    /// What the store says of credits goes to the ledger in the order in which it was said, so changes take turns.
    crediting: tokio::sync::Mutex<()>,
    /// A grant of credits was not confirmed: the store knows whether it was made.
    credits_in_doubt: AtomicBool,
    /// Changes of budgets take turns, so that what is in force here is what was recorded last.
    administering: tokio::sync::Mutex<()>,
    /// A change of a budget was not confirmed: the store knows whether it was made.
    budgets_in_doubt: AtomicBool,
    /// What other replicas handed over to this one.
    inbox: Mutex<handoff::Inbox>,
    /// Has what was handed over settled.
    handed_over: Notify,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// The journal's file and the boot that it belongs to.
struct Journal {
    file: JournalFile,
    boot: String,
}

/// All that is decided on, under one lock.
#[derive(Default)]
struct State {
    rooms: BTreeMap<Id, Room>,
    records: journal::Buffer,
    /// Workspaces that have something for the store. To look at all of them for each request would cost more than the request.
    stirred: BTreeSet<Id>,
    /// Workspaces in which somebody waits for what other replicas hand back.
    recalling: BTreeSet<Id>,
    entropy: Entropy,
    phase: Phase,
    /// Settlement ids that are being reported, and who waits to report under them too.
    turns: HashMap<turn::Name, Vec<oneshot::Sender<()>>>,
}

/// Where the engine is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Running,
    /// Another process has taken over from this one: its leases are the other's, and nothing that it sends is applied. It does not
    /// come out of this but by an end: a new start takes over in its turn.
    TakenOver,
    /// Nothing is admitted any more; leases go back to the store.
    Closing,
}

/// A workspace: its ledger, and who waits for what.
struct Room {
    ledger: Ledger,
    /// When the next grant of credits ends that has something left.
    credits_expire_at: Option<Wall>,
    deciding: HashMap<WaiterId, oneshot::Sender<Decision>>,
    under_way: UnderWay<oneshot::Sender<()>>,
    /// Whether somebody carries its batches to the store.
    is_carried: bool,
}

impl Engine {
    /// What time it is.
    #[must_use]
    pub fn wall(&self) -> Wall {
        self.shared.now().wall
    }

    /// The prices in force.
    #[must_use]
    pub fn prices(&self) -> Arc<PriceTable> {
        Arc::clone(&self.shared.prices.borrow())
    }

    /// Whether the store answers and the journal can be written: what `/readyz` says. The text is the reason.
    ///
    /// # Errors
    /// A sentence for a person.
    pub async fn ready(&self) -> Result<(), String> {
        match self.shared.state().phase {
            Phase::Running => {}
            Phase::TakenOver => return Err(StoreError::TakenOver.to_string()),
            Phase::Closing => return Err("shutting down".to_owned()),
        }
        if self.shared.journal.as_ref().is_some_and(|journal| !journal.file.is_good()) {
            return Err("the journal cannot be written".to_owned());
        }
        // Anybody may ask, and asking writes.
        let mut last = self.shared.pinged.lock().await;
        let now = self.shared.now().mono;
        if let Some((at, answer)) = &*last
            && now.since(*at) < PING_BELIEVED
        {
            return answer.clone();
        }
        let answer = self.shared.store.ping().await.map_err(|error| error.to_string());
        *last = Some((now, answer.clone()));
        answer
    }
}

impl Shared {
    fn now(&self) -> Now {
        self.clock.now()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another process has taken over from this one.
    fn is_taken_over(&self) -> bool {
        self.state().phase == Phase::TakenOver
    }

    /// Whether other replicas draw from the same store.
    fn is_in_fleet(&self) -> bool {
        self.terms.sharing == Sharing::Fleet
    }

    /// An account was recalled by another replica, for the n-th time.
    fn recalled(&self, account: &AccountKey, recalls: u32) {
        let mut state = self.state();
        let now = self.now();
        let Some(room) = state.rooms.get_mut(&account.workspace) else { return };
        if room.ledger.recalled(account, recalls, now) {
            self.metrics.recall();
            self.stir(&mut state, &account.workspace);
        }
    }

    /// Writes the journal up to a position. Without a journal there is nothing to wait for.
    fn write_journal(&self, position: u64) -> std::io::Result<()> {
        match &self.journal {
            None => {
                self.state().records.drain();
                Ok(())
            }
            Some(journal) => journal.file.flush(position, |bytes| self.state().records.swap(bytes)),
        }
    }
}

impl State {
    /// The room of a workspace, opened where there is none yet. `None` when there are too many.
    fn room(&mut self, shared: &Shared, workspace: &Id) -> Option<&mut Room> {
        if !self.rooms.contains_key(workspace) {
            if self.rooms.len() >= WORKSPACES_MAX {
                return None;
            }
            let ledger = Ledger::new(workspace.clone(), shared.holder, shared.terms);
            self.rooms.insert(workspace.clone(), Room::new(ledger));
        }
        self.rooms.get_mut(workspace)
    }
}

impl Room {
    fn new(ledger: Ledger) -> Self {
        Self {
            ledger,
            credits_expire_at: None,
            deciding: HashMap::new(),
            under_way: UnderWay::default(),
            is_carried: false,
        }
    }

    /// Whether nobody would miss it.
    fn is_blank(&self) -> bool {
        self.ledger.is_blank()
            && !self.is_carried
            && self.deciding.is_empty()
            && self.under_way.is_awaited_by_nobody()
    }
}
