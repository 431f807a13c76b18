//! Token usage that other filters of Envoy found in a response and left in the dynamic metadata of its request.

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::data::ai::v3::{TokenUsage, token_usage::ExtractionStatus};
use envoy_types::pb::google::protobuf::{Struct, UInt64Value, value::Kind};
use prost::Message;

use crate::domain::usage::{Metered, Record, TOKENS_MAX, Usage};

/// Where Envoy's own `ai_protocol_manager` writes.
const AI_PROTOCOL_MANAGER: &str = "envoy.ai.token_usage";
/// Where Envoy AI Gateway writes what its `llmRequestCosts` ask for, under the names of its documentation.
const AI_GATEWAY: &str = "io.envoy.ai_gateway";

/// What was found, as if it had been metered here.
pub(super) fn read(metadata: &Metadata) -> Metered {
    of_protocol_manager(metadata).or_else(|| of_gateway(metadata)).unwrap_or(Metered::None)
}

fn of_protocol_manager(metadata: &Metadata) -> Option<Metered> {
    let message = metadata.typed_filter_metadata.get(AI_PROTOCOL_MANAGER)?;
    let said = TokenUsage::decode(message.value.as_slice()).ok()?;
    let input = said.input_token_details.as_ref();
    let output = said.output_token_details.as_ref();
    let usage = Usage {
        input: count(said.input_tokens.as_ref()),
        cached: count(input.and_then(|details| details.cached_tokens.as_ref())),
        cache_write: count(input.and_then(|details| details.cache_creation_tokens.as_ref())),
        output: count(said.output_tokens.as_ref()),
        reasoning: count(output.and_then(|details| details.reasoning_tokens.as_ref())),
        ..Usage::default()
    };
    let status = said.extraction_status();
    let model = Some(said.model).filter(|model| !model.is_empty()).map(Into::into);
    let record = Record { usage: possible(usage)?, model, ..Record::default() };
    match status {
        ExtractionStatus::Complete => Some(Metered::Exact(record)),
        ExtractionStatus::Partial | ExtractionStatus::Unspecified => Some(Metered::AtLeast(record)),
        ExtractionStatus::Failed => None,
    }
}

fn count(said: Option<&UInt64Value>) -> u64 {
    said.map_or(0, |said| said.value)
}

/// The gateway writes only the counts that its route asks for. What a total leaves open is output, which costs more.
fn of_gateway(metadata: &Metadata) -> Option<Metered> {
    let fields = metadata.filter_metadata.get(AI_GATEWAY)?;
    let [input, output, total] =
        ["llm_input_token", "llm_output_token", "llm_total_token"].map(|name| whole(fields, name));
    let rest = |known: Option<u64>| Some(total?.saturating_sub(known.unwrap_or(0)));
    let output = output.or_else(|| rest(input));
    let input = input.or_else(|| rest(output));
    let usage =
        Usage { input: input.unwrap_or(0), output: output.unwrap_or(0), ..Usage::default() };
    Some(Metered::Exact(Record { usage: possible(usage)?, ..Record::default() }))
}

/// Numbers are doubles in untyped metadata; every count that a response can have is exact in one.
fn whole(fields: &Struct, name: &str) -> Option<u64> {
    let count = match fields.fields.get(name)?.kind.as_ref()? {
        Kind::NumberValue(number) if number.fract() == 0.0 => {
            format!("{number:.0}").parse().ok()?
        }
        Kind::StringValue(text) => text.parse().ok()?,
        Kind::NumberValue(_)
        | Kind::NullValue(_)
        | Kind::BoolValue(_)
        | Kind::StructValue(_)
        | Kind::ListValue(_) => return None,
    };
    (count <= TOKENS_MAX).then_some(count)
}

/// Usage that a response can have, and that says something.
fn possible(usage: Usage) -> Option<Usage> {
    usage.checked().ok().filter(|usage| usage.total().get() > 0)
}

