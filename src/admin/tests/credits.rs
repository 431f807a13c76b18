//! Prepaid credits as clients meet them.

use super::*;

impl Client {
    /// Sends a request for a statement. Gives its content type and its text.
    async fn statement(&self, query: &str, accept: &str) -> (String, String) {
        let request = Request::get(format!("/v2/credits/statement?{query}"))
            .header("authorization", format!("Bearer {}", self.key.unwrap()))
            .header("accept", accept);
        let response = self.raw(request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), 200, "{query}");
        let media = response.headers()["content-type"].to_str().unwrap().to_owned();
        (media, text(response).await)
    }

    async fn spend(&self, settlement: &str, project: &str, cost: &str) {
        let report = json!({"settlement_id": settlement, "project_id": project, "cost": cost, "model": "m,1"});
        self.ok("POST /v2/usage", report).await;
    }
}

fn grant(id: &str, amount: &str) -> Value {
    json!({"id": id, "amount": amount, "reason": "invoice 7"})
}

fn secret() -> &'static str {
    "whsec_0123456789abcdef"
}

#[tokio::test]
async fn a_grant_counts_once_however_often_it_is_sent() {
    let client = Client::new().await;
    let before = client.ok("GET /v2/credits", json!({})).await;
    let none = json!({"workspace_id": WORKSPACE, "enforced": false, "balance": 0, "available": 0, "lent": 0, "forfeited": 0, "grants": []});
    assert_eq!(before, none);
    let first = client.ok("POST /v2/credits/grants", grant("g1", "0.1")).await;
    assert_eq!(
        first["grant"],
        json!({"id": "g1", "amount": 0.1, "priority": 50, "expires_at": null, "reason": "invoice 7",
               "created_at": "2026-11-22T00:00:00Z"})
    );
    assert_eq!(client.ok("POST /v2/credits/grants", grant("g1", "0.10")).await, first);
    let said =
        client.refused("POST /v2/credits/grants", grant("g1", "0.2").to_string(), 409, 6).await;
    assert_eq!(said, "grant g1 exists already with other contents; use another id");
    let nameless = json!({"amount": 1, "reason": "more"});
    for _ in 0..2 {
        client.ok("POST /v2/credits/grants", nameless.clone()).await;
    }
    let read = client.ok("GET /v2/credits", json!({})).await;
    assert_eq!((&read["enforced"], &read["balance"]), (&json!(true), &json!(2.1)));
    assert_eq!(read["grants"].as_array().unwrap().len(), 3);
    assert_eq!(read["grants"][2]["remaining"], 0.1);
    let other =
        client.with(Some(OPERATOR)).ok("GET /v2/credits?workspace_id=other", json!({})).await;
    assert_eq!(other["enforced"], false);
}

#[tokio::test]
async fn a_workspace_without_credits_left_is_refused_until_some_are_granted() {
    let client = Client::new().await;
    let check = || client.ok("POST /v2/budgets/check", json!({"project_id": "p1"}));
    assert_eq!(check().await["allowed"], true);
    client.ok("POST /v2/credits/grants", grant("g1", "5")).await;
    client.spend("s1", "p1", "5").await;
    let refused = check().await;
    assert_eq!(refused["rejection"]["code"], "credits_exhausted", "{refused}");
    assert_eq!(refused["rejection"]["scope_target_id"], WORKSPACE);
    client.ok("POST /v2/credits/grants", grant("g2", "1")).await;
    assert_eq!(check().await["allowed"], true);
    assert_eq!(client.ok("GET /v2/budgets", json!({})).await["data"], json!([]));
}

#[tokio::test]
async fn transactions_page_through_every_change() {
    let client = Client::new().await;
    client.ok("POST /v2/credits/grants", grant("g1", "5")).await;
    client.spend("s1", "p1", "1.5").await;
    client.spend("s2", "p1", "0").await;
    let page = client.ok("GET /v2/credits/transactions?limit=1", json!({})).await;
    let usage = json!({
        "id": "usage:s1", "kind": "usage", "amount": -1.5, "reason": "exact", "project_id": "p1",
        "model": "m,1", "recorded_at": "2026-11-22T00:00:00Z"
    });
    assert_eq!(page, json!({"object": "list", "data": [usage], "has_more": true}));
    let rest = client.ok("GET /v2/credits/transactions?starting_after=usage:s1", json!({})).await;
    assert_eq!((&rest["data"][0]["id"], &rest["has_more"]), (&json!("grant:g1"), &json!(false)));
    assert_eq!(
        (&rest["data"][0]["amount"], &rest["data"][0]["reason"]),
        (&json!(5), &json!("invoice 7"))
    );
}

