//! Reads the `estimate` section: what is set aside before a request goes out.

use super::parse;
use super::walk::Section;
use crate::domain::estimate::{Learn, Mode, Policy, Unpriced};
use crate::domain::money::Amounts;
use crate::domain::pricing::ModelPrice;

/// How each mode is written.
pub(super) const MODES: [(&str, Mode); 3] =
    [("strict", Mode::Strict), ("estimate", Mode::Estimate), ("postpaid", Mode::Postpaid)];

/// How it is written whether estimates learn.
pub(super) const LEARN: [(&str, Learn); 2] = [("on", Learn::On), ("off", Learn::Off)];

/// What `unpriced` says, before the price that it may need.
#[derive(Clone, Copy)]
enum UnpricedName {
    Deny,
    DefaultPrice,
    CountTokensOnly,
}

const UNPRICED: [(&str, UnpricedName); 3] = [
    ("deny", UnpricedName::Deny),
    ("default_price", UnpricedName::DefaultPrice),
    ("count_tokens_only", UnpricedName::CountTokensOnly),
];

/// Reads the section.
pub(super) fn read(root: &mut Section<'_>) -> Policy {
    let default = Policy::default();
    let mut section = root.section("estimate");
    let policy = Policy {
        mode: section.read("mode", parse::one_of(&MODES)).unwrap_or(default.mode),
        learn: section.read("learn", parse::one_of(&LEARN)).unwrap_or(default.learn),
        unknown_model: unknown_model(&mut section, default.unknown_model),
        unpriced: unpriced(&mut section),
    };
    section.close();
    policy
}

fn unknown_model(estimate: &mut Section<'_>, default: Amounts) -> Amounts {
    let mut section = estimate.section("unknown_model");
    let amounts = Amounts {
        cost: section.read("cost", parse::usd).unwrap_or(default.cost),
        tokens: section.read("tokens", parse::tokens).unwrap_or(default.tokens),
    };
    section.close();
    amounts
}

fn unpriced(estimate: &mut Section<'_>) -> Unpriced {
    let policy = estimate.node("unpriced");
    let price = estimate.node("default_price");
    let read_price = price.clone().and_then(|node| default_price(node.section()));
    let name = policy.as_ref().and_then(|policy| policy.read(parse::one_of(&UNPRICED)));
    match (name.unwrap_or(UnpricedName::Deny), policy, price) {
        (UnpricedName::DefaultPrice, Some(policy), None) => {
            policy.fault("needs estimate.default_price: {input: 5, output: 15}, in dollars per million tokens");
            Unpriced::Deny
        }
        (UnpricedName::DefaultPrice, _, _) => {
            read_price.map_or(Unpriced::Deny, |price| Unpriced::DefaultPrice(Box::new(price)))
        }
        (UnpricedName::Deny, _, price) => {
            price.iter().for_each(|price| price.warning(UNUSED_PRICE));
            Unpriced::Deny
        }
        (UnpricedName::CountTokensOnly, _, price) => {
            price.iter().for_each(|price| price.warning(UNUSED_PRICE));
            Unpriced::CountTokensOnly
        }
    }
}

const UNUSED_PRICE: &str = "counts only with unpriced: default_price";

/// The name under which usage is recorded that the default price was taken for.
const DEFAULT_PRICE_NAME: &str = "default_price";

fn default_price(mut section: Section<'_>) -> Option<ModelPrice> {
    let input = section.required("input", parse::usd_per_million);
    let output = section.required("output", parse::usd_per_million);
    section.close();
    Some(ModelPrice::flat(DEFAULT_PRICE_NAME, input?, output?))
}
