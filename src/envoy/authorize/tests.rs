//! The deadline of a call, and that a request is set aside for what its like used.

use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use tokio::sync::watch;

use super::*;
use crate::domain::estimate::{Learn, Policy, Unpriced};
use crate::domain::ledger::{OnTimeout, Sharing, Terms};
use crate::domain::pricing::{Entry, ModelPrice, PriceTable, Rate};
use crate::domain::settlement::Certainty;
use crate::domain::time::Wall;
use crate::domain::usage::Usage;
use crate::engine::clock::ManualClock;
use crate::engine::{self, Against, Correction, Report, Used};
use crate::envoy::decode::packing::gzip;
use crate::envoy::testing::{self, Form};
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::store::sqlite::SqliteStore;

#[test]
fn the_deadline_of_a_call_is_read_in_every_unit_and_nonsense_is_none() {
    let read = |text: &str| {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", text.parse().unwrap());
        deadline(&metadata)
    };
    assert_eq!(read("250m"), Some(Duration::from_millis(250)));
    assert_eq!(read("1S"), Some(Duration::from_secs(1)));
    assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
    assert_eq!(read("500u"), Some(Duration::from_micros(500)));
    for nonsense in ["", "m", "250", "250x", "-1m", "999999999m"] {
        assert_eq!(read(nonsense), None, "{nonsense}");
    }
}

