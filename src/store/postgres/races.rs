//! Many replicas at the same accounts at the same time, on a real PostgreSQL.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use futures_util::future::join_all;
use futures_util::join;
use sqlx::{AssertSqlSafe, Connection, FromRow, PgConnection};
use tokio::time::timeout;

use super::PostgresStore;
use super::testing::Database;
use super::turn::CALL_TIMEOUT;
use crate::domain::budget::{Budget, Dimension};
use crate::domain::ids::{BudgetId, HolderId};
use crate::domain::ledger::escrow::{self, AccountKey, Draw, Exchange, Lease, Then};
use crate::domain::money::{NanoUsd, Tokens, Units};
use crate::domain::period::{Period, Schedule, Zone};
use crate::domain::settlement::Road;
use crate::domain::time::Wall;
use crate::store::contract::{
    MONTH, NOON, TTL, batch, budget, cost_of, exchange, id, requests_of, settlement,
};
use crate::store::rows::KeyedLeaseRow;
use crate::store::{Batch, FleetStore, Store, StoreError};

const HOLDERS: u128 = 8;
const STEPS: u32 = 60;
const LIMIT: i64 = 200_000;

/// Splitmix64, so that a run can be repeated.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        i64::try_from((z ^ (z >> 31)) >> 1).unwrap() % bound.max(1)
    }

    fn is_lucky(&mut self, percent: i64) -> bool {
        self.below(100) < percent
    }
}

/// A holder's side of one lease.
#[derive(Debug, Clone, Default)]
struct Held {
    epoch: u32,
    seq: u32,
    granted: i64,
    consumed: i64,
    returned: i64,
    overrun: i64,
}

struct Replica {
    store: PostgresStore,
    holder: HolderId,
    dice: Dice,
    now: Arc<AtomicI64>,
    held: BTreeMap<AccountKey, Held>,
    /// What it reported by way of a lease, and directly.
    reported: BTreeMap<AccountKey, (i64, i64)>,
}

impl Replica {
    async fn run(mut self, accounts: Vec<AccountKey>) -> BTreeMap<AccountKey, (i64, i64)> {
        for step in 0..STEPS {
            let now = Wall::from_ms(self.now.fetch_add(self.dice.below(400), Ordering::Relaxed));
            if self.dice.is_lucky(10) {
                let later = 15_000;
                let now = Wall::from_ms(self.now.fetch_add(later, Ordering::Relaxed) + later);
                self.store.sweep(now).await.unwrap();
            }
            let mut some: Vec<_> =
                accounts.iter().filter(|_| self.dice.is_lucky(60)).cloned().collect();
            if self.dice.is_lucky(50) {
                some.reverse();
            }
            let batch = self.batch(step, &some);
            match self.send(&batch, now).await {
                Ok(()) => {}
                Err(StoreError::LeaseLost(account)) => self.start_anew(&batch, &account, now).await,
                Err(error) => panic!("{error}"),
            }
        }
        self.reported
    }

