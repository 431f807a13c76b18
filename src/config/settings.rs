//! The settings of one Bursar, checked and complete. No secret is among them: keys are kept as their hashes.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::domain::estimate::Policy;
use crate::domain::ids::Id;
use crate::domain::keys::KeyHash;
use crate::domain::ledger::Terms;
use crate::domain::subject::ScopeKind;

/// All settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The workspace of requests that name none, and of keys that name none.
    pub workspace: Id,
    /// Where to listen.
    pub listen: Listen,
    /// Where budgets and counters are kept.
    pub store: StoreUrl,
    /// How a database that replicas share is reached.
    pub link: StoreLink,
    /// The file that restores what was in flight when the process dies.
    pub journal: PathBuf,
    /// How leases and reservations end.
    pub terms: Terms,
    /// How long a decision may wait for a lease.
    pub patience: Duration,
    /// How long a stopping Bursar keeps serving those who are still connected.
    pub drain_timeout: Duration,
    /// How the cost of a request is estimated.
    pub estimate: Policy,
    /// A file of prices that come before the bundled ones.
    pub prices: Option<PathBuf>,
    /// How a request maps to scope ids.
    pub mapping: Mapping,
    /// How answers look.
    pub reply: Reply,
    /// Whether usage may be reported by Envoy's rate limit filter.
    pub rate_limit_service: RateLimitService,
    /// Who may use the HTTP API and `bursar.v1`.
    pub keys: Vec<AccessKey>,
    /// How log lines look.
    pub log: Log,
}

/// Where to listen. At least one of `grpc` and `unix` is there. Port 0 takes any free port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Envoy's services and `bursar.v1`, on TCP.
    pub grpc: Option<SocketAddr>,
    /// Envoy's services, on a Unix socket.
    pub unix: Option<PathBuf>,
    /// The HTTP API, health and metrics.
    pub http: SocketAddr,
}

/// Where budgets and counters are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// A file of this machine.
    Sqlite {
        /// As it was written.
        url: String,
        /// The file in it.
        file: PathBuf,
    },
    /// A database that replicas share.
    Postgres {
        /// As it was written; may hold a password.
        url: String,
    },
}

/// How a database that replicas share is reached. Means nothing for a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreLink {
    /// Connections at the most, the one that listens not counted.
    pub connections: u32,
    /// Whether to hear of changes at once, by LISTEN, and not only by asking.
    pub listen: bool,
    /// Whether statements are prepared once for each connection.
    pub prepared_statements: bool,
    /// Where the schema is brought up to date, where that is not the store's own URL; may hold a password.
    pub migration_url: Option<String>,
}

/// How a request maps to scope ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Where each scope's id is looked for, in order; one list per kind, in the order of [`ScopeKind::ALL`].
    pub sources: [Vec<Source>; 6],
    /// The headers, in lower case, that clients cannot set by themselves. Others never count.
    pub trusted_headers: Vec<String>,
    /// What happens when nothing names a workspace.
    pub no_workspace: NoWorkspace,
    /// What happens to keys that are neither ours nor registered.
    pub unknown_keys: UnknownKeys,
}

/// One place where a scope's id may be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Dynamic metadata of another filter, such as `jwt_authn`.
    Metadata {
        /// The filter's namespace.
        namespace: String,
        /// The keys that lead to the value.
        path: Vec<String>,
    },
    /// The name in the client's certificate.
    Principal(PrincipalPart),
    /// A context extension of the route.
    Context(String),
    /// What is on record for the API key that the request shows.
    ApiKey,
    /// A request header, in lower case.
    Header(String),
    /// A JSON pointer into the body, when Envoy sends one.
    Body(String),
    /// Always this.
    Constant(Id),
}

/// What of the name in a certificate is the id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrincipalPart {
    /// All of it.
    Whole,
    /// The path segment after this one: with `ns`, `team-a` of `spiffe://acme/ns/team-a/sa/cli`.
    After(String),
}

/// What happens when nothing names a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoWorkspace {
    /// The default workspace is taken.
    UseDefault,
    /// The request is refused as `unknown_subject`.
    Refuse,
}

/// What happens to keys that are not registered and do not look like ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownKeys {
    /// They are the provider's, and pass.
    Ignore,
    /// They are refused as `unknown_key`.
    Refuse,
}

