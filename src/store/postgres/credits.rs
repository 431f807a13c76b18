//! Prepaid credits: grants, entries, statements.

use async_trait::async_trait;
use sqlx::{FromRow, PgConnection};

use super::errors::Failure;
use super::tables::{self, Busy};
use super::turn::{START_TIMEOUT, Turn, bounded, in_turn, query, query_as, query_scalar};
use super::{PostgresStore, alerts, changed, clock};
use crate::domain::credits::{
    self, Added, Alert, AlertTerms, CreditGrant, Credits, Entry, EntryId, EntryKind, Holdings,
    InForce, Notice, OpenGrant, SPEND_LINES_MAX, Spender, Statement,
};
use crate::domain::ids::Id;
use crate::domain::ledger::escrow::Account;
use crate::domain::money::NanoUsd;
use crate::domain::time::Wall;
use crate::store::rows::{AccountRow, EntryRow, GrantRow, SpenderRow, id};
use crate::store::{CreditStore, EntryPage, StoreError};

/// Entries of one workspace by time, newest first. An absent edge is null.
pub(super) const ENTRIES: &str =
    "SELECT kind, id, amount, reason, project, api_key, model, at_ms FROM credit_entry
         WHERE workspace = $1 AND ($2::bigint IS NULL OR (at_ms, kind, id) < ($2, $3, $4))
         ORDER BY at_ms DESC, kind DESC, id DESC LIMIT $5";

#[async_trait]
impl CreditStore for PostgresStore {
    async fn add_credit(
        &self,
        workspace: &Id,
        grant: &CreditGrant,
        now: Wall,
    ) -> Result<Added, StoreError> {
        let given = self.given(now);
        self.in_time(async {
            in_turn!(&self.pool, WRITE, |turn| add(turn, workspace, grant, given))
        })
        .await
    }

    async fn expire_credits(
        &self,
        workspace: &Id,
        now: Wall,
    ) -> Result<Option<InForce>, StoreError> {
        let given = self.given(now);
        self.in_time(async { in_turn!(&self.pool, WRITE, |turn| expire(turn, workspace, given)) })
            .await
    }

    async fn credits(&self, workspace: &Id) -> Result<Option<Holdings>, StoreError> {
        self.in_time(async { in_turn!(&self.pool, READ, |turn| holdings(turn, workspace)) }).await
    }

    async fn load_credits(&self) -> Result<Vec<(Id, InForce)>, StoreError> {
        bounded(START_TIMEOUT, async {
            in_turn!(&self.pool, READ_AT_START, |turn| all_in_force(turn))
        })
        .await
    }

    async fn credit_entries(
        &self,
        workspace: &Id,
        after: Option<&EntryId>,
        limit: usize,
    ) -> Result<EntryPage, StoreError> {
        self.in_time(async {
            in_turn!(&self.pool, READ, |turn| page(turn, workspace, after, limit))
        })
        .await
    }

    async fn credit_statement(
        &self,
        workspace: &Id,
        from: Wall,
        to: Wall,
    ) -> Result<Statement, StoreError> {
        self.in_time(async {
            in_turn!(&self.pool, READ, |turn| statement(turn, workspace, from, to))
        })
        .await
    }

    async fn set_credit_alert(
        &self,
        workspace: &Id,
        terms: Option<&AlertTerms>,
    ) -> Result<(), StoreError> {
        self.in_time(async {
            in_turn!(&self.pool, WRITE, |turn| async {
                match terms {
                    Some(terms) => alerts::save(turn, workspace, &Alert::new(terms.clone())).await,
                    None => alerts::delete(turn, workspace).await,
                }
            })
        })
        .await
    }

    async fn credit_alert(&self, workspace: &Id) -> Result<Option<Alert>, StoreError> {
        self.in_time(async { in_turn!(&self.pool, READ, |turn| alerts::one(turn, workspace)) })
            .await
    }

