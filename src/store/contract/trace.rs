//! The same random trace on every store gives the same results.

use std::collections::BTreeMap;
use std::fmt::Debug;

use proptest::prelude::*;

use super::*;
use crate::domain::credits::{self, CreditGrant};
use crate::domain::period::Window;
use crate::store::memory::MemoryStore;
use crate::store::postgres::testing::Database;
use crate::store::{BudgetFilter, Cursor};

const BUDGETS: u128 = 3;
const HOLDERS: u128 = 3;

/// One call, chosen at random.
#[derive(Debug, Clone)]
enum Step {
    Create { budget: u128, scope: u8 },
    Replace { budget: u128, scope: u8, limit: i64, generation: u32 },
    Delete { budget: u128 },
    Reset { budget: u128 },
    Commit { settlements: Vec<Charged>, exchanges: Vec<Exchanged> },
    Again,
    Adopt { from: u128, to: u128 },
    Sweep { seconds: u64 },
    Grant { number: u8, amount: i64, priority: u8, seconds: Option<u64> },
    Expire,
    Notices { told: bool },
}

#[derive(Debug, Clone)]
struct Charged {
    id: u8,
    reservation: u8,
    place: Place,
    amount: i64,
    road: Road,
}

#[derive(Debug, Clone)]
struct Exchanged {
    place: Place,
    holder: u128,
    opened_by: Option<u128>,
    epoch: u32,
    /// Usually the next one; an offset makes it a replay or a lost lease.
    seq_offset: u32,
    consume: i64,
    give_back: i64,
    draw: i64,
    then: Then,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    budget: u128,
    generation: u32,
    dimension: Dimension,
}

fn place() -> impl Strategy<Value = Place> {
    let dimension =
        prop_oneof![Just(Dimension::Cost), Just(Dimension::Tokens), Just(Dimension::Requests)];
    // Number 0 stands for the credits.
    (0..=BUDGETS, prop_oneof![5 => Just(0u32), 1 => Just(1)], dimension)
        .prop_map(|(budget, generation, dimension)| Place { budget, generation, dimension })
}

fn charged() -> impl Strategy<Value = Charged> {
    let road = prop_oneof![Just(Road::Lease), Just(Road::Direct)];
    (0u8..40, 0u8..10, place(), -50i64..300, road).prop_map(
        |(id, reservation, place, amount, road)| Charged { id, reservation, place, amount, road },
    )
}

