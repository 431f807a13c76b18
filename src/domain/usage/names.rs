//! The names that providers have for their numbers, and where each is kept.

use crate::domain::usage::fields::{Count, Fields};

/// Where a number is kept.
pub(super) type Field = fn(&mut Fields) -> &mut Count;
/// Numbers by name.
pub(super) type Table = &'static [(&'static str, Field)];

/// The numbers of a usage object by name.
pub(super) const COUNTS: Table = &[
    ("prompt_tokens", |f| &mut f.prompt),
    ("completion_tokens", |f| &mut f.completion),
    ("total_tokens", |f| &mut f.total),
    ("input_tokens", |f| &mut f.input),
    ("output_tokens", |f| &mut f.output),
    ("cached_tokens", |f| &mut f.cached),
    ("num_cached_tokens", |f| &mut f.cached),
    ("prompt_cache_hit_tokens", |f| &mut f.cached),
    ("cache_write_tokens", |f| &mut f.cache_write),
    ("reasoning_tokens", |f| &mut f.reasoning),
    ("cache_read_input_tokens", |f| &mut f.cache_read),
    ("cache_creation_input_tokens", |f| &mut f.cache_creation),
    ("inputTokens", |f| &mut f.converse_input),
    ("outputTokens", |f| &mut f.converse_output),
    ("cacheReadInputTokens", |f| &mut f.converse_read),
    ("cacheWriteInputTokens", |f| &mut f.converse_write),
    ("inputTokenCount", |f| &mut f.converse_input),
    ("outputTokenCount", |f| &mut f.converse_output),
    ("cacheReadInputTokenCount", |f| &mut f.converse_read),
    ("cacheWriteInputTokenCount", |f| &mut f.converse_write),
    ("promptTokenCount", |f| &mut f.gemini_prompt),
    ("toolUsePromptTokenCount", |f| &mut f.gemini_tool_prompt),
    ("candidatesTokenCount", |f| &mut f.gemini_candidates),
    ("responseTokenCount", |f| &mut f.gemini_candidates),
    ("thoughtsTokenCount", |f| &mut f.gemini_thoughts),
    ("cachedContentTokenCount", |f| &mut f.gemini_cached),
    ("totalTokenCount", |f| &mut f.gemini_total),
    ("total_input_tokens", |f| &mut f.interaction_input),
    ("total_tool_use_tokens", |f| &mut f.interaction_tools),
    ("total_output_tokens", |f| &mut f.interaction_output),
    ("total_thought_tokens", |f| &mut f.interaction_thoughts),
    ("total_cached_tokens", |f| &mut f.interaction_cached),
    ("num_search_queries", |f| &mut f.web_searches),
    ("pages_processed", |f| &mut f.pages),
];

/// Those that stand at the top of a document.
pub(super) const NATIVE: Table = &[
    ("prompt_eval_count", |f| &mut f.native_input),
    ("eval_count", |f| &mut f.native_output),
    ("inputTextTokenCount", |f| &mut f.native_input),
    ("totalOutputTextTokenCount", |f| &mut f.native_output),
    ("prompt_token_count", |f| &mut f.native_input),
    ("generation_token_count", |f| &mut f.native_output),
];

const INPUT_DETAILS: Table = &[
    ("cached_tokens", |f| &mut f.cached),
    ("cache_write_tokens", |f| &mut f.cache_write),
    ("audio_tokens", |f| &mut f.input_audio),
    ("image_tokens", |f| &mut f.input_image),
];
const OUTPUT_DETAILS: Table = &[
    ("reasoning_tokens", |f| &mut f.reasoning),
    ("thinking_tokens", |f| &mut f.reasoning),
    ("audio_tokens", |f| &mut f.output_audio),
    ("image_tokens", |f| &mut f.output_image),
];

/// Gemini's lists of tokens by what they stand for: with the fields of sound and of images.
pub(super) const MODALITIES: &[(&str, Option<Field>, Option<Field>)] = &[
    ("promptTokensDetails", Some(|f| &mut f.input_audio), Some(|f| &mut f.input_image)),
    ("toolUsePromptTokensDetails", Some(|f| &mut f.input_audio), Some(|f| &mut f.input_image)),
    ("cacheTokensDetails", Some(|f| &mut f.cached_audio), None),
    ("candidatesTokensDetails", Some(|f| &mut f.output_audio), Some(|f| &mut f.output_image)),
    ("responseTokensDetails", Some(|f| &mut f.output_audio), Some(|f| &mut f.output_image)),
];

/// Objects within a usage object, with their own names.
pub(super) const GROUPS: &[(&str, Table)] = &[
    ("prompt_tokens_details", INPUT_DETAILS),
    ("input_tokens_details", INPUT_DETAILS),
    ("completion_tokens_details", OUTPUT_DETAILS),
    ("output_tokens_details", OUTPUT_DETAILS),
    (
        "cache_creation",
        &[
            ("ephemeral_5m_input_tokens", |f| &mut f.cache_creation_5m),
            ("ephemeral_1h_input_tokens", |f| &mut f.cache_creation_1h),
        ],
    ),
    ("server_tool_use", &[("web_search_requests", |f| &mut f.web_searches)]),
    (
        "billed_units",
        &[
            ("input_tokens", |f| &mut f.billed_input),
            ("output_tokens", |f| &mut f.billed_output),
            ("search_units", |f| &mut f.search_units),
            ("images", |f| &mut f.images),
        ],
    ),
];

/// Response headers of Bedrock's InvokeModel. The cache stands beside the input.
pub(super) const HEADERS: Table = &[
    ("x-amzn-bedrock-input-token-count", |f| &mut f.converse_input),
    ("x-amzn-bedrock-output-token-count", |f| &mut f.converse_output),
    ("x-amzn-bedrock-cache-read-input-token-count", |f| &mut f.converse_read),
    ("x-amzn-bedrock-cache-write-input-token-count", |f| &mut f.converse_write),
];

/// Where the number of that name is kept, if it matters.
pub(super) fn field(table: Table, name: &[u8]) -> Option<Field> {
    table.iter().find(|(known, _)| known.as_bytes() == name).map(|(_, field)| *field)
}
