//! What a request may cost before it is made.

mod appraisal;
mod media;
mod request;

use crate::domain::money::{Amounts, NanoUsd, Tokens};
use crate::domain::pricing::{ByUnit, Extent, Media, ModelPrice, PriceTable};

use request::{Cap, Seen};

pub use appraisal::{Appraisal, appraise};
pub use request::model_in_path;

/// What a reservation asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// The most that the response should cost.
    pub amounts: Amounts,
    /// Whether the cost is known.
    pub priced: Priced,
}

/// Whether a request's cost can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priced {
    /// From the price table, a default price or the price of an unknown model.
    Yes,
    /// No price, and the policy is to count tokens only.
    TokensOnly,
    /// No price, and the policy is to refuse where a cost gate applies.
    No,
}

/// What is known of a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    /// The provider that the request goes to.
    pub provider: Option<&'a str>,
    /// The model as a trusted source outside of the body names it.
    pub model: Option<&'a str>,
    /// The request's path, which names the model in some APIs.
    pub path: &'a str,
    /// What can be seen of the body.
    pub body: Body<'a>,
}

/// What can be seen of a request's body.
#[derive(Debug, Clone, Copy)]
pub enum Body<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// Its first part.
    Cut {
        /// That part.
        seen: &'a [u8],
        /// The size of the whole, from `content-length`.
        whole_size: Option<u64>,
    },
    /// Nothing.
    Unseen {
        /// Its size, from `content-length`.
        size: Option<u64>,
    },
}

/// How requests are estimated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How much is set aside.
    pub mode: Mode,
    /// What is set aside when nothing names the model.
    pub unknown_model: Amounts,
    /// What happens when the model has no price.
    pub unpriced: Unpriced,
}

/// How much is set aside for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// An upper bound: a token for every byte, and the model's maximum where the request has no cap.
    Strict,
    /// What it will cost in all likelihood.
    #[default]
    Estimate,
    /// Nothing: a request is admitted while anything is left, and pays when it is over.
    Postpaid,
}

impl Mode {
    /// `strict`, `estimate` or `postpaid`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Estimate => "estimate",
            Self::Postpaid => "postpaid",
        }
    }

    /// The mode with this name, as [`Mode::as_str`] writes it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Strict, Self::Estimate, Self::Postpaid]
            .into_iter()
            .find(|mode| mode.as_str() == name)
    }
}

/// What happens to a request for a model without a price.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Unpriced {
    /// It is refused where a cost gate applies.
    #[default]
    Deny,
    /// It is priced like this.
    DefaultPrice(Box<ModelPrice>),
    /// Its tokens are counted, its cost is not.
    CountTokensOnly,
}

impl Unpriced {
    /// `deny`, `default_price` or `count_tokens_only`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::DefaultPrice(_) => "default_price",
            Self::CountTokensOnly => "count_tokens_only",
        }
    }
}

/// Set aside for a request that names no model: 5 cents and 4,096 tokens.
const UNKNOWN_MODEL: Amounts =
    Amounts { cost: NanoUsd::new(50_000_000), tokens: Tokens::new(4_096) };

impl Default for Policy {
    fn default() -> Self {
        Self { mode: Mode::default(), unknown_model: UNKNOWN_MODEL, unpriced: Unpriced::default() }
    }
}

/// Bytes of request text per input token: 18% of recorded requests have fewer without the constants below, 1% with them.
const BYTES_PER_TOKEN: u64 = 3;
/// Input that providers add to every request.
const OVERHEAD_TOKENS: u64 = 64;
/// Input that providers add to a request with tools: their hidden prompts have 350 to 800 tokens.
const TOOL_TOKENS: u64 = 900;
/// Input that one image or document comes to, whatever its bytes.
const MEDIA_TOKENS: u64 = 1_600;
/// Output of a request without a cap: 99% of recorded answers have less than half of it.
const OUTPUT_TOKENS: u64 = 4_096;
/// Bounds the cap of a request where the model's own maximum is not on record; few models write more.
const OUTPUT_TOKENS_MAX: u64 = 131_072;

/// Bytes in a second of sound, at 16 kbit/s; what is sent to be transcribed has more.
const BYTES_PER_SECOND: u64 = 2_000;
/// Bytes in a page of a document; a page of a scan has more.
const BYTES_PER_PAGE: u64 = 2_000;

/// What a request may cost: the dearest of the models that its header, body and path name, because nobody here knows which
/// of them the provider reads.
#[must_use]
pub fn estimate(request: &RequestFacts<'_>, prices: &PriceTable, policy: &Policy) -> Estimate {
    appraise(request, prices, policy).estimate
}

