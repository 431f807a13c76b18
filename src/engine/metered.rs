//! What a metered response comes to, and what is booked when nobody can tell.

use std::sync::Arc;

use super::Engine;
use super::report::{Against, Report, ReportError};
use crate::domain::estimate::model_in_path;
use crate::domain::ids::Id;
use crate::domain::ledger::{Actual, Reservation};
use crate::domain::money::{Amounts, NanoUsd};
use crate::domain::pricing::{Billable, ByUnit, Named, ServiceTier};
use crate::domain::settlement::Certainty;
use crate::domain::subject::Subject;
use crate::domain::usage::{Extras, Record};

/// A price and the rates that it was made with.
type Price = (NanoUsd, Option<Arc<str>>);

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
        if let Some(bill) = record.bill {
            return Ok((bill, None));
        }
        let path = model_in_path(path);
        let mut sum = NanoUsd::ZERO;
        let mut all_rates: Vec<Arc<str>> = Vec::new();
        // What is counted apart from tokens is counted for the response as a whole.
        let mut units = units_of(record.extras);
        for (model, usage) in record.billable() {
            let named = Named {
                provider: subject.provider.as_ref().map(Id::as_str),
                path: path.as_deref(),
                response: model,
                request: subject.model.as_ref().map(Id::as_str),
            };
            let service = record.service_tier.as_deref().map(ServiceTier::from_name);
            let billable = Billable {
                units: std::mem::take(&mut units),
                service: service.unwrap_or_default(),
                at: Some(self.wall()),
                ..Billable::from(usage)
            };
            let (cost, rates) = self.price(&named, billable)?;
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

    fn reserved_amounts(&self, report: &Report) -> Option<Amounts> {
        let Against::Reservation(id) = &report.against else { return None };
        let state = self.shared.state();
        let room = state.rooms.get(&report.workspace)?;
        room.ledger.reservation(*id).map(|reservation: &Reservation| reservation.estimate)
    }
}

/// What a response counts beside tokens, by the names that prices have for it.
const fn units_of(extras: Extras) -> ByUnit<u64> {
    let Extras { seconds, search_units, web_searches, images, pages, characters } = extras;
    ByUnit {
        request: 0,
        second: seconds,
        image: images,
        search: search_units,
        web_search: web_searches,
        page: pages,
        character: characters,
    }
}
