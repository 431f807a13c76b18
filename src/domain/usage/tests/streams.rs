//! Streams: which of their many documents counts, and how they are framed.

use super::*;

/// A frame of AWS's event stream.
pub(super) fn frame(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let mut head = Vec::new();
    for (name, value) in headers {
        head.push(u8::try_from(name.len()).unwrap());
        head.extend(name.as_bytes());
        head.push(7);
        head.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        head.extend(value.as_bytes());
    }
    let total = u32::try_from(head.len() + payload.len() + 16).unwrap();
    let mut frame =
        [total.to_be_bytes(), u32::try_from(head.len()).unwrap().to_be_bytes()].concat();
    frame.extend(crc32fast::hash(&frame).to_be_bytes());
    frame.extend(head);
    frame.extend(payload);
    frame.extend(crc32fast::hash(&frame).to_be_bytes());
    frame
}

#[test]
fn a_streams_last_usage_that_says_something_counts() {
    let stream = |data: &[&str], expected: &str| check(&sse(data), expected);
    let chunk =
        r#"{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}],"usage":null}"#;
    let stop = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    let usage = r#"{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":5}}"#;
    let running = r#"{"choices":[{"index":0,"finish_reason":null}],"usage":{"prompt_tokens":10,"completion_tokens":2}}"#;
    stream(&[chunk, stop, usage, "[DONE]"], "exact 10+5");
    stream(&[chunk, stop, usage], "exact 10+5");
    stream(&[chunk, stop, "[DONE]"], "none");
    stream(&[running, chunk], "at least 10+2");
    stream(&[running, chunk, "[DONE]"], "exact 10+2");
    stream(
        &[running, usage, r#"{"choices":[],"usage":{}}"#, r#"{"moderation":1,"usage":null}"#],
        "exact 10+5",
    );
    stream(&[running, r#"{"choices":[],"usage":{"prompt_tokens":-1}}"#], "at least 10+2");
    stream(
        &[
            r#"{"x_groq":{"usage":{"prompt_tokens":10,"completion_tokens":5}},"usage":{"prompt_tokens":10,"completion_tokens":5}}"#,
        ],
        "exact 10+5",
    );
    stream(
        &[
            r#"{"type":"response.created","response":{"usage":null}}"#,
            r#"{"type":"response.incomplete","response":{"id":"r","usage":{"input_tokens":10,"output_tokens":5,"total_tokens":15}}}"#,
        ],
        "exact 10+5",
    );
    stream(
        &[
            r#"{"type":"message-end","delta":{"usage":{"billed_units":{"input_tokens":10,"output_tokens":5}}}}"#,
        ],
        "exact 10+5",
    );
    let gemini = r#"{"candidates":[{"content":{}}],"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":2}}"#;
    let last = r#"{"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":5}}"#;
    stream(&[gemini, r#"{"usageMetadata":{"trafficType":"ON_DEMAND"}}"#], "at least 10+2");
    stream(&[gemini, last], "exact 10+5");
    check(&format!("[{gemini}\n,\n{last}\n]"), "exact 10+5");
    check(&format!("[{gemini},"), "at least 10+2");
    check(&format!("[{gemini},{gemini}]"), "exact 10+2");
}

#[test]
fn anthropics_second_half_replaces_what_it_names() {
    let stream = |start: &str, delta: &str, expected: &str| {
        let start = format!(
            r#"{{"type":"message_start","message":{{"id":"m","model":"c","usage":{{"output_tokens":1,{start}}}}}}}"#
        );
        let delta = format!(
            r#"{{"type":"message_delta","delta":{{"stop_reason":"end_turn"}},"usage":{{{delta}}}}}"#
        );
        check(
            &sse(&[&start, r#"{"type":"ping"}"#, &delta, r#"{"type":"message_stop"}"#]),
            expected,
        );
        check(&sse(&[&start, &start, &delta, &delta]), expected);
    };
    stream(r#""input_tokens":10"#, r#""output_tokens":5"#, "exact 10+5");
    stream(r#""input_tokens":43"#, r#""input_tokens":61,"output_tokens":5"#, "exact 61+5");
    stream(
        r#""input_tokens":8834"#,
        r#""input_tokens":18,"cache_read_input_tokens":8816,"output_tokens":5"#,
        "exact 8834+5 cached 8816",
    );
    stream(
        r#""input_tokens":3,"cache_read_input_tokens":10,"cache_creation_input_tokens":7,"cache_creation":{"ephemeral_1h_input_tokens":7}"#,
        r#""input_tokens":0,"cache_read_input_tokens":0,"cache_creation_input_tokens":0,"output_tokens":5"#,
        "exact 20+5 cached 10 write 7 1h 7",
    );
    stream(
        r#""input_tokens":3,"cache_read_input_tokens":10,"cache_creation_input_tokens":7,"cache_creation":{"ephemeral_1h_input_tokens":7}"#,
        r#""input_tokens":3,"cache_read_input_tokens":10,"cache_creation_input_tokens":7,"output_tokens":5"#,
        "exact 20+5 cached 10 write 7 1h 7",
    );
    stream(
        r#""input_tokens":3,"cache_read_input_tokens":10"#,
        r#""input_tokens":3,"output_tokens":5"#,
        "exact 13+5 cached 10",
    );
    stream(r#""input_tokens":10"#, r#""output_tokens":0"#, "exact 10+1");
    check(
        &sse(&[
            r#"{"type":"message_start","message":{"usage":{"input_tokens":10,"output_tokens":1}}}"#,
        ]),
        "at least 10+1",
    );
}

#[test]
fn a_binary_event_stream_counts_frame_by_sound_frame() {
    let event = |kind| [(":message-type", "event"), (":event-type", kind), (":x", "")];
    let metadata = frame(&event("metadata"), br#"{"usage":{"inputTokens":10,"outputTokens":5}}"#);
    let stop = frame(&event("messageStop"), br#"{"stopReason":"end_turn"}"#);
    let show = |body: &[u8]| shown(&metered_with(HINTS, body));
    assert_eq!(show(&[stop.clone(), metadata.clone()].concat()), "exact 10+5");
    let exception = [(":message-type", "exception"), (":exception-type", "throttlingException")];
    assert_eq!(show(&frame(&exception, br#"{"usage":{"inputTokens":10}}"#)), "none");
    assert_eq!(show(&frame(&[], br#"{"usage":{"inputTokens":10}}"#)), "none");
    assert_eq!(show(&[frame(&event("x"), b""), metadata.clone()].concat()), "exact 10+5");
    let mut wrong = metadata.clone();
    *wrong.last_mut().unwrap() ^= 1;
    assert_eq!(show(&wrong), "none");
    assert_eq!(show(&metadata[..metadata.len() - 1]), "none");
    // {"amazon-bedrock-invocationMetrics":{"inputTokenCount":10,"outputTokenCount":5}}
    let chunk = br#"{"bytes":"eyJhbWF6b24tYmVkcm9jay1pbnZvY2F0aW9uTWV0cmljcyI6eyJpbnB1dFRva2VuQ291bnQiOjEwLCJvdXRwdXRUb2tlbkNvdW50Ijo1fX0=","p":"ab"}"#;
    assert_eq!(show(&frame(&event("chunk"), chunk)), "exact 10+5");
}

#[test]
fn the_first_bytes_tell_the_framing() {
    let usage = r#"{"usage":{"prompt_tokens":10,"completion_tokens":5}}"#;
    check(&format!("\u{feff} \r\n{usage}"), "exact 10+5");
    for content_type in
        ["", "application/json", "text/plain", "text/event-stream", "application/octet-stream"]
    {
        let hints = Hints { content_type, ..HINTS };
        let events = format!("\u{feff}: keep-alive\r\revent: x\rdata: {usage}");
        assert_eq!(shown(&metered_with(hints, events.as_bytes())), "exact 10+5", "{content_type}");
        assert_eq!(shown(&metered_with(hints, usage.as_bytes())), "exact 10+5", "{content_type}");
    }
    let split =
        "data: {\"usage\":\ndata:{\"prompt_tokens\":10,\ndata: \"completion_tokens\":5}}\n\n";
    check(split, "exact 10+5");
    let dictated = Hints { path: "/v1/audio/transcriptions", content_type: "text/plain", ..HINTS };
    assert_eq!(metered_with(dictated, usage.as_bytes()), Metered::None);
}
