//! What a metered response comes to, and what is booked when nobody can tell.

use std::sync::Arc;

use super::Engine;
use super::report::{Against, Report, ReportError};
use crate::domain::ids::Id;
use crate::domain::ledger::{Actual, Reservation};
use crate::domain::money::{Amounts, NanoUsd};
use crate::domain::settlement::Certainty;
use crate::domain::subject::Subject;
use crate::domain::usage::{Record, Usage};

/// A price and the rates that it was made with.
type Price = (NanoUsd, Option<Arc<str>>);

impl Engine {
    /// What a metered response comes to. Where no price is known for it and the policy is to refuse such models, it is charged
    /// what was set aside and marked: it was admitted, and never costs nothing.
    pub(super) fn metered(
        &self,
        report: &Report,
        record: &Record,
        subject: &Subject,
    ) -> Result<Actual, ReportError> {
        let named = record.model.as_deref().and_then(|name| Id::parse(name).ok());
        let usage = record.total();
        let (certainty, (cost, rates)) = match self.price_of(record, subject) {
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
    fn price_of(&self, record: &Record, subject: &Subject) -> Result<Price, ReportError> {
        if let Some(bill) = record.bill {
            return Ok((bill, None));
        }
        let mut sum = NanoUsd::ZERO;
        let mut all_rates: Vec<Arc<str>> = Vec::new();
        for (model, usage) in record.billable() {
            let (cost, rates) = self.price_call(model, usage, subject)?;
            sum = sum.plus(cost);
            all_rates.extend(rates);
        }
        let rates = match all_rates.as_slice() {
            [] => None,
            [one] => Some(Arc::clone(one)),
            several => Some(Arc::from(several.join("; "))),
        };
        Ok((sum, rates))
    }

    /// The price of one call: of the model that answered, or else of the one that was asked.
    fn price_call(
        &self,
        model: Option<&str>,
        usage: &Usage,
        subject: &Subject,
    ) -> Result<Price, ReportError> {
        let provider = subject.provider.as_ref().map(Id::as_str);
        let named = model.and_then(|name| Id::parse(name).ok());
        match (self.price(provider, named.as_ref(), usage), &subject.model) {
            (Err(_), Some(asked)) => self.price(provider, Some(asked), usage),
            (priced, _) => priced,
        }
    }

    fn reserved_amounts(&self, report: &Report) -> Option<Amounts> {
        let Against::Reservation(id) = &report.against else { return None };
        let state = self.shared.state();
        let room = state.rooms.get(&report.workspace)?;
        room.ledger.reservation(*id).map(|reservation: &Reservation| reservation.estimate)
    }
}
