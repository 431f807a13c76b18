//! The meter on small responses in the documented shapes, and on what is none.

mod recorded;
mod streams;

use proptest::prelude::*;

use self::streams::frame;
use super::*;

#[test]
fn parts_are_clamped_to_their_whole_and_absurd_counts_refused() {
    let odd = Usage {
        input: 10,
        cached: 8,
        cache_write: 5,
        cache_write_1h: 3,
        output: 10,
        reasoning: 11,
    };
    let clamped = Usage { cache_write: 2, cache_write_1h: 2, reasoning: 10, ..odd };
    assert_eq!(odd.checked(), Ok(clamped));
    assert_eq!(clamped.checked(), Ok(clamped));
    let absurd = Usage { output: TOKENS_MAX + 1, ..odd };
    assert_eq!(
        absurd.checked().map_err(|e| e.to_string()),
        Err("output is 100000001; a response has at most 100000000 tokens".to_owned())
    );
}

/// A chat at no particular provider.
const HINTS: Hints<'_> =
    Hints { path: "/v1/chat/completions", content_type: "", provider: None, headers: &[] };

/// Feeds a body whole and in small pieces, which must come to the same.
fn metered_with(hints: Hints<'_>, body: &[u8]) -> Metered {
    let fed = |size: usize| {
        let mut meter = Meter::new(hints);
        body.chunks(size).for_each(|chunk| meter.push(chunk));
        meter.finish()
    };
    let whole = fed(body.len().max(1));
    for size in [1, 2, 3, 7, 64] {
        assert_eq!(fed(size), whole, "by {size}: {}", String::from_utf8_lossy(body));
    }
    whole
}

/// `exact 10+5 cached 4`: how sure, input and output, and the parts that there are.
fn shown(metered: &Metered) -> String {
    let (kind, record) = match metered {
        Metered::Exact(record) => ("exact", record),
        Metered::AtLeast(record) => ("at least", record),
        Metered::None => return "none".to_owned(),
    };
    let usage = record.usage;
    let mut text = format!("{kind} {}+{}", usage.input, usage.output);
    let parts = [
        ("cached", usage.cached),
        ("write", usage.cache_write),
        ("1h", usage.cache_write_1h),
        ("reasoning", usage.reasoning),
        ("audio in", record.media.input_audio),
        ("image out", record.media.output_image),
    ];
    for (name, count) in parts.into_iter().chain(record.extras.named()) {
        if count > 0 {
            text += &format!(" {name} {count}");
        }
    }
    text
}

fn check(body: &str, expected: &str) {
    assert_eq!(shown(&metered_with(HINTS, body.as_bytes())), expected, "{body}");
}

/// Events with these data.
fn sse(data: &[&str]) -> String {
    data.iter().map(|data| format!("data: {data}\n\n")).collect()
}