    /// A report of some use, with some given back and some drawn, on each of these accounts.
    fn batch(&mut self, step: u32, accounts: &[AccountKey]) -> Batch {
        let mut charges = Vec::new();
        let mut exchanges = Vec::new();
        for account in accounts {
            let held = self.held.entry(account.clone()).or_default();
            held.epoch = held.epoch.max(1);
            let left = held.granted - held.consumed - held.returned;
            let beyond = if self.dice.is_lucky(10) { self.dice.below(20) } else { 0 };
            let used = self.dice.below(left + 1) + beyond;
            let over = (used - left).max(0);
            let back =
                if self.dice.is_lucky(50) { self.dice.below(left + over - used + 1) } else { 0 };
            held.seq += 1;
            held.consumed += used;
            held.overrun += over;
            held.returned += back;
            let then = if self.dice.is_lucky(4) { Then::Close } else { Then::Renew };
            let want = self.dice.below(1000);
            let draw = Draw {
                need_min: Units::new(want / 10),
                need: Units::new(want / 2),
                want: Units::new(want),
            };
            exchanges.push(Exchange {
                account: account.clone(),
                holder: self.holder,
                opened_by: None,
                epoch: held.epoch,
                seq: held.seq,
                consumed: Units::new(held.consumed),
                returned: Units::new(held.returned),
                overrun: Units::new(held.overrun),
                draw: (want > 0).then_some(draw),
                then,
            });
            charges.push((account, used, Road::Lease));
        }
        let name = |what: &str| format!("{what}-{}-{step}", self.holder);
        let mut settlements = vec![settlement(&name("lease"), u128::from(step), &charges)];
        if let Some(account) = accounts.first().filter(|_| self.dice.is_lucky(30)) {
            let direct = [(account, self.dice.below(50) - 10, Road::Direct)];
            settlements.push(settlement(&name("direct"), u128::from(step), &direct));
        }
        batch(&settlements, &exchanges)
    }

    /// Sends a batch, sometimes twice at once or once more, as it happens when answers are late or lost.
    async fn send(&mut self, batch: &Batch, now: Wall) -> Result<(), StoreError> {
        let times = if self.dice.is_lucky(30) { 2 } else { 1 };
        let answers = join_all((0..times).map(|_| self.store.commit(batch, now))).await;
        let answers: Vec<_> = answers.into_iter().collect::<Result<_, _>>()?;
        if self.dice.is_lucky(20) {
            self.store.commit(batch, now).await?;
        }
        let granted = |at: usize| -> Vec<_> { answers[at].iter().map(|g| g.granted).collect() };
        assert_eq!(granted(0), granted(times - 1), "one sequence number, one grant");
        for (exchange, grant) in batch.exchanges.iter().zip(&answers[0]) {
            let held = self.held.get_mut(&exchange.account).unwrap();
            held.granted = grant.granted.get();
            if exchange.then == Then::Close || grant.ttl.is_zero() {
                *held = Held { epoch: held.epoch + 1, ..Held::default() };
            }
        }
        for charge in batch.settlements.iter().flat_map(|settlement| settlement.charges.iter()) {
            let sums = self.reported.entry(charge.account.clone()).or_default();
            match charge.road {
                Road::Lease => sums.0 += charge.amount.get(),
                Road::Direct => sums.1 += charge.amount.get(),
            }
        }
        Ok(())
    }

