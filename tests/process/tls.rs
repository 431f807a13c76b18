//! The way to a PostgreSQL that takes encrypted connections only, with a certificate of an authority that nobody else knows.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Bursar, Postgres, Setup, grpc};
use crate::start::{assert_says, refusal};

/// An authority, with its own certificate in a file.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    fn new(directory: &Path, name: &str) -> Self {
        let mut terms = CertificateParams::default();
        terms.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = terms.self_signed(&key).expect("a certificate");
        let file = directory.join(name);
        fs::write(&file, certificate.pem()).expect("a writable directory");
        Self { issuer: Issuer::new(terms, key), file }
    }

    /// A certificate for this host and its key, in PEM.
    fn certify(&self, host: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let terms = CertificateParams::new([host.to_owned()]).expect("a host's name");
        let certificate = terms.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }
}

/// A database for `localhost` alone.
struct Database {
    postgres: Postgres,
    authority: Authority,
    directory: TempDir,
}

impl Database {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let authority = Authority::new(directory.path(), "authority.pem");
        let (certificate, key) = authority.certify("localhost");
        let postgres = Postgres::start_encrypted(&certificate, &key).await;
        Self { postgres, authority, directory }
    }

    /// How Bursar is started with this host and these parameters.
    fn named(&self, host: &str, parameters: &str) -> Setup {
        let url = format!("postgres://bursar@{host}:{}/postgres?{parameters}", self.postgres.port);
        Setup { environment: vec![("BURSAR_STORE_URL".to_owned(), url)], ..Setup::default() }
    }

    /// How many connections of Bursar there are, and whether all are encrypted.
    async fn connections(&self) -> (i64, bool) {
        let all =
            "SELECT count(*), bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                   WHERE application_name = 'bursar'";
        sqlx::query_as(all).fetch_one(&mut self.postgres.open().await).await.expect("an answer")
    }
}

fn verified_by(mode: &str, authority: &Authority) -> String {
    format!("sslmode={mode}&sslrootcert={}", authority.file.display())
}

#[tokio::test]
async fn a_database_that_is_verified_serves_like_any_other_and_every_connection_is_encrypted() {
    let database = Database::start().await;
    let setup = database.named("localhost", &verified_by("verify-full", &database.authority));
    let bursar = Bursar::start(database.directory.path(), setup).await;
    let limits = json!({"period": "BUDGET_PERIOD_ONE_TIME", "amount": 1});
    let budget = bursar.create_budget(json!({"scope": {"workspace": {}}, "limits": limits})).await;
    let channel = grpc::connect(format!("unix://{}", bursar.socket().display())).await;
    let decided = grpc::decide(&channel, "ada").await.expect("an answer");
    let reservation = decided.reservation.expect("an admission");
    let usage = json!({"settlement_id": "s1", "reservation_id": reservation, "cost": 0.25});
    bursar.report(usage).await;
    assert_eq!(bursar.spent(&budget).await.nano_usd, 250_000_000);
    let (connections, are_encrypted) = database.connections().await;
    assert!(connections >= 2 && are_encrypted, "{connections}, the one that listens among them");
}

#[tokio::test]
async fn who_is_known_otherwise_or_need_not_be_known_is_reached_too() {
    let database = Database::start().await;
    let file = database.authority.file.display().to_string();
    let mut of_the_machine = database.named("localhost", "sslmode=verify-full");
    of_the_machine.environment.push(("SSL_CERT_FILE".to_owned(), file));
    let any_host = verified_by("verify-ca", &database.authority);
    for (name, setup) in [
        ("machine", of_the_machine),
        ("any-host", database.named("127.0.0.1", &any_host)),
        ("required", database.named("127.0.0.1", "sslmode=require")),
        ("preferred", database.named("127.0.0.1", "")),
    ] {
        let directory = database.directory.path().join(name);
        fs::create_dir(&directory).expect("a writable directory");
        let bursar = Bursar::start(&directory, setup).await;
        bursar.call("GET", "/v2/budgets", None).await;
        assert!(database.connections().await.1, "{name}");
    }
}

#[tokio::test]
async fn who_is_not_whom_the_url_names_is_refused_by_the_name_of_the_parameter() {
    let database = Database::start().await;
    let path = database.directory.path();
    let known = &database.authority;
    let other = Authority::new(path, "other.pem");
    for (host, parameters, told) in [
        ("localhost", verified_by("verify-full", &other), "sslrootcert in store.url"),
        ("localhost", "sslmode=verify-ca".to_owned(), "sslrootcert in store.url"),
        ("127.0.0.1", verified_by("verify-full", known), "sslmode=verify-full does not take"),
        ("localhost", "sslmode=disable".to_owned(), "see sslmode in store.url"),
    ] {
        let said = refusal(path, &database.named(host, &parameters)).await;
        assert_says(&said, &[told, "cannot open the database postgres on"]);
    }
}
