//! The rows of prepaid credits.

use std::sync::Arc;

use sqlx::FromRow;

use super::{id, named, number, optional_id, unreadable};
use crate::domain::credits::{
    Alert, AlertTerms, CreditGrant, Crossing, Entry, EntryId, EntryKind, OpenGrant, Secret,
    Spender, Watch,
};
use crate::domain::money::NanoUsd;
use crate::domain::time::Wall;
use crate::store::StoreError;

#[derive(FromRow)]
pub(in crate::store) struct GrantRow {
    id: String,
    amount: i64,
    priority: i64,
    expires_at_ms: Option<i64>,
    reason: String,
    created_at_ms: i64,
    unspent: i64,
}

#[derive(FromRow)]
pub(in crate::store) struct SpenderRow {
    project: Option<String>,
    api_key: Option<String>,
    model: Option<String>,
}

#[derive(FromRow)]
pub(in crate::store) struct EntryRow {
    kind: String,
    id: String,
    amount: i64,
    reason: String,
    #[sqlx(flatten)]
    spender: SpenderRow,
    at_ms: i64,
}

impl TryFrom<GrantRow> for OpenGrant {
    type Error = StoreError;

    fn try_from(row: GrantRow) -> Result<Self, StoreError> {
        let grant = CreditGrant {
            id: id(&row.id)?,
            amount: NanoUsd::new(row.amount),
            priority: u8::try_from(row.priority)
                .map_err(|_| unreadable("priority", row.priority, "is out of range"))?,
            expires_at: row.expires_at_ms.map(Wall::from_ms),
            reason: id(&row.reason)?,
            created_at: Wall::from_ms(row.created_at_ms),
        };
        Ok(Self { grant, left: NanoUsd::new(row.unspent) })
    }
}

impl TryFrom<SpenderRow> for Spender {
    type Error = StoreError;

    fn try_from(row: SpenderRow) -> Result<Self, StoreError> {
        Ok(Self {
            project: optional_id(row.project.as_deref())?,
            api_key: optional_id(row.api_key.as_deref())?,
            model: optional_id(row.model.as_deref())?,
        })
    }
}

impl TryFrom<EntryRow> for Entry {
    type Error = StoreError;

    fn try_from(row: EntryRow) -> Result<Self, StoreError> {
        let kind = named("kind of entry", &row.kind, EntryKind::from_name)?;
        Ok(Self {
            id: EntryId { kind, of: id(&row.id)? },
            amount: NanoUsd::new(row.amount),
            reason: id(&row.reason)?,
            spender: row.spender.try_into()?,
            at: Wall::from_ms(row.at_ms),
        })
    }
}

#[derive(FromRow)]
pub(in crate::store) struct AlertRow {
    pub(in crate::store) workspace: String,
    threshold: i64,
    url: String,
    secret: String,
    watch: String,
    crossed_balance: Option<i64>,
    crossed_at_ms: Option<i64>,
    attempts: Option<i64>,
    due_at_ms: Option<i64>,
}

impl TryFrom<AlertRow> for Alert {
    type Error = StoreError;

    fn try_from(row: AlertRow) -> Result<Self, StoreError> {
        let telling =
            row.crossed_balance.zip(row.crossed_at_ms).zip(row.attempts).zip(row.due_at_ms);
        let watch = match (row.watch.as_str(), telling) {
            ("armed", _) => Watch::Armed,
            ("told", _) => Watch::Told,
            ("telling", Some((((balance, at), attempts), due_at))) => Watch::Telling {
                crossing: Crossing { balance: NanoUsd::new(balance), at: Wall::from_ms(at) },
                attempts: number("number of attempts", attempts)?,
                due_at: Wall::from_ms(due_at),
            },
            (other, _) => return Err(unreadable("state of an alert", other, "is not known")),
        };
        let terms = AlertTerms {
            threshold: NanoUsd::new(row.threshold),
            url: Arc::from(row.url),
            secret: Secret(Arc::from(row.secret)),
        };
        Ok(Self { terms, watch })
    }
}