#[tokio::test]
async fn a_statement_closes_with_the_balance_in_either_form() {
    let client = Client::new().await;
    client.ok("POST /v2/credits/grants", grant("g1", "5")).await;
    client.spend("s1", "p1", "1.5").await;
    client.spend("s2", "=p2", "2").await;
    let (media, statement) = client.statement("month=2026-11", "*/*").await;
    assert_eq!(media, "application/json");
    let line = |project: &str, amount: f64| json!({"project_id": project, "api_key_id": null, "model": "m,1", "amount": amount});
    let expected = json!({
        "workspace_id": WORKSPACE, "month": "2026-11", "currency": "USD", "opening_balance": 0, "grants": 5,
        "spend": [line("=p2", -2.0), line("p1", -1.5)], "other_spend": 0, "adjustments": 0, "expiries": 0,
        "closing_balance": 1.5
    });
    let statement = statement.replace(":-2,", ":-2.0,").replace(":-2}", ":-2.0}");
    assert_eq!(serde_json::from_str::<Value>(&statement).unwrap(), expected);

    let csv = "line,project_id,api_key_id,model,amount_usd\r\nopening_balance,,,,0\r\ngrants,,,,5\r\n\
               spend,'=p2,,\"m,1\",-2\r\nspend,p1,,\"m,1\",-1.5\r\nother_spend,,,,0\r\nadjustments,,,,0\r\n\
               expiries,,,,0\r\nclosing_balance,,,,1.5\r\n";
    let as_csv = ("text/csv; charset=utf-8".to_owned(), csv.to_owned());
    assert_eq!(client.statement("month=2026-11&format=csv", "*/*").await, as_csv);
    assert_eq!(client.statement("month=2026-11", "text/csv").await, as_csv);
    let (_, next) = client.statement("month=2026-12&format=json", "text/csv").await;
    let next: Value = serde_json::from_str(&next).unwrap();
    assert_eq!((&next["opening_balance"], &next["closing_balance"]), (&json!(1.5), &json!(1.5)));
}

#[tokio::test]
async fn an_alert_is_set_by_operators_and_shows_no_secret() {
    let client = Client::new().await;
    let operator = client.with(Some(OPERATOR));
    let path = format!("/v2/credits/alert?workspace_id={WORKSPACE}");
    let terms = json!({"threshold": 10, "url": "https://example.com/low", "secret": secret()});
    client.refused("PUT /v2/credits/alert", terms.to_string(), 403, 7).await;
    client.refused("GET /v2/credits/alert", "", 404, 5).await;
    let set = operator.ok(&format!("PUT {path}"), terms).await;
    let expected = json!({"workspace_id": WORKSPACE, "threshold": 10, "url": "https://example.com/low", "state": "armed"});
    assert_eq!(set["alert"], expected);
    assert_eq!(client.ok("GET /v2/credits/alert", json!({})).await["alert"], expected);

    let kept = json!({"threshold": "0.5", "url": "http://127.0.0.1:8080"});
    operator.ok(&format!("PUT {path}"), kept.clone()).await;
    let workspace = Id::parse(WORKSPACE).unwrap();
    let alert = client.engine.credit_alert(&workspace).await.unwrap().unwrap();
    assert_eq!(&*alert.terms.secret.0, secret());
    client.refused("DELETE /v2/credits/alert", "", 403, 7).await;
    operator.ok(&format!("DELETE {path}"), json!({})).await;
    let said = operator.refused(&format!("PUT {path}"), kept.to_string(), 400, 3).await;
    assert_eq!(said, "secret is missing; notices are signed with it");
}

fn with(base: &Value, field: &str, value: Value) -> String {
    let mut body = base.clone();
    body[field] = value;
    body.to_string()
}

#[tokio::test]
async fn a_grant_that_makes_no_sense_is_refused_by_field() {
    let client = Client::new().await;
    let good = grant("g1", "1");
    for (field, value, says) in [
        ("amount", json!(null), "amount is missing"),
        ("amount", json!(0), "amount must be more than zero"),
        ("amount", json!(-1), "amount must not be negative"),
        ("amount", json!("x"), "amount is not a decimal number"),
        ("priority", json!(101), "priority must be at most 100"),
        ("reason", json!(""), "reason is empty"),
        ("reason", json!(null), "reason is missing"),
        ("expires_at", json!("2026-11-22T00:00:00Z"), "expires_at must be in the future"),
        ("expire_at", json!(1), "expire_at is not a known field"),
    ] {
        let body = with(&good, field, value);
        let said = client.refused("POST /v2/credits/grants", body, 400, 3).await;
        assert!(said.starts_with(says), "{said}");
    }
}

#[tokio::test]
async fn an_alert_that_makes_no_sense_is_refused_by_field() {
    let client = Client::new().await.with(Some(OPERATOR));
    let good = json!({"threshold": 1, "url": "https://x/y", "secret": secret()});
    let url = "url must be an http or https URL";
    for (field, value, says) in [
        ("url", json!("ftp://x/y"), url),
        ("url", json!("/y"), url),
        ("url", json!("http://me:pw@x/y"), url),
        ("secret", json!("short"), "secret must have 16 to 256 bytes"),
        ("threshold", json!(-1), "threshold must not be negative"),
    ] {
        let body = with(&good, field, value);
        let said = client.refused("PUT /v2/credits/alert", body, 400, 3).await;
        assert!(said.starts_with(says), "{said}");
    }
}

#[tokio::test]
async fn a_query_that_makes_no_sense_is_refused_by_parameter() {
    let client = Client::new().await;
    for (path, says) in [
        ("/transactions?limit=201", "limit must be a number from 1 to 200"),
        ("/transactions?starting_after=g1", "starting_after must be the id of a transaction"),
        ("/statement", "month must be a month such as 2026-11"),
        ("/statement?month=2026-11&format=pdf", "format must be one of json, csv"),
        ("?month=2026-11", "month is not a known query parameter"),
    ] {
        let said = client.refused(&format!("GET /v2/credits{path}"), "", 400, 3).await;
        assert!(said.starts_with(says), "{path}: {said}");
    }
    client.with(Some(CHECK)).refused("GET /v2/credits", "", 403, 7).await;
}
