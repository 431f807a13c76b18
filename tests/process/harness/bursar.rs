//! Bursar as a process: started, ended and started again.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqliteConnection};

use super::{Api, Process, until};

/// The workspace of everything.
const WORKSPACE: &str = "test";
/// Manages the workspace.
pub(crate) const KEY: &str = "management-key-of-the-tests";

/// How Bursar is started.
pub(crate) struct Setup {
    /// Its configuration file. Addresses, store, workspace and key come from the environment.
    pub(crate) config: String,
    /// Variables beside them, or in place of them.
    pub(crate) environment: Vec<(String, String)>,
    /// A shell that does something first. It gets the whole command as its arguments: `…; exec "$@"`.
    pub(crate) shell: Option<String>,
}

impl Default for Setup {
    /// A decision waits for the store as long as it takes: a machine that is busy must not look like a store that is away.
    fn default() -> Self {
        Self { config: "patience: 5s\n".to_owned(), environment: Vec::new(), shell: None }
    }
}

impl Setup {
    /// The default with more lines in the configuration file.
    pub(crate) fn config(lines: &str) -> Self {
        let config = Self::default().config + lines;
        Self { config, ..Self::default() }
    }
}

/// A running Bursar. It keeps its database, journal and socket in its directory, where [`Bursar::start_again`] finds them.
pub(crate) struct Bursar {
    directory: PathBuf,
    setup: Setup,
    pub(crate) process: Process,
    api: Api,
    /// Where gRPC is served on TCP. Another one after every start.
    pub(crate) grpc: String,
}

impl Bursar {
    /// Starts it and waits until it is ready.
    pub(crate) async fn start(directory: &Path, setup: Setup) -> Self {
        let (process, ready) = ready(directory, &setup).await;
        let address = |name: &str| ready[name].as_str().expect("an address").to_owned();
        let api = Api { url: format!("http://{}", address("http")) };
        Self { directory: directory.to_owned(), setup, process, api, grpc: address("grpc") }
    }

    /// What [`Bursar::start`] runs, for those who expect that it does not come up.
    pub(crate) fn command(directory: &Path, setup: &Setup) -> Command {
        fs::write(directory.join("bursar.yaml"), &setup.config).expect("a writable directory");
        let binary = env!("CARGO_BIN_EXE_bursar");
        let mut command = match &setup.shell {
            None => Command::new(binary),
            Some(script) => {
                let mut shell = Command::new("bash");
                shell.args(["-c", script, "bash", binary]);
                shell
            }
        };
        command.args(["serve", "--config", "bursar.yaml", "--ready-file", "ready.json"]);
        // What is set for another Bursar on this machine does not concern this one.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("BURSAR_")) {
                command.env_remove(name);
            }
        }
        command
            .env("BURSAR_LISTEN_GRPC", "127.0.0.1:0")
            .env("BURSAR_LISTEN_HTTP", "127.0.0.1:0")
            .env("BURSAR_LISTEN_UNIX", socket(directory))
            .env("BURSAR_STORE_URL", "sqlite:bursar.db")
            .env("BURSAR_WORKSPACE", WORKSPACE)
            .env("BURSAR_MANAGEMENT_KEY", KEY)
            .envs(setup.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Its Unix socket, the same after every start.
    pub(crate) fn socket(&self) -> PathBuf {
        socket(&self.directory)
    }

    /// Its API, for clients that run beside the test.
    pub(crate) fn api(&self) -> Api {
        self.api.clone()
    }

    /// The running program.
    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Everything it said, in all its lives.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// Starts it again where it was, after it has ended, been killed or not.
    pub(crate) async fn start_again(&mut self) {
        self.process.kill();
        let setup = std::mem::take(&mut self.setup);
        let directory = self.directory.clone();
        *self = Self::start(&directory, setup).await;
    }

    /// Starts without its shell from now on.
    pub(crate) fn lift_restrictions(&mut self) {
        self.setup.shell = None;
    }
}

/// Calls go straight to its API.
impl Deref for Bursar {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}

/// The database of the Bursar in this directory.
pub(crate) async fn open_database(directory: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(directory.join("bursar.db"));
    options.connect().await.expect("the database opens")
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("bursar.sock")
}

/// Starts it and returns what its ready file says.
async fn ready(directory: &Path, setup: &Setup) -> (Process, Value) {
    let file = directory.join("ready.json");
    // One that was killed leaves its file behind.
    let _ = fs::remove_file(&file);
    let mut process = Process::start("bursar", directory, &mut Bursar::command(directory, setup));
    let text = until("Bursar's ready file", async || {
        process.assert_running();
        fs::read_to_string(&file).ok()
    })
    .await;
    (process, serde_json::from_str(&text).expect("a ready file of JSON"))
}