#[test]
fn every_shape_is_brought_to_the_same_record() {
    let usage =
        |usage: &str, expected: &str| check(&format!(r#"{{"id":"1","usage":{usage}}}"#), expected);
    usage(r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}"#, "exact 10+5");
    usage(
        r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":4,"cache_write_tokens":3,"audio_tokens":2},
            "completion_tokens_details":{"reasoning_tokens":2}}"#,
        "exact 10+5 cached 4 write 3 reasoning 2 audio in 2",
    );
    usage(
        r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_cache_hit_tokens":4,"prompt_tokens_details":{"cached_tokens":4}}"#,
        "exact 10+5 cached 4",
    );
    usage(r#"{"prompt_tokens":10,"completion_tokens":5,"cached_tokens":4}"#, "exact 10+5 cached 4");
    // Thoughts that only the total tells of.
    usage(
        r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":40}"#,
        "exact 10+30 reasoning 25",
    );
    usage(r#"{"prompt_tokens":8,"total_tokens":8}"#, "exact 8+0");
    usage(r#"{"total_tokens":8}"#, "exact 8+0");
    usage(
        r#"{"input_tokens":10,"input_tokens_details":{"cached_tokens":4},"output_tokens":5,"output_tokens_details":{"reasoning_tokens":3},"total_tokens":15}"#,
        "exact 10+5 cached 4 reasoning 3",
    );
    usage(
        r#"{"input_tokens":10,"output_tokens":5,"total_tokens":15,"output_tokens_details":{"image_tokens":5}}"#,
        "exact 10+5 image out 5",
    );
    usage(
        r#"{"input_tokens":3,"cache_read_input_tokens":100,"cache_creation_input_tokens":50,"output_tokens":5,
            "cache_creation":{"ephemeral_5m_input_tokens":20,"ephemeral_1h_input_tokens":30},
            "output_tokens_details":{"thinking_tokens":2},"server_tool_use":{"web_search_requests":2}}"#,
        "exact 153+5 cached 100 write 50 1h 30 reasoning 2 web_searches 2",
    );
    usage(
        r#"{"inputTokens":3,"outputTokens":5,"totalTokens":58,"cacheReadInputTokens":40,"cacheReadInputTokenCount":40,"cacheWriteInputTokens":10,
            "cacheDetails":[{"ttl":"1h","inputTokens":10}]}"#,
        "exact 53+5 cached 40 write 10 1h 10",
    );
    usage(
        r#"{"billed_units":{"input_tokens":39,"output_tokens":27},"tokens":{"input_tokens":1683,"output_tokens":62},"cached_tokens":9}"#,
        "exact 39+27",
    );
    usage(r#"{"type":"duration","seconds":7.2}"#, "exact 0+0 seconds 8");
    usage(
        r#"{"total_input_tokens":10,"total_output_tokens":5,"total_thought_tokens":3,"total_cached_tokens":2,"total_tool_use_tokens":1}"#,
        "exact 11+8 cached 2 reasoning 3",
    );
    check(
        r#"{"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":5,"thoughtsTokenCount":7,"toolUsePromptTokenCount":2,"cachedContentTokenCount":4,
            "totalTokenCount":24,"promptTokensDetails":[{"modality":"AUDIO","tokenCount":6},{"modality":"AUDIO","tokenCount":1}]}}"#,
        "exact 12+12 cached 4 reasoning 7 audio in 7",
    );
    check(r#"{"meta":{"billed_units":{"search_units":1}}}"#, "exact 0+0 search_units 1");
    check(r#"{"usage_info":{"pages_processed":3,"doc_size_bytes":100}}"#, "exact 0+0 pages 3");
    check(
        r#"{"inputTextTokenCount":5,"results":[{"tokenCount":10},{"tokenCount":1}]}"#,
        "exact 5+11",
    );
    check(
        r#"{"generation":"x","prompt_token_count":5,"generation_token_count":10,"stop_reason":"stop"}"#,
        "exact 5+10",
    );
    check(
        "{\"message\":{},\"done\":false}\n{\"done\":true,\"prompt_eval_count\":5,\"eval_count\":10}\n",
        "exact 5+10",
    );
}

#[test]
fn numbers_that_no_response_has_are_no_usage() {
    for wrong in [
        "-1",
        "1.5",
        "100000001",
        "1e99",
        "\"12\"",
        "true",
        "[1]",
        "{}",
        "1e400",
        "18446744073709551616",
    ] {
        check(
            &format!(r#"{{"usage":{{"prompt_tokens":10,"completion_tokens":{wrong}}}}}"#),
            "none",
        );
    }
    check(r#"{"usage":{"prompt_tokens":3.0,"completion_tokens":1e2}}"#, "exact 3+100");
    check(r#"{"usage":{"prompt_tokens":100000000,"completion_tokens":null}}"#, "exact 100000000+0");
    check(
        r#"{"usage":{"input_tokens":100000000,"cache_read_input_tokens":1,"output_tokens":1}}"#,
        "none",
    );
    for nothing in [
        "null",
        "{}",
        "[]",
        "7",
        r#"{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}"#,
        r#"{"queue_time":0.1}"#,
    ] {
        check(&format!(r#"{{"usage":{nothing}}}"#), "none");
    }
}

#[test]
fn only_the_providers_own_places_count() {
    for spoof in [
        r#"{"choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":1}","usage":{"prompt_tokens":1}}}]}"#,
        r#"{"content":[{"type":"tool_use","input":{"usage":{"input_tokens":1}}}]}"#,
        r#"{"output":[{"arguments":{"usage":{"input_tokens":1}}}],"metadata":{"usage":{"input_tokens":1}}}"#,
        r#"{"candidates":[{"content":{"parts":[{"functionCall":{"args":{"usageMetadata":{"promptTokenCount":1}}}}]}}]}"#,
        r#"{"usage ":{"prompt_tokens":1},"Usage":{"prompt_tokens":1}}"#,
        r#""usage":{"prompt_tokens":1}"#,
        r#"[[{"usage":{"prompt_tokens":1}}]]"#,
        r#"[1,{"usage":{"prompt_tokens":1}}]"#,
        r#"{"a":1}}{"usage":{"prompt_tokens":1}}"#,
    ] {
        check(spoof, "none");
    }
    check(
        r#"{"x":{"usage":{"prompt_tokens":1}},"\u0075s\u0061ge":{"prompt\u005Ftokens":9,"completion_tokens":1}}"#,
        "exact 9+1",
    );
}

#[test]
fn sub_calls_are_billed_each_at_its_model() {
    let usage = |iterations: &str| {
        let body = format!(
            r#"{{"model":"a","usage":{{"input_tokens":181,"output_tokens":8,"iterations":[{iterations}]}}}}"#
        );
        let Metered::Exact(record) = metered_with(HINTS, body.as_bytes()) else {
            return "none".to_owned();
        };
        let calls = record.billable().map(|(model, usage)| {
            format!("{} {}+{}", model.unwrap_or("-"), usage.input, usage.output)
        });
        calls.collect::<Vec<_>>().join(", ")
    };
    let compaction = r#"{"type":"compaction","input_tokens":100,"cache_read_input_tokens":55096,"output_tokens":83}"#;
    let message = r#"{"type":"message","input_tokens":181,"output_tokens":8}"#;
    let advisor = r#"{"type":"advisor_message","model":"b","input_tokens":5,"output_tokens":6}"#;
    assert_eq!(usage(&[compaction, message, advisor].join(",")), "a 55196+83, a 181+8, b 5+6");
    assert_eq!(usage(""), "a 181+8");
    assert_eq!(
        usage(advisor),
        "a 181+8",
        "a list that holds less than the whole is no list of what is billed"
    );
    assert_eq!(usage(r#"{"input_tokens":-1,"output_tokens":6}"#), "none");
    assert_eq!(usage(&vec![message; 129].join(",")), "none", "more than anybody makes");
}

#[test]
fn a_body_that_was_cut_is_a_lower_bound() {
    check(
        r#"{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":10,"completion_tokens":5}"#,
        "at least 10+5",
    );
    check(r#"{"usage":{"prompt_tokens":10,"completion_tokens":5"#, "none");
    check(r#"{"usage":{"prompt_tokens":10,"completion_tokens":5}} trailing"#, "at least 10+5");
    let body = br#"{"choices":[{"index":0}],"usage":{"prompt_tokens":10}}"#;
    let [mut seen, mut unseen] = [Meter::new(HINTS), Meter::new(HINTS)];
    seen.push(body);
    unseen.push(body);
    assert_eq!(shown(&seen.finish()), "exact 10+0");
    assert_eq!(shown(&unseen.finish_cut()), "at least 10+0");
}

#[test]
fn answers_that_cost_nothing_are_not_metered() {
    let body = br#"{"usage":{"prompt_tokens":10},"input_tokens":10}"#;
    for path in [
        "/v1/messages/count_tokens?beta=true",
        "/v1/responses/input_tokens",
        "/v1beta/models/g:countTokens",
        "/v1/files/f/content",
    ] {
        assert_eq!(metered_with(Hints { path, ..HINTS }, body), Metered::None, "{path}");
    }
}

#[test]
fn a_record_names_who_answered_and_how() {
    let body = r#"{"id":"r1","model":"m1","service_tier":"priority","usage":{"prompt_tokens":1}}"#;
    let Metered::Exact(record) = metered_with(HINTS, body.as_bytes()) else { panic!("exact") };
    assert_eq!(
        (record.response_id.as_deref(), record.model.as_deref(), record.service_tier.as_deref()),
        (Some("r1"), Some("m1"), Some("priority"))
    );
    // Azure's first chunk has an empty model, its router answers with another one.
    let events = sse(&[
        r#"{"model":"","choices":[]}"#,
        r#"{"model":"m2","choices":[],"usage":{"prompt_tokens":1}}"#,
    ]);
    let Metered::Exact(record) = metered_with(HINTS, events.as_bytes()) else { panic!("exact") };
    assert_eq!(record.model.as_deref(), Some("m2"));
    let gemini = r#"{"modelVersion":"g","responseId":"r","usageMetadata":{"promptTokenCount":1,"trafficType":"ON_DEMAND_FLEX"}}"#;
    let Metered::Exact(record) = metered_with(HINTS, gemini.as_bytes()) else { panic!("exact") };
    assert_eq!(
        (record.response_id.as_deref(), record.model.as_deref(), record.service_tier.as_deref()),
        (Some("r"), Some("g"), Some("ON_DEMAND_FLEX"))
    );
}

#[test]
fn usage_behind_a_large_event_is_found() {
    let image = "A".repeat(5 << 20);
    check_once(&sse(&[&format!(
        r#"{{"type":"image_generation.completed","b64_json":"{image}","usage":{{"input_tokens":10,"output_tokens":5,"total_tokens":15}}}}"#
    )]));
    let floats = "0.0123456789,".repeat(100_000);
    check_once(&format!(
        r#"{{"data":[{{"embedding":[{floats}0]}}],"usage":{{"prompt_tokens":10,"completion_tokens":5}}}}"#
    ));
    let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
    check_once(&format!(
        r#"{{"deep":{deep},"usage":{{"prompt_tokens":10,"completion_tokens":5}}}}"#
    ));
}

fn check_once(body: &str) {
    let mut meter = Meter::new(HINTS);
    body.as_bytes().chunks(8192).for_each(|chunk| meter.push(chunk));
    assert_eq!(shown(&meter.finish()), "exact 10+5");
}

#[test]
fn a_usage_object_too_long_to_be_one_is_none() {
    let padding = " ".repeat(70_000);
    let mut meter = Meter::new(HINTS);
    meter.push(format!(r#"{{"usage":{{"prompt_tokens":1{padding}}}}}"#).as_bytes());
    assert_eq!(meter.finish(), Metered::None);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_chunking_never_matters(
        body in prop::collection::vec(any::<u8>(), 0..300), size in 1..20_usize,
    ) {
        prop_assert_eq!(fed(&body, size), fed(&body, 1000));
        let framed = frame(&[(":message-type", "event"), (":event-type", "chunk")], &body);
        prop_assert_eq!(fed(&framed, size), fed(&framed, 1000));
    }

    #[test]
    fn near_responses_never_panic_and_chunking_never_matters(
        words in prop::collection::vec(prop::sample::select(WORDS), 0..60), size in 1..20_usize,
    ) {
        let body = words.concat();
        prop_assert_eq!(fed(body.as_bytes(), size), fed(body.as_bytes(), 10_000), "{}", body);
    }
}

const WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "\\",
    "\\u0075",
    "data:",
    "data: ",
    "\n",
    "\r",
    "\n\n",
    "usage",
    "\"usage\":",
    "{\"usage\":{",
    "\"prompt_tokens\":",
    "\"input_tokens\":",
    "\"iterations\":[",
    "\"message\":{",
    "\"type\":\"message_delta\",",
    "1",
    "-2",
    "3.5e1",
    "null",
    "true",
    "[DONE]",
    "\"choices\":[",
    " ",
    "\u{feff}",
    "\"usageMetadata\":{\"promptTokenCount\":7}",
    "}}",
];

fn fed(body: &[u8], size: usize) -> Metered {
    let mut meter = Meter::new(HINTS);
    body.chunks(size).for_each(|chunk| meter.push(chunk));
    meter.finish()
}
