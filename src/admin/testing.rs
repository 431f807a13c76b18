//! What tests of the API start from: an engine on a memory store, and three keys.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::{AdminKey, Role, Settings};
use crate::domain::estimate::Unpriced;
use crate::domain::ids::Id;
use crate::domain::ledger::{OnTimeout, Sharing, Terms};
use crate::domain::pricing::PriceTable;
use crate::domain::time::Wall;
use crate::engine::clock::ManualClock;
use crate::engine::{self, Engine};
use crate::store::memory::MemoryStore;
use crate::telemetry::Metrics;

/// The key of an operator.
pub(super) const OPERATOR: &str = "operator-key";
/// A key that manages [`WORKSPACE`].
pub(super) const MANAGE: &str = "manage-key";
/// A key that checks and reports in [`WORKSPACE`].
pub(super) const CHECK: &str = "check-key";
/// The workspace of the keys.
pub(super) const WORKSPACE: &str = "ws_1";

/// 2026-11-22T00:00:00Z, where the clock stands.
const NOW: Wall = Wall::from_ms(1_795_305_600_000);

/// The three keys.
pub(super) fn settings() -> Settings {
    let workspace = Id::parse(WORKSPACE).unwrap();
    let key = |secret: &str, role| AdminKey { hash: Sha256::digest(secret).into(), role };
    let keys = vec![
        key(OPERATOR, Role::Operator),
        key(MANAGE, Role::Manage(workspace.clone())),
        key(CHECK, Role::Check(workspace)),
    ];
    Settings {
        keys,
        default_workspace: Id::parse("default").unwrap(),
        patience: Duration::from_secs(5),
    }
}

/// How long leases last. The clock stands still, so that any time will do.
const LEASE_TTL: Duration = Duration::from_secs(10);

/// An engine without budgets and prices.
pub(super) async fn engine(metrics: Metrics) -> Engine {
    let terms = Terms {
        reservation_timeout: Duration::from_secs(600),
        on_timeout: OnTimeout::Charge,
        lease_ttl: LEASE_TTL,
        sharing: Sharing::Alone,
    };
    let settings = engine::Settings { terms, journal: None, unpriced: Unpriced::Deny };
    let (_, prices) = watch::channel(Arc::new(PriceTable::new("test", HashMap::default())));
    let clock = Arc::new(ManualClock::at(NOW));
    let store = Arc::new(MemoryStore::new(LEASE_TTL));
    Engine::start(settings, store, prices, clock, metrics).await.unwrap()
}
