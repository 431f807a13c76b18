//! Brings what a usage object says to the one record, by the keys that it has: paths and providers' names are poor witnesses of who
//! really answered.

use crate::domain::money::NanoUsd;
use crate::domain::usage::fields::{Count, Fields};
use crate::domain::usage::{Extras, MediaTokens, Usage};

/// What it matters to know of the provider that the route leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Route {
    /// Its answers tell the charge in `usage.cost`.
    OpenRouter,
    /// In `usage.cost.total_cost`.
    Perplexity,
    /// In `usage.cost_in_usd_ticks`; and its chats count reasoning beside output.
    Xai,
    /// Any other.
    #[default]
    Other,
}

impl Route {
    /// By the provider's name in the configuration or in the request.
    pub(super) fn of(provider: &str) -> Self {
        match provider.to_ascii_lowercase().as_str() {
            "openrouter" => Self::OpenRouter,
            "perplexity" | "perplexityai" => Self::Perplexity,
            "xai" | "x-ai" | "x.ai" => Self::Xai,
            _ => Self::Other,
        }
    }

    /// The charge that the response tells of, if this provider is documented to tell it.
    pub(super) fn bill(self, fields: &Fields) -> Option<NanoUsd> {
        match self {
            // With a key of one's own, OpenRouter takes a fee and the provider behind it charges the key.
            Self::OpenRouter if fields.is_byok => {
                Some(fields.cost?.plus(fields.upstream_cost.unwrap_or_default()))
            }
            Self::OpenRouter | Self::Perplexity => fields.cost,
            Self::Xai => fields.xai_cost,
            Self::Other => None,
        }
    }
}

/// The tokens, or `None` where the object has no key of any shape.
pub(super) fn usage_of(fields: &Fields, route: Route) -> Option<Usage> {
    let any = |counts: &[Count]| counts.iter().any(|count| count.is_there());
    let f = fields;
    if f.has_billed_units {
        Some(plain(f.billed_input, f.billed_output))
    } else if any(&[f.prompt, f.completion]) {
        Some(chat(f, route))
    } else if any(&[f.gemini_prompt, f.gemini_candidates, f.gemini_thoughts, f.gemini_total]) {
        Some(gemini(f))
    } else if any(&[f.converse_input, f.converse_output]) {
        Some(converse(f))
    } else if any(&[f.input, f.output, f.cache_read, f.cache_creation]) {
        Some(if is_anthropic(f) { anthropic(f) } else { responses(f) })
    } else if any(&[f.interaction_input, f.interaction_output]) {
        Some(interaction(f))
    } else if any(&[f.native_input, f.native_output]) {
        Some(plain(f.native_input, f.native_output))
    } else {
        // Voyage has nothing but a total.
        any(&[f.total]).then(|| plain(f.total, Count::Absent))
    }
}

/// The tokens that are sound or images.
pub(super) fn media_of(fields: &Fields) -> MediaTokens {
    MediaTokens {
        input_audio: fields.input_audio.get(),
        cached_audio: fields.cached_audio.get(),
        input_image: fields.input_image.get(),
        output_audio: fields.output_audio.get(),
        output_image: fields.output_image.get(),
    }
}

/// What is billed beside tokens.
pub(super) fn extras_of(fields: &Fields) -> Extras {
    Extras {
        seconds: fields.seconds.get(),
        search_units: fields.search_units.get(),
        web_searches: fields.web_searches.get(),
        images: fields.images.get(),
        pages: fields.pages.get(),
        characters: fields.characters.get(),
    }
}

fn plain(input: Count, output: Count) -> Usage {
    Usage { input: input.get(), output: output.get(), ..Usage::default() }
}

