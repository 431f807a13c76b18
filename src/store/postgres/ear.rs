//! Words of other replicas, as they are said: one connection that listens, made anew when it is lost.

use std::time::Duration;

use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::fleet::CHANNEL;
use crate::domain::budget::Dimension;
use crate::domain::ids::{BudgetId, HolderId, Id};
use crate::domain::ledger::escrow::AccountKey;
use crate::store::{StoreError, Told};

/// A connection on which nothing was said for this long is tried: the server may have gone without a word.
const SILENCE: Duration = Duration::from_secs(10);

/// How long it takes to connect and to answer at the most.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// How long to wait before connecting again.
const PAUSE: Duration = Duration::from_secs(1);

/// Hears what replicas say.
pub(super) struct Ear {
    /// Where to connect; none where nothing is listened to.
    options: Option<PgConnectOptions>,
    listener: Mutex<Option<PgListener>>,
}

impl std::fmt::Debug for Ear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ear").field("listens", &self.options.is_some()).finish()
    }
}

impl Ear {
    /// Hears nothing, ever.
    pub(super) const fn closed() -> Self {
        Self { options: None, listener: Mutex::const_new(None) }
    }

    /// Listens from now on.
    pub(super) async fn open(options: &PgConnectOptions) -> Result<Self, StoreError> {
        let listener = connect(options).await;
        let listener = listener.ok_or_else(|| {
            StoreError::Unavailable(
                "cannot LISTEN on the database; behind PgBouncer set store.listen: false"
                    .to_owned(),
            )
        })?;
        Ok(Self { options: Some(options.clone()), listener: Mutex::new(Some(listener)) })
    }

    /// The next word. Safe to give up waiting for.
    pub(super) async fn next(&self) -> Told {
        let Some(options) = &self.options else { return std::future::pending().await };
        let mut listener = self.listener.lock().await;
        loop {
            let Some(connected) = listener.as_mut() else {
                *listener = connect(options).await;
                if listener.is_some() {
                    return Told::Missed;
                }
                sleep(PAUSE).await;
                continue;
            };
            match timeout(SILENCE, connected.try_recv()).await {
                Ok(Ok(Some(word))) => return read(word.payload()).unwrap_or(Told::Missed),
                Err(_) if is_alive(connected).await => {}
                Ok(Ok(None) | Err(_)) | Err(_) => *listener = None,
            }
        }
    }
}

/// A pool for each connection, because a lost one may keep its place in the old pool for long.
async fn connect(options: &PgConnectOptions) -> Option<PgListener> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(ANSWER_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(options.clone());
    let connecting = async {
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok::<_, sqlx::Error>(listener)
    };
    timeout(ANSWER_TIMEOUT, connecting).await.ok()?.ok()
}

/// Words that come in the meantime are kept by the listener.
async fn is_alive(listener: &mut PgListener) -> bool {
    let trial = sqlx::raw_sql("SELECT 1").execute(&mut *listener);
    matches!(timeout(ANSWER_TIMEOUT, trial).await, Ok(Ok(_)))
}

/// Reads a word. One that means nothing here is of another version: what it is about may be anything.
fn read(payload: &str) -> Option<Told> {
    let word: Value = serde_json::from_str(payload).ok()?;
    let text = |place: usize| word.get(place).and_then(Value::as_str);
    let number = |place: usize| u32::try_from(word.get(place)?.as_u64()?).ok();
    let id = |place| Id::parse(text(place)?).ok();
    match text(0)? {
        "changed" => Some(Told::Changed(id(1)?)),
        "handed_over" => Some(Told::HandedOver(HolderId::parse(text(1)?).ok()?)),
        "recalled" => {
            let account = AccountKey {
                workspace: id(1)?,
                budget: BudgetId::parse(text(2)?).ok()?,
                generation: number(3)?,
                dimension: Dimension::from_name(text(4)?)?,
                target: id(5)?,
                window: text(6)?.into(),
            };
            Some(Told::Recalled(account, number(7)?))
        }
        _ => None,
    }
}
