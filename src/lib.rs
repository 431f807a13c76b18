//! Bursar decides, beside every Envoy, whether an LLM request can be paid for.
//!
//! # The floors
//! A module imports only from floors below it; `tests/architecture.rs` holds everybody to it.
//!
//! | floor | module | what it is |
//! |---|---|---|
//! | 0 | [`domain`] | money, periods, subjects, budgets, prices and the ledger: pure values and state machines |
//! | 1 | [`store`] | the port to durable storage, and its adapters: memory, SQLite, PostgreSQL |
//! | 1 | [`config`] | file and environment → settings |
//! | 1 | [`telemetry`] | metrics and logs |
//! | 2 | [`engine`] | drives the ledgers: the lock, the journal, the batches, the one clock |
//! | 3 | [`envoy`] | what Envoy asks and shows, in Envoy's words: mapping, ext_authz, replies, responses |
//! | 3 | [`admin`] | what people and programs ask: the HTTP API and `bursar.v1` |
//! | 3 | [`notify`] | what others are told by webhook: a prepaid balance that has fallen low |
//! | 4 | [`serve`], [`cli`] | the composition root and the command line |
//!
//! # The life of one request
//! 1. Envoy sends a CheckRequest; `envoy/attributes.rs` reads it in either of its header forms.
//! 2. `envoy/mapping.rs` finds the six ids of the subject, by rules of whom to believe.
//! 3. `domain/estimate` says what the request may cost, by the prices of `domain/pricing`.
//! 4. `engine/decide.rs` takes the lock and asks the workspace's ledger, `domain/ledger/reserve.rs`: every gate is checked,
//!    then every gate is charged.
//! 5. Where a lease does not suffice, the request waits; `engine/driver.rs` sends the ledger's batch to the store
//!    (`domain/ledger/exchange.rs` on this side, `domain/ledger/escrow.rs` on the store's) and brings back the grant.
//! 6. The admission is written to the journal, `engine/journal`, and only then answered.
//! 7. `envoy/reply.rs` makes it an OK with headers or a 429 in the client's dialect. If the client has left, dropping the
//!    answer gives everything back.
//! 8. Its response goes by `envoy/process`: unpacked by `envoy/decode`, metered by `domain/usage` and judged by
//!    `domain/response.rs`. The client waits for none of it.
//! 9. What it used comes to `engine/report.rs`, as do reports from elsewhere: priced, booked by `domain/ledger/settle.rs`,
//!    and acknowledged when the store has it durably, together with the counters. What another replica holds is handed over to
//!    it by `engine/handoff`; what others changed comes into force by `engine/news.rs`.
//!
//! # What always holds
//! - Invariant: nothing is charged before every gate has passed; there is no rollback.
//! - Invariant: settle never fails. What cannot be covered is recorded as overrun.
//! - Invariant: what is reserved never exceeds what the store lent, plus what is recorded as overrun.
//! - Invariant: an answer of OK leaves after its reservation is in the journal; a report is acknowledged after it is durable.
//! - Invariant: nothing below `engine` reads a clock or draws a random number, and `engine` does so in one place each.
//! - Invariant: `envoy` never talks to the store. Only the driver changes money there.
//! - Invariant: nothing that holds money is evicted.
//! - Invariant: of each reservation its holder decides; another replica settles it only when the holder took no word for a minute.

#![cfg_attr(
    test,
    allow(clippy::wildcard_enum_match_arm, reason = "a test names only the case it means")
)]

pub mod admin;
pub mod cli;
pub mod config;
pub mod domain;
pub mod engine;
pub mod envoy;
pub mod notify;
pub mod serve;
pub mod store;
pub mod telemetry;