/// OpenAI's chat and everybody's who speaks it. Input includes the cache. Thoughts that are in the total alone (Gemini, xAI) are
/// output; audio that is in it (Mistral) is billed by the second.
fn chat(f: &Fields, route: Route) -> Usage {
    let mut usage = plain(f.prompt, f.completion);
    usage.cached = f.cached.get().max(f.cache_read.get());
    usage.cache_write = f.cache_write.get().max(f.cache_creation.get());
    usage.cache_write_1h = f.cache_creation_1h.get();
    usage.reasoning = f.reasoning.get();
    let beside = f.cache_read.get().saturating_add(f.cache_creation.get());
    if usage.input < beside {
        // Proxies of Anthropic that pass its cache on beside the input.
        usage.input = usage.input.saturating_add(beside);
    }
    match f.total {
        Count::Is(_) if !f.seconds.is_there() => with_hidden_output(usage, f.total),
        Count::Absent if route == Route::Xai => {
            Usage { output: usage.output.saturating_add(usage.reasoning), ..usage }
        }
        Count::Is(_) | Count::Absent | Count::Invalid => usage,
    }
}

/// What the total has beyond input and output is output that was thought and not said.
fn with_hidden_output(usage: Usage, total: Count) -> Usage {
    let said = usage.input.saturating_add(usage.output);
    let hidden = total.get().saturating_sub(said);
    Usage {
        output: usage.output.saturating_add(hidden),
        reasoning: usage.reasoning.max(hidden),
        ..usage
    }
}

/// OpenAI's Responses, images and transcriptions. Input includes the cache, output the reasoning.
fn responses(f: &Fields) -> Usage {
    let usage = Usage {
        cached: f.cached.get().max(f.cache_read.get()),
        cache_write: f.cache_write.get().max(f.cache_creation.get()),
        cache_write_1h: f.cache_creation_1h.get(),
        reasoning: f.reasoning.get(),
        ..plain(f.input, f.output)
    };
    with_hidden_output(usage, f.total)
}

/// Whether the cache stands beside the input. Anthropic has no total; where a proxy adds one, it tells what it is the total of.
fn is_anthropic(f: &Fields) -> bool {
    if f.has_input_details {
        return false;
    }
    let total = [f.input, f.output, f.cache_read, f.cache_creation]
        .iter()
        .fold(0_u64, |sum, count| sum.saturating_add(count.get()));
    !f.total.is_there() || f.total.get() == total
}

/// Anthropic's Messages. The cache stands beside the input.
fn anthropic(f: &Fields) -> Usage {
    let by_time = f.cache_creation_5m.get().saturating_add(f.cache_creation_1h.get());
    let cache_write = f.cache_creation.get().max(by_time);
    let beside = f.cache_read.get().saturating_add(cache_write);
    Usage {
        input: f.input.get().saturating_add(beside),
        cached: f.cache_read.get(),
        cache_write,
        cache_write_1h: f.cache_creation_1h.get(),
        output: f.output.get(),
        reasoning: f.reasoning.get(),
    }
}

/// Bedrock Converse, Nova and the metrics of an invoke stream. The cache stands beside the input.
fn converse(f: &Fields) -> Usage {
    let beside = f.converse_read.get().saturating_add(f.converse_write.get());
    Usage {
        input: f.converse_input.get().saturating_add(beside),
        cached: f.converse_read.get(),
        cache_write: f.converse_write.get(),
        cache_write_1h: f.converse_write_1h.get(),
        output: f.converse_output.get(),
        reasoning: 0,
    }
}

/// Gemini. The prompts that tools make and the thoughts stand beside prompt and candidates.
fn gemini(f: &Fields) -> Usage {
    let usage = Usage {
        input: f.gemini_prompt.get().saturating_add(f.gemini_tool_prompt.get()),
        cached: f.gemini_cached.get(),
        output: f.gemini_candidates.get().saturating_add(f.gemini_thoughts.get()),
        reasoning: f.gemini_thoughts.get(),
        ..Usage::default()
    };
    with_hidden_output(usage, f.gemini_total)
}

/// Gemini's Interactions, likewise.
fn interaction(f: &Fields) -> Usage {
    Usage {
        input: f.interaction_input.get().saturating_add(f.interaction_tools.get()),
        cached: f.interaction_cached.get(),
        output: f.interaction_output.get().saturating_add(f.interaction_thoughts.get()),
        reasoning: f.interaction_thoughts.get(),
        ..Usage::default()
    }
}
