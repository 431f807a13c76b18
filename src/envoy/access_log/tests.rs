//! Entries as Envoy writes them, and what they do to reservations and budgets.

use envoy_types::pb::envoy::config::core::v3::RequestMethod;
use envoy_types::pb::envoy::data::accesslog::v3::HttpResponseProperties;
use envoy_types::pb::google::protobuf::{Duration, Timestamp, UInt32Value};

use super::*;
use crate::envoy::handover::tests::metadata;
use crate::envoy::settling::tests::Bench;
use crate::envoy::told_usage::tests::of_gateway;

const USAGE: [(&str, f64); 2] = [("llm_input_token", 20.0), ("llm_output_token", 30.0)];

/// An entry of a request that reached its provider.
fn entry(method: RequestMethod, status: Option<u32>, metadata: Metadata) -> HttpAccessLogEntry {
    let common = AccessLogCommon {
        metadata: Some(metadata),
        start_time: Some(Timestamp { seconds: 1_795_305_600, nanos: 5 }),
        time_to_first_upstream_tx_byte: Some(Duration::default()),
        stream_id: "request-1".to_owned(),
        access_log_type: AccessLogType::DownstreamEnd.into(),
        ..AccessLogCommon::default()
    };
    HttpAccessLogEntry {
        common_properties: Some(common),
        request: Some(HttpRequestProperties {
            request_method: method.into(),
            path: "/v1/chat/completions".to_owned(),
            ..HttpRequestProperties::default()
        }),
        response: Some(HttpResponseProperties {
            response_code: status.map(|value| UInt32Value { value }),
            ..HttpResponseProperties::default()
        }),
        ..HttpAccessLogEntry::default()
    }
}

fn post(status: Option<u32>, metadata: Metadata) -> HttpAccessLogEntry {
    entry(RequestMethod::Post, status, metadata)
}

/// What ext_authz and Envoy AI Gateway leave together.
fn told(handover: &Handover) -> Metadata {
    let mut both = metadata(handover.fields());
    both.filter_metadata.extend(of_gateway(&USAGE).filter_metadata);
    both
}

fn access_log(bench: &Bench) -> AccessLog {
    AccessLog {
        settler: bench.settler.clone(),
        mapping: Arc::new(Mapping::default().falling_back_to(Id::parse("acme").unwrap())),
        metrics: Metrics::new(),
        streams: Arc::new(Semaphore::new(1)),
        ended: CancellationToken::new(),
    }
}

/// What an entry about one admitted request makes the budget spend; `None` when the reservation stays open.
async fn spent_by(make: impl FnOnce(&Handover) -> HttpAccessLogEntry) -> Option<i64> {
    let bench = Bench::start().await;
    let handover = bench.admit().await;
    access_log(&bench).read(make(&handover)).await;
    if bench.settler.is_left_open(&handover) {
        return None;
    }
    Some(bench.spent().await)
}

#[tokio::test]
async fn a_client_that_leaves_before_any_response_is_charged_what_its_provider_must_have_read() {
    let left = |handover: &Handover| post(None, metadata(handover.fields()));
    assert_eq!(spent_by(left).await, Some(10));
    let unsent = |handover: &Handover| {
        let mut entry = left(handover);
        entry.common_properties.as_mut().unwrap().time_to_first_upstream_tx_byte = None;
        entry
    };
    assert_eq!(spent_by(unsent).await, Some(0), "it never got to a provider");
    let reading =
        |handover: &Handover| entry(RequestMethod::Get, None, metadata(handover.fields()));
    assert_eq!(spent_by(reading).await, Some(0), "no model works for a GET");
}

#[tokio::test]
async fn another_replica_hears_of_a_client_that_left_and_leaves_begun_responses_to_who_watched_them()
 {
    let (holder, other) = Bench::pair().await;
    let watched = holder.admit().await;
    access_log(&other).read(post(Some(200), told(&watched))).await;
    let left = holder.admit().await;
    access_log(&other).read(post(None, metadata(left.fields()))).await;
    holder.settled(&left).await;
    assert_eq!(holder.spent().await, 10);
    assert!(holder.settler.is_left_open(&watched));
}

#[tokio::test]
async fn what_fails_is_given_back_and_what_succeeds_without_usage_is_left_to_others() {
    for (status, spent) in
        [(503, Some(0)), (429, Some(0)), (404, Some(0)), (200, None), (101, None)]
    {
        let spent_by = spent_by(|handover| post(Some(status), metadata(handover.fields()))).await;
        assert_eq!(spent_by, spent, "{status}");
    }
}

