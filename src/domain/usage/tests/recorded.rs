//! Recorded responses of real providers, each fed whole, byte by byte and at random cuts. They lie beside the repository and are
//! read where they are present.

use std::io::Read;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures/usage")
}

/// A recorded response with its body decoded, and what is expected of it.
struct Case {
    json: Value,
    body: Vec<u8>,
}

fn cases() -> Vec<Case> {
    let Ok(index) = std::fs::read(folder().join("index.json")) else { return Vec::new() };
    let index: Value = serde_json::from_slice(&index).unwrap();
    index["cases"].as_array().unwrap().iter().map(|json| Case::read(json.clone())).collect()
}

impl Case {
    fn read(json: Value) -> Self {
        let raw = std::fs::read(folder().join(format!("{}.body", text(&json["id"])))).unwrap();
        let body = match json["content_encoding"].as_str() {
            Some("gzip") => {
                let mut body = Vec::new();
                flate2::read::MultiGzDecoder::new(&*raw).read_to_end(&mut body).unwrap();
                body
            }
            _ => raw,
        };
        Self { json, body }
    }

    fn meter(&self) -> Meter {
        let headers = self.json["response_headers"].as_object().cloned().unwrap_or_default();
        let headers: Vec<_> = headers.iter().map(|(k, v)| (k.as_str(), text(v))).collect();
        Meter::new(Hints {
            path: text(&self.json["path"]),
            content_type: text(&self.json["content_type"]),
            provider: self.json["provider"].as_str(),
            headers: &headers,
        })
    }

    fn metered<'a>(&self, chunks: impl IntoIterator<Item = &'a [u8]>) -> Metered {
        let mut meter = self.meter();
        chunks.into_iter().for_each(|chunk| meter.push(chunk));
        meter.finish()
    }

    /// What is wrong with a result.
    fn fault(&self, metered: &Metered) -> Option<String> {
        let record = match metered {
            Metered::Exact(record) => Some(record),
            Metered::AtLeast(_) => return Some(format!("{metered:?}")),
            Metered::None => None,
        };
        let id = text(&self.json["id"]);
        let Some(record) = record else {
            return (self.json["expect"] != "no_usage").then(|| format!("{id}: nothing found"));
        };
        let usage = &record.usage;
        let found = serde_json::json!({
            "input_tokens": usage.input, "output_tokens": usage.output, "cached_input_tokens": usage.cached,
            "cache_write_tokens": usage.cache_write, "reasoning_tokens": usage.reasoning,
            "total_tokens": usage.input + usage.output,
        });
        let mut faults = Vec::new();
        if found != self.json["expected"] {
            faults.push(format!("{found} is not {}", self.json["expected"]));
        }
        let model = &self.json["model_response"];
        if !model.is_null() && record.model.as_deref() != model.as_str() {
            faults.push(format!("{:?} is not {model}", record.model));
        }
        for (unit, count) in self.json["units"].as_object().into_iter().flatten() {
            let unit = match unit.as_str() {
                "prompt_audio_seconds" => "seconds",
                "web_search_requests" => "web_searches",
                unit => unit,
            };
            let named = record.extras.named();
            let found = named.iter().find(|(name, _)| *name == unit).unwrap();
            if count.as_u64() != Some(found.1) {
                faults.push(format!("{found:?} is not {count}"));
            }
        }
        for (part, expected) in
            record.billable().zip(self.json["expected_billable"].as_array().into_iter().flatten())
        {
            let found = (part.0.unwrap_or_default(), part.1.input, part.1.output, part.1.cached);
            let count = |name: &str| expected[name].as_u64().unwrap();
            let expected = (
                text(&expected["model"]),
                count("input_tokens"),
                count("output_tokens"),
                count("cached_input_tokens"),
            );
            if found != expected {
                faults.push(format!("part {found:?} is not {expected:?}"));
            }
        }
        (!faults.is_empty()).then(|| format!("{id}: {}", faults.join("; ")))
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[test]
fn every_recorded_response_is_metered_as_expected() {
    let faults: Vec<_> =
        cases().iter().filter_map(|case| case.fault(&case.metered([&*case.body]))).collect();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn a_response_is_the_same_byte_by_byte() {
    for case in cases() {
        assert_eq!(
            case.metered(case.body.chunks(1)),
            case.metered([&*case.body]),
            "{}",
            case.json["id"]
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn a_response_is_the_same_at_any_cuts(cuts in prop::collection::vec(any::<prop::sample::Index>(), 1..8)) {
        for case in cases() {
            let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(case.body.len() + 1)).collect();
            at.extend([0, case.body.len()]);
            at.sort_unstable();
            let chunks = at.windows(2).map(|pair| &case.body[pair[0]..pair[1]]);
            prop_assert_eq!(case.metered(chunks), case.metered([&*case.body]), "{}", case.json["id"]);
        }
    }

    #[test]
    fn a_response_cut_off_is_never_metered_above_the_whole(cut in any::<prop::sample::Index>()) {
        for case in cases() {
            let whole = match case.metered([&*case.body]) {
                Metered::Exact(record) | Metered::AtLeast(record) => record.total(),
                Metered::None => Usage::default(),
            };
            let part = &case.body[..cut.index(case.body.len() + 1)];
            if let Metered::Exact(record) | Metered::AtLeast(record) = case.metered([part]) {
                prop_assert!(record.total().output <= whole.output, "{}", case.json["id"]);
            }
        }
    }
}
