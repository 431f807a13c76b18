//! What every store promises: one suite, run on each of them.

mod budgets;
pub(super) mod credits;
mod fleet;
mod leases;
mod settlements;
mod trace;

use std::sync::Arc;
use std::time::Duration;

use crate::domain::budget::{Budget, Dimension, Limits, WhenUnavailable};
use crate::domain::ids::{BudgetId, HolderId, Id, ReservationId};
use crate::domain::keys::ApiKey;
use crate::domain::ledger::escrow::{Account, AccountKey, Draw, Exchange, Then};
use crate::domain::money::{Amounts, NanoUsd, Tokens, Units};
use crate::domain::period::{Period, Schedule, WeekStart, Zone};
use crate::domain::settlement::{Certainty, Charge, Road, Settlement};
use crate::domain::subject::{Scope, ScopeKind, Subject, Target};
use crate::domain::time::Wall;
use crate::domain::usage::Usage;
use crate::store::{Batch, Store, StoreError};

/// How long leases last in these tests.
pub(super) const TTL: Duration = Duration::from_secs(10);
pub(super) const MONTH: &str = "2026-11";
/// Some instant in November 2026.
pub(super) const NOON: Wall = Wall::from_ms(1_794_000_000_000);

/// Makes one test for each store out of each function.
macro_rules! contract {
    ($($promise:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(&crate::store::memory::MemoryStore::new(crate::store::contract::TTL)).await;
            })*
        }
        mod sqlite {
            $(#[tokio::test]
            async fn $promise() {
                let directory = tempfile::tempdir().unwrap();
                super::$promise(&crate::store::contract::sqlite_in(directory.path()).await).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $promise() {
                let database = crate::store::postgres::testing::Database::new().await;
                super::$promise(&database.store).await;
                database.remove().await;
            })*
        }
    };
}
use contract;

/// The same for what only a store that replicas share promises.
macro_rules! shared_contract {
    ($($promise:ident),* $(,)?) => {
        mod shared_postgres {
            $(#[tokio::test]
            async fn $promise() {
                let database = crate::store::postgres::testing::Database::new().await;
                super::$promise(&database.store).await;
                database.remove().await;
            })*
        }
        mod shared_memory {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(&crate::store::memory::MemoryStore::new(crate::store::contract::TTL)).await;
            })*
        }
    };
}
use shared_contract;

pub(super) async fn sqlite_in(directory: &std::path::Path) -> crate::store::sqlite::SqliteStore {
    let url = format!("sqlite:{}", directory.join("bursar.db").display());
    crate::store::sqlite::SqliteStore::open(&url, TTL).await.unwrap()
}

pub(super) fn id(text: &str) -> Id {
    Id::parse(text).unwrap()
}

/// A monthly budget of 1000 nano-dollars and 1000 tokens, and of 60 requests per minute, for one project.
pub(super) fn budget(number: u128, project: &str) -> Budget {
    let schedule =
        Schedule { period: Period::Monthly, zone: Zone::utc(), week_start: WeekStart::Monday };
    Budget {
        workspace: id("ws"),
        id: BudgetId(number),
        generation: 0,
        resets: 0,
        scope: Scope { kind: ScopeKind::Project, target: Target::from_id(id(project)) },
        limits: Limits {
            cost: Some(NanoUsd::new(1000)),
            tokens: Some(Tokens::new(1000)),
            schedule: Some(schedule),
            requests_per_minute: Some(60),
        },
        is_active: true,
        expires_at: None,
        shadow: false,
        when_unavailable: WhenUnavailable::Deny,
        name: None,
        created_at: NOON,
        updated_at: Wall::from_ms(i64::try_from(number).unwrap()),
    }
}

/// The same budget by the week.
pub(super) fn weekly(budget: &Budget) -> Budget {
    let schedule = budget.limits.schedule.clone();
    let schedule = schedule.map(|schedule| Schedule { period: Period::Weekly, ..schedule });
    Budget { limits: Limits { schedule, ..budget.limits.clone() }, ..budget.clone() }
}

/// The cost account of a budget in [`MONTH`], for its target.
pub(super) fn cost_of(budget: &Budget) -> AccountKey {
    AccountKey {
        workspace: budget.workspace.clone(),
        budget: budget.id,
        generation: budget.generation,
        dimension: Dimension::Cost,
        target: id(budget.scope.target.as_str()),
        window: Arc::from(MONTH),
    }
}

/// The account of a budget's requests.
pub(super) fn requests_of(budget: &Budget) -> AccountKey {
    AccountKey { dimension: Dimension::Requests, window: Arc::from(""), ..cost_of(budget) }
}

/// Exchange number `seq` of holder 1, with nothing to report and `draw` to ask for.
pub(super) fn exchange(account: &AccountKey, seq: u32, draw: i64) -> Exchange {
    let units = Units::new(draw);
    Exchange {
        account: account.clone(),
        holder: HolderId(1),
        opened_by: None,
        epoch: 1,
        seq,
        consumed: Units::ZERO,
        returned: Units::ZERO,
        overrun: Units::ZERO,
        draw: (draw > 0).then_some(Draw { need_min: units, need: units, want: units }),
        then: Then::Renew,
    }
}

/// A settlement of this reservation that charges the account, with every field filled in.
pub(super) fn settlement(
    name: &str,
    reservation: u128,
    charged: &[(&AccountKey, i64, Road)],
) -> Settlement {
    let charges = charged.iter().map(|(account, amount, road)| Charge {
        account: (*account).clone(),
        amount: Units::new(*amount),
        road: *road,
    });
    Settlement {
        id: id(name),
        subject: Arc::new(Subject {
            project: Some(id("p1")),
            model: Some(id("openai/gpt-4o")),
            ..Subject::of_workspace(id("ws"))
        }),
        reservation: Some(ReservationId { holder: HolderId(1), nonce: reservation }),
        certainty: Certainty::Exact,
        amounts: Amounts { cost: NanoUsd::new(7), tokens: Tokens::new(-3) },
        usage: Some(Usage {
            input: 10,
            cached: 1,
            cache_write: 4,
            cache_write_1h: 2,
            output: 5,
            reasoning: 3,
        }),
        model: Some(id("gpt-4o")),
        rates: Some(Arc::from("{\"input\": \"2.5 ' $\"}")),
        at: NOON,
        charges: charges.collect(),
    }
}

pub(super) fn batch(settlements: &[Settlement], exchanges: &[Exchange]) -> Batch {
    Batch {
        workspace: id("ws"),
        holder: exchanges.first().map_or(HolderId(1), |exchange| exchange.holder),
        settlements: settlements.to_vec(),
        exchanges: exchanges.to_vec(),
    }
}

pub(super) fn api_key(name: &str, hash: u8) -> ApiKey {
    ApiKey {
        id: id(name),
        workspace: id("ws"),
        project: Some(id("p1")),
        name: id("A key"),
        hash: [hash; 32],
        created_at: Wall::from_ms(i64::from(hash)),
    }
}

/// The account as the store has it now.
pub(super) async fn account(
    store: &dyn Store,
    budget: &Budget,
    key: &AccountKey,
) -> Option<Account> {
    let accounts = store.accounts(budget, MONTH).await.unwrap();
    accounts.into_iter().find(|(found, _)| found == key).map(|(_, account)| account)
}

/// The id that stands in the way.
pub(super) fn conflict<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::Conflict { existing }) => existing,
        other => panic!("{other:?} is no conflict"),
    }
}
