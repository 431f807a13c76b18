//! A PostgreSQL of the test's own: it keeps its files in a directory of its own, listens on a Unix socket only unless it is to
//! encrypt, and can be paused, killed and started again. What it acknowledged is on the disk.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use tempfile::TempDir;

use super::{Process, until};

/// PostgreSQL does not run as root; this user is on every machine.
const NOBODY: u32 = 65534;
/// In the name of the Unix socket of a server that listens to nothing else.
const SOCKET_PORT: u16 = 5432;
/// The name of its user with all rights.
const USER: &str = "bursar";

/// A running PostgreSQL.
pub(crate) struct Postgres {
    process: Process,
    directory: TempDir,
    /// On which it listens where it listens to TCP; in the name of its socket everywhere.
    pub(crate) port: u16,
}

impl Postgres {
    /// Makes a cluster and starts it.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// One that listens on a port of 127.0.0.1, too, where it takes only connections that are encrypted with this certificate and key,
    /// in PEM.
    pub(crate) async fn start_encrypted(certificate: &str, key: &str) -> Self {
        let access = "local all all trust\nhostssl all all 127.0.0.1/32 trust\n";
        let files = [("server.crt", certificate), ("server.key", key), ("pg_hba.conf", access)];
        Self::start_with(&files).await
    }

