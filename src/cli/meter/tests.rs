//! What the command says of responses, and what recorded ones cost.

use std::path::{Path, PathBuf};

use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

fn told(options: &[&str], body: &[u8]) -> Value {
    let line = Line::try_parse_from([&["meter"], options].concat()).unwrap();
    serde_json::from_str(&run(&line.arguments, body, &Environment::default()).unwrap()).unwrap()
}

const CHAT: &[u8] = br#"{"id":"c1","model":"gpt-4o-mini-2024-07-18","choices":[],
    "usage":{"prompt_tokens":1149,"completion_tokens":261,"total_tokens":1410,"prompt_tokens_details":{"cached_tokens":1024}}}"#;

#[test]
fn one_line_tells_what_was_used_and_what_it_costs() {
    for chunk in ["1", "7", "65536"] {
        let told = told(&["--provider", "openai", "--chunk", chunk], CHAT);
        assert_eq!(told["kind"], "exact");
        assert_eq!(told["input_tokens"], 1149);
        assert_eq!(told["cached_input_tokens"], 1024);
        assert_eq!(told["model"], "gpt-4o-mini-2024-07-18");
        assert_eq!(told["cost_usd"], "0.00025215");
        assert!(told["price"].as_str().unwrap().contains("gpt-4o-mini"), "{told}");
    }
}

#[test]
fn a_model_nobody_priced_has_no_cost() {
    let told = told(&["--model", "no-such-model-1"], br#"{"usage":{"prompt_tokens":1}}"#);
    assert_eq!(
        (&told["kind"], &told["cost_usd"], &told["price"]),
        (&json!("exact"), &Value::Null, &Value::Null)
    );
    assert_eq!(told["model"], "no-such-model-1");
}

#[test]
fn nothing_measured_is_not_zero() {
    let nothing = told(&[], b"{}");
    assert_eq!((&nothing["kind"], &nothing["input_tokens"]), (&json!("none"), &Value::Null));
    assert_eq!(nothing["cost_usd"], Value::Null);
    assert_eq!(told(&["--status", "429"], b"{}")["cost_usd"], "0");
}

#[test]
fn headers_count_where_bodies_do_not() {
    let options = [
        "--header",
        "X-Amzn-Bedrock-Input-Token-Count: 6",
        "--header",
        "x-amzn-bedrock-output-token-count: 10",
    ];
    assert_eq!(told(&options, br#"{"outputs":[]}"#)["output_tokens"], 10);
}

#[test]
fn a_body_that_ends_within_its_encoding_is_a_lower_bound_at_best() {
    assert_eq!(told(&["--content-encoding", "gzip"], &[0x1f, 0x8b, 0])["kind"], "none");
    assert_eq!(told(&["--content-encoding", "compress"], CHAT)["kind"], "none");
}

#[test]
fn a_bill_counts_at_the_provider_that_is_known_to_send_it() {
    let body = br#"{"model":"m","usage":{"prompt_tokens":1,"completion_tokens":1,"cost":0.5,"cost_in_usd_ticks":25000000001}}"#;
    assert_eq!(told(&["--provider", "openrouter"], body)["cost_usd"], "0.5");
    assert_eq!(told(&["--provider", "xai"], body)["cost_usd"], "2.500000001");
    assert_eq!(told(&["--provider", "openai"], body)["cost_usd"], Value::Null);
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures/usage")
}

/// What is billed beside tokens, two searches of the web and 36 seconds of sound, the public tables leave out of their sum.
const BILLED_BY_UNIT: [(&str, &str); 2] =
    [("anthropic-messages-j-websearch", "0.110354"), ("mistral-transcription-j", "0.0018")];

/// Feeds a recorded response to the command, and says what is wrong with its cost.
fn fault(case: &Value) -> Option<String> {
    let text = |name: &str| case[name].as_str().unwrap_or_default().to_owned();
    let headers = case["response_headers"].as_object().into_iter().flatten();
    let headers = headers.map(|(n, v)| format!("--header={n}: {}", v.as_str().unwrap()));
    let mut options = vec![
        format!("--path={}", text("path")),
        format!("--provider={}", text("provider")),
        format!("--model={}", text("model_request")),
        format!("--content-type={}", text("content_type")),
        format!("--content-encoding={}", text("content_encoding")),
        format!("--status={}", case["status"]),
    ];
    options.extend(headers);
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let body = std::fs::read(folder().join(format!("{}.body", text("id")))).unwrap();
    let told = told(&options, &body);
    let by_unit = BILLED_BY_UNIT.iter().find(|(id, _)| case["id"] == *id).map(|(_, cost)| *cost);
    // Sub-calls that the provider lists are billed, too.
    let names = ["expected_cost_iterations_usd", "expected_cost_usd"];
    let expected = by_unit.or_else(|| names.iter().find_map(|name| case[*name].as_str()));
    let is_sure = case["cost_oracles_disagree"] != true;
    let wrong = is_sure && expected.is_some() && told["cost_usd"].as_str() != expected;
    wrong.then(|| {
        format!("{}: {} is not {expected:?} by {}", case["id"], told["cost_usd"], told["price"])
    })
}

#[test]
fn recorded_responses_cost_what_the_public_tables_say() {
    let Ok(index) = std::fs::read(folder().join("index.json")) else { return };
    let index: Value = serde_json::from_slice(&index).unwrap();
    let faults: Vec<_> = index["cases"].as_array().unwrap().iter().filter_map(fault).collect();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
