//! The many names of one model: what providers put before and behind it, and in which order the names of a response count.

/// All names that a response's model was called by, as far as they are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Named<'a> {
    /// The provider of the route.
    pub provider: Option<&'a str>,
    /// In the request's path.
    pub path: Option<&'a str>,
    /// In the response.
    pub response: Option<&'a str>,
    /// As the request was mapped: in its body or a header.
    pub request: Option<&'a str>,
}

impl<'a> Named<'a> {
    /// The names, the one that says most about the price first: what answered, except on Bedrock and Vertex, where only the
    /// path tells the region.
    pub fn in_order(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let prefix = self.provider.map(|provider| provider.to_ascii_lowercase());
        let names = match prefix.as_deref().map(prefix_of) {
            Some("bedrock" | "vertex_ai") => [self.path, self.request, self.response],
            Some(_) | None => [self.response, self.path, self.request],
        };
        names.into_iter().flatten().filter(|name| !name.is_empty())
    }
}

/// The table's prefixes of providers that are also known by other names.
const PROVIDER_PREFIXES: [(&str, &str); 26] = [
    ("alibaba", "dashscope"),
    ("aws", "bedrock"),
    ("aws-bedrock", "bedrock"),
    ("aws-bedrock-mantle", "bedrock_mantle"),
    ("amazon-bedrock", "bedrock"),
    ("azure-openai", "azure"),
    ("azure_openai", "azure"),
    ("fireworks", "fireworks_ai"),
    ("gcp-vertex-ai", "vertex_ai"),
    ("google", "gemini"),
    ("google-ai-studio", "gemini"),
    ("google-vertex", "vertex_ai"),
    ("googleai", "gemini"),
    ("hugging-face", "huggingface"),
    ("mistralai", "mistral"),
    ("moonshotai", "moonshot"),
    ("perplexity_ai", "perplexity"),
    ("qwen", "dashscope"),
    ("together", "together_ai"),
    ("together-ai", "together_ai"),
    ("togetherai", "together_ai"),
    ("vertex", "vertex_ai"),
    ("vertex-ai", "vertex_ai"),
    ("vertexai", "vertex_ai"),
    ("x-ai", "xai"),
    ("z-ai", "zai"),
];

/// The table's prefix of a provider, in lower case.
pub(super) fn prefix_of(provider: &str) -> &str {
    let known = PROVIDER_PREFIXES.iter().find(|(name, _)| *name == provider);
    known.map_or(provider, |(_, prefix)| prefix)
}

/// OpenRouter serves `…:free` for nothing. Elsewhere the suffix is a client's own invention.
pub(super) fn is_free_on_purpose(prefix: Option<&str>, model: &str) -> bool {
    model.ends_with(":free") && (prefix == Some("openrouter") || model.starts_with("openrouter/"))
}

/// Prefixes that callers write and the table does not: its names of these providers' models are bare.
const BARE_PROVIDERS: [&str; 5] = ["openai", "anthropic", "cohere", "bedrock", "vertex_ai"];

/// Without what leads to a name: `models/`, an ARN, the provider.
pub(super) fn without_path<'a>(prefix: Option<&str>, name: &'a str) -> &'a str {
    let name = match name.strip_prefix("arn:") {
        Some(arn) => arn.rsplit('/').next().unwrap_or(arn),
        None => name,
    };
    let name = name.strip_prefix("models/").unwrap_or(name);
    match name.split_once('/') {
        Some((first, rest))
            if prefix == Some(prefix_of(first)) || BARE_PROVIDERS.contains(&first) =>
        {
            rest
        }
        _ => name,
    }
}

/// The region of `arn:aws:bedrock:REGION:…`, which some prices depend on.
pub(super) fn region_of_arn(name: &str) -> Option<&str> {
    name.strip_prefix("arn:")?.split(':').nth(2).filter(|region| !region.is_empty())
}

/// Bedrock's cross-region inference profiles, the ones that stay in a part of the world first.
const REGIONS: [&str; 8] = ["us", "eu", "apac", "jp", "au", "ca", "us-gov", "global"];
/// Profiles of these parts of the world cost the same where one of them does not stand in the table.
pub(super) const SIBLINGS: [&str; 5] = ["us", "eu", "apac", "jp", "au"];