    /// A lost lease had nothing outstanding. What was to be reported under it is reported under the next.
    async fn start_anew(&mut self, sent: &Batch, lost: &AccountKey, now: Wall) {
        let mut again = sent.clone();
        let mut lost = lost.clone();
        loop {
            let charged = again.settlements[0].charges.iter().find(|charge| charge.account == lost);
            let used = charged.unwrap().amount;
            let held = self.held.get_mut(&lost).unwrap();
            *held = Held {
                epoch: held.epoch + 1,
                seq: 1,
                granted: 0,
                consumed: used.get(),
                returned: 0,
                overrun: used.get(),
            };
            let exchange = again.exchanges.iter_mut().find(|x| x.account == lost).unwrap();
            *exchange = Exchange {
                epoch: held.epoch,
                seq: 1,
                consumed: used,
                returned: Units::ZERO,
                overrun: used,
                ..exchange.clone()
            };
            match self.send(&again, now).await {
                Ok(()) => return,
                Err(StoreError::LeaseLost(account)) => lost = *account,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

async fn leases_on(db: &mut PgConnection, account: &AccountKey) -> Vec<Lease> {
    let rows = sqlx::query("SELECT * FROM lease").fetch_all(db).await.unwrap();
    let leases = rows.iter().map(|row| {
        let row = KeyedLeaseRow::from_row(row).unwrap();
        <((AccountKey, HolderId, u32), Lease)>::try_from(row).unwrap()
    });
    leases.filter(|((key, ..), _)| key == account).map(|(_, lease)| lease).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_that_many_hammer_at_keep_every_invariant() {
    let database = Database::new().await;
    let store = &database.store;
    let mut budget = budget(1, "p1");
    budget.limits.cost = Some(NanoUsd::new(LIMIT));
    budget.limits.tokens = Some(Tokens::new(LIMIT / 4));
    store.create_budget(&budget).await.unwrap();
    let cost = cost_of(&budget);
    let tokens = AccountKey { dimension: Dimension::Tokens, ..cost.clone() };
    let other = AccountKey { target: id("p2"), ..cost.clone() };
    let accounts = vec![cost, tokens, other];
    let now = Arc::new(AtomicI64::new(NOON.as_ms()));
    let runs = (1..=HOLDERS).map(|number| {
        let replica = Replica {
            store: store.clone(),
            holder: HolderId(number),
            dice: Dice(u64::try_from(number).unwrap()),
            now: Arc::clone(&now),
            held: BTreeMap::new(),
            reported: BTreeMap::new(),
        };
        tokio::spawn(replica.run(accounts.clone()))
    });
    let reports: Vec<_> = join_all(runs).await.into_iter().map(Result::unwrap).collect();
    let mut db = database.connect().await;
    for account in &accounts {
        check(store, &mut db, &budget, account, &reports).await;
    }
    db.close().await.unwrap();
    database.remove().await;
}

/// Each change gives the budget a schedule that no other has, so that it is of a generation of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replacements_and_resets_of_one_budget_at_the_same_time_all_count() {
    const CHANGES: i64 = 24;
    let database = Database::new().await;
    let store = &database.store;
    let first = budget(1, "p1");
    store.create_budget(&first).await.unwrap();
    let replacing = join_all((1..=CHANGES).map(|number| {
        let (store, mut changed) = (store.clone(), first.clone());
        let zone = Zone::parse(&format!("Etc/GMT{:+}", number % 12)).unwrap();
        let period = if number <= CHANGES / 2 { Period::Daily } else { Period::Weekly };
        changed.limits.schedule =
            changed.limits.schedule.map(|schedule| Schedule { zone, period, ..schedule });
        tokio::spawn(
            async move { store.replace_budget(&changed, None, None).await.unwrap().generation },
        )
    }));
    let resetting = join_all((0..CHANGES).map(|_| {
        let (store, mut read) = (store.clone(), first.clone());
        tokio::spawn(async move {
            while let Err(error) = store.reset_budget(&read, MONTH).await {
                assert!(matches!(error, StoreError::Changed), "{error}");
                read = store.budget(&read.workspace, read.id).await.unwrap().unwrap();
            }
        })
    }));
    let (generations, _) = tokio::join!(replacing, resetting);
    let mut generations: Vec<_> =
        generations.into_iter().map(|it| i64::from(it.unwrap())).collect();
    generations.sort_unstable();
    assert_eq!(generations, (1..=CHANGES).collect::<Vec<_>>());
    let last = store.budget(&first.workspace, first.id).await.unwrap().unwrap();
    assert_eq!((i64::from(last.generation), i64::from(last.resets)), (CHANGES, CHANGES));
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_changes_of_one_budget_at_the_same_time_none_is_lost() {
    const CHANGES: i64 = 12;
    let database = Database::new().await;
    let first = budget(1, "p1");
    database.store.create_budget(&first).await.unwrap();
    let changing = (0..CHANGES).map(|_| {
        let (store, workspace, id) = (database.store.clone(), first.workspace.clone(), first.id);
        tokio::spawn(async move {
            loop {
                let read = store.budget(&workspace, id).await.unwrap().unwrap();
                let mut more = read.clone();
                more.limits.cost = read.limits.cost.map(|cost| cost.plus(NanoUsd::new(1)));
                match store.replace_budget(&more, Some(&read), None).await {
                    Err(StoreError::Changed) => {}
                    changed => return changed.unwrap(),
                }
            }
        })
    });
    join_all(changing).await.into_iter().for_each(|changed| drop(changed.unwrap()));
    let last = database.store.budget(&first.workspace, first.id).await.unwrap().unwrap();
    let cost = first.limits.cost.unwrap().plus(NanoUsd::new(CHANGES));
    assert_eq!(last.limits.cost, Some(cost));
    database.remove().await;
}

/// A batch that opens accounts of a budget waits for the transaction that deletes it.
#[tokio::test]
async fn a_batch_that_races_the_deletion_of_its_budget_leaves_no_account() {
    let database = Database::new().await;
    let store = &database.store;
    let (gone, stays) = (budget(1, "p1"), budget(2, "p2"));
    for budget in [&gone, &stays] {
        store.create_budget(budget).await.unwrap();
    }
    let mut deleting = database.connect().await;
    sqlx::raw_sql(
        "BEGIN; DELETE FROM budget WHERE target = 'p1'; DELETE FROM account; DELETE FROM lease",
    )
    .execute(&mut deleting)
    .await
    .unwrap();
    let charged = settlement("s1", 1, &[(&requests_of(&gone), 1, Road::Direct)]);
    let sent =
        batch(&[charged], &[exchange(&cost_of(&gone), 1, 10), exchange(&cost_of(&stays), 1, 10)]);
    let sending = {
        let store = store.clone();
        tokio::spawn(async move { store.commit(&sent, NOON).await })
    };
    let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock')";
    let mut looking = database.connect().await;
    while !sending.is_finished()
        && !sqlx::query_scalar::<_, bool>(waits).fetch_one(&mut looking).await.unwrap()
    {}
    sqlx::raw_sql("COMMIT").execute(&mut deleting).await.unwrap();
    let grants = sending.await.unwrap();
    let granted: Vec<_> = grants.unwrap().iter().map(|grant| grant.granted.get()).collect();
    assert_eq!(granted, [0, 10]);
    assert_eq!(store.accounts(&gone, MONTH).await.unwrap(), []);
    assert_eq!(store.accounts(&stays, MONTH).await.unwrap().len(), 1);
    for connection in [deleting, looking] {
        connection.close().await.unwrap();
    }
    database.remove().await;
}

async fn check(
    store: &PostgresStore,
    db: &mut PgConnection,
    budget: &Budget,
    key: &AccountKey,
    reports: &[BTreeMap<AccountKey, (i64, i64)>],
) {
    let found = store.accounts(budget, MONTH).await.unwrap();
    let account = found.into_iter().find(|(found, _)| found == key).unwrap().1;
    let sums = reports.iter().filter_map(|report| report.get(key));
    let (leased, direct) = sums.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
    let leases = leases_on(&mut *db, key).await;
    escrow::check_invariants(&account, &leases, Units::new(direct)).unwrap();
    let events: i64 = sqlx::query_scalar(
        "SELECT COALESCE(SUM(amount), 0)::bigint FROM usage_event WHERE dimension = $1 AND target = $2",
    )
    .bind(key.dimension.as_str())
    .bind(key.target.as_str())
    .fetch_one(db)
    .await
    .unwrap();
    assert_eq!((events, account.spent.get()), (leased + direct, leased + direct), "{key:?}");
    assert!(account.spent.get() > 0 && account.spent.get() <= LIMIT + account.overdraft.get());
}

/// Waits until somebody waits for a lock of this kind.
async fn until_one_waits(database: &Database, kind: &str) {
    let mut looking = database.connect().await;
    let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = $1)";
    let one_waits = async |db: &mut PgConnection| -> bool {
        sqlx::query_scalar(waits).bind(kind).fetch_one(db).await.unwrap()
    };
    let one = async { while !one_waits(&mut looking).await {} };
    timeout(CALL_TIMEOUT, one).await.unwrap_or_else(|_| panic!("nobody waits for {kind}"));
    looking.close().await.unwrap();
}

/// A lease of holder 1 with 100 lent, and a batch that reports on it.
async fn a_report_on_a_lease(store: &PostgresStore) -> Batch {
    let budget = budget(1, "p1");
    let cost = cost_of(&budget);
    store.create_budget(&budget).await.unwrap();
    store.commit(&batch(&[], &[exchange(&cost, 1, 100)]), NOON).await.unwrap();
    let report = Exchange { consumed: Units::new(60), ..exchange(&cost, 2, 0) };
    batch(&[settlement("s1", 1, &[(&cost, 60, Road::Lease)])], &[report])
}

#[tokio::test]
async fn a_batch_that_is_being_applied_is_in_what_its_holders_successor_finds() {
    let database = Database::new().await;
    let store = &database.store;
    let report = a_report_on_a_lease(store).await;
    let mut other = database.connect().await;
    sqlx::raw_sql("BEGIN; SELECT FROM account FOR UPDATE").execute(&mut other).await.unwrap();
    let taking_over = async {
        until_one_waits(&database, "transactionid").await;
        store.adopt(&[HolderId(1)], HolderId(2), NOON).await
    };
    let letting_go = async {
        until_one_waits(&database, "advisory").await;
        sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    };
    let (applied, adopted, ()) = join!(store.commit(&report, NOON), taking_over, letting_go);
    assert_eq!(applied.unwrap()[0].spent.get(), 60);
    assert_eq!(adopted.unwrap()[0].lease.consumed.get(), 60);
    other.close().await.unwrap();
    database.remove().await;
}

#[tokio::test]
async fn a_batch_that_comes_while_its_holder_is_taken_over_is_not_applied() {
    let database = Database::new().await;
    let store = &database.store;
    let report = a_report_on_a_lease(store).await;
    let mut other = database.connect().await;
    let take_over = format!(
        "BEGIN; SELECT bursar_take_over(ARRAY['{}'], '{}', 10000, {})",
        HolderId(1),
        HolderId(2),
        NOON.as_ms()
    );
    sqlx::raw_sql(AssertSqlSafe(take_over)).execute(&mut other).await.unwrap();
    let done = async {
        until_one_waits(&database, "advisory").await;
        sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    };
    let (refused, ()) = join!(store.commit(&report, NOON), done);
    assert!(matches!(refused, Err(StoreError::TakenOver)), "{refused:?}");
    assert_eq!(store.settlement(&id("ws"), &id("s1")).await.unwrap(), None);
    let adopted = store.adopt(&[HolderId(1)], HolderId(2), NOON).await.unwrap();
    assert_eq!(adopted[0].lease.consumed.get(), 0);
    other.close().await.unwrap();
    database.remove().await;
}

#[tokio::test]
async fn what_is_taken_over_while_forfeits_are_released_is_not_released() {
    let database = Database::new().await;
    let store = &database.store;
    a_report_on_a_lease(store).await;
    let later = NOON.plus(2 * TTL);
    assert_eq!(store.sweep(later).await.unwrap(), 1);
    let mut other = database.connect().await;
    sqlx::raw_sql("BEGIN; SELECT FROM account FOR UPDATE").execute(&mut other).await.unwrap();
    let taking_over = async {
        until_one_waits(&database, "transactionid").await;
        let adopted = store.adopt(&[HolderId(1)], HolderId(2), later).await;
        sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
        adopted
    };
    let workspace = id("ws");
    let releasing = store.release_forfeits(&workspace, BudgetId(1), later);
    let (released, adopted) = join!(releasing, taking_over);
    assert_eq!((released.unwrap(), adopted.unwrap().len()), (Vec::new(), 1));
    other.close().await.unwrap();
    database.remove().await;
}
