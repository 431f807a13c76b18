//! API keys by the hash of their secret, remembered for a while. What is cached is who a key is, never money.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use super::Engine;
use crate::domain::ids::Id;
use crate::domain::keys::{ApiKey, KeyHash};
use crate::domain::time::Mono;
use crate::store::StoreError;

/// Keys remembered at the most.
const KEYS_MAX: u64 = 100_000;
/// How long an answer is believed without asking again. A key that another replica deleted is refused at the latest after this,
/// unless the store is away: then the last answer holds.
const BELIEVED: Duration = Duration::from_secs(2);

/// What is remembered: the key, or that there is none, and since when.
pub(super) struct KeyCache(Cache<KeyHash, (Option<Arc<ApiKey>>, Mono)>);

impl Default for KeyCache {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(KEYS_MAX).build())
    }
}

impl Engine {
    /// The key with this hash. Answers are remembered.
    ///
    /// # Errors
    /// When the store has to be asked and cannot be, and was never asked for this key before.
    pub async fn key_by_hash(&self, hash: &KeyHash) -> Result<Option<Arc<ApiKey>>, StoreError> {
        let cache = &self.shared.keys.0;
        let now = self.shared.now().mono;
        let known = cache.get(hash);
        if let Some((key, since)) = &known
            && now.since(*since) < BELIEVED
        {
            return Ok(key.clone());
        }
        match (self.shared.store.key_by_hash(hash).await, known) {
            (Ok(found), _) => {
                let found = found.map(Arc::new);
                cache.insert(*hash, (found.clone(), now));
                Ok(found)
            }
            (Err(StoreError::Unavailable(_)), Some((key, _))) => Ok(key),
            (Err(error), _) => Err(error),
        }
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
