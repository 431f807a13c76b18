//! Prepaid credits: grants, entries, statements.

use async_trait::async_trait;
use serde_json::{Value, json};
use sqlx::{FromRow, SqliteConnection};

use crate::domain::credits::{
    self, Added, Alert, AlertTerms, CreditGrant, Credits, Entry, EntryId, EntryKind, Holdings,
    InForce, Notice, OpenGrant, SPEND_LINES_MAX, Spender, Statement,
};
use crate::domain::ids::Id;
use crate::domain::ledger::escrow::Account;
use crate::domain::money::NanoUsd;
use crate::domain::time::Wall;
use crate::store::rows::{EntryRow, GrantRow, SpenderRow, id};
use crate::store::sqlite::{SqliteStore, alerts, tables};
use crate::store::{CreditStore, EntryPage, StoreError};

/// Entries of one workspace by time, newest first. An absent edge is null.
pub(super) const ENTRIES: &str =
    "SELECT kind, id, amount, reason, project, api_key, model, at_ms FROM credit_entry
         WHERE workspace = ?1 AND (?2 IS NULL OR (at_ms, kind, id) < (?2, ?3, ?4))
         ORDER BY at_ms DESC, kind DESC, id DESC LIMIT ?5";

#[async_trait]
impl CreditStore for SqliteStore {
    async fn add_credit(
        &self,
        workspace: &Id,
        grant: &CreditGrant,
        now: Wall,
    ) -> Result<Added, StoreError> {
        let mut tx = self.write().await?;
        let added = add(&mut tx, workspace, grant, now).await?;
        tx.commit().await?;
        Ok(added)
    }

    async fn expire_credits(
        &self,
        workspace: &Id,
        now: Wall,
    ) -> Result<Option<InForce>, StoreError> {
        let mut tx = self.write().await?;
        let in_force = expire(&mut tx, workspace, now).await?;
        tx.commit().await?;
        Ok(in_force)
    }

    async fn credits(&self, workspace: &Id) -> Result<Option<Holdings>, StoreError> {
        let mut tx = self.read().await?;
        let Some(credits) = load(&mut tx, workspace).await? else { return Ok(None) };
        Ok(Some(Holdings::new(credits, account(&mut tx, workspace).await?)))
    }

    async fn load_credits(&self) -> Result<Vec<(Id, InForce)>, StoreError> {
        let rows: Vec<(String, i64, Option<i64>)> = sqlx::query_as(
            "SELECT workspace, granted,
               (SELECT MIN(expires_at_ms) FROM credit_grant
                WHERE credit_grant.workspace = credit.workspace AND unspent > 0)
             FROM credit ORDER BY workspace",
        )
        .fetch_all(&mut *self.read().await?)
        .await?;
        let in_force = |granted, next_expiry: Option<i64>| InForce {
            granted: NanoUsd::new(granted),
            next_expiry: next_expiry.map(Wall::from_ms),
        };
        let read = |(workspace, granted, next_expiry): (String, _, _)| {
            Ok((id(&workspace)?, in_force(granted, next_expiry)))
        };
        rows.into_iter().map(read).collect()
    }

    async fn credit_entries(
        &self,
        workspace: &Id,
        after: Option<&EntryId>,
        limit: usize,
    ) -> Result<EntryPage, StoreError> {
        page(&mut *self.read().await?, workspace, after, limit).await
    }

    async fn credit_statement(
        &self,
        workspace: &Id,
        from: Wall,
        to: Wall,
    ) -> Result<Statement, StoreError> {
        statement(&mut *self.read().await?, workspace, from, to).await
    }

    async fn set_credit_alert(
        &self,
        workspace: &Id,
        terms: Option<&AlertTerms>,
    ) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        match terms {
            Some(terms) => alerts::save(&mut tx, workspace, &Alert::new(terms.clone())).await?,
            None => alerts::delete(&mut tx, workspace).await?,
        }
        Ok(tx.commit().await?)
    }

    async fn credit_alert(&self, workspace: &Id) -> Result<Option<Alert>, StoreError> {
        alerts::one(&mut *self.read().await?, workspace).await
    }

    async fn due_notices(&self, now: Wall) -> Result<Vec<Notice>, StoreError> {
        let seen = alerts::with_balances(&mut *self.read().await?).await?;
        if !seen.iter().any(|seen| seen.changes(now)) {
            // Mostly nothing is, and then nothing is written.
            return Ok(Vec::new());
        }
        let mut tx = self.write().await?;
        let mut notices = Vec::new();
        let seen = alerts::with_balances(&mut tx).await?;
        for mut seen in seen.into_iter().filter(|seen| seen.changes(now)) {
            notices.extend(seen.alert.observe(&seen.workspace, seen.balance, now));
            alerts::save(&mut tx, &seen.workspace, &seen.alert).await?;
        }
        tx.commit().await?;
        Ok(notices)
    }

    async fn notice_told(&self, notice: &Notice) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        if let Some(mut alert) = alerts::one(&mut tx, &notice.workspace).await? {
            alert.told(notice.crossing);
            alerts::save(&mut tx, &notice.workspace, &alert).await?;
        }
        Ok(tx.commit().await?)
    }
}