#[tokio::test]
async fn usage_that_another_filter_found_settles_what_nobody_watches() {
    assert_eq!(spent_by(|handover| post(Some(200), told(handover))).await, Some(50));
    let fetched = spent_by(|handover| entry(RequestMethod::Get, Some(200), told(handover))).await;
    assert_eq!(fetched, None, "it was paid for when it was made");
    let running = spent_by(|handover| {
        let mut entry = post(Some(200), told(handover));
        let common = entry.common_properties.as_mut().unwrap();
        common.access_log_type = AccessLogType::DownstreamPeriodic.into();
        entry
    });
    assert_eq!(running.await, None, "it is not over");
}

#[tokio::test]
async fn a_response_that_is_or_was_watched_is_not_touched() {
    let bench = Bench::start().await;
    let handover = bench.admit().await;
    let access_log = access_log(&bench);
    let watch = bench.settler.watch(handover.reservation);
    access_log.read(post(Some(200), told(&handover))).await;
    assert!(bench.settler.engine.is_open(&handover.workspace, handover.reservation));
    let usage = crate::domain::usage::Usage { output: 70, ..Default::default() };
    let record = Box::new(Record { usage, ..Record::default() });
    let ended = Ended {
        handover: handover.clone(),
        method: "POST".to_owned(),
        path: "/v1/chat/completions".to_owned(),
        response_id: None,
        verdict: response::Verdict::Charge(Certainty::Exact, record),
    };
    bench.settler.settle(ended).await;
    drop(watch);
    for entry in [post(Some(200), told(&handover)), post(None, metadata(handover.fields()))] {
        access_log.read(entry).await;
        assert_eq!(bench.spent().await, 70);
    }
    assert!(!access_log.metrics.encode().contains("bursar_logged_responses_total{"));
}

/// An entry of a request that Envoy let pass without a decision, which began at this nanosecond.
fn passed(nanos: i32, metadata: Metadata, headers: &[(&str, &str)]) -> HttpAccessLogEntry {
    let mut entry = post(Some(200), metadata);
    entry.common_properties.as_mut().unwrap().start_time.as_mut().unwrap().nanos = nanos;
    let all = [&[(PASSED_UNDECIDED, "true")], headers].concat();
    let headers = all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    entry.request.as_mut().unwrap().request_headers = headers.collect();
    entry
}

#[tokio::test]
async fn a_pass_without_a_decision_is_counted_and_charged_once_where_its_usage_is_told() {
    let bench = Bench::start().await;
    let access_log = access_log(&bench);
    let model = [("x-bursar-model", "m")];
    for _ in 0..2 {
        access_log.read(passed(1, of_gateway(&USAGE), &model)).await;
        assert_eq!(bench.spent().await, 50);
    }
    // Another request with the same id.
    access_log.read(passed(2, of_gateway(&USAGE), &model)).await;
    assert_eq!(bench.spent().await, 100);
    access_log.read(passed(3, Metadata::default(), &model)).await;
    access_log.read(passed(4, of_gateway(&USAGE), &[("x-bursar-model", "unheard-of")])).await;
    let mut foreign = passed(5, of_gateway(&USAGE), &model);
    foreign.request.as_mut().unwrap().request_headers.remove(PASSED_UNDECIDED);
    access_log.read(foreign).await;
    assert_eq!(bench.spent().await, 100);
    let page = access_log.metrics.encode();
    assert!(page.contains("bursar_undecided_passes_total{usage=\"charged\"} 3"), "{page}");
    assert!(page.contains("bursar_undecided_passes_total{usage=\"unknown\"} 2"), "{page}");
}

#[test]
fn the_subject_of_a_pass_is_read_where_that_of_a_request_would_be() {
    let headers = [("x-orq-identity-id", "ada"), ("x-bursar-workspace", "victim")];
    let entry = Entry::of(passed(1, of_gateway(&USAGE), &headers)).unwrap();
    let mapping = Mapping::default();
    let subject = mapping.subject(&Attributes::of(&entry.into_check()), None).unwrap();
    assert_eq!(subject.workspace.as_str(), "default");
    assert_eq!(subject.identity, Id::parse("ada").ok());
}
