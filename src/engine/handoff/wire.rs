//! What is handed over, as JSON: `{"v": 1, "said": "report", …}`. Names are short because every report of a fleet may come this way.
//! A replica of another version reads what it knows and leaves the rest to one that knows more.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::origin::{self, HoldJson, holds_json};
use crate::domain::ids::Id;
use crate::domain::money::{Amounts, NanoUsd, Tokens};
use crate::domain::settlement::Certainty;
use crate::domain::subject::Subject;
use crate::domain::time::Wall;
use crate::domain::usage::{Extras, MediaTokens, Part, Record, Usage};
use crate::engine::report::{Against, Correction, Origin, Report, Used};
use crate::store::Handoff;

/// The version that is written. One that reads it otherwise gets the next number.
const VERSION: u32 = 1;

/// What another replica said about a reservation.
#[derive(Debug, Clone)]
pub(super) enum Said {
    /// It was used.
    Report(Box<Report>),
    /// It was not used.
    Release,
}

/// Why a handoff cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("it is of version {0}")]
    Version(u32),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("{0} is no id: {1}")]
    Id(&'static str, crate::domain::ids::IdError),
    #[error("{0:?} is no certainty")]
    Certainty(String),
}

#[derive(Deserialize)]
struct Versioned {
    v: u32,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    v: u32,
    #[serde(flatten)]
    said: SaidJson,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "said", rename_all = "snake_case")]
enum SaidJson {
    Report(Box<ReportJson>),
    Release,
}

