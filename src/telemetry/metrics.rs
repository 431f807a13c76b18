//! The counters, gauges and histograms that `/metrics` shows. Every label has a small fixed set of values: nothing that
//! a client sends becomes a label.

mod fleet;

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// The media type of what [`Metrics::encode`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of the waiting time's buckets, in seconds. The default patience is 50 ms, so most of them lie below.
const WAIT_BUCKETS: [f64; 10] = [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0];
/// Upper bounds of a store commit's buckets, in seconds. A group commit on a good disk takes well under a millisecond; ten
/// seconds is the life of a lease, past which the store counts as away.
const COMMIT_BUCKETS: [f64; 11] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0];

/// One label with one of a few values that the code itself names.
type Label = [(&'static str, &'static str); 1];

/// All metrics of one process. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    series: Series,
}

/// The series themselves. Each is shared with the registry, which encodes it.
#[derive(Debug)]
struct Series {
    decisions: Family<Label, Counter>,
    shadow_refusals: Family<Label, Counter>,
    unavailable_admissions: Counter,
    unpriced_models: Family<Label, Counter>,
    guessed_prices: Counter,
    config_reload_failures: Counter,
    prices_valid: Gauge,
    starved: Histogram,
    settlements: Family<Label, Counter>,
    duplicate_settlements: Counter,
    conflicting_settlements: Counter,
    estimated_settlements: Counter,
    watched_responses: Family<Label, Counter>,
    unwatched_responses: Counter,
    unreadable_responses: Family<Label, Counter>,
    logged_responses: Family<Label, Counter>,
    undecided_passes: Family<Label, Counter>,
    reported_hits: Family<Label, Counter>,
    notices: Family<Label, Counter>,
    notices_pending: Gauge,
    overrun_nano_usd: Counter,
    overrun_tokens: Counter,
    open_reservations: Gauge,
    live_accounts: Gauge,
    leased: Family<Label, Gauge>,
    store_commits: Family<Label, Counter>,
    store_commit: Histogram,
    store_up: Gauge,
    journal_bytes: Gauge,
    fleet: fleet::Series,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All series at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("bursar");
        registry.register(
            "build",
            "Which Bursar this is",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        let series = Series::registered(&mut registry);
        series.prices_valid.set(1);
        Self { inner: Arc::new(Inner { registry, series }) }
    }

    /// A request was answered, with `allow` or the code of the refusal.
    pub fn decision(&self, code: &'static str) {
        self.series().decisions.get_or_create(&[("code", code)]).inc();
    }

    /// A shadow budget would have refused a request with this code.
    pub fn shadow_refusal(&self, code: &'static str) {
        self.series().shadow_refusals.get_or_create(&[("code", code)]).inc();
    }

    /// A request was admitted because its budget says so when the store is away.
    pub fn unavailable_admission(&self) {
        self.series().unavailable_admissions.inc();
    }

    /// A request or a report named a model without a price, and this policy was followed.
    pub fn unpriced_model(&self, policy: &'static str) {
        self.series().unpriced_models.get_or_create(&[("policy", policy)]).inc();
    }

    /// A report was priced by the longest known name that its model's continues.
    pub fn guessed_price(&self) {
        self.series().guessed_prices.inc();
    }

    /// The operator's file of prices was taken as it stands.
    pub fn prices_taken(&self) {
        self.series().prices_valid.set(1);
    }

    /// The operator's file of prices has changed and could not be taken; the prices before stay in force.
    pub fn prices_refused(&self) {
        self.series().config_reload_failures.inc();
        self.series().prices_valid.set(0);
    }

    /// A request waited this long for a lease.
    pub fn starved(&self, waited: Duration) {
        self.series().starved.observe(waited.as_secs_f64());
    }

    /// A settlement of this certainty was recorded.
    pub fn settlement(&self, certainty: &'static str) {
        self.series().settlements.get_or_create(&[("certainty", certainty)]).inc();
    }

    /// A settlement was reported again with the same amounts.
    pub fn settlement_duplicate(&self) {
        self.series().duplicate_settlements.inc();
    }

    /// A settlement was reported again with other amounts.
    pub fn settlement_conflict(&self) {
        self.series().conflicting_settlements.inc();
    }

    /// Nobody reported a reservation's usage in time, or a response told none.
    pub fn estimated_settlement(&self) {
        self.series().estimated_settlements.inc();
    }

