//! Reports of actual usage: priced, booked once, and answered when they are durable.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::oneshot;

use super::{Engine, State};
use crate::domain::estimate::Lesson;
use crate::domain::ids::{Id, ReservationId};
use crate::domain::ledger::{Actual, NamedHold};
use crate::domain::money::{Amounts, NanoUsd};
use crate::domain::settlement::{Certainty, Settlement};
use crate::domain::subject::Subject;
use crate::domain::time::Wall;
use crate::domain::usage::{Record, Usage};
use crate::store::StoreError;

/// Settlement ids that begin like this are made by the ledger itself.
const RESERVED_PREFIX: &str = "timeout:";
/// How long a reporter waits for the store before it is told to report again.
pub(super) const RECORDING_PATIENCE: Duration = Duration::from_secs(5);

/// Actual usage.
#[derive(Debug, Clone)]
pub struct Report {
    /// Chosen by the reporter; reporting the same id twice counts once.
    pub settlement: Id,
    /// Whose workspace; a reservation of another workspace is unknown.
    pub workspace: Id,
    /// What is settled.
    pub against: Against,
    /// What was used.
    pub used: Used,
    /// How sure it is: `Exact` or `AtLeast`.
    pub certainty: Certainty,
    /// Whether an exact amount may replace an earlier exact one.
    pub correction: Correction,
    /// When it took place; `None` for now. Only for reports against a subject.
    pub at: Option<Wall>,
    /// What is known of the request, where the reporter knows it: its usage is charged by it when the replica that holds the
    /// reservation is gone. Only for reports against a reservation.
    pub origin: Option<Origin>,
}

/// The request that a reservation was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Who asked.
    pub subject: Arc<Subject>,
    /// When: it is charged in the windows of that time.
    pub at: Wall,
    /// What was set aside for it; zero where that is not known. No more than this gives way when it is charged for a holder that
    /// is gone: the rest of what that holder forfeited covers its other requests.
    pub estimate: Amounts,
    /// What of it each account of money and tokens holds, the same that are charged for a holder that is gone. `None` where that is
    /// not known: then the budgets are charged that apply by then.
    pub holds: Option<Vec<NamedHold>>,
}

/// What a report settles.
#[derive(Debug, Clone)]
pub enum Against {
    /// A reservation.
    Reservation(ReservationId),
    /// Whatever budgets apply to this subject: usage that was not asked about before.
    Subject(Arc<Subject>),
}

/// What was used.
#[derive(Debug, Clone)]
pub enum Used {
    /// Token counts of a model, priced by the table. Without a model the reservation's is taken.
    Usage {
        /// The model that answered.
        model: Option<Id>,
        /// Its counts.
        usage: Usage,
    },
    /// Money that somebody else counted, and tokens where known.
    Cost {
        /// Money.
        cost: NanoUsd,
        /// The model that answered.
        model: Option<Id>,
        /// Token counts, where known.
        usage: Option<Usage>,
    },
    /// What a response said that it used, priced call by call; a bill of its own goes before.
    Metered {
        /// What was said.
        record: Box<Record>,
        /// The path of the request, which names the model in some APIs.
        path: Box<str>,
    },
    /// What was seen of a response, and no less than was set aside for it.
    Seen {
        /// What was seen.
        record: Box<Record>,
        /// The path of the request.
        path: Box<str>,
    },
    /// What was set aside, because nothing tells what was used. Only for reports against a reservation.
    Reserved,
}

/// Whether a report says that it corrects an earlier exact one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Correction {
    /// A first report, or one that repeats or sharpens an estimate.
    No,
    /// `correction: true`.
    Yes,
}

/// A report that was durably recorded.
#[derive(Debug, Clone)]
pub struct Settled {
    /// The entry as it stands on record.
    pub settlement: Settlement,
    /// Whether this call recorded it, or an earlier one did.
    pub first: bool,
    /// What the amounts exceed the reservation by.
    pub overrun: Amounts,
}

/// Why a report was not recorded.
#[derive(Debug, Error)]
pub enum ReportError {
    /// The id is on record with other amounts.
    #[error("settlement {id} is on record with cost {cost} and {tokens} tokens", id = .0.id, cost = .0.amounts.cost, tokens = .0.amounts.tokens)]
    Differs(Box<Settlement>),
    /// The reservation was settled exactly before, and this is no correction.
    #[error("the reservation was settled exactly by {0}; send \"correction\": true to replace it")]
    SettledBefore(Id),
    /// No such reservation, or of another workspace.
    #[error("no such reservation")]
    UnknownReservation,
    /// The id begins with `timeout:`, which only Bursar itself uses.
    #[error("settlement_id begins with \"timeout:\", which is reserved; choose another")]
    ReservedId,
    /// Usage cannot be priced: the model is unknown.
    #[error("no price is known for model {0}; report a cost, or add a price")]
    Unpriced(String),
    /// Another replica holds the reservation. The report is written down for it, durably, and it records it. Reporting again gives
    /// its result.
    #[error("another replica holds the reservation and has been handed the report")]
    HandedOver,
    /// The store did not confirm it. Reporting again with the same id is safe.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where a report goes.
enum Route {
    /// It is booked and on its way to the store.
    Booked(Box<Settlement>, Amounts, oneshot::Receiver<()>),
    /// The same id is on its way already.
    UnderWay(oneshot::Receiver<()>),
    /// The reservation is not open here.
    NotOpen,
    /// There is no room for another account or workspace.
    NoRoom,
}

impl Engine {
    /// Settles, corrects or records usage. Returns when the entry is durable, as it stands on record.
    ///
    /// # Errors
    /// [`ReportError`]; whatever the error, reporting again with the same id is safe.
    pub async fn report(&self, report: Report) -> Result<Settled, ReportError> {
        if report.settlement.as_str().starts_with(RESERVED_PREFIX) {
            return Err(ReportError::ReservedId);
        }
        let recorded = Box::pin(self.record(report));
        tokio::time::timeout(RECORDING_PATIENCE, recorded)
            .await
            .unwrap_or_else(|_| Err(unconfirmed()))
    }