#[derive(Serialize, Deserialize)]
struct ReportJson {
    certainty: String,
    #[serde(default, skip_serializing_if = "is_false")]
    correction: bool,
    used: UsedJson,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<OriginJson>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum UsedJson {
    Usage { model: Option<String>, usage: UsageJson },
    Cost { nano_usd: i64, model: Option<String>, usage: Option<UsageJson> },
    Metered { record: RecordJson, path: String },
    Seen { record: RecordJson, path: String },
    Reserved,
}

#[derive(Serialize, Deserialize)]
struct OriginJson {
    at_ms: i64,
    #[serde(default)]
    estimated_cost_nano_usd: i64,
    #[serde(default)]
    estimated_tokens: i64,
    project: Option<String>,
    identity: Option<String>,
    api_key: Option<String>,
    provider: Option<String>,
    model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    holds: Option<Vec<HoldJson>>,
}

#[derive(Serialize, Deserialize)]
struct RecordJson {
    usage: UsageJson,
    #[serde(default)]
    media: [u64; 5],
    #[serde(default)]
    extras: [u64; 6],
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    parts: Vec<PartJson>,
    bill_nano_usd: Option<i64>,
    model: Option<Box<str>>,
    tier: Option<Box<str>>,
    response_id: Option<Box<str>>,
}

#[derive(Serialize, Deserialize)]
struct PartJson {
    model: Option<Box<str>>,
    usage: UsageJson,
}

/// input, cached, cache_write, cache_write_1h, output, reasoning.
#[derive(Serialize, Deserialize)]
struct UsageJson([u64; 6]);

/// A release as text.
pub(super) fn release() -> String {
    text(&Envelope { v: VERSION, said: SaidJson::Release })
}

/// A report as text.
pub(super) fn report(report: &Report) -> String {
    let said = ReportJson {
        certainty: report.certainty.as_str().to_owned(),
        correction: report.correction == Correction::Yes,
        used: UsedJson::from(&report.used),
        origin: report.origin.as_ref().map(OriginJson::from),
    };
    text(&Envelope { v: VERSION, said: SaidJson::Report(Box::new(said)) })
}

/// Reads what another replica said.
pub(super) fn read(handoff: &Handoff) -> Result<Said, Unreadable> {
    let Versioned { v } = serde_json::from_str(&handoff.report)?;
    if v != VERSION {
        return Err(Unreadable::Version(v));
    }
    let Envelope { said, .. } = serde_json::from_str(&handoff.report)?;
    let SaidJson::Report(said) = said else { return Ok(Said::Release) };
    let certainty = Certainty::from_name(&said.certainty);
    let origin = said.origin.map(|origin| origin.read(&handoff.workspace)).transpose()?;
    Ok(Said::Report(Box::new(Report {
        settlement: handoff.settlement.clone(),
        workspace: handoff.workspace.clone(),
        against: Against::Reservation(handoff.reservation),
        used: said.used.read()?,
        certainty: certainty.ok_or(Unreadable::Certainty(said.certainty))?,
        correction: if said.correction { Correction::Yes } else { Correction::No },
        at: None,
        origin,
    })))
}

/// Texts, numbers and lists of them are always JSON.
fn text(envelope: &Envelope) -> String {
    serde_json::to_string(envelope).unwrap_or_default()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

fn id(name: &'static str, text: Option<String>) -> Result<Option<Id>, Unreadable> {
    let parsed = text.map(|text| Id::parse(&text)).transpose();
    parsed.map_err(|error| Unreadable::Id(name, error))
}

impl From<&Used> for UsedJson {
    fn from(used: &Used) -> Self {
        let name = |model: &Option<Id>| model.as_ref().map(ToString::to_string);
        match used {
            Used::Usage { model, usage } => {
                Self::Usage { model: name(model), usage: (*usage).into() }
            }
            Used::Cost { cost, model, usage } => Self::Cost {
                nano_usd: cost.get(),
                model: name(model),
                usage: usage.map(Into::into),
            },
            Used::Metered { record, path } => {
                Self::Metered { record: RecordJson::from(&**record), path: path.to_string() }
            }
            Used::Seen { record, path } => {
                Self::Seen { record: RecordJson::from(&**record), path: path.to_string() }
            }
            Used::Reserved => Self::Reserved,
        }
    }
}

impl UsedJson {
    fn read(self) -> Result<Used, Unreadable> {
        Ok(match self {
            Self::Usage { model, usage } => {
                Used::Usage { model: id("model", model)?, usage: usage.into() }
            }
            Self::Cost { nano_usd, model, usage } => Used::Cost {
                cost: NanoUsd::new(nano_usd),
                model: id("model", model)?,
                usage: usage.map(Into::into),
            },
            Self::Metered { record, path } => {
                Used::Metered { record: Box::new(record.into()), path: path.into() }
            }
            Self::Seen { record, path } => {
                Used::Seen { record: Box::new(record.into()), path: path.into() }
            }
            Self::Reserved => Used::Reserved,
        })
    }
}

impl From<&Origin> for OriginJson {
    fn from(origin: &Origin) -> Self {
        let name = |id: &Option<Id>| id.as_ref().map(ToString::to_string);
        let Subject { project, identity, api_key, provider, model, .. } = &*origin.subject;
        Self {
            at_ms: origin.at.as_ms(),
            estimated_cost_nano_usd: origin.estimate.cost.get(),
            estimated_tokens: origin.estimate.tokens.get(),
            project: name(project),
            identity: name(identity),
            api_key: name(api_key),
            provider: name(provider),
            model: name(model),
            holds: holds_json(origin),
        }
    }
}

impl OriginJson {
    fn read(self, workspace: &Id) -> Result<Origin, Unreadable> {
        let subject = Subject {
            workspace: workspace.clone(),
            project: id("project", self.project)?,
            identity: id("identity", self.identity)?,
            api_key: id("api_key", self.api_key)?,
            provider: id("provider", self.provider)?,
            model: id("model", self.model)?,
        };
        let estimate = Amounts {
            cost: NanoUsd::new(self.estimated_cost_nano_usd),
            tokens: Tokens::new(self.estimated_tokens),
        };
        let holds = self.holds.and_then(|holds| origin::read(holds, &subject));
        Ok(Origin { subject: Arc::new(subject), at: Wall::from_ms(self.at_ms), estimate, holds })
    }
}

impl From<Usage> for UsageJson {
    fn from(usage: Usage) -> Self {
        let Usage { input, cached, cache_write, cache_write_1h, output, reasoning } = usage;
        Self([input, cached, cache_write, cache_write_1h, output, reasoning])
    }
}

impl From<UsageJson> for Usage {
    fn from(UsageJson(counts): UsageJson) -> Self {
        let [input, cached, cache_write, cache_write_1h, output, reasoning] = counts;
        Self { input, cached, cache_write, cache_write_1h, output, reasoning }
    }
}

impl From<&Record> for RecordJson {
    fn from(record: &Record) -> Self {
        let MediaTokens { input_audio, cached_audio, input_image, output_audio, output_image } =
            record.media;
        let Extras { seconds, search_units, web_searches, images, pages, characters } =
            record.extras;
        let parts = record.parts.iter();
        Self {
            usage: record.usage.into(),
            media: [input_audio, cached_audio, input_image, output_audio, output_image],
            extras: [seconds, search_units, web_searches, images, pages, characters],
            parts: parts
                .map(|part| PartJson { model: part.model.clone(), usage: part.usage.into() })
                .collect(),
            bill_nano_usd: record.bill.map(NanoUsd::get),
            model: record.model.clone(),
            tier: record.service_tier.clone(),
            response_id: record.response_id.clone(),
        }
    }
}

impl From<RecordJson> for Record {
    fn from(json: RecordJson) -> Self {
        let [input_audio, cached_audio, input_image, output_audio, output_image] = json.media;
        let [seconds, search_units, web_searches, images, pages, characters] = json.extras;
        let parts = json.parts.into_iter();
        Self {
            usage: json.usage.into(),
            media: MediaTokens {
                input_audio,
                cached_audio,
                input_image,
                output_audio,
                output_image,
            },
            extras: Extras { seconds, search_units, web_searches, images, pages, characters },
            parts: parts.map(|part| Part { model: part.model, usage: part.usage.into() }).collect(),
            bill: json.bill_nano_usd.map(NanoUsd::new),
            model: json.model,
            service_tier: json.tier,
            response_id: json.response_id,
        }
    }
}
