//! API keys by the hash of their secret, remembered for a while. What is cached is who a key is, never money.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::quality::RandomState;
use moka::sync::Cache;

use super::Engine;
use crate::domain::ids::Id;
use crate::domain::keys::{ApiKey, KeyHash};
use crate::domain::time::Mono;
use crate::store::StoreError;

/// Keys remembered at the most, and as many that are on no record. Each has a place of its own, so that made-up keys put out only
/// others like them.
const KEYS_MAX: u64 = 100_000;
/// How long an answer is believed without asking again. A key that another replica deleted is refused at the latest after this, and
/// sooner where it is told, unless the store is away: then the last answer holds.
const BELIEVED: Duration = Duration::from_secs(2);

/// What is remembered: the key, or that there is none, and since when.
pub(super) struct KeyCache {
    known: Cache<KeyHash, (Arc<ApiKey>, Mono), RandomState>,
    unknown: Cache<KeyHash, Mono, RandomState>,
    /// Grows with every change of a key, so that an answer from before the change is not remembered after it.
    changes: AtomicU64,
}

impl Default for KeyCache {
    fn default() -> Self {
        let known =
            Cache::builder().max_capacity(KEYS_MAX).build_with_hasher(RandomState::default());
        let unknown =
            Cache::builder().max_capacity(KEYS_MAX).build_with_hasher(RandomState::default());
        Self { known, unknown, changes: AtomicU64::new(0) }
    }
}

impl KeyCache {
    /// How often keys were changed: read it before the store is asked.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    pub(super) fn remember(
        &self,
        hash: KeyHash,
        key: Option<Arc<ApiKey>>,
        now: Mono,
        changes: u64,
    ) {
        match key {
            Some(key) => {
                self.known.insert(hash, (key, now));
                self.unknown.invalidate(&hash);
            }
            None => {
                self.unknown.insert(hash, now);
                self.known.invalidate(&hash);
            }
        }
        // A change that comes after this line forgets the entry by itself.
        if self.changes() != changes {
            self.known.invalidate(&hash);
            self.unknown.invalidate(&hash);
        }
    }

    /// Another replica may have changed keys of a workspace: what is remembered is asked for again, and holds as long as the
    /// store is away.
    pub(super) fn doubt(&self, workspace: &Id) {
        self.doubt_where(|key| key.workspace == *workspace);
    }

    /// The same for all workspaces.
    pub(super) fn doubt_all(&self) {
        self.doubt_where(|_| true);
    }

    fn doubt_where(&self, is_meant: impl Fn(&ApiKey) -> bool) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        for (hash, (key, _)) in &self.known {
            if is_meant(&key) {
                self.known.insert(*hash, (key, Mono::default()));
            }
        }
        // One of these may have been made meanwhile.
        for (hash, _) in &self.unknown {
            self.unknown.insert(*hash, Mono::default());
        }
    }

    /// What was said of a key last, and when.
    fn last(&self, hash: &KeyHash) -> Option<(Option<Arc<ApiKey>>, Mono)> {
        let known = self.known.get(hash).map(|(key, since)| (Some(key), since));
        known.or_else(|| self.unknown.get(hash).map(|since| (None, since)))
    }

    fn forget_all(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.known.invalidate_all();
        self.unknown.invalidate_all();
    }
}

impl Engine {
    /// The key with this hash. Answers are remembered.
    ///
    /// # Errors
    /// When the store has to be asked and cannot be, and was never asked for this key before.
    pub async fn key_by_hash(&self, hash: &KeyHash) -> Result<Option<Arc<ApiKey>>, StoreError> {
        let cache = &self.shared.keys;
        let changes = cache.changes();
        let now = self.shared.now().mono;
        let known = cache.last(hash);
        if let Some((key, since)) = &known
            && now.since(*since) < BELIEVED
        {
            return Ok(key.clone());
        }
        match (self.shared.store.key_by_hash(hash).await, known) {
            (Ok(found), _) => {
                let found = found.map(Arc::new);
                cache.remember(*hash, found.clone(), now, changes);
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
        let made = self.shared.store.create_key(key).await;
        // Even what was not confirmed may have been done.
        self.shared.keys.forget_all();
        made
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
        let deleted = self.shared.store.delete_key(workspace, id).await;
        // Even what was not confirmed may have been done.
        self.shared.keys.forget_all();
        deleted
    }
}
