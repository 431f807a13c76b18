//! Who is believed: headers that clients make up, and keys.

use serde_json::{Value, json};

use crate::harness::{Question, Setup, Stage};

/// A budget that lets a scope make so many requests in a minute.
async fn limit_requests(stage: &Stage, scope: Value, requests_per_minute: u32) -> String {
    let rate_limit = json!({"requests_per_minute": requests_per_minute});
    stage.bursar.create_budget(json!({"scope": scope, "rate_limit": rate_limit})).await
}

/// Makes a key of ours for this project.
async fn mint(stage: &Stage, project: &str) -> String {
    let body = json!({"name": "a key", "project_id": project});
    let minted = stage.bursar.call("POST", "/v2/api-keys", Some(body)).await;
    minted["key"].as_str().expect("a secret").to_owned()
}

#[tokio::test]
async fn a_made_up_workspace_changes_nothing_and_never_reaches_the_provider() {
    let stage = Stage::start().await;
    limit_requests(&stage, json!({"workspace": {}}), 5).await;
    let question = Question::of("ada")
        .header("x-bursar-workspace", "victim")
        .header("x-envoy-auth-failure-mode-allowed", "true")
        .header("x-api-key", "sk-of-the-provider")
        .header("x-custom", "kept");
    let reply = stage.ask(&question).await;
    assert_eq!((reply.status, reply.header("x-ratelimit-remaining").as_str()), (200, "4"));
    let seen = stage.upstream.last_headers().await;
    for absent in ["x-bursar-workspace", "x-envoy-auth-failure-mode-allowed"] {
        assert!(seen.get(absent).is_none(), "{absent} reached the provider: {seen}");
    }
    for (name, value) in
        [("x-api-key", "sk-of-the-provider"), ("x-custom", "kept"), ("x-orq-identity-id", "ada")]
    {
        assert_eq!(seen[name], value, "{name} of {seen}");
    }
}

#[tokio::test]
async fn headers_that_are_not_trusted_neither_count_nor_pass() {
    let trust_nobody = "mapping: {trusted_headers: []}\n";
    let stage = Stage::with(Setup::config(trust_nobody), &[]).await;
    limit_requests(&stage, json!({"identity": {"identity_external_id": "ada"}}), 0).await;
    let reply = stage.ask(&Question::of("ada").header("x-orq-project-id", "p1")).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let seen = stage.upstream.last_headers().await;
    for absent in ["x-orq-identity-id", "x-orq-project-id", "x-bursar-provider"] {
        assert!(seen.get(absent).is_none(), "{absent} reached the provider: {seen}");
    }
}

#[tokio::test]
async fn a_key_of_ours_names_its_project_and_stays_between_client_and_envoy() {
    let stage = Stage::start().await;
    limit_requests(&stage, json!({"project": {"project_id": "p1"}}), 3).await;
    let key = mint(&stage, "p1").await;
    assert!(key.starts_with("bsr_"), "{key}");
    for (header, value) in [("authorization", format!("Bearer {key}")), ("x-api-key", key.clone())]
    {
        let reply = stage.ask(&Question::of("ada").header(header, value)).await;
        assert_eq!(reply.header("x-ratelimit-limit"), "3", "{}", reply.text);
        let seen = stage.upstream.last_headers().await.to_string();
        assert!(!seen.contains("bsr_"), "the key reached the provider: {seen}");
    }
    let log = stage.bursar.log() + &stage.envoy.log();
    assert!(!log.contains(&key), "a secret is in a log");

    let other = Question::of("ada")
        .header("authorization", format!("Bearer {key}"))
        .header("x-orq-project-id", "p2");
    let reply = stage.ask(&other).await;
    assert_eq!((reply.status, reply.code()), (403, "scope_mismatch"), "{}", reply.text);
    assert!(reply.text.contains("x-orq-project-id"), "{}", reply.text);

    let made_up = Question::of("ada").header("authorization", "Bearer bsr_nobodymadethis");
    let reply = stage.ask(&made_up).await;
    assert_eq!((reply.status, reply.code()), (403, "unknown_key"), "{}", reply.text);
    let provider = Question::of("ada").header("authorization", "Bearer sk-provider");
    assert_eq!(stage.ask(&provider).await.status, 200, "other keys are the provider's");
    assert_eq!(stage.upstream.last_headers().await["authorization"], "Bearer sk-provider");
}

#[tokio::test]
async fn ids_that_are_none_are_refused_by_the_name_of_their_header() {
    let stage = Stage::start().await;
    let bad: [(&str, Vec<u8>); 2] =
        [("257 bytes", vec![b'x'; 257]), ("not valid UTF-8", b"\xff\xfe".to_vec())];
    for (why, id) in bad {
        let mut question = Question::of("");
        question.headers.retain(|(name, _)| *name != "x-orq-identity-id");
        let reply = stage.ask(&question.header("x-orq-identity-id", id)).await;
        assert_eq!((reply.status, reply.code()), (403, "unknown_subject"), "{}", reply.text);
        assert!(
            reply.text.contains("x-orq-identity-id") && reply.text.contains(why),
            "{}",
            reply.text
        );
    }
    assert_eq!(stage.upstream.served().await["requests"], 0);
}

#[tokio::test]
async fn a_request_without_a_workspace_is_refused_where_one_is_required() {
    let required = "mapping: {trusted_headers: [x-bursar-workspace], no_workspace: refuse}\n";
    let stage = Stage::with(Setup::config(required), &[]).await;
    let reply = stage.ask(&Question::of("ada")).await;
    assert_eq!((reply.status, reply.code()), (403, "unknown_subject"), "{}", reply.text);
    let named = Question::of("ada").header("x-bursar-workspace", "test");
    assert_eq!(stage.ask(&named).await.status, 200);
}