    async fn due_notices(&self, now: Wall) -> Result<Vec<Notice>, StoreError> {
        let given = self.given(now);
        self.in_time(async {
            let is_due = in_turn!(&self.pool, READ, |turn| is_any_due(turn, given))?;
            if !is_due {
                // Mostly nothing is, and then nothing is written.
                return Ok(Vec::new());
            }
            in_turn!(&self.pool, WRITE, |turn| take_notices(turn, given))
        })
        .await
    }

    async fn notice_told(&self, notice: &Notice) -> Result<(), StoreError> {
        self.in_time(async { in_turn!(&self.pool, WRITE, |turn| told(turn, notice)) }).await
    }
}

async fn holdings(db: &mut PgConnection, workspace: &Id) -> Result<Option<Holdings>, Failure> {
    let Some(credits) = load(&mut *db, workspace).await? else { return Ok(None) };
    let row: Option<AccountRow> = query_as(
        "SELECT * FROM account WHERE workspace = $1 AND budget = $2 AND generation = 0 AND dimension = 'cost'
           AND target = $1 AND window_label = ''",
    )
    .bind(workspace.as_str())
    .bind(credits::BUDGET.to_string())
    .fetch_optional(db)
    .await?;
    Ok(Some(Holdings::new(credits, row.map(Account::from).unwrap_or_default())))
}

async fn all_in_force(db: &mut PgConnection) -> Result<Vec<(Id, InForce)>, Failure> {
    let rows: Vec<(String, i64, Option<i64>)> = query_as(
        "SELECT workspace, granted,
           (SELECT MIN(expires_at_ms) FROM credit_grant
            WHERE credit_grant.workspace = credit.workspace AND unspent > 0)
         FROM credit ORDER BY workspace",
    )
    .fetch_all(db)
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

async fn is_any_due(db: &mut PgConnection, given: Option<Wall>) -> Result<bool, Failure> {
    let now = clock(&mut *db, given).await?;
    Ok(alerts::seen(db).await?.iter().any(|seen| seen.changes(now)))
}

async fn take_notices(db: &mut PgConnection, given: Option<Wall>) -> Result<Vec<Notice>, Failure> {
    let now = clock(&mut *db, given).await?;
    let mut notices = Vec::new();
    let seen = alerts::taken(&mut *db).await?;
    for mut seen in seen.into_iter().filter(|seen| seen.changes(now)) {
        notices.extend(seen.alert.observe(&seen.workspace, seen.balance, now));
        alerts::save(&mut *db, &seen.workspace, &seen.alert).await?;
    }
    Ok(notices)
}

async fn told(db: &mut PgConnection, notice: &Notice) -> Result<(), Failure> {
    if let Some(mut alert) = alerts::one(&mut *db, &notice.workspace).await? {
        alert.told(notice.crossing);
        alerts::save(db, &notice.workspace, &alert).await?;
    }
    Ok(())
}

/// What was granted and has not expired; `None` for a workspace without a grant ever made.
async fn granted(db: &mut PgConnection, workspace: &Id) -> Result<Option<NanoUsd>, Failure> {
    let granted: Option<i64> = query_scalar("SELECT granted FROM credit WHERE workspace = $1")
        .bind(workspace.as_str())
        .fetch_optional(db)
        .await?;
    Ok(granted.map(NanoUsd::new))
}

/// Adds entries, unless they are there.
async fn record(db: &mut PgConnection, workspace: &Id, entries: &[Entry]) -> Result<(), Failure> {
    if entries.is_empty() {
        return Ok(());
    }
    let column = |of: fn(&Entry) -> Option<&str>| entries.iter().map(of).collect::<Vec<_>>();
    query(
        "INSERT INTO credit_entry (workspace, kind, id, amount, at_ms, reason, project, api_key, model)
         SELECT $1, * FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::text[],
           $9::text[])
         ON CONFLICT DO NOTHING",
    )
    .bind(workspace.as_str())
    .bind(column(|entry| Some(entry.id.kind.as_str())))
    .bind(column(|entry| Some(entry.id.of.as_str())))
    .bind(entries.iter().map(|entry| entry.amount.get()).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.at.as_ms()).collect::<Vec<_>>())
    .bind(column(|entry| Some(entry.reason.as_str())))
    .bind(column(|entry| entry.spender.project.as_ref().map(Id::as_str)))
    .bind(column(|entry| entry.spender.api_key.as_ref().map(Id::as_str)))
    .bind(column(|entry| entry.spender.model.as_ref().map(Id::as_str)))
    .execute(db)
    .await?;
    Ok(())
}

