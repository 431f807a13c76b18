//! What replicas that share a store hear of each other.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::{Label, Metrics};

/// The series of a fleet.
#[derive(Debug, Default)]
pub(super) struct Series {
    handoffs: Family<Label, Counter>,
    recalls: Counter,
    taken_over: Gauge,
    news_failures: Counter,
    news_age: Gauge<f64, AtomicU64>,
}

impl Series {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "handoffs",
            "Usage and releases for reservations of other replicas, by what became of them: written here, settled here as their holder, untaken and so settled here for a holder that is gone, refused because nothing can be booked, unreadable; workspace_only where the subject is not known",
            self.handoffs.clone(),
        );
        registry.register(
            "recalls",
            "Times that something idle was handed back because other replicas asked for it",
            self.recalls.clone(),
        );
        registry.register(
            "taken_over",
            "1 when another process has taken over from this one, which admits and settles nothing from then on",
            self.taken_over.clone(),
        );
        registry.register(
            "news_failures",
            "Times that the store did not say what other replicas changed",
            self.news_failures.clone(),
        );
        registry.register_with_unit(
            "news_age",
            "How long ago the store last said what other replicas changed; 0 for a replica that has its store for itself",
            Unit::Seconds,
            self.news_age.clone(),
        );
    }
}

impl Metrics {
    /// Usage or a release for another replica's reservation, and what became of it: `written`, `settled`, `untaken`, `refused`,
    /// `unreadable` or `workspace_only`.
    pub fn handoff(&self, outcome: &'static str) {
        self.series().fleet.handoffs.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Something idle was handed back because another replica asked for it.
    pub fn recall(&self) {
        self.series().fleet.recalls.inc();
    }

    /// Another process has taken over from this one.
    pub fn taken_over(&self) {
        self.series().fleet.taken_over.set(1);
    }

    /// The store did not say what other replicas changed.
    pub fn news_failure(&self) {
        self.series().fleet.news_failures.inc();
    }

    /// How long ago the store last said what other replicas changed.
    pub fn news_age(&self, age: Duration) {
        self.series().fleet.news_age.set(age.as_secs_f64());
    }
}
