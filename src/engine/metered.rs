//! What a metered response comes to, and what is booked when nobody can tell.

use super::Engine;
use super::priced::Price;
use super::report::{Against, Report, ReportError};
use crate::domain::estimate::model_in_path;
use crate::domain::ids::Id;
use crate::domain::ledger::{Actual, Reservation};
use crate::domain::money::Amounts;
use crate::domain::pricing::{Billable, Named};
use crate::domain::settlement::Certainty;
use crate::domain::subject::Subject;
use crate::domain::usage::Record;

impl Engine {
    /// What a metered response comes to. Where no price is known for it and the policy is to refuse such models, it is charged
    /// what was set aside and marked: it was admitted, and never costs nothing.
    pub(super) fn metered(
        &self,
        report: &Report,
        record: &Record,
        path: &str,
        subject: &Subject,
    ) -> Result<Actual, ReportError> {
        let named = record.model.as_deref().and_then(|name| Id::parse(name).ok());
        let usage = record.total();
        let (certainty, (cost, rates)) = match self.price_of(record, path, subject) {
            Ok(price) => (report.certainty, price),
            Err(unpriced) => {
                let reserved = self.reserved_amounts(report).ok_or(unpriced)?;
                (Certainty::Estimated, (reserved.cost, None))
            }
        };
        Ok(Actual {
            settlement: report.settlement.clone(),
            certainty,
            amounts: Amounts { cost, tokens: usage.total() },
            usage: Some(usage),
            model: named.or_else(|| subject.model.clone()),
            rates,
        })
    }

    /// What was seen of a response, raised to what was set aside where that is more. Rates explain no cost that is raised.
    pub(super) fn seen(
        &self,
        report: &Report,
        record: &Record,
        path: &str,
        subject: &Subject,
    ) -> Result<Actual, ReportError> {
        let seen = self.metered(report, record, path, subject)?;
        let reserved = self.reserved_amounts(report).unwrap_or_default();
        let is_raised = reserved.cost > seen.amounts.cost;
        Ok(Actual {
            amounts: seen.amounts.greater(reserved),
            rates: seen.rates.filter(|_| !is_raised),
            ..seen
        })
    }

    /// What was set aside.
    pub(super) fn reserved(
        &self,
        report: &Report,
        subject: &Subject,
    ) -> Result<Actual, ReportError> {
        let amounts = self.reserved_amounts(report).ok_or(ReportError::UnknownReservation)?;
        Ok(Actual {
            settlement: report.settlement.clone(),
            certainty: report.certainty,
            amounts,
            usage: None,
            model: subject.model.clone(),
            rates: None,
        })
    }

    /// The bill that came with a response, or the sum of what its calls cost.
    fn price_of(
        &self,
        record: &Record,
        path: &str,
        subject: &Subject,
    ) -> Result<Price, ReportError> {
        let path = model_in_path(path);
        let named = Named {
            provider: subject.provider.as_ref().map(Id::as_str),
            path: path.as_deref(),
            response: record.model.as_deref(),
            request: subject.model.as_ref().map(Id::as_str),
        };
        let charge = self.prices().charge(record, &named, Some(self.wall()));
        self.charged(charge, &named, Billable::from(&record.total()))
    }

    fn reserved_amounts(&self, report: &Report) -> Option<Amounts> {
        let Against::Reservation(id) = &report.against else { return None };
        let state = self.shared.state();
        let room = state.rooms.get(&report.workspace)?;
        room.ledger.reservation(*id).map(|reservation: &Reservation| reservation.estimate)
    }
}
