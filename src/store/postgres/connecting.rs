//! Connections, and the schema at their other end.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection};

use super::errors::Failure;
use super::turn::{ACQUIRE_TIMEOUT, Pool, SESSION, START_TIMEOUT, Turn, bounded, query_scalar};
use super::{PostgresSettings, encrypting};
use crate::store::{StoreError, errors};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// A connection that was idle for longer is tried before it is used: the server may have gone meanwhile.
const UNTRIED_IDLE: Duration = Duration::from_secs(1);

/// How long that may take.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Parameters of libpq that mean something here.
const PARAMETERS: [&str; 12] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// Reads a URL. Nothing of what is refused is shown but the name of the part, because there is a password in it.
pub(super) fn options(url: &str, setting: &str) -> Result<PgConnectOptions, StoreError> {
    let refuse = |why: &str| {
        StoreError::Unavailable(format!(
            "{setting} {why}; it is written postgres://user:password@host:5432/database?sslmode=verify-full"
        ))
    };
    let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
    let rest = rest.ok_or_else(|| refuse("does not begin with postgres://"))?;
    let (place, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let parameters: Vec<_> = parameters
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| part.split_once('=').unwrap_or((part, "")))
        .collect();
    for (name, value) in &parameters {
        if !PARAMETERS.contains(name) && !name.starts_with("options[") {
            // What follows a question mark in a password that was not encoded stands here too.
            return Err(refuse(
                "has a parameter that Bursar does not know, or a password in which special characters are not percent-encoded",
            ));
        }
        if *name == "port" && value.parse::<u16>().is_err() {
            return Err(refuse("has a port that is no number up to 65535"));
        }
    }
    if let Some(why) = encrypting::fault(&parameters) {
        return Err(refuse(&why));
    }
    let host = place.rsplit_once('@').map_or(place, |(_, host)| host);
    let host = host.split_once('/').map_or(host, |(host, _)| host);
    if let Some((_, port)) = host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']'))
        && port.parse::<u16>().is_err()
    {
        return Err(refuse("has a port that is no number up to 65535"));
    }
    let options = PgConnectOptions::from_str(url).map_err(|_| {
        refuse("has a user, password, host or database that cannot be read; percent-encode special characters")
    })?;
    let name = options.get_application_name().unwrap_or("bursar").to_owned();
    // PgBouncer refuses parameters that it does not know, and no float is ever asked for.
    Ok(options.application_name(&name).extra_float_digits(None).disable_statement_logging())
}

/// Connections that are opened when they are needed. What a session is told may reach anybody's behind PgBouncer; there
/// each transaction is told instead.
pub(super) fn pool(options: &PgConnectOptions, settings: &PostgresSettings) -> PgPool {
    let session = settings.prepared_statements.then_some(SESSION);
    basic_pool(settings.connections)
        .after_connect(move |connection, _| {
            Box::pin(async move {
                if let Some(session) = session {
                    sqlx::raw_sql(session).execute(connection).await?;
                }
                Ok(())
            })
        })
        .connect_lazy_with(options.clone())
}

fn basic_pool(connections: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(|connection, facts| {
            Box::pin(async move {
                if facts.idle_for < UNTRIED_IDLE {
                    return Ok(true);
                }
                Ok(matches!(
                    tokio::time::timeout(TRIAL_TIMEOUT, connection.ping()).await,
                    Ok(Ok(()))
                ))
            })
        })
}

/// Brings the schema up to date, or makes sure that it is. One replica does it and the others wait, by an advisory lock.
pub(super) async fn bring_up_to_date(
    pool: &Pool,
    settings: &PostgresSettings,
) -> Result<(), StoreError> {
    let own = pool.options();
    let is_up_to_date = bounded(START_TIMEOUT, is_up_to_date(pool)).await;
    if is_up_to_date.map_err(|error| opening(&own, error))? {
        return Ok(());
    }
    let url = match &settings.migration_url {
        Some(url) => options(url, "store.migration_url")?,
        None if settings.prepared_statements => options(&settings.url, "store.url")?,
        None => {
            return Err(StoreError::Unavailable(
                "the database's schema is not up to date, and it cannot be changed through PgBouncer: give a direct URL \
                 in store.migration_url"
                    .to_owned(),
            ));
        }
    };
    let direct = basic_pool(1).connect_lazy_with(url.clone());
    let migrating = async { Ok(MIGRATIONS.run(&direct).await.map_err(errors::migrating)?) };
    let migrated = bounded(START_TIMEOUT, migrating).await.map_err(|error| opening(&url, error));
    direct.close().await;
    migrated
}

/// Whether all migrations were made, and no other.
async fn is_up_to_date(pool: &Pool) -> Result<bool, Failure> {
    let mut turn = Turn::begin(pool, "BEGIN READ ONLY").await?;
    let is_made: bool = query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *turn)
        .await?;
    let made: Vec<i64> = if is_made {
        query_scalar("SELECT version FROM _sqlx_migrations WHERE success")
            .fetch_all(&mut *turn)
            .await?
    } else {
        Vec::new()
    };
    turn.end().await?;
    let made: BTreeSet<i64> = made.into_iter().collect();
    Ok(made == MIGRATIONS.iter().map(|migration| migration.version).collect())
}

/// Names the database that could not be opened.
fn opening(place: &PgConnectOptions, error: StoreError) -> StoreError {
    let name = place.get_database().unwrap_or("of the user");
    let told = |why| {
        format!(
            "cannot open the database {name} on {}:{}: {why}",
            place.get_host(),
            place.get_port()
        )
    };
    match error {
        StoreError::Unavailable(why) => StoreError::Unavailable(told(why)),
        StoreError::Corrupt(why) => StoreError::Corrupt(told(why)),
        StoreError::Conflict { .. }
        | StoreError::NotFound
        | StoreError::Changed
        | StoreError::LeaseLost(_)
        | StoreError::TakenOver => error,
    }
}