async fn add(
    turn: &mut Turn,
    workspace: &Id,
    grant: &CreditGrant,
    given: Option<Wall>,
) -> Result<Added, Failure> {
    let now = clock(turn, given).await?;
    // Nobody else changes these credits from here on.
    changed(turn, workspace, None, given).await?;
    let added = add_grant(turn, workspace, grant, now).await?;
    if !matches!(added, Added::New(_)) {
        turn.discard();
    }
    Ok(added)
}

async fn add_grant(
    db: &mut PgConnection,
    workspace: &Id,
    grant: &CreditGrant,
    now: Wall,
) -> Result<Added, Failure> {
    let before: Option<GrantRow> =
        query_as("SELECT * FROM credit_grant WHERE workspace = $1 AND id = $2")
            .bind(workspace.as_str())
            .bind(grant.id.as_str())
            .fetch_optional(&mut *db)
            .await?;
    if let Some(before) = before {
        let before = OpenGrant::try_from(before)?.grant;
        let same = before.says_the_same(grant);
        return Ok(if same { Added::Before(before) } else { Added::Differs });
    }
    let account = account(&mut *db, workspace).await?;
    let mut credits = load(&mut *db, workspace).await?.unwrap_or_default();
    let added = credits.add(grant.clone(), &account, now);
    if let Added::New(_) = added {
        save(&mut *db, workspace, &credits).await?;
        record(db, workspace, &[Entry::of_grant(grant, now)]).await?;
    }
    Ok(added)
}

async fn expire(
    turn: &mut Turn,
    workspace: &Id,
    given: Option<Wall>,
) -> Result<Option<InForce>, Failure> {
    if granted(turn, workspace).await?.is_none() {
        // Nobody is to wait for a workspace that has no credits. A grant that comes meanwhile is told by itself.
        return Ok(None);
    }
    let now = clock(turn, given).await?;
    // Nobody else changes these credits from here on. Who ever had some has had a change.
    query("SELECT FROM change WHERE workspace = $1 FOR UPDATE")
        .bind(workspace.as_str())
        .execute(&mut **turn)
        .await?;
    let account = account(turn, workspace).await?;
    let Some(mut credits) = load(turn, workspace).await? else { return Ok(None) };
    let expired = credits.expire(&account, now);
    for expiry in &expired {
        query("UPDATE credit_grant SET unspent = 0 WHERE workspace = $1 AND id = $2")
            .bind(workspace.as_str())
            .bind(expiry.grant.as_str())
            .execute(&mut **turn)
            .await?;
        record(turn, workspace, &[Entry::of_expiry(expiry, now)]).await?;
    }
    // What was drawn is settled with the grants even where none has expired.
    save(turn, workspace, &credits).await?;
    if !expired.is_empty() {
        changed(turn, workspace, None, given).await?;
    }
    Ok(Some(credits.in_force()))
}

async fn load(db: &mut PgConnection, workspace: &Id) -> Result<Option<Credits>, Failure> {
    let Some(granted) = granted(&mut *db, workspace).await? else { return Ok(None) };
    let rows: Vec<GrantRow> =
        query_as("SELECT * FROM credit_grant WHERE workspace = $1 AND unspent > 0")
            .bind(workspace.as_str())
            .fetch_all(db)
            .await?;
    let open = rows.into_iter().map(OpenGrant::try_from).collect::<Result<_, _>>()?;
    Ok(Some(Credits::new(granted, open)))
}

