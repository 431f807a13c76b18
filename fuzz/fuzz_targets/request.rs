//! Feeds arbitrary bytes to all that reads a request's body: it must not panic, and what it adds to a body must be all that
//! changes.

#![no_main]

use std::sync::LazyLock;

use bursar::domain::estimate::{Body, Policy, RequestFacts, Usual, appraise};
use bursar::domain::pricing::{Entries, PriceTable};
use bursar::domain::usage_chunk::asking_for_usage;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

static PRICES: LazyLock<PriceTable> = LazyLock::new(|| PriceTable::new("none", Entries::new()));

fuzz_target!(|input: (Option<u64>, String, Vec<u8>)| {
    let (whole_size, path, body) = input;
    let unseen = Body::Unseen { size: whole_size };
    let packed = Body::Packed { seen: &body, likely_size: whole_size.unwrap_or_default() };
    for body in [Body::Whole(&body), Body::Cut { seen: &body, whole_size }, unseen, packed] {
        let usual = Usual::default();
        let facts = RequestFacts { provider: None, model: None, path: &path, body, usual };
        let amounts = appraise(&facts, &PRICES, &Policy::default()).estimate.amounts;
        assert!(amounts.cost.get() >= 0 && amounts.tokens.get() > 0);
    }
    // What is no JSON to a parser may be changed into what is none either.
    if let (Some(asking), Ok(mut sent)) =
        (asking_for_usage(&body), serde_json::from_slice::<Value>(&body))
    {
        let asking: Value = serde_json::from_slice(&asking).expect("it is JSON still");
        sent["stream_options"] = asking["stream_options"].clone();
        assert_eq!(sent["stream_options"]["include_usage"], true);
        assert_eq!(sent, asking);
    }
});