fn exchanged() -> impl Strategy<Value = Exchanged> {
    let then = prop_oneof![6 => Just(Then::Renew), 1 => Just(Then::Close)];
    let seq_offset = prop_oneof![30 => Just(1u32), 2 => Just(0), 1 => Just(2)];
    let opened_by = prop_oneof![3 => Just(None), 1 => (1..=HOLDERS).prop_map(Some)];
    let holders = (1..=HOLDERS, opened_by);
    (place(), holders, 1u32..3, seq_offset, 0i64..60, 0i64..60, 0i64..400, then).prop_map(
        |(place, (holder, opened_by), epoch, seq_offset, consume, give_back, draw, then)| {
            Exchanged {
                place,
                holder,
                opened_by,
                epoch,
                seq_offset,
                consume,
                give_back,
                draw,
                then,
            }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let commit =
        (proptest::collection::vec(charged(), 0..4), proptest::collection::vec(exchanged(), 0..4))
            .prop_map(|(settlements, exchanges)| Step::Commit { settlements, exchanges });
    prop_oneof![
        2 => (1..=BUDGETS, 0u8..4).prop_map(|(budget, scope)| Step::Create { budget, scope }),
        2 => (1..=BUDGETS, 0u8..4, 0i64..2000, 0u32..2)
            .prop_map(|(budget, scope, limit, generation)| Step::Replace { budget, scope, limit, generation }),
        1 => (1..=BUDGETS).prop_map(|budget| Step::Delete { budget }),
        1 => (1..=BUDGETS).prop_map(|budget| Step::Reset { budget }),
        12 => commit,
        2 => Just(Step::Again),
        1 => (1..=HOLDERS, 1..=HOLDERS).prop_map(|(from, to)| Step::Adopt { from, to }),
        2 => (1u64..100).prop_map(|seconds| Step::Sweep { seconds }),
        2 => (0u8..9, 1i64..900, 0u8..2, proptest::option::of(0u64..200))
            .prop_map(|(number, amount, priority, seconds)| Step::Grant { number, amount, priority, seconds }),
        1 => Just(Step::Expire),
        1 => any::<bool>().prop_map(|told| Step::Notices { told }),
    ]
}

/// What the caller of the stores remembers.
#[derive(Default)]
struct Caller {
    now: Wall,
    last: Option<Batch>,
    /// The last exchange of each lease.
    leases: BTreeMap<(AccountKey, HolderId, u32), Exchange>,
}

impl Caller {
    /// Does one step on a store and shows its result.
    async fn run(&self, store: &dyn Store, step: &Step, sent: Option<&Batch>) -> String {
        match step {
            Step::Create { budget, scope } => {
                shown(store.create_budget(&made(*budget, *scope)).await)
            }
            Step::Replace { budget, scope, limit, generation } => {
                let mut new = made(*budget, *scope);
                if *generation > 0 {
                    new = weekly(&new);
                }
                new.limits.cost = (*limit > 100).then_some(NanoUsd::new(*limit));
                let window = Window { start: Wall::from_ms(0), end: None, label: Arc::from(MONTH) };
                shown(store.replace_budget(&new, None, Some(&window)).await)
            }
            Step::Delete { budget } => {
                shown(store.delete_budget(&id("ws"), BudgetId(*budget)).await)
            }
            Step::Reset { budget } => shown(store.reset_budget(&made(*budget, 0), MONTH).await),
            Step::Commit { .. } | Step::Again => match sent {
                Some(batch) => shown(store.commit(batch, self.now).await),
                None => String::new(),
            },
            Step::Adopt { from, to } => {
                shown(store.adopt(&[HolderId(*from)], HolderId(*to), self.now).await)
            }
            Step::Sweep { .. } => shown(store.sweep(self.now).await),
            Step::Grant { number, amount, priority, seconds } => {
                let expires_at =
                    seconds.map(|seconds| Wall::from_ms(0).plus(Duration::from_secs(seconds)));
                let grant = super::credits::grant(&format!("g{number}"), *amount);
                let grant = CreditGrant { priority: *priority, expires_at, ..grant };
                shown(store.add_credit(&id("ws"), &grant, self.now).await)
            }
            Step::Expire => shown(store.expire_credits(&id("ws"), self.now).await),
            Step::Notices { told } => {
                let notices = store.due_notices(self.now).await.unwrap();
                for notice in notices.iter().filter(|_| *told) {
                    store.notice_told(notice).await.unwrap();
                }
                shown(notices)
            }
        }
    }

    /// The batch that a step sends.
    fn batch(&self, step: &Step) -> Option<Batch> {
        if let Step::Again = step {
            return self.last.clone();
        }
        let Step::Commit { settlements, exchanges } = step else { return None };
        let settlements: Vec<_> = settlements.iter().map(settled).collect();
        let exchanges: Vec<_> =
            exchanges.iter().map(|exchanged| self.exchange(exchanged)).collect();
        Some(batch(&settlements, &exchanges))
    }

    fn exchange(&self, exchanged: &Exchanged) -> Exchange {
        let account = account_at(exchanged.place);
        let holder = HolderId(exchanged.holder);
        let opened_by = exchanged.opened_by.map(HolderId);
        let name = (account.clone(), opened_by.unwrap_or(holder), exchanged.epoch);
        let before = self.leases.get(&name);
        let total = |of: fn(&Exchange) -> Units, more| {
            before.map_or(Units::ZERO, of).plus(Units::new(more))
        };
        let exchange =
            exchange(&account, before.map_or(0, |e| e.seq) + exchanged.seq_offset, exchanged.draw);
        // Small draws are refills that nobody waits for.
        let part = |of: i64| Units::new(exchanged.draw / of);
        let draw = exchange.draw.map(|draw| Draw { need_min: part(50), need: part(10), ..draw });
        Exchange {
            holder,
            opened_by,
            epoch: exchanged.epoch,
            consumed: total(|e| e.consumed, exchanged.consume),
            returned: total(|e| e.returned, exchanged.give_back),
            overrun: total(|e| e.overrun, exchanged.consume / 20),
            draw,
            then: exchanged.then,
            ..exchange
        }
    }

    fn learn(&mut self, step: &Step, sent: Option<Batch>, result: &str) {
        if let Step::Sweep { seconds } = step {
            self.now = self.now.plus(Duration::from_secs(*seconds));
        }
        let Some(sent) = sent else { return };
        if result.starts_with("Ok") {
            for exchange in &sent.exchanges {
                let key = (exchange.account.clone(), exchange.opener(), exchange.epoch);
                self.leases.insert(key, exchange.clone());
            }
        }
        self.last = Some(sent);
    }
}

fn made(budget: u128, scope: u8) -> Budget {
    super::budget(budget, &format!("p{scope}"))
}

fn account_at(place: Place) -> AccountKey {
    if place.budget == 0 {
        return credits::account(&id("ws"));
    }
    let budget = Budget { generation: place.generation, ..made(place.budget, 0) };
    let key = if place.dimension == Dimension::Requests {
        requests_of(&budget)
    } else {
        cost_of(&budget)
    };
    AccountKey { dimension: place.dimension, ..key }
}

fn settled(charged: &Charged) -> Settlement {
    let account = account_at(charged.place);
    let name = format!("s{}", charged.id);
    settlement(&name, u128::from(charged.reservation), &[(&account, charged.amount, charged.road)])
}

fn shown(result: impl Debug) -> String {
    format!("{result:?}")
}

/// All that a store shows of its state.
async fn state(store: &dyn Store) -> Vec<String> {
    let mut state = vec![shown(store.load_budgets().await)];
    let page = store.list_budgets(&id("ws"), &BudgetFilter::default(), Cursor::Start, 2).await;
    state.push(shown(page));
    for number in 1..=BUDGETS {
        for generation in 0..2 {
            let budget = Budget { generation, ..made(number, 0) };
            state.push(shown(store.accounts(&budget, MONTH).await));
        }
    }
    for nonce in 0..10 {
        let reservation = ReservationId { holder: HolderId(1), nonce };
        state.push(shown(store.settlements_of(&id("ws"), reservation).await));
    }
    state.push(shown(store.credits(&id("ws")).await));
    state.push(shown(store.load_credits().await));
    state.push(shown(store.credit_entries(&id("ws"), None, 100).await));
    let (from, to) = (
        Wall::from_ms(0).plus(Duration::from_secs(50)),
        Wall::from_ms(0).plus(Duration::from_secs(150)),
    );
    state.push(shown(store.credit_statement(&id("ws"), from, to).await));
    state.push(shown(store.credit_alert(&id("ws")).await));
    state
}

async fn compare(steps: Vec<Step>) {
    let directory = tempfile::tempdir().unwrap();
    let memory = MemoryStore::new(TTL);
    let sqlite = sqlite_in(directory.path()).await;
    let database = Database::new().await;
    let postgres = &database.store;
    let mut caller = Caller::default();
    for store in [&memory as &dyn Store, &sqlite, postgres] {
        store.set_credit_alert(&id("ws"), Some(&super::credits::terms(300))).await.unwrap();
    }
    let first = [Step::Create { budget: 1, scope: 0 }, Step::Create { budget: 2, scope: 1 }];
    let count = first.len() + steps.len();
    for (number, step) in (1..).zip(first.into_iter().chain(steps)) {
        let sent = caller.batch(&step);
        let result = caller.run(&memory, &step, sent.as_ref()).await;
        for (name, store) in [("SQLite", &sqlite as &dyn Store), ("PostgreSQL", postgres)] {
            let theirs = caller.run(store, &step, sent.as_ref()).await;
            assert_eq!(theirs, result, "{name}: {step:?}");
        }
        caller.learn(&step, sent, &result);
        let expected = state(&memory).await;
        assert_eq!(state(&sqlite).await, expected, "SQLite: after {step:?}");
        // A look at a server is slow.
        if number % 5 == 0 || number == count {
            assert_eq!(state(postgres).await, expected, "PostgreSQL: after {step:?}");
        }
    }
    database.remove().await;
}

proptest! {
    // Each case opens a file and syncs it at every step.
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_stores_cannot_be_told_apart(steps in proptest::collection::vec(step(), 1..40)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(compare(steps));
    }
}
