//! Reports of actual usage: priced, booked once, and answered when they are durable.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::oneshot;

use super::{Engine, State};
use crate::domain::estimate::{Lesson, Unpriced};
use crate::domain::ids::{Id, ReservationId};
use crate::domain::ledger::{Actual, Correcting};
use crate::domain::money::{Amounts, NanoUsd, Tokens};
use crate::domain::pricing::{Billable, Charge, Found, How, Named};
use crate::domain::settlement::{Certainty, Settlement};
use crate::domain::subject::Subject;
use crate::domain::time::Wall;
use crate::domain::usage::{Record, Usage};
use crate::store::StoreError;

/// Settlement ids that begin like this are made by the ledger itself.
const RESERVED_PREFIX: &str = "timeout:";
/// How long a reporter waits for the store before it is told to report again.
const RECORDING_PATIENCE: Duration = Duration::from_secs(5);

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
    /// The store did not confirm it. Reporting again with the same id is safe.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is charged, and the rates that it was priced at.
pub(super) type Price = (NanoUsd, Option<Arc<str>>);

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
        let Some(subject) = self.subject_of(&report) else { return self.adjust(&report).await };
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
            Route::NotOpen => self.adjust(&report).await,
            Route::NoRoom => Err(ReportError::Store(StoreError::Unavailable(
                "too many accounts are open in this replica".to_owned(),
            ))),
        }
    }

    /// The same for those who cannot wait: what settles a reservation that is open here is booked when this returns, and
    /// durable soon. Until then the reservation is in the journal. Other reports wait as with [`Engine::report`].
    ///
    /// # Errors
    /// [`ReportError`]
    pub async fn settle(&self, report: &Report) -> Result<(), ReportError> {
        if self.under_way(report).is_some() {
            return Ok(());
        }
        let Some(subject) = self.subject_of(report) else {
            return self.report(report.clone()).await.map(drop);
        };
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
            Route::NotOpen | Route::NoRoom => self.report(report.clone()).await.map(drop),
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
        let waiting = room.recording.get_mut(&report.settlement)?;
        let (sender, receiver) = oneshot::channel();
        waiting.push(sender);
        Some(receiver)
    }

    /// Waits for an entry to be durable, and says so to a ledger that would let it wait for others.
    async fn until_durable(
        &self,
        workspace: &Id,
        durable: oneshot::Receiver<()>,
    ) -> Result<(), ReportError> {
        if let Some(room) = self.shared.state().rooms.get_mut(workspace) {
            room.ledger.hurry();
        }
        self.shared.work.notify_one();
        durable.await.map_err(|_| unconfirmed())
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
        if let Some(waiting) = room.recording.get_mut(&report.settlement) {
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
        room.recording.insert(report.settlement.clone(), vec![sender]);
        shared.work.notify_one();
        drop(state);
        shared.learn(&settlement, lesson);
        Route::Booked(Box::new(settlement), beyond(actual.amounts, reserved), receiver)
    }

    /// A report for a reservation that is over: it sharpens or corrects what is on record.
    async fn adjust(&self, report: &Report) -> Result<Settled, ReportError> {
        let Against::Reservation(reservation) = &report.against else {
            return Err(ReportError::UnknownReservation);
        };
        // Corrections of one reservation read what is on record before they write, so they take turns.
        let _turn = self.turn(&report.workspace, &reservation.timeout_settlement()).await;
        // What ended the reservation may still be on its way.
        self.flush(&report.workspace).await?;
        if let Some(settlement) =
            self.shared.store.settlement(&report.workspace, &report.settlement).await?
        {
            return self.repeated(report, settlement);
        }
        let earlier = self.shared.store.settlements_of(&report.workspace, *reservation).await?;
        let Some(last) = earlier.last().cloned() else {
            return Err(ReportError::UnknownReservation);
        };
        let actual = self.actual(report, &last.subject)?;
        let was_exact = earlier
            .iter()
            .any(|entry| matches!(entry.certainty, Certainty::Exact | Certainty::Adjustment));
        let amounts = match (report.certainty, was_exact, report.correction) {
            (Certainty::Exact, true, Correction::No) => {
                return Err(ReportError::SettledBefore(last.id));
            }
            (Certainty::Exact, _, _) => actual.amounts,
            // A lower bound never gives back, and says nothing new about what is known exactly.
            (_, true, _) => {
                return Ok(Settled { settlement: last, first: false, overrun: Amounts::default() });
            }
            (_, false, _) => greater(actual.amounts, last.amounts),
        };
        let certainty = match report.certainty {
            Certainty::Exact => Certainty::Adjustment,
            Certainty::AtLeast | Certainty::Estimated | Certainty::Adjustment => Certainty::AtLeast,
        };
        let actual = Actual { amounts, certainty, ..actual };
        let (settlement, durable) = self.book_adjustment(report, &last, &earlier, actual)?;
        self.until_durable(&report.workspace, durable).await?;
        let overrun = beyond(amounts, last.amounts);
        self.count_settlement(&settlement, overrun);
        Ok(Settled { settlement, first: true, overrun })
    }

    fn book_adjustment(
        &self,
        report: &Report,
        last: &Settlement,
        earlier: &[Settlement],
        actual: Actual,
    ) -> Result<(Settlement, oneshot::Receiver<()>), ReportError> {
        let shared = &self.shared;
        let mut state = shared.state();
        let Some(room) = state.room(shared, &report.workspace) else {
            return Err(ReportError::UnknownReservation);
        };
        let correcting = Correcting {
            subject: Arc::clone(&last.subject),
            reservation: last.reservation,
            at: last.at,
            charges: earlier.iter().flat_map(|entry| entry.charges.iter().cloned()).collect(),
        };
        let settlement = room.ledger.adjust(correcting, actual);
        let (sender, receiver) = oneshot::channel();
        room.recording.entry(report.settlement.clone()).or_default().push(sender);
        shared.work.notify_one();
        Ok((settlement, receiver))
    }

    /// The entry with this report's id, which somebody else recorded.
    async fn on_record(&self, report: &Report) -> Result<Settled, ReportError> {
        let found = self.shared.store.settlement(&report.workspace, &report.settlement).await?;
        self.repeated(report, found.ok_or_else(unconfirmed)?)
    }

    /// An id that is on record gives the first result again, if it says the same.
    fn repeated(&self, report: &Report, settlement: Settlement) -> Result<Settled, ReportError> {
        let said_before = match &report.used {
            Used::Usage { usage, .. } => settlement.usage == Some(*usage),
            Used::Cost { cost, usage, .. } => {
                // A lower bound that sharpened an entry did not lower it.
                let is_bound = settlement.certainty == Certainty::AtLeast;
                let same = settlement.amounts.cost == *cost
                    || (is_bound && settlement.amounts.cost > *cost);
                same && settlement.usage == *usage
            }
            Used::Metered { record, .. } => settlement.usage == Some(record.total()),
            Used::Reserved => settlement.usage.is_none(),
        };
        if said_before {
            self.shared.metrics.settlement_duplicate();
            return Ok(Settled { settlement, first: false, overrun: Amounts::default() });
        }
        self.shared.metrics.settlement_conflict();
        Err(ReportError::Differs(Box::new(settlement)))
    }

    /// Prices a report.
    fn actual(&self, report: &Report, subject: &Subject) -> Result<Actual, ReportError> {
        let (told, usage, cost) = match &report.used {
            Used::Usage { model, usage } => (model.as_ref(), Some(*usage), None),
            Used::Cost { cost, model, usage } => (model.as_ref(), *usage, Some(*cost)),
            Used::Metered { record, path } => return self.metered(report, record, path, subject),
            Used::Reserved => return self.reserved(report, subject),
        };
        let asked = subject.model.as_ref();
        let tokens = usage.as_ref().map_or(Tokens::ZERO, Usage::total);
        let (cost, rates) = match (cost, usage) {
            (Some(cost), _) => (cost, None),
            (None, None) => (NanoUsd::ZERO, None),
            (None, Some(usage)) => {
                let provider = subject.provider.as_ref();
                let named = Named {
                    provider: provider.map(Id::as_str),
                    path: None,
                    response: told.map(Id::as_str),
                    // A model that is reported by name is that one, or none that is known.
                    request: told.or(asked).map(Id::as_str),
                };
                let at = report.at.unwrap_or(self.wall());
                self.price(&named, Billable { at: Some(at), ..Billable::from(&usage) })?
            }
        };
        let model = told.or(asked).cloned();
        Ok(Actual {
            settlement: report.settlement.clone(),
            certainty: report.certainty,
            amounts: Amounts { cost, tokens },
            usage,
            model,
            rates,
        })
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

    /// The cost of usage, and the rates that it was priced at. A price that says nothing of what was used is none.
    fn price(&self, named: &Named<'_>, used: Billable) -> Result<Price, ReportError> {
        let prices = self.prices();
        let found = prices.find_named(named).filter(|found| found.price.covers(used));
        let charge = found.map(|Found { price, how }| Charge {
            cost: price.cost_of(used),
            rates: price.rates_text(prices.version(), used),
            how,
        });
        self.charged(charge, named, used)
    }

    /// A charge by the table; where it has none, what the policy says of models without a price.
    pub(super) fn charged(
        &self,
        charge: Option<Charge>,
        named: &Named<'_>,
        used: Billable,
    ) -> Result<Price, ReportError> {
        let metrics = &self.shared.metrics;
        if let Some(Charge { cost, rates, how }) = charge {
            if how == How::Guessed {
                metrics.guessed_price();
            }
            return Ok((cost, Some(Arc::from(rates))));
        }
        metrics.unpriced_model(self.shared.unpriced.as_str());
        match &self.shared.unpriced {
            Unpriced::DefaultPrice(price) => {
                let rates = price.rates_text(self.prices().version(), used);
                Ok((price.cost_of(used), Some(Arc::from(rates))))
            }
            Unpriced::CountTokensOnly => Ok((NanoUsd::ZERO, None)),
            Unpriced::Deny => {
                Err(ReportError::Unpriced(named.in_order().next().unwrap_or_default().to_owned()))
            }
        }
    }

    fn count_settlement(&self, settlement: &Settlement, overrun: Amounts) {
        let metrics = &self.shared.metrics;
        metrics.settlement(settlement.certainty.as_str());
        metrics.overrun_nano_usd(u64::try_from(overrun.cost.get()).unwrap_or(0));
        metrics.overrun_tokens(u64::try_from(overrun.tokens.get()).unwrap_or(0));
    }
}

/// The entry may or may not have been recorded.
fn unconfirmed() -> ReportError {
    let why = "the entry is not durable yet; report it again".to_owned();
    ReportError::Store(StoreError::Unavailable(why))
}

/// What `amounts` exceed `reserved` by.
fn beyond(amounts: Amounts, reserved: Amounts) -> Amounts {
    Amounts {
        cost: amounts.cost.minus(reserved.cost).or_zero(),
        tokens: amounts.tokens.minus(reserved.tokens).or_zero(),
    }
}

/// The greater of each.
fn greater(a: Amounts, b: Amounts) -> Amounts {
    Amounts { cost: a.cost.max(b.cost), tokens: a.tokens.max(b.tokens) }
}
