//! The ledger: reserve, settle, release, and the leases behind them.

pub mod escrow;