    /// A response was watched to its end, and this became of its reservation.
    pub fn watched_response(&self, outcome: &'static str) {
        self.series().watched_responses.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// A response went by unseen, because too many others were on their way.
    pub fn unwatched_response(&self) {
        self.series().unwatched_responses.inc();
    }

    /// A response could not be unpacked to its end.
    pub fn unreadable_response(&self, why: &'static str) {
        self.series().unreadable_responses.get_or_create(&[("why", why)]).inc();
    }

    /// A response that nobody watched was settled by the access log, and this became of its reservation.
    pub fn logged_response(&self, outcome: &'static str) {
        self.series().logged_responses.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Envoy let a request pass without a decision, and its usage was `charged` or is `unknown`.
    pub fn undecided_pass(&self, usage: &'static str) {
        self.series().undecided_passes.get_or_create(&[("usage", usage)]).inc();
    }

    /// The rate limit service was called, and this became of the usage that it was told.
    pub fn reported_hits(&self, outcome: &'static str) {
        self.series().reported_hits.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// A notice was tried, and this became of it.
    pub fn notice(&self, outcome: &'static str) {
        self.series().notices.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// How many notices wait for their next attempt.
    pub fn notices_pending(&self, count: i64) {
        self.series().notices_pending.set(count);
    }

    /// A response cost this much more than its reservation.
    pub fn overrun_nano_usd(&self, amount: u64) {
        self.series().overrun_nano_usd.inc_by(amount);
    }

    /// A response used this many LLM tokens more than its reservation.
    pub fn overrun_tokens(&self, amount: u64) {
        self.series().overrun_tokens.inc_by(amount);
    }

    /// How many reservations are neither settled nor released.
    pub fn open_reservations(&self, count: i64) {
        self.series().open_reservations.set(count);
    }

    /// How many accounts this replica holds in memory.
    pub fn live_accounts(&self, count: i64) {
        self.series().live_accounts.set(count);
    }

    /// How much is lent to this replica, in the dimension's unit (nano-USD, LLM tokens or requests).
    pub fn leased(&self, dimension: &'static str, amount: i64) {
        self.series().leased.get_or_create(&[("dimension", dimension)]).set(amount);
    }

    /// A batch was sent to the store, and this became of it.
    pub fn store_commit(&self, took: Duration, outcome: &'static str) {
        self.series().store_commits.get_or_create(&[("outcome", outcome)]).inc();
        self.series().store_commit.observe(took.as_secs_f64());
    }

    /// 1 while the store answers, 0 while it does not.
    pub fn store_up(&self, up: i64) {
        self.series().store_up.set(up);
    }

    /// The size of the journal file.
    pub fn journal_bytes(&self, bytes: i64) {
        self.series().journal_bytes.set(bytes);
    }

    /// All series in the OpenMetrics text format, which Prometheus reads.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut page = String::new();
        // Writing to a `String` does not fail; were it to, a page cut short ends without `# EOF` and is refused as a whole.
        let _ = text::encode(&mut page, &self.inner.registry);
        page
    }

    fn series(&self) -> &Series {
        &self.inner.series
    }
}

impl Series {
    fn registered(registry: &mut Registry) -> Self {
        let series = Self::at_zero();
        series.register_decisions(registry);
        series.register_prices(registry);
        series.register_settlements(registry);
        series.register_responses(registry);
        series.register_stock(registry);
        series.register_store(registry);
        series.fleet.register(registry);
        series
    }

    fn at_zero() -> Self {
        Self {
            decisions: Family::default(),
            shadow_refusals: Family::default(),
            unavailable_admissions: Counter::default(),
            unpriced_models: Family::default(),
            guessed_prices: Counter::default(),
            config_reload_failures: Counter::default(),
            prices_valid: Gauge::default(),
            starved: Histogram::new(WAIT_BUCKETS),
            settlements: Family::default(),
            duplicate_settlements: Counter::default(),
            conflicting_settlements: Counter::default(),
            estimated_settlements: Counter::default(),
            watched_responses: Family::default(),
            unwatched_responses: Counter::default(),
            unreadable_responses: Family::default(),
            logged_responses: Family::default(),
            undecided_passes: Family::default(),
            reported_hits: Family::default(),
            notices: Family::default(),
            notices_pending: Gauge::default(),
            overrun_nano_usd: Counter::default(),
            overrun_tokens: Counter::default(),
            open_reservations: Gauge::default(),
            live_accounts: Gauge::default(),
            leased: Family::default(),
            store_commits: Family::default(),
            store_commit: Histogram::new(COMMIT_BUCKETS),
            store_up: Gauge::default(),
            journal_bytes: Gauge::default(),
            fleet: fleet::Series::default(),
        }
    }

    fn register_decisions(&self, registry: &mut Registry) {
        registry.register(
            "decisions",
            "Requests answered, by allow or refusal code",
            self.decisions.clone(),
        );
        registry.register(
            "shadow_refusals",
            "Refusals that shadow budgets would have made, by code",
            self.shadow_refusals.clone(),
        );
        registry.register(
            "unavailable_admissions",
            "Requests admitted without asking the store, because their budget says so when it is away",
            self.unavailable_admissions.clone(),
        );
        registry.register(
            "unpriced_models",
            "Requests and reports that named a model without a price, by what is done with them",
            self.unpriced_models.clone(),
        );
        registry.register_with_unit(
            "starved",
            "How long requests waited for a lease",
            Unit::Seconds,
            self.starved.clone(),
        );
    }

    fn register_prices(&self, registry: &mut Registry) {
        registry.register(
            "guessed_prices",
            "Reports priced by a name that the model's own continues; see that the price is right",
            self.guessed_prices.clone(),
        );
        registry.register(
            "config_reload_failures",
            "Changed files of prices that could not be taken, so that the prices before are in force",
            self.config_reload_failures.clone(),
        );
        registry.register(
            "prices_valid",
            "Whether the file of prices is in force as it stands: 1, or 0 when its last change has faults",
            self.prices_valid.clone(),
        );
    }

    fn register_settlements(&self, registry: &mut Registry) {
        registry.register(
            "settlements",
            "Settlements recorded, by certainty",
            self.settlements.clone(),
        );
        registry.register(
            "duplicate_settlements",
            "Settlements reported again with the same amounts; they count once",
            self.duplicate_settlements.clone(),
        );
        registry.register(
            "conflicting_settlements",
            "Settlements reported again with other amounts; the first stands",
            self.conflicting_settlements.clone(),
        );
        registry.register(
            "estimated_settlements",
            "Reservations charged by estimate because no usage was reported",
            self.estimated_settlements.clone(),
        );
        registry.register_with_unit(
            "overrun",
            "What responses cost beyond their reservations, in 1e-9 US dollars",
            Unit::Other("nano_usd".to_owned()),
            self.overrun_nano_usd.clone(),
        );
        registry.register_with_unit(
            "overrun",
            "LLM tokens that responses used beyond their reservations",
            Unit::Other("tokens".to_owned()),
            self.overrun_tokens.clone(),
        );
    }

    fn register_responses(&self, registry: &mut Registry) {
        registry.register(
            "watched_responses",
            "Responses watched to their end, by what they said of their usage: exact, at_least, estimated or none",
            self.watched_responses.clone(),
        );
        registry.register(
            "unwatched_responses",
            "Responses that went by unseen, because too many others were on their way",
            self.unwatched_responses.clone(),
        );
        registry.register(
            "unreadable_responses",
            "Responses that could not be unpacked to their end and are metered as cut off there, by why: unknown encoding, corrupt, too_dense, or no_room because too many others are being unpacked",
            self.unreadable_responses.clone(),
        );
        registry.register(
            "logged_responses",
            "Unwatched responses that the access log settled, by what it said of their usage: exact, at_least, estimated or none",
            self.logged_responses.clone(),
        );
        registry.register(
            "undecided_passes",
            "Requests that Envoy let pass without a decision, by whether their usage was charged or is unknown",
            self.undecided_passes.clone(),
        );
        registry.register(
            "reported_hits",
            "Calls of the rate limit service, by what became of their usage: recorded, settled_before, refused or not_a_report",
            self.reported_hits.clone(),
        );
        registry.register(
            "notices",
            "Attempts to tell by webhook, by what became of them: sent, failed, or given_up after the last",
            self.notices.clone(),
        );
        registry.register(
            "notices_pending",
            "Notices whose last attempt failed and that are tried again",
            self.notices_pending.clone(),
        );
    }

    fn register_stock(&self, registry: &mut Registry) {
        registry.register(
            "open_reservations",
            "Reservations neither settled nor released",
            self.open_reservations.clone(),
        );
        registry.register("live_accounts", "Accounts held in memory", self.live_accounts.clone());
        registry.register(
            "leased",
            "What is lent to this replica, by dimension: 1e-9 US dollars, LLM tokens or requests",
            self.leased.clone(),
        );
    }

    fn register_store(&self, registry: &mut Registry) {
        registry.register(
            "store_commits",
            "Batches sent to the store, by outcome: ok, failed, lease_lost, or timeout when nobody knows",
            self.store_commits.clone(),
        );
        registry.register_with_unit(
            "store_commit",
            "How long the store took for a batch",
            Unit::Seconds,
            self.store_commit.clone(),
        );
        registry.register(
            "store_up",
            "1 while the store answers, 0 while it does not",
            self.store_up.clone(),
        );
        registry.register_with_unit(
            "journal",
            "Size of the journal file",
            Unit::Bytes,
            self.journal_bytes.clone(),
        );
    }
}

#[cfg(test)]
mod tests;
