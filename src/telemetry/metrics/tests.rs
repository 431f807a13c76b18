//! The page as Prometheus reads it.

use super::*;

#[test]
fn names_carry_their_units_and_labels_their_values() {
    let metrics = Metrics::new();
    metrics.decision("allow");
    metrics.decision("allow");
    metrics.decision("budget_in_flight");
    metrics.overrun_nano_usd(7);
    metrics.overrun_tokens(3);
    metrics.starved(Duration::from_millis(3));
    metrics.store_commit(Duration::from_millis(1), "ok");
    metrics.leased("cost", 5);
    metrics.journal_bytes(4096);
    metrics.handoff("written");
    metrics.recall();
    metrics.news_failure();
    metrics.news_age(Duration::from_millis(1500));
    let page = metrics.clone().encode();
    for line in [
        "bursar_decisions_total{code=\"allow\"} 2",
        "bursar_decisions_total{code=\"budget_in_flight\"} 1",
        "bursar_overrun_nano_usd_total 7",
        "bursar_overrun_tokens_total 3",
        "bursar_starved_seconds_bucket{le=\"0.005\"} 1",
        "bursar_store_commit_seconds_count 1",
        "bursar_store_commits_total{outcome=\"ok\"} 1",
        "bursar_leased{dimension=\"cost\"} 5",
        "bursar_journal_bytes 4096",
        "bursar_handoffs_total{outcome=\"written\"} 1",
        "bursar_recalls_total 1",
        "bursar_news_failures_total 1",
        "bursar_news_age_seconds 1.5",
        "# EOF",
    ] {
        assert!(page.lines().any(|shown| shown == line), "{line} is missing from\n{page}");
    }
}

#[test]
fn every_series_has_a_help_text_and_no_name_is_used_twice() {
    let page = Metrics::new().encode();
    let named = |mark: &str| -> Vec<String> {
        page.lines()
            .filter_map(|l| l.strip_prefix(mark)?.split(' ').next().map(str::to_owned))
            .collect()
    };
    let mut types = named("# TYPE ");
    assert_eq!(types, named("# HELP "));
    let count = types.len();
    types.sort();
    types.dedup();
    assert_eq!(types.len(), count);
}