fn estimate_of(
    seen: &Seen<'_>,
    request: &RequestFacts<'_>,
    prices: &PriceTable,
    policy: &Policy,
) -> Estimate {
    let in_path = model_in_path(request.path);
    let names = || {
        [request.model, seen.model.as_deref(), in_path.as_deref()]
            .into_iter()
            .flatten()
            .filter(|n| !n.is_empty())
    };
    let at = |price: Option<&ModelPrice>| amounts(seen, price, policy.mode);
    let dearest = names()
        .filter_map(|name| prices.lookup(request.provider, name))
        .map(|price| at(Some(&price)))
        .reduce(|a, b| Amounts { cost: a.cost.max(b.cost), tokens: a.tokens.max(b.tokens) });
    let (amounts, priced) = match (dearest, &policy.unpriced) {
        (Some(amounts), _) => (amounts, Priced::Yes),
        (None, _) if names().next().is_none() => (policy.unknown_model, Priced::Yes),
        (None, Unpriced::DefaultPrice(price)) => (at(Some(price)), Priced::Yes),
        (None, Unpriced::CountTokensOnly) => (at(None), Priced::TokensOnly),
        (None, Unpriced::Deny) => (at(None), Priced::No),
    };
    match policy.mode {
        Mode::Strict | Mode::Estimate => Estimate { amounts, priced },
        Mode::Postpaid => Estimate { amounts: Amounts::default(), priced },
    }
}

fn amounts(seen: &Seen<'_>, price: Option<&ModelPrice>, mode: Mode) -> Amounts {
    let input = input_tokens(seen, mode)
        .min(price.and_then(|price| price.max_input_tokens).unwrap_or(u64::MAX));
    let output_max = price.and_then(|price| price.max_output_tokens).unwrap_or(OUTPUT_TOKENS_MAX);
    let output = seen.choices.saturating_mul(output_tokens(seen.cap, mode).min(output_max));
    let media = if seen.media.items > 0 { Media::Possible } else { Media::Absent };
    let extent = Extent { input, output, media, units: units(seen) };
    Amounts {
        cost: price.map_or(NanoUsd::ZERO, |price| price.cost_at_most(&extent)),
        tokens: Tokens::new(i64::try_from(input.saturating_add(output)).unwrap_or(i64::MAX)),
    }
}

/// Units other than tokens that a request may come to, for models that are priced by them: what it asks to be made, and at the
/// most what its bytes can hold.
fn units(seen: &Seen<'_>) -> ByUnit<u64> {
    let bytes = seen.text_bytes.saturating_add(seen.media.bytes);
    ByUnit {
        request: 1,
        second: bytes.div_ceil(BYTES_PER_SECOND),
        image: seen.choices,
        search: 1,
        web_search: 0,
        page: bytes.div_ceil(BYTES_PER_PAGE),
        character: seen.text_bytes,
    }
}

fn input_tokens(seen: &Seen<'_>, mode: Mode) -> u64 {
    let media_tokens = seen.media.items.saturating_mul(MEDIA_TOKENS);
    let body_tokens = match mode {
        Mode::Strict => seen.text_bytes.saturating_add(media_tokens.max(seen.media.bytes)),
        Mode::Estimate | Mode::Postpaid => {
            seen.text_bytes.div_ceil(BYTES_PER_TOKEN).saturating_add(media_tokens)
        }
    };
    body_tokens.saturating_add(OVERHEAD_TOKENS).saturating_add(seen.tool_tokens)
}

