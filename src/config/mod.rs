//! Floor 1: what an operator can set.

pub mod prices;
