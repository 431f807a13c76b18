//! What a report comes to: its usage at the prices in force.

use std::sync::Arc;

use super::Engine;
use super::report::{Report, ReportError, Used};
use crate::domain::estimate::Unpriced;
use crate::domain::ids::Id;
use crate::domain::ledger::Actual;
use crate::domain::money::{Amounts, NanoUsd, Tokens};
use crate::domain::pricing::{Billable, Charge, Found, How, Named};
use crate::domain::subject::Subject;
use crate::domain::usage::Usage;

/// What is charged, and the rates that it was priced at.
pub(super) type Price = (NanoUsd, Option<Arc<str>>);

impl Engine {
    /// Prices a report.
    pub(super) fn actual(&self, report: &Report, subject: &Subject) -> Result<Actual, ReportError> {
        let (told, usage, cost) = match &report.used {
            Used::Usage { model, usage } => (model.as_ref(), Some(*usage), None),
            Used::Cost { cost, model, usage } => (model.as_ref(), *usage, Some(*cost)),
            Used::Metered { record, path } => return self.metered(report, record, path, subject),
            Used::Seen { record, path } => return self.seen(report, record, path, subject),
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
}