/// How answers look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status of `credits_exhausted`: 429 or 402.
    pub credits_status: u16,
    /// Whether OpenAI's own header names are added.
    pub openai_headers: bool,
    /// Whether the `RateLimit` fields of the IETF draft are added.
    pub ietf_headers: bool,
}

/// Whether usage may be reported by Envoy's rate limit filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RateLimitService {
    /// The service is not there.
    #[default]
    Off,
    /// It takes reports, and limits nothing.
    On,
}

/// A key to the HTTP API and `bursar.v1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessKey {
    /// What it opens.
    pub role: Role,
    /// SHA-256 of the secret.
    pub hash: KeyHash,
}

/// What a key opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Any workspace.
    Operator,
    /// Everything in this workspace.
    Manage(Id),
    /// Check, usage and explain in this workspace.
    Check(Id),
}

/// How log lines look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Their form.
    pub format: LogFormat,
    /// Which lines, in the syntax of `RUST_LOG`.
    pub filter: String,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For a person.
    Text,
    /// For a collector.
    Json,
}

impl NoWorkspace {
    /// How each is written.
    pub(super) const NAMES: [(&'static str, Self); 2] =
        [("default", Self::UseDefault), ("refuse", Self::Refuse)];
}

impl UnknownKeys {
    /// How each is written.
    pub(super) const NAMES: [(&'static str, Self); 2] =
        [("ignore", Self::Ignore), ("refuse", Self::Refuse)];
}

impl RateLimitService {
    /// How each is written.
    pub(super) const NAMES: [(&'static str, Self); 2] = [("off", Self::Off), ("on", Self::On)];
}

impl LogFormat {
    /// How each is written.
    pub(super) const NAMES: [(&'static str, Self); 2] =
        [("text", Self::Text), ("json", Self::Json)];
}

impl StoreUrl {
    /// The journal's place unless one is set: beside the database file and named like it.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        match self {
            Self::Sqlite { file, .. } => file.with_extension("journal"),
            Self::Postgres { .. } => PathBuf::from("bursar.journal"),
        }
    }
}

impl Default for StoreUrl {
    fn default() -> Self {
        Self::Sqlite { url: "sqlite:bursar.db".to_owned(), file: Path::new("bursar.db").to_owned() }
    }
}

impl Default for StoreLink {
    fn default() -> Self {
        Self { connections: 8, listen: true, prepared_statements: true, migration_url: None }
    }
}

impl Default for Listen {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self { grpc: Some(loopback(9191)), unix: None, http: loopback(9192) }
    }
}

impl Default for Reply {
    fn default() -> Self {
        Self { credits_status: 429, openai_headers: false, ietf_headers: false }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

impl Mapping {
    /// Where the ids of this kind are looked for.
    #[must_use]
    pub fn sources(&self, kind: ScopeKind) -> &[Source] {
        let [workspace, project, identity, api_key, provider, model] = &self.sources;
        match kind {
            ScopeKind::Workspace => workspace,
            ScopeKind::Project => project,
            ScopeKind::Identity => identity,
            ScopeKind::ApiKey => api_key,
            ScopeKind::Provider => provider,
            ScopeKind::Model => model,
        }
    }

    /// Where the ids of this kind are looked for unless the file says otherwise.
    #[must_use]
    pub fn default_sources(kind: ScopeKind) -> Vec<Source> {
        let header = |name: &str| Source::Header(name.to_owned());
        match kind {
            ScopeKind::Workspace => vec![Source::ApiKey, header("x-bursar-workspace")],
            ScopeKind::Project => vec![Source::ApiKey, header("x-orq-project-id")],
            ScopeKind::Identity => vec![header("x-orq-identity-id")],
            ScopeKind::ApiKey => vec![Source::ApiKey],
            ScopeKind::Provider => vec![header("x-bursar-provider")],
            ScopeKind::Model => vec![header("x-bursar-model"), Source::Body("/model".to_owned())],
        }
    }

    /// The headers that are trusted unless the file has a mapping of its own.
    #[must_use]
    pub fn default_trusted_headers() -> Vec<String> {
        ["x-orq-project-id", "x-orq-identity-id", "x-bursar-provider", "x-bursar-model"]
            .map(str::to_owned)
            .to_vec()
    }
}

impl Default for Mapping {
    fn default() -> Self {
        Self {
            sources: ScopeKind::ALL.map(Self::default_sources),
            trusted_headers: Self::default_trusted_headers(),
            no_workspace: NoWorkspace::UseDefault,
            unknown_keys: UnknownKeys::Ignore,
        }
    }
}
