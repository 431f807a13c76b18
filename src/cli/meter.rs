//! `bursar meter`: what a response used and what it costs, by the same meter and prices that settle reservations.

use std::io::{BufReader, Read};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};

use super::ConfigFile;
use crate::config::{self, Environment};
use crate::domain::estimate::model_in_path;
use crate::domain::pricing::{Named, PriceTable};
use crate::domain::usage::{Extras, Hints, MediaTokens, Meter, Metered, Record, Usage};
use crate::envoy::decode::Decoder;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The request's path, such as /v1/chat/completions
    #[arg(long, value_name = "PATH", default_value = "")]
    path: String,
    /// The provider that the route leads to, such as openai; prices and bills depend on it
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// The model that was asked for, for responses that name none
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// The response's content-type
    #[arg(long, value_name = "TYPE", default_value = "")]
    content_type: String,
    /// The body's content-encoding: gzip, deflate, br, zstd
    #[arg(long, value_name = "ENCODING", default_value = "")]
    content_encoding: String,
    /// The response's status; an error without usage costs nothing
    #[arg(long, value_name = "CODE", default_value_t = 200)]
    status: u16,
    /// A header of the response; may be repeated
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// Read the body in pieces of so many bytes; the result is the same
    #[arg(long, value_name = "BYTES", default_value_t = CHUNK_BYTES, value_parser = clap::value_parser!(u32).range(1..))]
    chunk: u32,
    #[command(flatten)]
    config: ConfigFile,
}

/// What is read at once: what Envoy hands over at once.
const CHUNK_BYTES: u32 = 16 * 1024;
/// The largest piece that makes sense to ask for.
const CHUNK_BYTES_MAX: u64 = 64 * 1024 * 1024;

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a header is NAME: VALUE")?;
    Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
}

/// Meters a body and says the result as one line of JSON.
pub(super) fn run(
    arguments: &Arguments,
    body: impl Read,
    environment: &Environment,
) -> Result<String> {
    let prices = config::load(arguments.config.file.as_deref(), environment)?.prices;
    let metered = arguments.meter(body)?;
    Ok(arguments.told(&metered, &prices).to_string())
}

impl Arguments {
    fn meter(&self, body: impl Read) -> Result<Metered> {
        let headers: Vec<_> = self.header.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let or_header = |given: &str, name: &str| {
            let sent = headers.iter().find(|(known, _)| *known == name);
            let value = if given.is_empty() { sent.map_or("", |(_, value)| value) } else { given };
            value.to_owned()
        };
        let content_type = or_header(&self.content_type, "content-type");
        let mut decoder = Decoder::new(&or_header(&self.content_encoding, "content-encoding"));
        let mut meter = Meter::new(Hints {
            path: &self.path,
            content_type: &content_type,
            provider: self.provider.as_deref(),
            headers: &headers,
        });
        let mut body = BufReader::new(body);
        let mut is_cut = false;
        let mut chunk = Vec::new();
        loop {
            chunk.clear();
            let limit = u64::from(self.chunk).min(CHUNK_BYTES_MAX);
            body.by_ref().take(limit).read_to_end(&mut chunk).context("cannot read the body")?;
            if chunk.is_empty() {
                break;
            }
            // What was decoded before counts, as of any body that ends early.
            is_cut |= decoder.push(&chunk, |piece| meter.push(piece)).is_err();
        }
        Ok(if is_cut { meter.finish_cut() } else { meter.finish() })
    }

    fn told(&self, metered: &Metered, prices: &PriceTable) -> Value {
        let (kind, record) = match metered {
            Metered::Exact(record) => ("exact", record),
            Metered::AtLeast(record) => ("at_least", record),
            Metered::None => return self.told_nothing(),
        };
        let path = model_in_path(&self.path);
        let named = self.named(record, path.as_deref());
        // Whatever the hour is: the bill of yesterday's response must not depend on when it is checked.
        let charge = prices.charge(record, &named, None);
        let mut told = tokens(&record.usage);
        extend(
            &mut told,
            json!({
                "kind": kind,
                "units": units(record),
                "model": self.model_of(record),
                "service_tier": record.service_tier,
                "response_id": record.response_id,
                "cost_usd": charge.as_ref().map(|charge| charge.cost.to_string()),
                "price": charge.map(|charge| charge.rates),
            }),
        );
        if !record.parts.is_empty() {
            let parts = record.parts.iter().map(|part| {
                let mut told = tokens(&part.usage);
                let alone = Record {
                    parts: vec![part.clone()],
                    bill: None,
                    extras: Extras::default(),
                    media: MediaTokens::default(),
                    ..record.clone()
                };
                let cost = prices.charge(&alone, &named, None).map(|c| c.cost.to_string());
                let model = part.model.as_deref().or(record.model.as_deref());
                extend(&mut told, json!({"model": model, "cost_usd": cost}));
                told
            });
            extend(&mut told, json!({"parts": parts.collect::<Vec<_>>()}));
        }
        told
    }

    /// Nothing was measured: the counts are unknown, and only an error is known to cost nothing.
    fn told_nothing(&self) -> Value {
        let cost = (self.status >= 400).then_some("0");
        json!({
            "kind": "none", "input_tokens": null, "output_tokens": null, "cached_input_tokens": null,
            "cache_write_tokens": null, "reasoning_tokens": null, "units": {},
            "model": self.model_of(&Record::default()), "cost_usd": cost, "price": null,
        })
    }

    fn named<'a>(&'a self, record: &'a Record, path: Option<&'a str>) -> Named<'a> {
        Named {
            provider: self.provider.as_deref(),
            path,
            response: record.model.as_deref(),
            request: self.model.as_deref(),
        }
    }

    /// The model as the response names it, or else as it may be priced.
    fn model_of(&self, record: &Record) -> Option<String> {
        let path = model_in_path(&self.path);
        let named = self.named(record, path.as_deref());
        record.model.as_deref().or_else(|| named.in_order().next()).map(str::to_owned)
    }
}

fn tokens(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.input,
        "output_tokens": usage.output,
        "cached_input_tokens": usage.cached,
        "cache_write_tokens": usage.cache_write,
        "cache_write_1h_tokens": usage.cache_write_1h,
        "reasoning_tokens": usage.reasoning,
    })
}

/// The units that there are, by name.
fn units(record: &Record) -> Value {
    let named = record.extras.named().into_iter().filter(|(_, count)| *count > 0);
    named
        .map(|(name, count)| (name.to_owned(), json!(count)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn extend(target: &mut Value, more: Value) {
    if let (Value::Object(target), Value::Object(more)) = (target, more) {
        target.extend(more);
    }
}

#[cfg(test)]
mod tests;
