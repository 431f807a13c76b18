//! Floor 0: what Bursar knows about money, time, budgets and requests. Pure values and state machines:
//! no input or output, no clock, no async, no serialisation. Everything here can be replayed.

#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::float_arithmetic,
        clippy::as_conversions,
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::iter_over_hash_type
    )
)]
#![warn(missing_docs)]

pub mod budget;
pub mod credits;
pub mod decision;
pub mod estimate;
pub mod ids;
pub mod json;
pub mod keys;
pub mod ledger;
pub mod money;
pub mod period;
pub mod pricing;
pub mod response;
pub mod settlement;
pub mod subject;
pub mod time;
pub mod usage;
pub mod usage_chunk;
pub mod visible_text;
pub mod wording;