/// What was granted and has not expired; `None` for a workspace without a grant ever made.
pub(super) async fn granted(
    db: &mut SqliteConnection,
    workspace: &Id,
) -> Result<Option<NanoUsd>, StoreError> {
    let granted: Option<i64> =
        sqlx::query_scalar("SELECT granted FROM credit WHERE workspace = ?1")
            .bind(workspace.as_str())
            .fetch_optional(db)
            .await?;
    Ok(granted.map(NanoUsd::new))
}

/// Adds entries, unless they are there.
pub(super) async fn record(
    db: &mut SqliteConnection,
    workspace: &Id,
    entries: &[Entry],
) -> Result<(), StoreError> {
    if entries.is_empty() {
        return Ok(());
    }
    let rows: Value = entries.iter().map(entry_json).collect();
    sqlx::query(
        "INSERT INTO credit_entry (workspace, kind, id, amount, reason, project, api_key, model, at_ms)
         SELECT ?1, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7
         FROM json_each(?2) WHERE true ON CONFLICT DO NOTHING",
    )
    .bind(workspace.as_str())
    .bind(rows.to_string())
    .execute(db)
    .await?;
    Ok(())
}

fn entry_json(entry: &Entry) -> Value {
    let text = |id: &Option<Id>| id.as_ref().map(|id| id.as_str().to_owned());
    json!([
        entry.id.kind.as_str(),
        entry.id.of.as_str(),
        entry.amount.get(),
        entry.reason.as_str(),
        text(&entry.spender.project),
        text(&entry.spender.api_key),
        text(&entry.spender.model),
        entry.at.as_ms(),
    ])
}

async fn add(
    db: &mut SqliteConnection,
    workspace: &Id,
    grant: &CreditGrant,
    now: Wall,
) -> Result<Added, StoreError> {
    let before: Option<GrantRow> =
        sqlx::query_as("SELECT * FROM credit_grant WHERE workspace = ?1 AND id = ?2")
            .bind(workspace.as_str())
            .bind(grant.id.as_str())
            .fetch_optional(&mut *db)
            .await?;
    if let Some(before) = before {
        let before = OpenGrant::try_from(before)?.grant;
        let same = before.says_the_same(grant);
        return Ok(if same { Added::Before(before) } else { Added::Differs });
    }
    let mut credits = load(&mut *db, workspace).await?.unwrap_or_default();
    let account = account(&mut *db, workspace).await?;
    let added = credits.add(grant.clone(), &account, now);
    if let Added::New(_) = added {
        save(&mut *db, workspace, &credits).await?;
        record(db, workspace, &[Entry::of_grant(grant, now)]).await?;
    }
    Ok(added)
}

async fn expire(
    db: &mut SqliteConnection,
    workspace: &Id,
    now: Wall,
) -> Result<Option<InForce>, StoreError> {
    let Some(mut credits) = load(&mut *db, workspace).await? else { return Ok(None) };
    let account = account(&mut *db, workspace).await?;
    let expired = credits.expire(&account, now);
    for expiry in &expired {
        sqlx::query("UPDATE credit_grant SET unspent = 0 WHERE workspace = ?1 AND id = ?2")
            .bind(workspace.as_str())
            .bind(expiry.grant.as_str())
            .execute(&mut *db)
            .await?;
        record(&mut *db, workspace, &[Entry::of_expiry(expiry, now)]).await?;
    }
    // What was drawn is settled with the grants even where none has expired.
    save(db, workspace, &credits).await?;
    Ok(Some(credits.in_force()))
}

async fn load(db: &mut SqliteConnection, workspace: &Id) -> Result<Option<Credits>, StoreError> {
    let Some(granted) = granted(&mut *db, workspace).await? else { return Ok(None) };
    let rows: Vec<GrantRow> =
        sqlx::query_as("SELECT * FROM credit_grant WHERE workspace = ?1 AND unspent > 0")
            .bind(workspace.as_str())
            .fetch_all(db)
            .await?;
    let open = rows.into_iter().map(OpenGrant::try_from).collect::<Result<_, _>>()?;
    Ok(Some(Credits::new(granted, open)))
}

async fn save(
    db: &mut SqliteConnection,
    workspace: &Id,
    credits: &Credits,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO credit (workspace, granted) VALUES (?1, ?2)
         ON CONFLICT DO UPDATE SET granted = excluded.granted",
    )
    .bind(workspace.as_str())
    .bind(credits.granted.get())
    .execute(&mut *db)
    .await?;
    for OpenGrant { grant, left } in &credits.open {
        sqlx::query(
            "INSERT INTO credit_grant (workspace, id, amount, priority, expires_at_ms, reason, created_at_ms, unspent)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO UPDATE SET unspent = excluded.unspent",
        )
        .bind(workspace.as_str())
        .bind(grant.id.as_str())
        .bind(grant.amount.get())
        .bind(grant.priority)
        .bind(grant.expires_at.map(Wall::as_ms))
        .bind(grant.reason.as_str())
        .bind(grant.created_at.as_ms())
        .bind(left.get())
        .execute(&mut *db)
        .await?;
    }
    Ok(())
}

