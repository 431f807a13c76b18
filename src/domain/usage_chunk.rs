//! Asking for the usage of a stream: OpenAI's chat and text completions tell it only when the request says
//! `stream_options.include_usage`.

use crate::domain::json::{Found, Raw, edit, find};

/// What follows the last slash of the paths whose streams must be asked. Other APIs tell their usage unasked, and refuse a
/// member that they do not know.
const ASKED_PATHS: [&str; 2] = ["/chat/completions", "/v1/completions"];

const OPTIONS: &str = "stream_options";
const INCLUDE: &str = "include_usage";

/// Whether a request to this path may be one whose stream must be asked for its usage. A query does not matter.
#[must_use]
pub fn may_need_asking(path: &str) -> bool {
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    ASKED_PATHS.iter().any(|end| path.ends_with(end))
}

/// The request's body with `stream_options.include_usage` set, every other byte as it was. `None` where nothing is to be
/// changed: it asks already, it asks for no stream, or it is no JSON that a provider would take.
#[must_use]
pub fn asking_for_usage(body: &[u8]) -> Option<Vec<u8>> {
    let Found::Value(stream) = find(body, &["stream"]) else { return None };
    if stream.as_bool() != Some(true) {
        return None;
    }
    match find(body, &[OPTIONS]) {
        Found::Absent => edit::with_member(body, OPTIONS, &included()),
        Found::Value(options) if options.is_null() => edit::with_member(body, OPTIONS, &included()),
        // Where they are neither null nor an object, the provider refuses the request, and says so better.
        Found::Value(options) => with_usage(body, options),
        Found::Cut | Found::Malformed => None,
    }
}

fn with_usage(body: &[u8], options: Raw<'_>) -> Option<Vec<u8>> {
    let asking = edit::with_member(options.bytes(), INCLUDE, "true")?;
    edit::replaced(body, options, &asking)
}

fn included() -> String {
    format!("{{\"{INCLUDE}\":true}}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn asking(body: &str) -> Option<String> {
        asking_for_usage(body.as_bytes()).map(|body| String::from_utf8(body).unwrap())
    }

    #[test]
    fn a_stream_is_asked_for_its_usage_and_nothing_else_is_changed() {
        for (body, expected) in [
            (r#"{"stream":true}"#, r#"{"stream_options":{"include_usage":true},"stream":true}"#),
            (
                "{ \"model\": \"m\",\n \"stream\" : true }\n",
                "{\"stream_options\":{\"include_usage\":true}, \"model\": \"m\",\n \"stream\" : true }\n",
            ),
            (
                r#"{"stream_options":null,"stream":true}"#,
                r#"{"stream_options":{"include_usage":true},"stream":true}"#,
            ),
            (
                r#"{"stream":true,"stream_options":{}}"#,
                r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
            ),
            (
                r#"{"stream":true,"stream_options": { "x" : 1 } }"#,
                r#"{"stream":true,"stream_options": {"include_usage":true, "x" : 1 } }"#,
            ),
            (
                r#"{"stream":true,"stream_options":{"include_usage": false}}"#,
                r#"{"stream":true,"stream_options":{"include_usage": true}}"#,
            ),
            (
                r#"{"stream":true,"stream_options":{"include_usage":null,"y":2}}"#,
                r#"{"stream":true,"stream_options":{"include_usage":true,"y":2}}"#,
            ),
            // Of members that occur twice the last one counts.
            (
                r#"{"stream":false,"stream_options":{"include_usage":true},"stream":true,"stream_options":{}}"#,
                r#"{"stream":false,"stream_options":{"include_usage":true},"stream":true,"stream_options":{"include_usage":true}}"#,
            ),
            // What the user wrote is no member of the request.
            (
                r#"{"messages":[{"stream_options":{"include_usage":true}}],"stream":true}"#,
                r#"{"stream_options":{"include_usage":true},"messages":[{"stream_options":{"include_usage":true}}],"stream":true}"#,
            ),
        ] {
            assert_eq!(asking(body).as_deref(), Some(expected), "{body}");
        }
    }

    #[test]
    fn what_asks_already_streams_nothing_or_is_no_request_is_left_alone() {
        for body in [
            r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
            r#"{"stream":true,"stream_options":{"include_usage":false,"include_usage":true}}"#,
            r#"{"stream":false}"#,
            r#"{"stream":true,"stream":false}"#,
            r#"{"stream":"true"}"#,
            r#"{"stream":1}"#,
            r#"{"model":"m"}"#,
            r#"{"messages":[{"stream":true}]}"#,
            r#"{"stream":true,"stream_options":"yes"}"#,
            r#"{"stream":true,"stream_options":[]}"#,
            r#"{"stream":true"#,
            r#"{"stream":true,}"#,
            "[true]",
            "",
        ] {
            assert_eq!(asking(body), None, "{body}");
        }
    }

    #[test]
    fn only_the_paths_of_openai_s_completions_are_asked() {
        for path in [
            "/v1/chat/completions",
            "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
            "/v1beta/openai/chat/completions",
            "/v1/completions",
        ] {
            assert!(may_need_asking(path), "{path}");
        }
        for path in [
            "/v1/responses",
            "/v1/messages",
            "/v1/complete",
            "/v1/fim/completions",
            "/v1/chat/completions/",
            "/v1/chat/completions/chatcmpl-1",
            "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=/chat/completions",
            "/v1/embeddings",
            "",
        ] {
            assert!(!may_need_asking(path), "{path}");
        }
    }

    proptest! {
        #[test]
        fn near_json_never_panics(body in r#"[{}\[\]",:\\u0-9a ]{0,40}"#) {
            let _ = asking(&format!("{{\"stream\":true,\"stream_options\":{body}"));
            let _ = asking(&body);
        }

        #[test]
        fn asking_twice_is_asking_once(extra in any::<i64>(), text in ".{0,20}") {
            let body = serde_json::json!({"a": extra, "stream": true, "z": text}).to_string();
            let once = asking(&body).unwrap();
            prop_assert_eq!(asking(&once), None);
            prop_assert!(once.ends_with(&body[1..]));
        }
    }
}
