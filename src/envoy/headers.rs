//! Response headers: the numbers of a standing, the signals that client libraries retry by, and the one gate through
//! which every header value passes.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction,
};

use crate::domain::budget::Dimension;
use crate::domain::decision::{DimensionInfo, Refusal, RefusalCode, Standing};
use crate::domain::wording;
use crate::envoy::reply::{MoreHeaders, Style};

/// Names of the limit, remaining and reset headers of a dimension.
type Names = [&'static str; 3];

const REQUESTS: Names = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"];
const COST: Names =
    ["x-ratelimit-limit-cost", "x-ratelimit-remaining-cost", "x-ratelimit-reset-cost"];
const TOKENS: Names =
    ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"];
const OPENAI_REQUESTS: Names =
    ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];

/// Three for each dimension, and three for the client library: a list of this size is allocated once.
const HEADERS_USUAL: usize = 12;

/// Requests in flight end within seconds, so this is soon enough and no flood.
const SOON: Duration = Duration::from_secs(1);

/// The headers of one answer. Each replaces what the upstream sent under its name: providers send rate limits of
/// their own, which mean something else.
#[derive(Debug)]
pub(super) struct Headers(Vec<HeaderValueOption>);

impl Headers {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(HEADERS_USUAL))
    }

    /// Envoy writes values as they are, and a line break in one would start another header: such a value is not written.
    pub(super) fn set(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        if value.chars().any(char::is_control) {
            return;
        }
        let header = HeaderValue { key: name.to_owned(), value, ..HeaderValue::default() };
        let append_action = HeaderAppendAction::OverwriteIfExistsOrAdd.into();
        self.0.push(HeaderValueOption {
            header: Some(header),
            append_action,
            ..HeaderValueOption::default()
        });
    }

    /// The numbers of every dimension that a budget limits.
    pub(super) fn standing(&mut self, standing: &Standing, style: &Style) {
        let dimensions =
            [(Dimension::Requests, REQUESTS), (Dimension::Cost, COST), (Dimension::Tokens, TOKENS)];
        for (dimension, names) in dimensions {
            if let Some(info) = standing.of(dimension) {
                self.numbers(dimension, info, names);
            }
        }
        if let Some(info) = standing.requests {
            style.more_headers.iter().for_each(|more| self.more(*more, info));
        }
    }

    fn numbers(
        &mut self,
        dimension: Dimension,
        info: DimensionInfo,
        [limit, remaining, reset]: Names,
    ) {
        self.set(limit, wording::decimal(dimension, info.limit));
        self.set(remaining, wording::decimal(dimension, info.remaining));
        if let Some(seconds) = info.reset_seconds {
            self.set(reset, format!("{seconds}s"));
        }
    }

    fn more(&mut self, more: MoreHeaders, info: DimensionInfo) {
        match more {
            MoreHeaders::OpenAi => self.numbers(Dimension::Requests, info, OPENAI_REQUESTS),
            MoreHeaders::Ietf => {
                let [limit, left] = [info.limit, info.remaining]
                    .map(|amount| wording::decimal(Dimension::Requests, amount));
                let reset =
                    info.reset_seconds.map(|seconds| format!(";t={seconds}")).unwrap_or_default();
                self.set("ratelimit-policy", format!("\"requests\";q={limit};w=60"));
                self.set("ratelimit", format!("\"requests\";r={left}{reset}"));
            }
        }
    }

    /// What tells client libraries whether and when to try again. Without `x-should-retry: false` they would hammer on for
    /// budgets that reset in days.
    pub(super) fn retry(&mut self, refusal: &Refusal) {
        match (refusal.code, refusal.retry_after) {
            (RefusalCode::CostBudgetExceeded | RefusalCode::TokenBudgetExceeded, wait) => {
                if let Some(wait) = wait.or_else(|| reset_of(refusal)) {
                    self.retry_after(wait);
                }
                self.set("x-should-retry", "false");
            }
            (RefusalCode::RequestsPerMinuteExceeded, Some(wait)) => {
                self.retry_after(wait);
                self.set("retry-after-ms", wait.as_nanos().div_ceil(1_000_000).to_string());
            }
            (RefusalCode::BudgetInFlight, wait) => self.retry_after(wait.unwrap_or(SOON)),
            (
                RefusalCode::RequestsPerMinuteExceeded
                | RefusalCode::RequestExceedsBudget
                | RefusalCode::CreditsExhausted
                | RefusalCode::ModelNotPriced,
                _,
            ) => self.set("x-should-retry", "false"),
            (
                RefusalCode::UnknownSubject | RefusalCode::ScopeMismatch | RefusalCode::UnknownKey,
                _,
            ) => {}
        }
    }

    /// When a decision can be made again.
    pub(super) fn retry_soon(&mut self) {
        self.retry_after(SOON);
    }

    fn retry_after(&mut self, wait: Duration) {
        self.set("retry-after", wait.as_nanos().div_ceil(1_000_000_000).to_string());
    }

    pub(super) fn into_options(self) -> Vec<HeaderValueOption> {
        self.0
    }
}

/// When the refusing limit starts anew.
fn reset_of(refusal: &Refusal) -> Option<Duration> {
    refusal.gate.as_ref()?.info.reset_seconds.map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::money::Units;

    fn lines(headers: Headers) -> Vec<String> {
        let options = headers.into_options().into_iter();
        options
            .filter_map(|option| option.header)
            .map(|header| format!("{}: {}", header.key, header.value))
            .collect()
    }

    #[test]
    fn each_limited_dimension_has_its_numbers_and_a_reset_only_when_it_resets() {
        let info = |limit, remaining, reset_seconds| {
            Some(DimensionInfo {
                limit: Units::new(limit),
                remaining: Units::new(remaining),
                reset_seconds,
            })
        };
        let standing = Standing {
            cost: info(5_000_000_000, 4_999_981_600, Some(1_299_257)),
            tokens: info(1000, 0, None),
            requests: info(60, 59, Some(58)),
        };
        let mut headers = Headers::new();
        headers.standing(
            &standing,
            &Style {
                more_headers: vec![MoreHeaders::OpenAi, MoreHeaders::Ietf],
                ..Style::default()
            },
        );
        assert_eq!(
            lines(headers),
            [
                "x-ratelimit-limit: 60",
                "x-ratelimit-remaining: 59",
                "x-ratelimit-reset: 58s",
                "x-ratelimit-limit-cost: 5",
                "x-ratelimit-remaining-cost: 4.9999816",
                "x-ratelimit-reset-cost: 1299257s",
                "x-ratelimit-limit-tokens: 1000",
                "x-ratelimit-remaining-tokens: 0",
                "x-ratelimit-limit-requests: 60",
                "x-ratelimit-remaining-requests: 59",
                "x-ratelimit-reset-requests: 58s",
                "ratelimit-policy: \"requests\";q=60;w=60",
                "ratelimit: \"requests\";r=59;t=58",
            ]
        );
    }

    #[test]
    fn a_value_with_a_control_character_is_not_written() {
        let mut headers = Headers::new();
        headers.set("x-one", "a\r\nx-two: b");
        headers.set("x-three", "c\u{85}");
        headers.set("x-four", "d");
        assert_eq!(lines(headers), ["x-four: d"]);
    }
}