async fn save(db: &mut PgConnection, workspace: &Id, credits: &Credits) -> Result<(), Failure> {
    query(
        "INSERT INTO credit (workspace, granted) VALUES ($1, $2)
         ON CONFLICT (workspace) DO UPDATE SET granted = excluded.granted",
    )
    .bind(workspace.as_str())
    .bind(credits.granted.get())
    .execute(&mut *db)
    .await?;
    for OpenGrant { grant, left } in &credits.open {
        query(
            "INSERT INTO credit_grant (workspace, id, amount, priority, expires_at_ms, reason, created_at_ms, unspent)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (workspace, id) DO UPDATE SET unspent = excluded.unspent",
        )
        .bind(workspace.as_str())
        .bind(grant.id.as_str())
        .bind(grant.amount.get())
        .bind(i64::from(grant.priority))
        .bind(grant.expires_at.map(Wall::as_ms))
        .bind(grant.reason.as_str())
        .bind(grant.created_at.as_ms())
        .bind(left.get())
        .execute(&mut *db)
        .await?;
    }
    Ok(())
}

/// The account, locked: what is lent of it cannot grow while grants expire.
async fn account(db: &mut PgConnection, workspace: &Id) -> Result<Account, Failure> {
    let key = credits::account(workspace);
    let accounts = tables::lock_accounts(db, [&key].into_iter(), Busy::Wait).await?;
    Ok(accounts.into_values().next().unwrap_or_default())
}

async fn page(
    db: &mut PgConnection,
    workspace: &Id,
    after: Option<&EntryId>,
    limit: usize,
) -> Result<EntryPage, Failure> {
    let edge: Option<i64> = match after {
        None => None,
        Some(after) => {
            let at = query_scalar(
                "SELECT at_ms FROM credit_entry WHERE workspace = $1 AND kind = $2 AND id = $3",
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
    let rows: Vec<EntryRow> = query_as(ENTRIES)
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

/// Adds up what entries were recorded from an instant to before another.
async fn statement(
    db: &mut PgConnection,
    workspace: &Id,
    from: Wall,
    to: Wall,
) -> Result<Statement, Failure> {
    const SUM: &str = "SELECT kind, GREATEST(-9223372036854775808, LEAST(9223372036854775807, SUM(amount)))::bigint FROM credit_entry
         WHERE workspace = $1 AND at_ms >= $2 AND at_ms < $3 GROUP BY kind";
    let mut sums = Vec::new();
    for (from, to) in [(i64::MIN, from.as_ms()), (from.as_ms(), to.as_ms())] {
        let sum = query_as(SUM).bind(workspace.as_str()).bind(from).bind(to);
        let sum: Vec<(String, i64)> = sum.fetch_all(&mut *db).await?;
        sums.push(sum);
    }
    let spend: Vec<SpendRow> = query_as(
        "SELECT project, api_key, model,
           GREATEST(-9223372036854775808, LEAST(9223372036854775807, SUM(amount)))::bigint AS amount FROM credit_entry
         WHERE workspace = $1 AND at_ms >= $2 AND at_ms < $3 AND kind = 'usage'
         GROUP BY project, api_key, model ORDER BY amount, project NULLS FIRST, api_key NULLS FIRST, model NULLS FIRST
         LIMIT $4",
    )
    .bind(workspace.as_str())
    .bind(from.as_ms())
    .bind(to.as_ms())
    .bind(i64::try_from(SPEND_LINES_MAX).unwrap_or(i64::MAX))
    .fetch_all(db)
    .await?;
    let spend = spend
        .into_iter()
        .map(|row| Ok((row.spender.try_into()?, NanoUsd::new(row.amount))))
        .collect::<Result<Vec<(Spender, NanoUsd)>, StoreError>>()?;
    let sum = |sums: Option<&Vec<(String, i64)>>, of: Option<EntryKind>| {
        let of_kind = |name: &str| of.is_none_or(|kind| kind.as_str() == name);
        let sums = sums.into_iter().flatten().filter(|(name, _)| of_kind(name));
        sums.fold(NanoUsd::ZERO, |all, (_, sum)| all.plus(NanoUsd::new(*sum)))
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
    amount: i64,
}
