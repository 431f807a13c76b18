//! The models that a request names: in a header, in its body and in its path. Nobody here knows which of them the provider reads.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::domain::estimate::RequestFacts;
use crate::domain::estimate::request::{Seen, model_in_path};
use crate::domain::pricing::{ModelPrice, PriceTable, Reasons};

/// What is known of them.
pub(super) struct Models {
    /// Whether any is named.
    pub(super) is_named: bool,
    /// The prices of those that have one.
    pub(super) priced: SmallVec<[Arc<ModelPrice>; 3]>,
}

impl Models {
    pub(super) fn of(seen: &Seen<'_>, request: &RequestFacts<'_>, prices: &PriceTable) -> Self {
        let in_path = model_in_path(request.path);
        let names = [request.model, seen.model.as_deref(), in_path.as_deref()];
        let names = names.into_iter().flatten().filter(|name| !name.is_empty());
        let priced = names.clone().filter_map(|name| prices.lookup(request.provider, name));
        Self { is_named: names.clone().next().is_some(), priced: priced.collect() }
    }

    /// Whether they reason; `None` where none of them is known.
    pub(super) fn reasons(&self) -> Option<Reasons> {
        self.priced.iter().map(|price| price.reasons).max()
    }
}
