//! The API keys of a workspace over HTTP: mint or register, list, delete. A secret is shown once and never kept.

use axum::Json;
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use ulid::Ulid;

use super::Api;
use super::call::{Body, Manage, PathText};
use super::fault::Fault;
use super::json::{Field, Object};
use super::number::Time;
use crate::domain::ids::Id;
use crate::domain::keys::{ApiKey, KeyHash};
use crate::domain::time::Wall;
use crate::store::StoreError;

/// What every key of ours starts with, so that leaked ones are found and foreign ones are told apart.
const PREFIX: &str = "bsr_";
/// 160 random bits: nobody guesses one.
const SECRET_BYTES: usize = 20;

#[derive(Serialize)]
struct KeyView {
    api_key_id: String,
    workspace_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    project_id: Option<String>,
    name: String,
    created_at: Time,
}

#[derive(Serialize)]
struct Created {
    api_key: KeyView,
    /// The secret of a minted key: this reply is the only one that shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Many {
    object: &'static str,
    data: Vec<KeyView>,
    has_more: bool,
}

pub(super) async fn list(
    State(api): State<Api>,
    Manage(call): Manage,
) -> Result<Json<Many>, Fault> {
    let keys = api.engine.list_keys(&call.workspace(None)?).await?;
    Ok(Json(Many {
        object: "list",
        data: keys.iter().map(KeyView::from).collect(),
        has_more: false,
    }))
}

pub(super) async fn create(
    State(api): State<Api>,
    Manage(call): Manage,
    Body(body): Body,
) -> Result<Response, Fault> {
    let mut object = Object::parse(&body)?;
    let workspace = call.workspace(object.id("workspace_id")?)?;
    let id = object.id("api_key_id")?;
    let project = object.id("project_id")?;
    let name = object.id("name")?.ok_or_else(|| Fault::invalid("name is missing"))?;
    let registered = object.take("sha256").read(sha256)?.value();
    object.finish()?;
    let created_at = api.engine.wall();
    let (hash, secret) = match registered {
        Some(hash) => (hash, None),
        None => {
            let secret = minted(random()?);
            (Sha256::digest(&secret).into(), Some(secret))
        }
    };
    let id = id.map_or_else(|| fresh_id(created_at), Ok)?;
    let key = ApiKey { id, workspace, project, name, hash, created_at };
    api.engine.create_key(&key).await.map_err(or_taken)?;
    let created = Created { api_key: KeyView::from(&key), key: secret };
    Ok(([(CACHE_CONTROL, "no-store")], Json(created)).into_response())
}

pub(super) async fn remove(
    State(api): State<Api>,
    Manage(call): Manage,
    PathText(id): PathText,
) -> Result<Json<Value>, Fault> {
    let workspace = call.workspace(None)?;
    let unknown = || Fault::not_found("no such API key in this workspace");
    let id = Id::parse(&id).map_err(|_| unknown())?;
    let deleted = api.engine.delete_key(&workspace, &id).await;
    deleted.map_err(|error| {
        if matches!(error, StoreError::NotFound) { unknown() } else { error.into() }
    })?;
    Ok(Json(json!({})))
}

impl From<&ApiKey> for KeyView {
    fn from(key: &ApiKey) -> Self {
        Self {
            api_key_id: key.id.to_string(),
            workspace_id: key.workspace.to_string(),
            project_id: key.project.as_ref().map(ToString::to_string),
            name: key.name.to_string(),
            created_at: Time(key.created_at),
        }
    }
}

fn or_taken(error: StoreError) -> Fault {
    let StoreError::Conflict { existing } = &error else { return error.into() };
    Fault::exists(format!("an API key with this id or secret exists already: {existing}"))
}

/// A secret of 160 bits, as text that survives shells, headers and double clicks.
fn minted(random: [u8; SECRET_BYTES]) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let bit = |at: usize| random.get(at / 8).is_some_and(|byte| byte >> (7 - at % 8) & 1 == 1);
    let digit = |at: usize| (0..5).fold(0, |digit, i| digit * 2 + usize::from(bit(at * 5 + i)));
    let digits = (0..SECRET_BYTES * 8 / 5).filter_map(|at| DIGITS.get(digit(at)));
    digits.fold(PREFIX.to_owned(), |mut text, digit| {
        text.push(char::from(*digit));
        text
    })
}

fn fresh_id(now: Wall) -> Result<Id, Fault> {
    let random: [u8; 16] = random()?;
    let ulid =
        Ulid::from_parts(u64::try_from(now.as_ms()).unwrap_or(0), u128::from_ne_bytes(random));
    Id::parse(&ulid.to_string()).map_err(|error| Fault::internal(&error))
}

fn random<const N: usize>() -> Result<[u8; N], Fault> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Fault::internal(&error))?;
    Ok(bytes)
}

/// 64 hexadecimal digits.
fn sha256(field: Field<'_>) -> Result<KeyHash, Fault> {
    let text = field.text()?;
    let wrong = || field.fault("must be the SHA-256 of the key as 64 hexadecimal digits");
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(pair).collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::json::Given;

    #[test]
    fn minted_keys_carry_every_random_bit() {
        assert_eq!(minted([0; SECRET_BYTES]), format!("bsr_{}", "a".repeat(32)));
        assert_eq!(minted([0xff; SECRET_BYTES]), format!("bsr_{}", "7".repeat(32)));
        let mut keys: Vec<String> = (0..SECRET_BYTES * 8)
            .map(|bit| {
                let mut random = [0; SECRET_BYTES];
                random[bit / 8] = 1 << (bit % 8);
                minted(random)
            })
            .collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 160);
    }

    #[test]
    fn a_registered_hash_has_64_hexadecimal_digits() {
        let read = |text: &str| {
            let body = format!("{{\"sha256\": \"{text}\"}}");
            Object::parse(&body).unwrap().take("sha256").read(sha256).ok()
        };
        let hash: KeyHash = Sha256::digest("bsr_x").into();
        let text: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(read(&text), Some(Given::Value(hash)));
        assert_eq!(read(&text.to_uppercase()), Some(Given::Value(hash)));
        for bad in [&text[1..], &format!("{text}00"), &format!("g{}", &text[1..]), "", "é"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