#[test]
fn only_a_stream_that_does_not_ask_for_its_usage_is_looked_at_again() {
    const STREAM: &str = r#"{"model":"m","stream":true}"#;
    let request = || testing::Request::new(Form::Raw).body(STREAM);
    let asks = |request: testing::Request| may_need_asking(&Attributes::of(&request.build()));
    assert!(asks(request()));
    assert!(asks(request().path("/v1/completions?x=1")));
    assert!(asks(request().header("content-encoding", "identity")));
    assert!(!asks(request().method("GET")));
    assert!(!asks(request().path("/v1/responses")));
    assert!(!asks(request().header("content-encoding", "gzip")));
    assert!(!asks(request().body(r#"{"model":"m","stream":false}"#)));
    assert!(!asks(request().body(r#"{"stream":true,"stream_options":{"include_usage":true}}"#)));
    // What is not seen as a whole may need it.
    assert!(asks(request().body(r#"{"model":"m""#).size(70_000)));
    assert!(asks(request().body("").header("content-length", "900")));
}

const PATIENCE: Duration = Duration::from_secs(60);
/// Three bytes a token, and what providers add.
const INPUT: i64 = 7 + 64;

/// An authorizer over an empty store, whose one model costs a nano-dollar a token and writes 2,000 tokens at the most.
async fn authorizer(learn: Learn) -> Authorizer {
    authorizer_over(learn, Arc::new(MemoryStore::new(Duration::from_secs(10)))).await
}

async fn authorizer_over(learn: Learn, store: Arc<dyn Store>) -> Authorizer {
    let lease_ttl = Duration::from_secs(10);
    let reservation_timeout = Duration::from_secs(600);
    let terms = Terms {
        reservation_timeout,
        on_timeout: OnTimeout::Charge,
        lease_ttl,
        sharing: Sharing::Alone,
    };
    let settings = engine::Settings { terms, journal: None, unpriced: Unpriced::Deny };
    let rate = Rate::per_million(1_000_000);
    let mut price = ModelPrice::flat("m", rate, rate);
    price.max_output_tokens = Some(2_000);
    let entries = [("m".into(), Entry::Priced(Arc::new(price)))].into_iter().collect();
    let (_, prices) = watch::channel(Arc::new(PriceTable::new("test", entries)));
    let clock = Arc::new(ManualClock::at(Wall::from_ms(1_795_305_600_000)));
    let metrics = Metrics::new();
    let engine = Engine::start(settings, store, prices, clock, metrics.clone()).await.unwrap();
    let settings =
        Settings { estimate: Policy { learn, ..Policy::default() }, ..Settings::default() };
    Authorizer::new(engine, settings, metrics)
}

impl Authorizer {
    /// What a request with this cap is set aside for: tokens out. Its response has `output`.
    async fn serve(&self, cap: u16, output: u64) -> i64 {
        let body = format!(r#"{{"max_tokens":{cap:5}}}"#);
        let request =
            testing::Request::new(Form::Joined).header("x-bursar-model", "m").body(&body).build();
        let attributes = Attributes::of(&request);
        let Ok(asked) = self.ask(&attributes, PATIENCE).await else { panic!("not asked") };
        let subject = Arc::clone(&asked.subject);
        let Decision::Allow(admission) = asked.held.hand_over() else { panic!("refused") };
        let reservation = admission.reservation.unwrap();
        let set_aside = self.appraise(&subject, &attributes).estimate.amounts.tokens.get() - INPUT;
        let report = Report {
            settlement: reservation.settlement("metered"),
            workspace: subject.workspace.clone(),
            against: Against::Reservation(reservation),
            used: Used::Usage { model: None, usage: Usage { output, ..Usage::default() } },
            certainty: Certainty::Exact,
            correction: Correction::No,
            at: None,
            origin: None,
        };
        self.engine.settle(&report).await.unwrap();
        self.engine.settle(&report).await.unwrap();
        set_aside
    }
}

#[tokio::test]
async fn a_request_without_a_cap_is_set_aside_for_what_a_hundred_others_used() {
    let authorizer = authorizer(Learn::On).await;
    for _ in 0..100 {
        assert_eq!(authorizer.serve(0, 300).await, 2_000);
    }
    assert_eq!(authorizer.serve(0, 300).await, 384);
    assert_eq!(authorizer.serve(500, 300).await, 500);
    for _ in 0..10 {
        authorizer.serve(0, 90_000).await;
    }
    assert_eq!(authorizer.serve(0, 300).await, 2_000, "the model's maximum");
}

#[tokio::test]
async fn nothing_is_learned_from_answers_with_a_cap_or_when_learning_is_off() {
    for (learn, cap) in [(Learn::On, 500), (Learn::Off, 0)] {
        let authorizer = authorizer(learn).await;
        for _ in 0..100 {
            authorizer.serve(cap, 300).await;
        }
        assert_eq!(authorizer.serve(0, 300).await, 2_000, "{learn:?}");
    }
}

#[tokio::test]
async fn a_body_with_two_models_is_refused() {
    let authorizer = authorizer(Learn::Off).await;
    let body = r#"{"model":"m","messages":[],"model":"dearer"}"#;
    let request = testing::Request::new(Form::Raw).body(body).build();
    let asked = authorizer.ask(&Attributes::of(&request), PATIENCE).await;
    let Err(Unasked::Rejected(rejection)) = asked else { panic!("not refused") };
    assert_eq!(rejection.code, RefusalCode::UnknownSubject);
}

fn packed(text: &str) -> CheckRequest {
    let request = testing::Request::new(Form::Raw).header("content-encoding", "gzip");
    request.body(gzip(text.as_bytes())).build()
}

#[tokio::test]
async fn a_packed_body_is_set_aside_for_what_it_unpacks_to_and_names_its_model() {
    let authorizer = authorizer(Learn::Off).await;
    let words = "so many words ".repeat(400);
    let text = format!(r#"{{"model":"m","max_tokens":5,"stream":true,"input":"{words}"}}"#);
    assert!(gzip(text.as_bytes()).len() * 30 < text.len());
    let request = packed(&text);
    let attributes = Attributes::of(&request);
    let Ok(asked) = authorizer.ask(&attributes, PATIENCE).await else { panic!("not asked") };
    assert_eq!(asked.subject.model.as_ref().map(|id| id.as_str()), Some("m"));
    let length = u64::try_from(text.len().div_ceil(3)).unwrap();
    assert_eq!(asked.input_tokens, length + 64);
    assert!(!may_need_asking(&attributes), "nobody could add to it");
}

#[tokio::test]
async fn what_a_packed_body_says_is_decided_on() {
    let authorizer = authorizer(Learn::Off).await;
    let code = async |text| {
        let answer = authorizer.check(Request::new(packed(text))).await.unwrap().into_inner();
        answer.status.unwrap().code
    };
    assert_eq!(code(r#"{"model":"m"}"#).await, 0);
    assert_ne!(code(r#"{"model":"m","model":"dearer"}"#).await, 0);
}

#[tokio::test]
async fn a_providers_key_passes_while_nobody_can_say_whether_it_is_on_record() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("bursar.db").display());
    let store = SqliteStore::open(&url, Duration::from_secs(10)).await.unwrap();
    let authorizer = authorizer_over(Learn::Off, Arc::new(store)).await;
    let file = SqliteConnectOptions::new().filename(directory.path().join("bursar.db"));
    let mut connection = file.connect().await.unwrap();
    sqlx::query("ALTER TABLE api_key RENAME TO away").execute(&mut connection).await.unwrap();

    let ask = async |key: &str| {
        let request = testing::Request::new(Form::Raw).header("authorization", key).build();
        authorizer.known_key(&Attributes::of(&request), PATIENCE).await.map(|(key, _)| key)
    };
    assert!(matches!(ask("Bearer sk-1").await, Ok(None)));
    assert!(matches!(ask("Bearer bsr_1").await, Err(Unasked::Unavailable(_))));
}