async fn account(db: &mut SqliteConnection, workspace: &Id) -> Result<Account, StoreError> {
    let mut accounts = [(credits::account(workspace), None)].into();
    tables::load_accounts(db, &mut accounts).await?;
    Ok(accounts.into_values().next().flatten().unwrap_or_default())
}

async fn page(
    db: &mut SqliteConnection,
    workspace: &Id,
    after: Option<&EntryId>,
    limit: usize,
) -> Result<EntryPage, StoreError> {
    let edge: Option<i64> = match after {
        None => None,
        Some(after) => {
            let at = sqlx::query_scalar(
                "SELECT at_ms FROM credit_entry WHERE workspace = ?1 AND kind = ?2 AND id = ?3",
            )
            .bind(workspace.as_str())
            .bind(after.kind.as_str())
            .bind(after.of.as_str())
            .fetch_optional(&mut *db)
            .await?;
            let Some(at) = at else {
                return Ok(EntryPage { entries: Vec::new(), has_more: false });
            };
            Some(at)
        }
    };
    // One more than the page holds tells whether there is more.
    let wanted = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let rows: Vec<EntryRow> = sqlx::query_as(ENTRIES)
        .bind(workspace.as_str())
        .bind(edge)
        .bind(after.map(|id| id.kind.as_str()))
        .bind(after.map(|id| id.of.as_str()))
        .bind(wanted)
        .fetch_all(db)
        .await?;
    let has_more = rows.len() > limit;
    let entries = rows.into_iter().take(limit).map(Entry::try_from).collect::<Result<_, _>>()?;
    Ok(EntryPage { entries, has_more })
}

/// A sum in two columns, whole dollars and the rest: SQLite's sum of both would fail where it does not fit.
fn sum_of(whole: i64, rest: i64) -> NanoUsd {
    let sum = i128::from(whole) * 1_000_000_000 + i128::from(rest);
    let nearest = if sum < 0 { i64::MIN } else { i64::MAX };
    NanoUsd::new(i64::try_from(sum).unwrap_or(nearest))
}

/// Adds up what entries were recorded from an instant to before another.
async fn statement(
    db: &mut SqliteConnection,
    workspace: &Id,
    from: Wall,
    to: Wall,
) -> Result<Statement, StoreError> {
    const SUM: &str =
        "SELECT kind, SUM(amount / 1000000000), SUM(amount % 1000000000) FROM credit_entry
         WHERE workspace = ?1 AND at_ms >= ?2 AND at_ms < ?3 GROUP BY kind";
    let mut sums = Vec::new();
    for (from, to) in [(i64::MIN, from.as_ms()), (from.as_ms(), to.as_ms())] {
        let sum = sqlx::query_as(SUM).bind(workspace.as_str()).bind(from).bind(to);
        let sum: Vec<(String, i64, i64)> = sum.fetch_all(&mut *db).await?;
        sums.push(sum);
    }
    let spend: Vec<SpendRow> = sqlx::query_as(
        "SELECT project, api_key, model, SUM(amount / 1000000000) AS whole, SUM(amount % 1000000000) AS rest
         FROM credit_entry
         WHERE workspace = ?1 AND at_ms >= ?2 AND at_ms < ?3 AND kind = 'usage'
         GROUP BY project, api_key, model ORDER BY TOTAL(amount), project, api_key, model LIMIT ?4",
    )
    .bind(workspace.as_str())
    .bind(from.as_ms())
    .bind(to.as_ms())
    .bind(i64::try_from(SPEND_LINES_MAX).unwrap_or(i64::MAX))
    .fetch_all(db)
    .await?;
    let spend = spend
        .into_iter()
        .map(|row| Ok((row.spender.try_into()?, sum_of(row.whole, row.rest))))
        .collect::<Result<Vec<(Spender, NanoUsd)>, StoreError>>()?;
    let sum = |sums: Option<&Vec<(String, i64, i64)>>, of: Option<EntryKind>| {
        let of_kind = |name: &str| of.is_none_or(|kind| kind.as_str() == name);
        let sums = sums.into_iter().flatten().filter(|(name, ..)| of_kind(name));
        sums.fold(NanoUsd::ZERO, |all, (_, whole, rest)| all.plus(sum_of(*whole, *rest)))
    };
    let within = |kind| sum(sums.get(1), Some(kind));
    let on_lines = spend.iter().fold(NanoUsd::ZERO, |all, (_, sum)| all.plus(*sum));
    Ok(Statement {
        opening: sum(sums.first(), None),
        granted: within(EntryKind::Grant),
        other_spend: within(EntryKind::Usage).minus(on_lines),
        spend,
        adjusted: within(EntryKind::Adjustment),
        expired: within(EntryKind::Expiry),
    })
}

#[derive(FromRow)]
struct SpendRow {
    #[sqlx(flatten)]
    spender: SpenderRow,
    whole: i64,
    rest: i64,
}
