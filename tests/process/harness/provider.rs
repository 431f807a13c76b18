//! The provider's own count of what it was asked to do: what a budget may never have let through in excess.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::{Value, json};

/// Nano-dollars that a request of an unknown model sets aside.
pub(crate) const ESTIMATE: i64 = 50_000_000;
const NANO_PER_MICRO: i64 = 1000;

/// What the provider knows.
pub(crate) struct Provider {
    /// Nano-dollars that may be spent.
    limit: i64,
    count: Mutex<Count>,
}

#[derive(Default)]
pub(crate) struct Count {
    /// Requests that were let through, by reservation, and what they cost: what they may cost until they are done.
    pub(crate) let_through: BTreeMap<String, i64>,
    /// Settlements that were sent, and whether that was acknowledged.
    pub(crate) reports: BTreeMap<String, Report>,
    pub(crate) answers: usize,
}

#[derive(Clone)]
pub(crate) struct Report {
    pub(crate) reservation: String,
    pub(crate) cost: i64,
    pub(crate) acknowledged: bool,
}

impl Provider {
    /// One whose customers may spend this many nano-dollars.
    pub(crate) fn new(limit: i64) -> Self {
        Self { limit, count: Mutex::default() }
    }

    pub(crate) fn count(&self) -> std::sync::MutexGuard<'_, Count> {
        self.count.lock().expect("no client panicked")
    }

    pub(crate) fn let_through(&self, reservation: &str) {
        let mut count = self.count();
        count.let_through.insert(reservation.to_owned(), ESTIMATE);
        count.answers += 1;
        let most: i64 = count.let_through.values().sum();
        let limit = self.limit;
        assert!(most <= limit, "{most} may be spent of {limit}");
    }

    /// The request is done. Returns the report of what it cost.
    pub(crate) fn done(&self, reservation: &str, cost: i64) -> String {
        let mut count = self.count();
        count.let_through.insert(reservation.to_owned(), cost);
        let settlement = format!("s-{reservation}");
        let report = Report { reservation: reservation.to_owned(), cost, acknowledged: false };
        count.reports.insert(settlement.clone(), report);
        settlement
    }

    pub(crate) fn acknowledged(&self, settlement: &str) {
        let mut count = self.count();
        count.answers += 1;
        let report = count.reports.get_mut(settlement).expect("it was sent");
        report.acknowledged = true;
    }

    /// The settlements whose report was answered with yes.
    pub(crate) fn acknowledgements(&self) -> Vec<String> {
        let count = self.count();
        let yes = count.reports.iter().filter(|(_, report)| report.acknowledged);
        yes.map(|(id, _)| id.clone()).collect()
    }

    /// All reports: what each said that its request cost.
    pub(crate) fn sent(&self) -> BTreeMap<String, i64> {
        self.count().reports.iter().map(|(id, report)| (id.clone(), report.cost)).collect()
    }

    /// Everything that Bursar never said yes to: reports without an answer, and requests that nobody reported.
    pub(crate) fn unsettled(&self) -> Vec<String> {
        let count = self.count();
        let is_settled = |reservation: &str| {
            let report = count.reports.get(&format!("s-{reservation}"));
            report.is_some_and(|report| report.acknowledged)
        };
        count.let_through.keys().filter(|id| !is_settled(id)).cloned().collect()
    }

    pub(crate) fn report(&self, settlement: &str) -> Value {
        let Report { reservation, cost, .. } = self.count().reports[settlement].clone();
        let micros = cost / NANO_PER_MICRO;
        let dollars: Value = format!("0.{micros:06}").parse().expect("a number");
        json!({"settlement_id": settlement, "reservation_id": reservation, "cost": dollars})
    }
}
