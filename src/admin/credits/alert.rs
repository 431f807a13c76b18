//! The low-balance alert of a workspace: whom to tell, and how it stands. Its secret goes in and never comes out.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::Serialize;
use serde_json::{Value, json};

use super::required;
use crate::admin::Api;
use crate::admin::call::{Body, Manage, Operate};
use crate::admin::fault::Fault;
use crate::admin::json::{Field, Object};
use crate::admin::number::{Time, Usd};
use crate::domain::credits::{Alert, AlertTerms, Crossing, Secret, Watch};
use crate::domain::ids::Id;

/// The longest address that is accepted.
const URL_BYTES_MAX: usize = 2048;
/// A shorter secret could be guessed from one notice.
const SECRET_BYTES_MIN: usize = 16;
/// The longest secret that is accepted.
const SECRET_BYTES_MAX: usize = 256;

#[derive(Serialize)]
pub(in crate::admin) struct One {
    alert: AlertView,
}

#[derive(Serialize)]
struct AlertView {
    workspace_id: String,
    threshold: Usd,
    url: String,
    /// `armed`, `telling` or `told`.
    state: &'static str,
    /// What is being told, while it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    notice: Option<NoticeView>,
}

#[derive(Serialize)]
struct NoticeView {
    balance: Usd,
    crossed_at: Time,
    attempts: u32,
    next_attempt_at: Time,
}

/// Bursar itself calls the address, from wherever it runs. So only operators may choose it.
pub(in crate::admin) async fn set(
    State(api): State<Api>,
    Operate(call): Operate,
    Body(body): Body,
) -> Result<Json<One>, Fault> {
    let mut object = Object::parse(&body)?;
    let workspace = call.workspace(object.id("workspace_id")?)?;
    let threshold = required("threshold", object.take("threshold").read(Field::usd_or_text)?)?;
    let url = required("url", object.take("url").read(url)?)?;
    let secret = object.take("secret").read(secret)?.value();
    object.finish()?;
    let _one_at_a_time = api.updates.lock().await;
    let secret = match secret {
        Some(secret) => secret,
        None => known_secret(&api, &workspace).await?,
    };
    let terms = AlertTerms { threshold, url, secret };
    api.engine.set_credit_alert(&workspace, Some(&terms)).await?;
    Ok(Json(One { alert: view(&workspace, &Alert::new(terms)) }))
}

pub(in crate::admin) async fn read(
    State(api): State<Api>,
    Manage(call): Manage,
) -> Result<Json<One>, Fault> {
    let workspace = call.workspace(None)?;
    let alert = api.engine.credit_alert(&workspace).await?;
    let alert = alert.ok_or_else(|| Fault::not_found("no alert is set in this workspace"))?;
    Ok(Json(One { alert: view(&workspace, &alert) }))
}

pub(in crate::admin) async fn remove(
    State(api): State<Api>,
    Operate(call): Operate,
) -> Result<Json<Value>, Fault> {
    api.engine.set_credit_alert(&call.workspace(None)?, None).await?;
    Ok(Json(json!({})))
}

/// The secret of the alert that is replaced.
async fn known_secret(api: &Api, workspace: &Id) -> Result<Secret, Fault> {
    let alert = api.engine.credit_alert(workspace).await?;
    let missing = || Fault::invalid("secret is missing; notices are signed with it");
    alert.map(|alert| alert.terms.secret).ok_or_else(missing)
}

fn url(field: Field<'_>) -> Result<Arc<str>, Fault> {
    let text = field.text()?;
    let uri: Option<Uri> = text.parse().ok().filter(|_| text.len() <= URL_BYTES_MAX);
    let is_good = uri.is_some_and(|uri| {
        let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        matches!(uri.scheme_str(), Some("http" | "https")) && !has_user
    });
    if !is_good {
        return Err(field.fault(
            "must be an http or https URL without a user name, such as https://example.com/low-balance",
        ));
    }
    Ok(Arc::from(text))
}

fn secret(field: Field<'_>) -> Result<Secret, Fault> {
    let text = field.text()?;
    if (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&text.len()) {
        return Ok(Secret(Arc::from(text)));
    }
    Err(field.fault(format_args!("must have {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes")))
}

fn view(workspace: &Id, alert: &Alert) -> AlertView {
    let (state, notice) = match alert.watch {
        Watch::Armed => ("armed", None),
        Watch::Told => ("told", None),
        Watch::Telling { crossing: Crossing { balance, at }, attempts, due_at } => {
            let (balance, crossed_at) = (Usd(balance), Time(at));
            let next_attempt_at = Time(due_at);
            ("telling", Some(NoticeView { balance, crossed_at, attempts, next_attempt_at }))
        }
    };
    AlertView {
        workspace_id: workspace.to_string(),
        threshold: Usd(alert.terms.threshold),
        url: alert.terms.url.to_string(),
        state,
        notice,
    }
}