    async fn record(&self, report: Report) -> Result<Settled, ReportError> {
        let _turn = self.turn(&report.workspace, &report.settlement).await;
        // Looked for before the store is asked: an entry that arrives there in between would be found in neither place, and
        // be booked twice.
        if let Some(durable) = self.under_way(&report) {
            self.until_durable(&report.workspace, durable).await?;
            return self.on_record(&report).await;
        }
        if let Some(settlement) =
            self.shared.store.settlement(&report.workspace, &report.settlement).await?
        {
            return self.repeated(&report, settlement);
        }
        let Some(subject) = self.subject_of(&report) else { return self.not_open(&report).await };
        let actual = self.actual(&report, &subject)?;
        match self.book(&report, &actual) {
            Route::Booked(settlement, overrun, durable) => {
                self.until_durable(&report.workspace, durable).await?;
                self.count_settlement(&settlement, overrun);
                Ok(Settled { settlement: *settlement, first: true, overrun })
            }
            Route::UnderWay(durable) => {
                self.until_durable(&report.workspace, durable).await?;
                self.on_record(&report).await
            }
            Route::NotOpen => self.not_open(&report).await,
            Route::NoRoom => Err(no_room()),
        }
    }

    /// A report for a reservation that is not open here: it is over, or another replica holds it.
    async fn not_open(&self, report: &Report) -> Result<Settled, ReportError> {
        match &report.against {
            Against::Reservation(reservation) if self.shared.is_elsewhere(*reservation) => {
                Box::pin(self.hand_over(report, *reservation)).await
            }
            Against::Reservation(_) | Against::Subject(_) => self.adjust(report).await,
        }
    }

    /// The same for those who cannot wait: what settles a reservation that is open here is booked when this returns, and
    /// durable soon. Until then the reservation is in the journal. What another replica holds is durably handed over to it when this
    /// returns. Other reports wait as with [`Engine::report`].
    ///
    /// # Errors
    /// [`ReportError`]
    pub async fn settle(&self, report: &Report) -> Result<(), ReportError> {
        if self.under_way(report).is_some() {
            return Ok(());
        }
        let Some(subject) = self.subject_of(report) else { return self.settle_later(report).await };
        let actual = self.actual(report, &subject)?;
        match self.book(report, &actual) {
            Route::Booked(settlement, overrun, _) => {
                // Estimates are counted when they are durable, like those that the ledger makes.
                if settlement.certainty != Certainty::Estimated {
                    self.count_settlement(&settlement, overrun);
                }
                Ok(())
            }
            Route::UnderWay(_) => Ok(()),
            Route::NotOpen | Route::NoRoom => self.settle_later(report).await,
        }
    }

    /// What is not open here: another replica that holds it is told, and nobody waits for its entry.
    async fn settle_later(&self, report: &Report) -> Result<(), ReportError> {
        match &report.against {
            Against::Reservation(reservation) if self.shared.is_elsewhere(*reservation) => {
                self.write_down(self.handoff(report, *reservation)?).await?;
                Ok(())
            }
            Against::Reservation(_) | Against::Subject(_) => {
                self.report(report.clone()).await.map(drop)
            }
        }
    }

    /// The entry of this id, with all that this replica has to tell. `None` when there is none.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn settlement(
        &self,
        workspace: &Id,
        id: &Id,
    ) -> Result<Option<Settlement>, StoreError> {
        self.flush(workspace).await?;
        self.shared.store.settlement(workspace, id).await
    }

    /// The end of the wait for an entry of this id that is on its way to the store.
    fn under_way(&self, report: &Report) -> Option<oneshot::Receiver<()>> {
        let mut state = self.shared.state();
        let room = state.rooms.get_mut(&report.workspace)?;
        let waiting = room.under_way.recording(&report.settlement)?;
        let (sender, receiver) = oneshot::channel();
        waiting.push(sender);
        Some(receiver)
    }

    /// Waits for an entry to be durable, and says so to a ledger that would let it wait for others.
    pub(super) async fn until_durable(
        &self,
        workspace: &Id,
        durable: oneshot::Receiver<()>,
    ) -> Result<(), ReportError> {
        self.hurry(workspace);
        durable.await.map_err(|_| unconfirmed())
    }

