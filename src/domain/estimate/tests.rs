//! What is set aside for requests of every dialect.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::domain::pricing::{Entries, Entry, Offer, Rate, Reasons, ServiceTier};

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
        usual: Usual::default(),
    }
}

/// Asserts tokens in, tokens out and cost per million of each.
fn check(request: &RequestFacts<'_>, policy: &Policy, input: i64, output: i64, rates: (i64, i64)) {
    let amounts = Amounts {
        cost: NanoUsd::new(input * rates.0 * 1_000 + output * rates.1 * 1_000),
        tokens: Tokens::new(input + output),
    };
    assert_eq!(told(request, policy), (amounts, Priced::Yes), "{request:?}");
}

fn told(request: &RequestFacts<'_>, policy: &Policy) -> (Amounts, Priced) {
    let Estimate { amounts, priced, .. } = estimate(request, &table(), policy);
    (amounts, priced)
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
    check(&asked(None, &text(r#"{"model":"small-1","tools":[{}]}"#)), &policy, 165, 1_000, SMALL);
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
    let body =
        format!(r#"{{"model":"small-1","max_tokens":10,"data":"{image}","images":["{image}"]}}"#);
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
    let zero = |priced| (Amounts::default(), priced);
    let postpaid = in_mode(Mode::Postpaid);
    assert_eq!(told(&asked(Some("small-1"), "{}"), &postpaid), zero(Priced::Yes));
    assert_eq!(told(&asked(None, "{}"), &postpaid), zero(Priced::Yes));
    assert_eq!(told(&asked(Some("what-1"), "{}"), &postpaid), zero(Priced::No));
}

#[test]
fn a_cut_body_counts_with_its_whole_size_and_what_may_be_behind_the_cut() {
    let request = |seen: &'static str, model| RequestFacts {
        body: Body::Cut { seen: seen.as_bytes(), whole_size: Some(3_000) },
        ..asked(model, "")
    };
    let policy = Policy::default();
    check(&request(r#"{"model":"small-1","max_tokens":5,"mess"#, None), &policy, 1_964, 5, SMALL);
    check(&request(r#"{"model":"small-1","messages":[{"#, None), &policy, 1_964, 1_000, SMALL);
    check(&request(r#"{"messages":[{"#, Some("small-1")), &policy, 1_964, 1_000, SMALL);
    let unknown = told(&request(r#"{"messages":[{"#, None), &policy);
    assert_eq!(unknown, (UNKNOWN_MODEL, Priced::Yes));
}

#[test]
fn an_empty_name_names_no_model() {
    let unknown = told(&asked(Some(""), r#"{"model":""}"#), &Policy::default());
    assert_eq!(unknown, (UNKNOWN_MODEL, Priced::Yes));
}

#[test]
fn an_unseen_body_counts_with_its_content_length() {
    let request = |size| RequestFacts { body: Body::Unseen { size }, ..asked(Some("small-1"), "") };
    check(&request(Some(300)), &Policy::default(), 100 + 64 + 900, 1_000, SMALL);
    check(&request(None), &Policy::default(), 5_462 + 64 + 900, 1_000, SMALL);
}

#[test]
fn what_a_packed_body_holds_beyond_what_is_seen_is_likely_so_much_and_strictly_the_models_maximum()
{
    let packed = |seen: &'static str, model| RequestFacts {
        body: Body::Packed { seen: seen.as_bytes(), likely_size: 6_000 },
        ..asked(model, "")
    };
    let strict = in_mode(Mode::Strict);
    for (policy, input) in [(Policy::default(), 2_964), (strict.clone(), 100_000)] {
        let seen = r#"{"model":"small-1","max_tokens":5,"mess"#;
        check(&packed(seen, None), &policy, input, 5, SMALL);
        check(&packed("", Some("small-1")), &policy, input, 1_000, SMALL);
    }
    let unbounded = told(&packed("", None), &strict).0;
    assert_eq!(unbounded.tokens, Tokens::new(i64::MAX));
}

#[test]
fn what_is_usual_stands_in_for_what_a_request_does_not_say() {
    let usual = Usual { input: Some(2_048), output: Some(384) };
    let policy = Policy::default();
    let text = |body: &str| format!("{body:<300}");
    let check_whole = |body: &str, output| {
        let body = text(body);
        check(&RequestFacts { usual, ..asked(None, &body) }, &policy, 164, output, SMALL);
    };
    check_whole(r#"{"model":"small-1"}"#, 384);
    check_whole(r#"{"model":"small-1","n":2}"#, 768);
    check_whole(r#"{"model":"small-1","max_tokens":500}"#, 500);
    check_whole(r#"{"model":"small-1","max_tokens":-1}"#, 1_000);
    let unseen = |size, usual| RequestFacts {
        body: Body::Unseen { size },
        usual,
        ..asked(Some("small-1"), "")
    };
    check(&unseen(Some(300), usual), &policy, 1_064, 384, SMALL);
    check(&unseen(None, usual), &policy, 2_048, 384, SMALL);
    let beyond = Usual { input: Some(3_145_728), output: Some(3_145_728) };
    check(&unseen(None, beyond), &policy, 100_000, 1_000, SMALL);
    let off = Policy { learn: Learn::Off, ..Policy::default() };
    for policy in [off, in_mode(Mode::Strict)] {
        let plain = estimate(&unseen(None, Usual::default()), &table(), &policy);
        assert_eq!(estimate(&unseen(None, usual), &table(), &policy), plain);
        assert_eq!(plain.lesson, Lesson::Nothing);
    }
}

#[test]
fn only_answers_without_a_cap_teach_how_long_answers_are() {
    let lesson =
        |body, policy: &Policy| estimate(&asked(Some("small-1"), body), &table(), policy).lesson;
    let policy = Policy::default();
    assert_eq!(lesson("{}", &policy), Lesson::InputAndOutput);
    assert_eq!(lesson(r#"{"max_tokens":5}"#, &policy), Lesson::Input);
    assert_eq!(lesson(r#"{"max_tok"#, &policy), Lesson::Input);
    assert_eq!(lesson("{}", &in_mode(Mode::Postpaid)), Lesson::Nothing);
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
fn a_model_beyond_the_cut_is_set_aside_for_what_the_length_says() {
    let cut = |whole_size| RequestFacts {
        body: Body::Cut { seen: br#"{"messages":[{"role":"#, whole_size: Some(whole_size) },
        ..asked(None, "")
    };
    let unknown = Policy::default().unknown_model;
    assert_eq!(told(&cut(3_000), &Policy::default()), (unknown, Priced::Yes));
    let tokens = Tokens::new(100_000 + 64 + 900);
    let long = Amounts { tokens, ..unknown };
    assert_eq!(told(&cut(300_000), &Policy::default()), (long, Priced::Yes));
}

#[test]
fn a_model_without_a_price_is_never_silently_free() {
    let request = asked(Some("what-1"), "{}");
    let tokens = Tokens::new(65 + 4_096);
    let with = |unpriced| told(&request, &Policy { unpriced, ..Policy::default() });
    let only_tokens = Amounts { cost: NanoUsd::ZERO, tokens };
    assert_eq!(with(Unpriced::Deny), (only_tokens, Priced::No));
    assert_eq!(with(Unpriced::CountTokensOnly), (only_tokens, Priced::TokensOnly));
    let dollar = Rate::per_million(1_000_000_000);
    let default = Unpriced::DefaultPrice(Box::new(ModelPrice::flat("default", dollar, dollar)));
    let priced = Amounts { cost: NanoUsd::new(4_161_000), tokens };
    assert_eq!(with(default), (priced, Priced::Yes));
}

#[test]
fn a_model_may_reason_when_its_request_or_its_price_says_so() {
    let priced = |name: &str, reasons| {
        let dollar = Rate::per_million(1_000_000_000);
        let mut price = ModelPrice::flat(name, dollar, dollar);
        price.reasons = reasons;
        (name.into(), Entry::Priced(Arc::new(price)))
    };
    let models = [priced("claude-1", Reasons::WhenAsked), priced("o-1", Reasons::ByItself)];
    let table = table().with_operator("test-2", Entries::from(models));
    let may = |body: &str| {
        let appraisal = appraise(&asked(None, body), &table, &Policy::default());
        appraisal.reasoning == Reasoning::Possible
    };
    for body in [
        r#"{"model":"o-1"}"#,
        r#"{"model":"o-1","reasoning_effort":null}"#,
        r#"{"model":"o-1","reasoning":{"summary":"auto"}}"#,
        r#"{"model":"small-1","reasoning":{"effort":"low"}}"#,
        r#"{"model":"what-1","reasoning_effort":"minimal"}"#,
        r#"{"model":"claude-1","thinking":{"type":"enabled","budget_tokens":1024}}"#,
        r#"{"model":"claude-1","thinking":{"type":"adaptive"}}"#,
        r#"{"model":"claude-1","additionalModelRequestFields":{"thinking":{"type":"enabled"}}}"#,
        r#"{"model":"claude-1","messages":[{"role":"#,
        r#"{"model":"small-1","generationConfig":{"thinkingConfig":{"thinkingBudget":-1}}}"#,
        r#"{"model":"small-1","think":true}"#,
        r#"{"messages":[{"role":"#,
    ] {
        assert!(may(body), "{body}");
    }
    for body in [
        r#"{"model":"small-1"}"#,
        r#"{"model":"what-1"}"#,
        r#"{"model":"claude-1"}"#,
        r#"{"model":"claude-1","thinking":{"type":"disabled"}}"#,
        r#"{"model":"o-1","reasoning":{"effort":"none"}}"#,
        r#"{"model":"o-1","reasoning":{"enabled":false}}"#,
        r#"{"model":"o-1","generationConfig":{"thinkingConfig":{"thinkingBudget":0}}}"#,
        r#"{"model":"small-1","messages":[{"role":"#,
        r#"{"model":"small-1","messages":[{"content":"x","reasoning":"because"}]}"#,
    ] {
        assert!(!may(body), "{body}");
    }
}

proptest! {
    #[test]
    fn no_body_breaks_the_estimate(body in prop::collection::vec(any::<u8>(), 0..300), size in any::<Option<u64>>()) {
        let packed = Body::Packed { seen: &body, likely_size: size.unwrap_or_default() };
        for body in [Body::Whole(&body), Body::Cut { seen: &body, whole_size: size }, Body::Unseen { size }, packed] {
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
