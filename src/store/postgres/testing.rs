//! A real PostgreSQL for the tests of one process, in a directory of its own. It ends with the process, however that
//! ends: the shell that guards it waits for the other end of its pipe to be closed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{Clock, PostgresSettings, PostgresStore};
use crate::store::Store;
use crate::store::contract::TTL;

/// Starts the server, says that it is done, waits for the end of its input, and clears up.
const GUARD: &str = r#"
trap : INT TERM
bin=$1 dir=$2
as=
[ "$(id -u)" = 0 ] && { chown nobody "$dir"; as="setpriv --reuid=nobody --regid=nogroup --clear-groups"; }
cd "$dir"
$as "$bin/initdb" -D "$dir/data" -U bursar -A trust -E UTF8 --locale=C.UTF-8 --no-sync >"$dir/log" 2>&1 || { cat "$dir/log" >&2; exit 1; }
$as "$bin/postgres" -D "$dir/data" -k "$dir" -c listen_addresses= -c fsync=off -c synchronous_commit=off \
    -c max_connections=300 -c shared_buffers=64MB >>"$dir/log" 2>&1 &
server=$!
until "$bin/pg_isready" -q -h "$dir"; do
    kill -0 $server 2>/dev/null || { cat "$dir/log" >&2; exit 1; }
done
echo ready
read -r _
kill -QUIT $server
wait $server
rm -rf "$dir"
"#;

struct Server {
    directory: PathBuf,
    /// Its input stays open as long as this process lives.
    _guard: Child,
}

static SERVER: OnceLock<Server> = OnceLock::new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// A database for one test.
pub(in crate::store) struct Database {
    pub(in crate::store) store: PostgresStore,
    pub(in crate::store) settings: PostgresSettings,
    name: String,
}

impl Database {
    /// With a schema that is up to date and nothing in it; the time is the caller's.
    pub(in crate::store) async fn new() -> Self {
        let name = Self::create("bursar_template").await;
        let settings = settings(&name);
        let store = PostgresStore::open(&settings).await.unwrap();
        Self { store, settings, name }
    }

    /// Makes a database that nothing is in, or a copy of one.
    pub(in crate::store) async fn create(template: &str) -> String {
        let server = server();
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        execute(server, &format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
        name
    }

    /// Deletes it; one of a test that failed stays until the server ends.
    pub(in crate::store) async fn remove(self) {
        self.store.close().await;
        execute(server(), &format!("DROP DATABASE {} WITH (FORCE)", self.name)).await;
    }

    /// A connection of one's own, to look at what the store does.
    pub(in crate::store) async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.settings.url).await.unwrap()
    }
}

/// The settings of a store in this database.
pub(in crate::store) fn settings(name: &str) -> PostgresSettings {
    PostgresSettings {
        url: url(&server().directory, name).into(),
        migration_url: None,
        connections: 8,
        listen: true,
        prepared_statements: true,
        ttl: TTL,
        clock: Clock::Given,
    }
}

/// The directory of the server's socket.
pub(in crate::store) fn socket_directory() -> &'static Path {
    &server().directory
}

fn url(directory: &Path, name: &str) -> String {
    format!("postgres://bursar@localhost/{name}?host={}", directory.display())
}

async fn execute(server: &Server, statement: &str) {
    let mut connection = PgConnection::connect(&url(&server.directory, "postgres")).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// Starts the server the first time, outside of the asking test's runtime, which ends before the others do.
fn server() -> &'static Server {
    SERVER.get_or_init(|| {
        std::thread::spawn(|| {
            let server = start();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(make_template(&server));
            server
        })
        .join()
        .expect("the server starts")
    })
}

async fn make_template(server: &Server) {
    execute(server, "CREATE DATABASE bursar_template").await;
    let url = url(&server.directory, "bursar_template").into();
    let settings = PostgresSettings {
        url,
        migration_url: None,
        connections: 1,
        listen: false,
        prepared_statements: true,
        ttl: Duration::from_secs(1),
        clock: Clock::Database,
    };
    PostgresStore::open(&settings).await.unwrap().close().await;
}

fn start() -> Server {
    use std::io::{BufRead, BufReader};

    let directory = tempfile::Builder::new().prefix("bursar-pg-").tempdir().unwrap().keep();
    let mut guard = Command::new("sh")
        .args(["-c", GUARD, "guard"])
        .args([&binaries(), &directory])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    BufReader::new(guard.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    assert_eq!(ready, "ready\n", "PostgreSQL did not start; its log is above");
    Server { directory, _guard: guard }
}

/// Where Debian puts the programs of the newest PostgreSQL.
fn binaries() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("bin/initdb").exists())
        .max_by_key(|path| version(path))
        .expect("PostgreSQL is not installed; scripts/tools installs it");
    newest.join("bin")
}