#[cfg(test)]
pub(super) mod tests {
    use envoy_types::pb::envoy::data::ai::v3::{InputTokenDetails, OutputTokenDetails};
    use envoy_types::pb::google::protobuf::{Any, Value};

    use super::*;

    /// Metadata as Envoy AI Gateway leaves it.
    pub(in crate::envoy) fn of_gateway(counts: &[(&str, f64)]) -> Metadata {
        let value = |number| Value { kind: Some(Kind::NumberValue(number)) };
        let fields = counts.iter().map(|(name, number)| ((*name).to_owned(), value(*number)));
        let fields = Struct { fields: fields.collect() };
        Metadata {
            filter_metadata: [(AI_GATEWAY.to_owned(), fields)].into(),
            ..Metadata::default()
        }
    }

    fn of_protocol_manager(said: &TokenUsage) -> Metadata {
        let message = Any { value: said.encode_to_vec(), ..Any::default() };
        Metadata {
            typed_filter_metadata: [(AI_PROTOCOL_MANAGER.to_owned(), message)].into(),
            ..Metadata::default()
        }
    }

    fn number(value: u64) -> Option<UInt64Value> {
        Some(UInt64Value { value })
    }

    fn said(status: ExtractionStatus) -> TokenUsage {
        TokenUsage {
            model: "gpt-4o-mini".to_owned(),
            input_tokens: number(11),
            output_tokens: number(7),
            input_token_details: Some(InputTokenDetails {
                cached_tokens: number(4),
                ..InputTokenDetails::default()
            }),
            output_token_details: Some(OutputTokenDetails { reasoning_tokens: number(2) }),
            extraction_status: status.into(),
            ..TokenUsage::default()
        }
    }

    #[test]
    fn typed_usage_is_as_sure_as_its_filter_is() {
        let usage = Usage { input: 11, cached: 4, output: 7, reasoning: 2, ..Usage::default() };
        let model = Some("gpt-4o-mini".into());
        let record = Record { usage, model, ..Record::default() };
        let read = |status| super::read(&of_protocol_manager(&said(status)));
        assert_eq!(read(ExtractionStatus::Complete), Metered::Exact(record.clone()));
        assert_eq!(read(ExtractionStatus::Partial), Metered::AtLeast(record));
        assert_eq!(read(ExtractionStatus::Failed), Metered::None);
    }

    #[test]
    fn the_counts_of_the_gateway_complete_each_other() {
        for (counts, input, output) in [
            (&[("llm_input_token", 11.0), ("llm_output_token", 7.0)][..], 11, 7),
            (&[("llm_input_token", 11.0), ("llm_total_token", 18.0)], 11, 7),
            (&[("llm_output_token", 7.0), ("llm_total_token", 18.0)], 11, 7),
            (&[("llm_total_token", 18.0)], 0, 18),
            (&[("llm_input_token", 11.0)], 11, 0),
        ] {
            let usage = Usage { input, output, ..Usage::default() };
            let record = Record { usage, ..Record::default() };
            assert_eq!(read(&of_gateway(counts)), Metered::Exact(record), "{counts:?}");
        }
    }

    #[test]
    fn what_no_response_can_have_used_is_no_usage() {
        for number in [0.0, -1.0, 0.5, 1e9, f64::NAN, f64::INFINITY] {
            let metadata = of_gateway(&[("llm_input_token", number)]);
            assert_eq!(read(&metadata), Metered::None, "{number}");
        }
        let many =
            TokenUsage { input_tokens: number(u64::MAX), ..said(ExtractionStatus::Complete) };
        assert_eq!(read(&of_protocol_manager(&many)), Metered::None);
        let mut broken = of_protocol_manager(&said(ExtractionStatus::Complete));
        broken.typed_filter_metadata.values_mut().for_each(|any| any.value.truncate(3));
        assert_eq!(read(&broken), Metered::None);
        assert_eq!(read(&Metadata::default()), Metered::None);
    }
}
