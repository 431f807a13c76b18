//! What exchanges cost: how many batches a second, of one account and of a hundred, at the same rows and at others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bursar::domain::budget::{Budget, Dimension, Limits, WhenUnavailable};
use bursar::domain::ids::{BudgetId, HolderId, Id, ReservationId};
use bursar::domain::ledger::escrow::{AccountKey, Draw, Exchange, Then};
use bursar::domain::money::{Amounts, NanoUsd, Tokens, Units};
use bursar::domain::settlement::{Certainty, Charge, Road, Settlement};
use bursar::domain::subject::{Scope, ScopeKind, Subject, Target};
use bursar::domain::time::Wall;
use bursar::store::postgres::PostgresStore;
use bursar::store::{Batch, Store};

const LIMIT: i64 = i64::MAX / 4;
/// How long each case runs.
const RUN: Duration = Duration::from_secs(4);

pub(crate) async fn run(store: &PostgresStore) {
    let nonce = u128::from(std::process::id()) << 64;
    println!("case                                        batches/s  exchanges/s  ms/batch");
    for (number, (name, replicas, accounts, is_shared)) in [
        ("1 account, 1 replica", 1_u32, 1_u32, false),
        ("1 account, 8 replicas at the same", 8, 1, true),
        ("1 account each, 8 replicas", 8, 1, false),
        ("100 accounts, 1 replica", 1, 100, false),
        ("100 accounts, 8 replicas at the same", 8, 100, true),
        ("100 accounts each, 8 replicas", 8, 100, false),
    ]
    .into_iter()
    .enumerate()
    {
        let budget = budget(nonce + u128::try_from(number).unwrap() + 1);
        store.create_budget(&budget).await.unwrap();
        let begun = Instant::now();
        let runs = (1..=replicas).map(|replica| {
            let prefix = if is_shared { 0 } else { replica };
            let keys = (0..accounts).map(|n| key(&budget, &format!("t{prefix}-{n}"))).collect();
            tokio::spawn(exchange_all(store.clone(), HolderId(replica.into()), keys))
        });
        let runs: Vec<_> = runs.collect();
        let mut batches = 0;
        for run in runs {
            batches += run.await.unwrap();
        }
        let seconds = begun.elapsed().as_secs_f64();
        let rate = f64::from(batches) / seconds;
        println!(
            "{name:<43} {rate:>9.0} {:>12.0} {:>9.2}",
            rate * f64::from(accounts),
            f64::from(replicas) / rate * 1e3
        );
    }
}

/// Reports, draws and settles on each account, one batch after the other; gives the number of batches.
async fn exchange_all(store: PostgresStore, holder: HolderId, keys: Vec<AccountKey>) -> u32 {
    let begun = Instant::now();
    let mut seq = 0;
    while begun.elapsed() < RUN {
        seq += 1;
        let exchanges = keys.iter().map(|account| Exchange {
            account: account.clone(),
            holder,
            opened_by: None,
            epoch: 1,
            seq,
            consumed: Units::new(i64::from(seq - 1)),
            returned: Units::ZERO,
            overrun: Units::ZERO,
            draw: Some(Draw { need_min: Units::new(1), need: Units::new(1), want: Units::new(1) }),
            then: Then::Renew,
        });
        let batch = Batch {
            workspace: id("bench"),
            holder,
            settlements: vec![settlement(holder, seq, &keys[0])],
            exchanges: exchanges.collect(),
        };
        store.commit(&batch, Wall::default()).await.unwrap();
    }
    seq
}

fn settlement(holder: HolderId, seq: u32, account: &AccountKey) -> Settlement {
    Settlement {
        id: id(&format!("{}-{holder}-{seq}", account.budget)),
        subject: Arc::new(Subject::of_workspace(id("bench"))),
        reservation: Some(ReservationId { holder, nonce: u128::from(seq) }),
        certainty: Certainty::Exact,
        amounts: Amounts { cost: NanoUsd::new(1), tokens: Tokens::new(0) },
        usage: None,
        model: None,
        rates: None,
        at: Wall::default(),
        charges: [Charge { account: account.clone(), amount: Units::new(1), road: Road::Lease }]
            .into(),
    }
}

pub(crate) fn id(text: &str) -> Id {
    Id::parse(text).unwrap()
}

pub(crate) fn key(budget: &Budget, target: &str) -> AccountKey {
    AccountKey {
        workspace: budget.workspace.clone(),
        budget: budget.id,
        generation: 0,
        dimension: Dimension::Cost,
        target: id(target),
        window: Arc::from(""),
    }
}

pub(crate) fn budget(number: u128) -> Budget {
    Budget {
        workspace: id("bench"),
        id: BudgetId(number),
        generation: 0,
        resets: 0,
        scope: Scope {
            kind: ScopeKind::Project,
            target: Target::from_id(id(&format!("p{number}"))),
        },
        limits: Limits { cost: Some(NanoUsd::new(LIMIT)), ..Limits::default() },
        is_active: true,
        expires_at: None,
        shadow: false,
        when_unavailable: WhenUnavailable::Deny,
        name: None,
        created_at: Wall::default(),
        updated_at: Wall::default(),
    }
}
