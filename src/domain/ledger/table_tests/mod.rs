//! Tables that drive one ledger against a store, with every invariant checked after each row.
//!
//! A row is a command and, where it has an outcome, what is expected of it. Amounts are `$3.00`, `100tok` and `2rpm`.
//! ```text
//! budget NAME KIND[:TARGET] LIMITS [daily…one_time] [shadow] [inactive] [until=INSTANT] [down=allow|up-to-$3]
//! credits $A | credits-elsewhere $A  what was granted and has not expired, told here or only to the store
//! as KIND=ID …                       who asks from now on
//! reserve R [$A] [Ntok] [no-price] OUTCOME    OUTCOME: allow | deny CODE | undecided | starved, then any of
//!                                    by=BUDGET left=$A left=Ntok left=Nrpm retry=10s shadows=1 blind
//! settle R [$A] [Ntok] | release R | withdraw R | overdue R … | give-up R OUTCOME | abandon R | decided R OUTCOME
//! adjust R [$A] [Ntok] | book [$A] [Ntok] [at=INSTANT]
//! change NAME LIMITS … | delete NAME | reset NAME | at INSTANT | tick 10s | tend
//! store up|down | send | lose | answer | lose-leases NAME | sweep | restart
//! spent NAME $A|Ntok | lent NAME $A|Ntok | leases N | accounts N | open N
//! ```
//! While the store is up, it answers everything after each row.

mod administration;
mod credits;
mod decisions;
mod exchanges;
mod fleet;
mod gates;
mod language;
mod restarts;
mod settlements;
pub(in crate::domain::ledger) mod store;
pub(in crate::domain::ledger) mod world;

use language::Table;

use crate::domain::ledger::OnTimeout;

/// Runs a table with reservations that are charged when their time is up.
#[track_caller]
fn check(table: &str) {
    Table::new(OnTimeout::Charge).run(table);
}