/// The region and what follows it: `eu.anthropic.claude-…`.
pub(super) fn split_region(name: &str) -> Option<(&str, &str)> {
    name.split_once('.').filter(|(region, _)| REGIONS.contains(region))
}

/// The name itself, then ever less specific ones.
pub(super) fn versions(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |name| without_version(name))
}

/// One step less specific: `ft:BASE:…` becomes `ft:BASE`; `-latest`, `-v1:0`, `:0`, `@001` and dates are taken off the end.
fn without_version(name: &str) -> Option<&str> {
    if let Some(tuned) = name.strip_prefix("ft:") {
        let (base, _) = tuned.split_once(':')?;
        return name.get(..base.len().saturating_add("ft:".len()));
    }
    if let Some(name) = name.strip_suffix("-latest") {
        return Some(name);
    }
    let (rest, last) = name.rsplit_once(['-', ':', '@'])?;
    let is_version = last.strip_prefix('v').unwrap_or(last).parse::<u8>().is_ok();
    match name.as_bytes().get(rest.len()) {
        Some(b'-') if digits(last, 8) || digits(last, 4) => Some(rest),
        Some(b'-') if digits(last, 2) => without_dashed_date(rest),
        Some(b'-') if last.starts_with('v') && is_version => Some(rest),
        Some(b':') if is_version => Some(rest),
        Some(b'@') => Some(rest),
        _ => None,
    }
}

/// `gpt-4o` for `gpt-4o-2024-08`: what is left of a date whose day is gone.
fn without_dashed_date(name: &str) -> Option<&str> {
    let (rest, month) = name.rsplit_once('-')?;
    let (rest, year) = rest.rsplit_once('-')?;
    (digits(month, 2) && digits(year, 4)).then_some(rest)
}

/// No published name goes on for longer than this behind the model's own; more is an attempt to keep the search busy.
const STEMS_MAX: usize = 16;

/// What a name may be the continuation of, the longest first.
pub(super) fn stems(name: &str) -> impl Iterator<Item = &str> {
    name.rmatch_indices(['-', ':', '@'])
        .filter_map(|(at, _)| name.get(..at))
        .take(STEMS_MAX)
        // Without a digit it is a family such as `gpt`, not a model.
        .take_while(|stem| stem.bytes().any(|b| b.is_ascii_digit()))
}

pub(super) fn digits(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_answered_counts_first_except_where_only_the_path_tells_the_region() {
        let named = |provider| Named {
            provider,
            path: Some("path"),
            response: Some("response"),
            request: Some("request"),
        };
        let order = |provider| named(provider).in_order().collect::<Vec<_>>();
        assert_eq!(order(None), ["response", "path", "request"]);
        assert_eq!(order(Some("azure")), ["response", "path", "request"]);
        assert_eq!(order(Some("AWS")), ["path", "request", "response"]);
        assert_eq!(order(Some("google-vertex")), ["path", "request", "response"]);
        let empty = Named { response: Some(""), request: Some("m"), ..Named::default() };
        assert_eq!(empty.in_order().collect::<Vec<_>>(), ["m"]);
    }

    #[test]
    fn a_name_is_taken_apart_from_its_end() {
        let check = |name: &str, expected: &[&str]| {
            assert_eq!(versions(name).collect::<Vec<_>>(), expected);
        };
        check("gpt-4o-2024-08-06", &["gpt-4o-2024-08-06", "gpt-4o"]);
        check(
            "claude-3-haiku-20240307-v1:0",
            &[
                "claude-3-haiku-20240307-v1:0",
                "claude-3-haiku-20240307-v1",
                "claude-3-haiku-20240307",
                "claude-3-haiku",
            ],
        );
        check("mistral-small-2603", &["mistral-small-2603", "mistral-small"]);
        check("ft:gpt-4o:acme::x1", &["ft:gpt-4o:acme::x1", "ft:gpt-4o"]);
        check("gpt-5", &["gpt-5"]);
        assert_eq!(stems("a-1-b:c").collect::<Vec<_>>(), ["a-1-b", "a-1"]);
    }
}