/// The output of one choice, before the model's own maximum is applied to it.
const fn output_tokens(cap: Cap, mode: Mode) -> u64 {
    match (cap, mode) {
        (Cap::At(cap), _) => cap,
        (Cap::Unclear, _) | (Cap::Absent, Mode::Strict) => u64::MAX,
        (Cap::Absent, Mode::Estimate | Mode::Postpaid) => OUTPUT_TOKENS,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::pricing::{Entries, Entry, Offer, Rate, ServiceTier};

    /// $1 and $10 per million tokens, but $2 and $20 where dearer tiers are; at most 1,000 tokens out and 100,000 in.
    fn table() -> PriceTable {
        let dollars = |amount: u64| Rate::per_million(amount * 1_000_000_000);
        let offer = |service, times| Offer::flat(service, dollars(times), dollars(times * 10));
        let offers = vec![offer(ServiceTier::Standard, 1), offer(ServiceTier::Priority, 2)];
        let mut small = ModelPrice::new("small-1", offers);
        small.max_input_tokens = Some(100_000);
        small.max_output_tokens = Some(1_000);
        let big = ModelPrice::flat("big-1", dollars(3), dollars(30));
        let mut embedding = ModelPrice::flat("embed-1", dollars(1), dollars(0));
        embedding.max_output_tokens = Some(0);
        let entry = |price: ModelPrice| (price.name.clone(), Entry::Priced(Arc::new(price)));
        PriceTable::new("test-1", Entries::from([entry(small), entry(big), entry(embedding)]))
    }

    fn asked<'a>(model: Option<&'a str>, body: &'a str) -> RequestFacts<'a> {
        RequestFacts {
            provider: None,
            model,
            path: "/v1/chat/completions",
            body: Body::Whole(body.as_bytes()),
        }
    }

    /// Asserts tokens in, tokens out and cost per million of each.
    fn check(
        request: &RequestFacts<'_>,
        policy: &Policy,
        input: i64,
        output: i64,
        rates: (i64, i64),
    ) {
        let amounts = Amounts {
            cost: NanoUsd::new(input * rates.0 * 1_000 + output * rates.1 * 1_000),
            tokens: Tokens::new(input + output),
        };
        assert_eq!(
            estimate(request, &table(), policy),
            Estimate { amounts, priced: Priced::Yes },
            "{request:?}"
        );
    }

    const SMALL: (i64, i64) = (2, 20);
    const BIG: (i64, i64) = (3, 30);

    fn in_mode(mode: Mode) -> Policy {
        Policy { mode, ..Policy::default() }
    }

    #[test]
    fn a_whole_body_is_estimated_from_its_bytes_and_its_cap() {
        let policy = Policy::default();
        let pad = |body: &str, bytes: usize| format!("{body:<bytes$}");
        let text = |body: &str| pad(body, 301);
        check(
            &asked(None, &text(r#"{"model":"small-1","max_tokens":50}"#)),
            &policy,
            101 + 64,
            50,
            SMALL,
        );
        check(
            &asked(None, &text(r#"{"model":"small-1","max_tokens":50,"n":3}"#)),
            &policy,
            165,
            150,
            SMALL,
        );
        check(
            &asked(None, &text(r#"{"model":"small-1","tools":[{}]}"#)),
            &policy,
            165,
            1_000,
            SMALL,
        );
        check(
            &asked(None, &text(r#"{"model":"small-1","tools":[{"name":"f"}]}"#)),
            &policy,
            1_065,
            1_000,
            SMALL,
        );
        check(&asked(None, &text(r#"{"model":"small-1"}"#)), &policy, 165, 1_000, SMALL);
        check(&asked(None, &text(r#"{"model":"big-1"}"#)), &policy, 165, 4_096, BIG);
        check(&asked(None, &text(r#"{"model":"embed-1","input":"x"}"#)), &policy, 165, 0, (1, 0));
        check(&asked(Some("small-1"), ""), &policy, 64, 1_000, SMALL);
    }

    #[test]
    fn a_hostile_cap_reserves_no_more_than_the_model_can_write() {
        let policy = Policy::default();
        let text = |body: &str| format!("{body:<300}");
        check(
            &asked(None, &text(r#"{"model":"small-1","max_tokens":18446744073709551615}"#)),
            &policy,
            164,
            1_000,
            SMALL,
        );
        check(
            &asked(None, &text(r#"{"model":"small-1","max_tokens":-1}"#)),
            &policy,
            164,
            1_000,
            SMALL,
        );
        check(
            &asked(None, &text(r#"{"model":"big-1","max_tokens":9999999}"#)),
            &policy,
            164,
            131_072,
            BIG,
        );
        check(
            &asked(None, &text(r#"{"model":"small-1","max_tokens":9,"n":999999}"#)),
            &policy,
            164,
            9 * 128,
            SMALL,
        );
    }

    #[test]
    fn media_count_by_the_piece_and_not_by_their_bytes() {
        let image = "A".repeat(90_000);
        let body = format!(
            r#"{{"model":"small-1","max_tokens":10,"data":"{image}","images":["{image}"]}}"#
        );
        let text = i64::try_from(body.len()).unwrap() - 180_000;
        check(&asked(None, &body), &Policy::default(), (text + 2) / 3 + 64 + 3_200, 10, SMALL);
        check(&asked(None, &body), &in_mode(Mode::Strict), 100_000, 10, SMALL);
    }

    #[test]
    fn strict_counts_every_byte_and_the_models_maximum() {
        let body = format!("{:<300}", r#"{"model":"small-1"}"#);
        check(&asked(None, &body), &in_mode(Mode::Strict), 364, 1_000, SMALL);
        let body = format!("{:<300}", r#"{"model":"small-1","max_completion_tokens":5}"#);
        check(&asked(None, &body), &in_mode(Mode::Strict), 364, 5, SMALL);
    }

    #[test]
    fn postpaid_sets_nothing_aside_but_knows_what_has_no_price() {
        let zero = |priced| Estimate { amounts: Amounts::default(), priced };
        let postpaid = in_mode(Mode::Postpaid);
        assert_eq!(estimate(&asked(Some("small-1"), "{}"), &table(), &postpaid), zero(Priced::Yes));
        assert_eq!(estimate(&asked(None, "{}"), &table(), &postpaid), zero(Priced::Yes));
        assert_eq!(estimate(&asked(Some("what-1"), "{}"), &table(), &postpaid), zero(Priced::No));
    }

    #[test]
    fn a_cut_body_counts_with_its_whole_size_and_what_may_be_behind_the_cut() {
        let request = |seen: &'static str, model| RequestFacts {
            body: Body::Cut { seen: seen.as_bytes(), whole_size: Some(3_000) },
            ..asked(model, "")
        };
        let policy = Policy::default();
        check(
            &request(r#"{"model":"small-1","max_tokens":5,"mess"#, None),
            &policy,
            1_964,
            5,
            SMALL,
        );
        check(&request(r#"{"model":"small-1","messages":[{"#, None), &policy, 1_964, 1_000, SMALL);
        check(&request(r#"{"messages":[{"#, Some("small-1")), &policy, 1_964, 1_000, SMALL);
        let unknown = estimate(&request(r#"{"messages":[{"#, None), &table(), &policy);
        assert_eq!(unknown, Estimate { amounts: UNKNOWN_MODEL, priced: Priced::Yes });
    }

    #[test]
    fn an_empty_name_names_no_model() {
        let unknown = estimate(&asked(Some(""), r#"{"model":""}"#), &table(), &Policy::default());
        assert_eq!(unknown, Estimate { amounts: UNKNOWN_MODEL, priced: Priced::Yes });
    }

    #[test]
    fn an_unseen_body_counts_with_its_content_length() {
        let request =
            |size| RequestFacts { body: Body::Unseen { size }, ..asked(Some("small-1"), "") };
        check(&request(Some(300)), &Policy::default(), 100 + 64 + 900, 1_000, SMALL);
        check(&request(None), &Policy::default(), 5_462 + 64 + 900, 1_000, SMALL);
    }

    #[test]
    fn of_all_the_models_that_are_named_the_dearest_is_set_aside() {
        let body = format!("{:<300}", r#"{"model":"big-1","max_tokens":10}"#);
        check(&asked(Some("small-1"), &body), &Policy::default(), 164, 10, BIG);
        check(&asked(Some("router-alias"), &body), &Policy::default(), 164, 10, BIG);
        let in_path = RequestFacts { path: "/model/big-1/invoke", ..asked(Some("small-1"), "{}") };
        check(&in_path, &Policy::default(), 1 + 64, 4_096, BIG);
    }

    #[test]
    fn a_model_without_a_price_is_never_silently_free() {
        let request = asked(Some("what-1"), "{}");
        let tokens = Tokens::new(65 + 4_096);
        let with =
            |unpriced| estimate(&request, &table(), &Policy { unpriced, ..Policy::default() });
        let only_tokens = Amounts { cost: NanoUsd::ZERO, tokens };
        assert_eq!(with(Unpriced::Deny), Estimate { amounts: only_tokens, priced: Priced::No });
        assert_eq!(
            with(Unpriced::CountTokensOnly),
            Estimate { amounts: only_tokens, priced: Priced::TokensOnly }
        );
        let dollar = Rate::per_million(1_000_000_000);
        let default = Unpriced::DefaultPrice(Box::new(ModelPrice::flat("default", dollar, dollar)));
        let priced = Amounts { cost: NanoUsd::new(4_161_000), tokens };
        assert_eq!(with(default), Estimate { amounts: priced, priced: Priced::Yes });
    }

    proptest! {
        #[test]
        fn no_body_breaks_the_estimate(body in prop::collection::vec(any::<u8>(), 0..300), size in any::<Option<u64>>()) {
            for body in [Body::Whole(&body), Body::Cut { seen: &body, whole_size: size }, Body::Unseen { size }] {
                let request = RequestFacts { body, ..asked(Some("small-1"), "") };
                let amounts = estimate(&request, &table(), &Policy::default()).amounts;
                prop_assert!(amounts.cost > NanoUsd::ZERO && amounts.tokens <= Tokens::new(100_000 + 128 * 1_000));
            }
        }

        #[test]
        fn strict_is_never_below_the_estimate(body in r#"\{"(max_tokens|n|data|tools)":[0-9]{1,4},"x":"[a-zA-Z]{0,400}"\}"#) {
            let of = |mode| estimate(&asked(Some("big-1"), &body), &table(), &in_mode(mode)).amounts;
            prop_assert!(of(Mode::Strict).cost >= of(Mode::Estimate).cost);
            prop_assert!(of(Mode::Strict).tokens >= of(Mode::Estimate).tokens);
        }
    }
}