    /// With these files among its data.
    async fn start_with(files: &[(&str, &str)]) -> Self {
        let directory = room_for_data();
        let path = directory.path();
        let mut initdb = program("initdb");
        initdb.args(["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]);
        initdb.arg(format!("--username={USER}")).arg("-D").arg(data(path));
        succeed(&mut initdb);
        write_data(path, "postgresql.auto.conf", "max_connections = 200\n");
        for (name, contents) in files {
            write_data(path, name, contents);
        }
        let port = if files.is_empty() { SOCKET_PORT } else { free_port() };
        Self::start_in(directory, port).await
    }

    async fn start_in(directory: TempDir, port: u16) -> Self {
        let process = Self::run(directory.path(), port);
        let mut postgres = Self { process, directory, port };
        postgres.wait_until_ready().await;
        postgres
    }

    /// A standby of this server. From now on nothing is acknowledged that the standby does not have, too.
    pub(crate) async fn standby(&self) -> Self {
        let directory = room_for_data();
        let mut copy = program("pg_basebackup");
        copy.args(["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast"]);
        copy.args(["--no-sync", &format!("--port={}", self.port), &format!("--username={USER}")]);
        copy.arg("--host").arg(self.directory.path()).arg("-D").arg(data(directory.path()));
        succeed(&mut copy);
        let standby = Self::start_in(directory, self.port).await;
        self.execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await;
        self.execute("SELECT pg_reload_conf()").await;
        until("a synchronous standby", async || {
            let is_there = "SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'";
            let mut db = self.open().await;
            let is_there: bool =
                sqlx::query_scalar(is_there).fetch_one(&mut db).await.expect("a row");
            is_there.then_some(())
        })
        .await;
        standby
    }

    /// It follows nobody any more and takes writes.
    pub(crate) async fn promote(&self) {
        // What it copied from the other tells it to wait for a standby, too.
        self.execute("ALTER SYSTEM SET synchronous_standby_names = ''").await;
        self.execute("SELECT pg_reload_conf()").await;
        self.execute("SELECT pg_promote()").await;
    }

    /// Runs a statement.
    pub(crate) async fn execute(&self, statement: &'static str) {
        let done = sqlx::query(statement).execute(&mut self.open().await).await;
        done.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    fn run(directory: &Path, port: u16) -> Process {
        let mut server = program("postgres");
        server.arg("-D").arg(data(directory)).arg("-k").arg(directory);
        server.args(["-c", &format!("port={port}")]);
        if data(directory).join("server.key").exists() {
            server.args(["-c", "listen_addresses=127.0.0.1", "-c", "ssl=on"]);
        } else {
            server.args(["-c", "listen_addresses="]);
        }
        Process::start("postgres", directory, &mut server)
    }

    async fn wait_until_ready(&mut self) {
        until("PostgreSQL to answer", async || {
            self.process.assert_running();
            self.try_open().await
        })
        .await;
    }

    /// A connection for the test itself.
    pub(crate) async fn open(&self) -> PgConnection {
        self.try_open().await.expect("PostgreSQL answers")
    }

    /// Takes all of its connections, so many, once those that others had are free.
    pub(crate) async fn take_all_connections(&self, all: usize) -> Vec<PgConnection> {
        let mut taken = Vec::new();
        until("every connection", async || {
            taken.extend(self.try_open().await);
            (taken.len() == all).then_some(())
        })
        .await;
        taken
    }

    async fn try_open(&self) -> Option<PgConnection> {
        let options = PgConnectOptions::new_without_pgpass();
        options
            .socket(self.directory.path())
            .port(self.port)
            .username(USER)
            .database("postgres")
            .connect()
            .await
            .ok()
    }

    /// Its Unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join(format!(".s.PGSQL.{}", self.port))
    }

    /// How Bursar names it, behind this address.
    pub(crate) fn url(address: &str) -> String {
        format!("postgres://{USER}@{address}/postgres?sslmode=disable")
    }

    /// All its processes stand still, with every connection open.
    pub(crate) fn pause(&self) {
        self.process.pause_all();
    }

    /// After [`Postgres::pause`].
    pub(crate) fn go_on(&self) {
        self.process.go_on_all();
    }

    /// It is gone for good.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// It dies with everything that was under way, and comes back with everything that it acknowledged.
    pub(crate) async fn crash(&mut self) {
        self.process.kill();
        // Its children see that it is gone and end; until then they hold the shared memory that a new one needs.
        let directory = self.directory.path().to_owned();
        let mut process = Self::run(&directory, self.port);
        until("PostgreSQL to start again", async || {
            if process.has_ended() {
                process = Self::run(&directory, self.port);
                return None;
            }
            self.try_open().await
        })
        .await;
        self.process = process;
    }
}

/// A directory with an empty one for the data in it, PostgreSQL's own.
fn room_for_data() -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    fs::set_permissions(path, Permissions::from_mode(0o755)).expect("a directory of ours");
    fs::create_dir(data(path)).expect("a writable directory");
    fs::set_permissions(data(path), Permissions::from_mode(0o700)).expect("a directory of ours");
    if is_root() {
        for directory in [path, &data(path)] {
            chown(directory, Some(NOBODY), Some(NOBODY)).expect("root may");
        }
    }
    directory
}

/// Runs a program to its end.
fn succeed(command: &mut Command) {
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn data(directory: &Path) -> PathBuf {
    directory.join("data")
}

/// PostgreSQL takes no socket that is open already, nor a port of the system's choice.
fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    free.expect("a free port").port()
}

/// Puts a file among the data that PostgreSQL alone may read.
fn write_data(directory: &Path, name: &str, contents: &str) {
    let path = data(directory).join(name);
    fs::write(&path, contents).expect("a writable directory");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("a file of ours");
    if is_root() {
        chown(&path, Some(NOBODY), Some(NOBODY)).expect("root may");
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// One of PostgreSQL's programs, as a user that may run it.
fn program(name: &str) -> Command {
    let path = newest(name);
    if !is_root() {
        return Command::new(path);
    }
    let mut command = Command::new("setpriv");
    let nobody = NOBODY.to_string();
    command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups", "--"]).arg(path);
    command
}

/// The program of the newest PostgreSQL on this machine.
fn newest(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let programs = versions.map(|version| version.path().join("bin").join(name));
    let newest = programs.filter(|path| path.exists()).max();
    newest.expect("PostgreSQL is missing: run scripts/tools (make test does)")
}