    /// Somebody waits for what the ledger of a workspace has to tell.
    fn hurry(&self, workspace: &Id) {
        let mut state = self.shared.state();
        if let Some(room) = state.rooms.get_mut(workspace) {
            room.ledger.hurry();
            self.shared.stir(&mut state, workspace);
        }
    }

    /// Books a report in the ledger.
    fn book(&self, report: &Report, actual: &Actual) -> Route {
        let shared = &self.shared;
        let mut state = shared.state();
        let now = shared.now();
        if state.room(shared, &report.workspace).is_none() {
            return Route::NoRoom;
        }
        let State { rooms, records, .. } = &mut *state;
        let Some(room) = rooms.get_mut(&report.workspace) else { return Route::NoRoom };
        if let Some(waiting) = room.under_way.recording(&report.settlement) {
            let (sender, receiver) = oneshot::channel();
            waiting.push(sender);
            return Route::UnderWay(receiver);
        }
        let (settlement, reserved, lesson) = match &report.against {
            Against::Reservation(id) => {
                let open = room.ledger.reservation(*id);
                let promised = open.map(|open| (open.estimate, open.lesson));
                records.cut(&room.ledger, *id, actual.amounts);
                let (Some(settlement), Some((reserved, lesson))) =
                    (room.ledger.settle(*id, actual.clone(), now), promised)
                else {
                    return Route::NotOpen;
                };
                (settlement, reserved, lesson)
            }
            Against::Subject(subject) => {
                let at = report.at.unwrap_or(now.wall);
                match room.ledger.book(Arc::clone(subject), actual.clone(), at, now) {
                    Some(settlement) => (settlement, actual.amounts, Lesson::Nothing),
                    None => return Route::NoRoom,
                }
            }
        };
        let (sender, receiver) = oneshot::channel();
        room.under_way.record(&report.settlement, [sender]);
        shared.stir(&mut state, &report.workspace);
        drop(state);
        shared.learn(&settlement, lesson);
        Route::Booked(Box::new(settlement), beyond(actual.amounts, reserved), receiver)
    }

    /// The entry with this report's id, which somebody else recorded.
    async fn on_record(&self, report: &Report) -> Result<Settled, ReportError> {
        let found = self.shared.store.settlement(&report.workspace, &report.settlement).await?;
        self.repeated(report, found.ok_or_else(unconfirmed)?)
    }

    /// An id that is on record gives the first result again, if it says the same.
    pub(super) fn repeated(
        &self,
        report: &Report,
        settlement: Settlement,
    ) -> Result<Settled, ReportError> {
        let said_before = match &report.used {
            Used::Usage { usage, .. } => settlement.usage == Some(*usage),
            Used::Cost { cost, usage, .. } => {
                // A lower bound that sharpened an entry did not lower it.
                let is_bound = settlement.certainty == Certainty::AtLeast;
                let same = settlement.amounts.cost == *cost
                    || (is_bound && settlement.amounts.cost > *cost);
                same && settlement.usage == *usage
            }
            Used::Metered { record, .. } | Used::Seen { record, .. } => {
                settlement.usage == Some(record.total())
            }
            Used::Reserved => settlement.usage.is_none(),
        };
        if said_before {
            self.shared.metrics.settlement_duplicate();
            return Ok(Settled { settlement, first: false, overrun: Amounts::default() });
        }
        self.shared.metrics.settlement_conflict();
        Err(ReportError::Differs(Box::new(settlement)))
    }

    /// Who a report is about. `None` for a reservation that is not open.
    fn subject_of(&self, report: &Report) -> Option<Arc<Subject>> {
        match &report.against {
            Against::Subject(subject) => Some(Arc::clone(subject)),
            Against::Reservation(id) => {
                let state = self.shared.state();
                let reservation = state.rooms.get(&report.workspace)?.ledger.reservation(*id)?;
                Some(Arc::clone(&reservation.subject))
            }
        }
    }

    pub(super) fn count_settlement(&self, settlement: &Settlement, overrun: Amounts) {
        let metrics = &self.shared.metrics;
        metrics.settlement(settlement.certainty.as_str());
        metrics.overrun_nano_usd(u64::try_from(overrun.cost.get()).unwrap_or(0));
        metrics.overrun_tokens(u64::try_from(overrun.tokens.get()).unwrap_or(0));
    }
}

/// The entry may or may not have been recorded.
pub(super) fn unconfirmed() -> ReportError {
    let why = "the entry is not durable yet; report it again".to_owned();
    ReportError::Store(StoreError::Unavailable(why))
}

pub(super) fn no_room() -> ReportError {
    let why = "too many accounts are open in this replica".to_owned();
    ReportError::Store(StoreError::Unavailable(why))
}

/// What `amounts` exceed `reserved` by.
pub(super) fn beyond(amounts: Amounts, reserved: Amounts) -> Amounts {
    Amounts {
        cost: amounts.cost.minus(reserved.cost).or_zero(),
        tokens: amounts.tokens.minus(reserved.tokens).or_zero(),
    }
}
