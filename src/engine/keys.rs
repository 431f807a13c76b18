//! API keys by the hash of their secret, remembered for a while. What is cached is who a key is, never money.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use super::Engine;
use crate::domain::ids::Id;
use crate::domain::keys::{ApiKey, KeyHash};
use crate::store::StoreError;

/// Keys remembered at the most.
const KEYS_MAX: u64 = 100_000;
/// How long an answer is believed. A key that another replica deleted is refused at the latest after this.
const BELIEVED: Duration = Duration::from_secs(2);

/// What is remembered: the key, or that there is none.
pub(super) struct KeyCache(Cache<KeyHash, Option<Arc<ApiKey>>>);

impl Default for KeyCache {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(KEYS_MAX).time_to_live(BELIEVED).build())
    }
}

impl Engine {
    /// The key with this hash. Answers are remembered for two seconds.
    ///
    /// # Errors
    /// When the store has to be asked and cannot be.
    pub async fn key_by_hash(&self, hash: &KeyHash) -> Result<Option<Arc<ApiKey>>, StoreError> {
        if let Some(known) = self.shared.keys.0.get(hash) {
            return Ok(known);
        }
        let found = self.shared.store.key_by_hash(hash).await?.map(Arc::new);
        self.shared.keys.0.insert(*hash, found.clone());
        Ok(found)
    }

    /// Registers an API key.
    ///
    /// # Errors
    /// `Conflict` when its id or its secret is taken.
    pub async fn create_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        self.shared.store.create_key(key).await?;
        self.shared.keys.0.invalidate(&key.hash);
        Ok(())
    }

    /// A workspace's keys, newest first.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn list_keys(&self, workspace: &Id) -> Result<Vec<ApiKey>, StoreError> {
        self.shared.store.list_keys(workspace).await
    }

    /// Deletes an API key; it is unknown on this replica before this returns.
    ///
    /// # Errors
    /// `NotFound` when there is no such key.
    pub async fn delete_key(&self, workspace: &Id, id: &Id) -> Result<(), StoreError> {
        self.shared.store.delete_key(workspace, id).await?;
        self.shared.keys.0.invalidate_all();
        Ok(())
    }
}
