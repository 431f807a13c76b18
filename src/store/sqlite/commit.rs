//! One batch in one transaction: load the rows that it names, post it, save them.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{FromRow, SqliteConnection};

use crate::domain::credits::{BUDGET, Entry};
use crate::domain::ids::{BudgetId, HolderId, Id};
use crate::domain::ledger::escrow::{AccountKey, Grant};
use crate::domain::settlement::{Road, Settlement};
use crate::domain::time::Wall;
use crate::domain::usage::Usage;
use crate::store::posting::{self, Allowance, Rows};
use crate::store::rows::{AccountKeyRow, LimitsRow, number, parsed, road_name, unreadable};
use crate::store::sqlite::credits;
use crate::store::sqlite::tables::{self, account_key_json};
use crate::store::{Batch, StoreError};

/// Runs with every batch.
pub(super) const SUCCESSORS: &str =
    "SELECT holder, successor FROM takeover WHERE holder IN (SELECT value FROM json_each(?1))";

pub(super) async fn apply(
    db: &mut SqliteConnection,
    batch: &Batch,
    ttl: Duration,
    now: Wall,
) -> Result<Vec<Grant>, StoreError> {
    let mut rows = Rows::named_by(batch);
    load_budgets(&mut *db, batch, &mut rows).await?;
    load_on_record(&mut *db, batch, &mut rows).await?;
    tables::load_accounts(&mut *db, &mut rows.accounts).await?;
    tables::load_leases(&mut *db, &mut rows.leases).await?;
    load_successors(&mut *db, &mut rows).await?;
    let (fresh, grants) = posting::post(batch, &mut rows, ttl, now)?;
    let accounts =
        rows.accounts.iter().filter_map(|(key, account)| Some((*key, account.as_ref()?)));
    tables::save_accounts(&mut *db, accounts).await?;
    let leases = rows
        .leases
        .iter()
        .filter_map(|(key, lease)| Some((key.account, key.holder, key.epoch, lease.as_ref()?)));
    tables::save_leases(&mut *db, leases).await?;
    record(&mut *db, &batch.workspace, &fresh).await?;
    let entries = fresh.iter().filter_map(|settlement| Entry::of_settlement(settlement, now));
    credits::record(db, &batch.workspace, &entries.collect::<Vec<_>>()).await?;
    Ok(grants)
}

#[derive(FromRow)]
struct AllowanceRow {
    id: String,
    generation: i64,
    #[sqlx(flatten)]
    limits: LimitsRow,
}

async fn load_budgets(
    db: &mut SqliteConnection,
    batch: &Batch,
    rows: &mut Rows<'_>,
) -> Result<(), StoreError> {
    let named: BTreeSet<BudgetId> = rows.accounts.keys().map(|account| account.budget).collect();
    let named: Value = named.iter().map(BudgetId::to_string).collect();
    let found: Vec<AllowanceRow> = sqlx::query_as(
        "SELECT id, generation, cost_limit, tokens_limit, requests_per_minute FROM budget
         WHERE workspace = ?1 AND id IN (SELECT value FROM json_each(?2))",
    )
    .bind(batch.workspace.as_str())
    .bind(named.to_string())
    .fetch_all(&mut *db)
    .await?;
    for row in found {
        let id = BudgetId::parse(&row.id).map_err(|why| unreadable("budget id", &row.id, why))?;
        let generation = number("generation", row.generation)?;
        rows.budgets.insert(id, Allowance { generation, limits: row.limits.into() });
    }
    if rows.accounts.keys().any(|account| account.budget == BUDGET)
        && let Some(granted) = credits::granted(db, &batch.workspace).await?
    {
        rows.budgets.insert(BUDGET, Allowance::of_credits(granted));
    }
    Ok(())
}

async fn load_on_record<'a>(
    db: &mut SqliteConnection,
    batch: &'a Batch,
    rows: &mut Rows<'a>,
) -> Result<(), StoreError> {
    if batch.settlements.is_empty() {
        return Ok(());
    }
    let ids: Value = batch.settlements.iter().map(|settlement| settlement.id.as_str()).collect();
    let found: Vec<String> = sqlx::query_scalar(
        "SELECT id FROM settlement WHERE workspace = ?1 AND id IN (SELECT value FROM json_each(?2))",
    )
    .bind(batch.workspace.as_str())
    .bind(ids.to_string())
    .fetch_all(&mut *db)
    .await?;
    let found: BTreeSet<&str> = found.iter().map(String::as_str).collect();
    let ids = batch.settlements.iter().map(|settlement| &settlement.id);
    rows.on_record = ids.filter(|id| found.contains(id.as_str())).collect();
    if rows.on_record.is_empty() {
        return Ok(());
    }
    let direct = direct_charges(db, &batch.workspace, &rows.on_record).await?;
    rows.note_charged(batch, |id, account| direct.contains(&(id.to_string(), account.clone())));
    Ok(())
}

async fn load_successors(db: &mut SqliteConnection, rows: &mut Rows<'_>) -> Result<(), StoreError> {
    let named: Value = rows.successors.keys().map(HolderId::to_string).collect();
    let found: Vec<(String, String)> =
        sqlx::query_as(SUCCESSORS).bind(named.to_string()).fetch_all(db).await?;
    let holder = |text: &str| parsed("holder id", text, HolderId::parse);
    for (before, after) in found {
        rows.successors.insert(holder(&before)?, Some(holder(&after)?));
    }
    Ok(())
}

#[derive(FromRow)]
struct ChargedRow {
    settlement_id: String,
    #[sqlx(flatten)]
    account: AccountKeyRow,
}

/// Which of these settlements charge which accounts directly.
async fn direct_charges(
    db: &mut SqliteConnection,
    workspace: &Id,
    settlements: &BTreeSet<&Id>,
) -> Result<BTreeSet<(String, AccountKey)>, StoreError> {
    let ids: Value = settlements.iter().map(|id| id.as_str()).collect();
    let found: Vec<ChargedRow> = sqlx::query_as(
        "SELECT * FROM usage_event
         WHERE workspace = ?1 AND settlement_id IN (SELECT value FROM json_each(?2)) AND road = ?3",
    )
    .bind(workspace.as_str())
    .bind(ids.to_string())
    .bind(road_name(Road::Direct))
    .fetch_all(db)
    .await?;
    found.into_iter().map(|row| Ok((row.settlement_id, row.account.try_into()?))).collect()
}

/// Adds settlements and their charges to the audit trail.
async fn record(
    db: &mut SqliteConnection,
    workspace: &Id,
    settlements: &[&Settlement],
) -> Result<(), StoreError> {
    if settlements.is_empty() {
        return Ok(());
    }
    let rows: Value = settlements.iter().map(|settlement| settlement_json(settlement)).collect();
    sqlx::query(
        "INSERT INTO settlement (workspace, id, project, identity, api_key, provider, subject_model, reservation,
           certainty, cost, tokens, input, cached, cache_write, cache_write_1h, output, reasoning, model, rates, at_ms)
         SELECT ?1, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
           value ->> 7, value ->> 8, value ->> 9, value ->> '$[10][0]', value ->> '$[10][1]', value ->> '$[10][2]',
           value ->> '$[10][3]', value ->> '$[10][4]', value ->> '$[10][5]', value ->> 11, value ->> 12, value ->> 13
         FROM json_each(?2) ORDER BY key",
    )
    .bind(workspace.as_str())
    .bind(rows.to_string())
    .execute(&mut *db)
    .await?;
    let events: Value =
        settlements.iter().flat_map(|settlement| charges_json(settlement)).collect();
    sqlx::query(
        "INSERT INTO usage_event (workspace, settlement_id, kind, at_ms, budget, generation, dimension, target,
           window_label, amount, road)
         SELECT ?1, value ->> 0, value ->> 1, value ->> 2, value ->> '$[3][1]', value ->> '$[3][2]',
           value ->> '$[3][3]', value ->> '$[3][4]', value ->> '$[3][5]', value ->> 4, value ->> 5
         FROM json_each(?2)",
    )
    .bind(workspace.as_str())
    .bind(events.to_string())
    .execute(db)
    .await?;
    Ok(())
}

fn settlement_json(settlement: &Settlement) -> Value {
    let text = |id: &Option<Id>| id.as_ref().map(|id| id.as_str().to_owned());
    let usage = settlement.usage.map(|usage| {
        let Usage { input, cached, cache_write, cache_write_1h, output, reasoning } = usage;
        [input, cached, cache_write, cache_write_1h, output, reasoning]
            .map(|count| i64::try_from(count).unwrap_or(i64::MAX))
    });
    json!([
        settlement.id.as_str(),
        text(&settlement.subject.project),
        text(&settlement.subject.identity),
        text(&settlement.subject.api_key),
        text(&settlement.subject.provider),
        text(&settlement.subject.model),
        settlement.reservation.map(|reservation| reservation.to_string()),
        settlement.certainty.as_str(),
        settlement.amounts.cost.get(),
        settlement.amounts.tokens.get(),
        usage,
        text(&settlement.model),
        settlement.rates.as_deref(),
        settlement.at.as_ms(),
    ])
}

fn charges_json(settlement: &Settlement) -> impl Iterator<Item = Value> {
    posting::charges_on_record(settlement).map(|(account, amount, road)| {
        json!([
            settlement.id.as_str(),
            settlement.certainty.as_str(),
            settlement.at.as_ms(),
            account_key_json(account),
            amount.get(),
            road_name(road),
        ])
    })
}
