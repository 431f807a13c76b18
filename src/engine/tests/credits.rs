//! Prepaid credits: the gate, what is added while it refuses, what expires, and the sum of the entries.

use tokio::task::JoinSet;

use super::flood::random;
use super::unsteady::Weather;
use super::*;
use crate::domain::credits::{Added, CreditGrant, Holdings};
use crate::store::CreditStore;

fn grant(name: &str, amount: i64) -> CreditGrant {
    CreditGrant {
        id: id(name),
        amount: NanoUsd::new(amount),
        priority: 50,
        expires_at: None,
        reason: id("test"),
        created_at: NOON,
    }
}

impl Bench {
    async fn add(&self, grant: CreditGrant) {
        let added = self.engine.add_credit(&id(WORKSPACE), &grant).await.unwrap();
        assert!(matches!(added, Added::New(_)), "{added:?}");
    }

    async fn credits(&self) -> Holdings {
        self.engine.credits(&id(WORKSPACE)).await.unwrap().unwrap()
    }

    async fn balance(&self) -> i64 {
        self.credits().await.balance().get()
    }

    /// The amounts of all entries by their names, newest first.
    async fn entries(&self) -> Vec<(String, i64)> {
        let page = self.engine.credit_entries(&id(WORKSPACE), None, 200).await.unwrap();
        assert!(!page.has_more);
        page.entries.iter().map(|entry| (entry.id.to_string(), entry.amount.get())).collect()
    }
}

#[tokio::test]
async fn two_hundred_requests_at_once_never_exceed_a_small_balance() {
    let bench = Bench::with([]).await;
    bench.add(grant("g1", 1000)).await;
    let mut asking = JoinSet::new();
    for _ in 0..200 {
        let engine = bench.engine.clone();
        asking.spawn(async move { engine.reserve(request(30), FOREVER).await.hand_over() });
    }
    let mut admitted = Vec::new();
    while let Some(decision) = asking.join_next().await {
        match decision.unwrap() {
            Decision::Allow(admission) => admitted.push(admission.reservation.unwrap()),
            Decision::Deny(refusal) => {
                let gate = refusal.gate.unwrap();
                assert_eq!((gate.scope_kind, gate.target.as_str()), (ScopeKind::Workspace, "ws"));
                assert_eq!(refusal.code, RefusalCode::BudgetInFlight);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(admitted.len(), 33);
    for (number, reservation) in admitted.into_iter().enumerate() {
        bench.engine.report(cost_of(reservation, &format!("s{number}"), 30)).await.unwrap();
    }
    assert_eq!(bench.balance().await, 10);
    assert_eq!(bench.refused(30).await, RefusalCode::RequestExceedsBudget);
    bench.admitted(10).await;
}

#[tokio::test]
async fn a_grant_admits_at_once_what_was_refused_for_want_of_credits() {
    let bench = Bench::with([]).await;
    bench.add(grant("g1", 100)).await;
    let reservation = bench.admitted(100).await;
    bench.engine.report(cost_of(reservation, "s1", 100)).await.unwrap();
    for round in 2..10 {
        assert_eq!(bench.refused(100).await, RefusalCode::CreditsExhausted);
        let calls = bench.store.calls();
        assert_eq!(bench.refused(100).await, RefusalCode::CreditsExhausted);
        assert_eq!(bench.store.calls(), calls, "a refused flood costs the store nothing");
        bench.add(grant(&format!("g{round}"), 100)).await;
        let reservation = bench.admitted(100).await;
        bench.engine.report(cost_of(reservation, &format!("s{round}"), 100)).await.unwrap();
    }
}

#[tokio::test]
async fn the_first_grant_ever_closes_the_gate_for_the_next_request() {
    let bench = Bench::with([]).await;
    let before = bench.admitted(1000).await;
    bench.add(grant("g1", 100)).await;
    assert_eq!(bench.refused(1000).await, RefusalCode::RequestExceedsBudget);
    bench.engine.report(cost_of(before, "s1", 900)).await.unwrap();
    assert_eq!(bench.balance().await, 100, "it was admitted without credits");
}

#[tokio::test]
async fn credits_expire_with_what_was_lent_of_them_and_not_used() {
    let bench = Bench::with([]).await;
    let soon = NOON.plus(Duration::from_secs(60));
    bench.add(CreditGrant { expires_at: Some(soon), ..grant("soon", 1000) }).await;
    bench.add(grant("late", 50)).await;
    let reservation = bench.admitted(100).await;
    let open = bench.admitted(30).await;
    bench.engine.report(cost_of(reservation, "s1", 100)).await.unwrap();
    bench.clock.advance(Duration::from_secs(60));
    assert_eq!(bench.balance().await, 80, "the grant's 30 in flight and the other one's 50");
    assert_eq!(bench.entries().await[0], ("expiry:soon".to_owned(), -870));
    assert_eq!(bench.refused(60).await, RefusalCode::BudgetInFlight);
    bench.engine.report(cost_of(open, "s2", 30)).await.unwrap();
    bench.admitted(50).await;
}

#[tokio::test]
async fn credits_expire_without_anybody_asking() {
    let bench = Bench::with([]).await;
    let soon = NOON.plus(Duration::from_secs(60));
    bench.add(CreditGrant { expires_at: Some(soon), ..grant("soon", 1000) }).await;
    bench.clock.advance(Duration::from_secs(60));
    let stored = async || bench.store.inner.credits(&id(WORKSPACE)).await.unwrap().unwrap();
    until("the expiry", async || stored().await.balance() == NanoUsd::ZERO).await;
    assert_eq!(bench.refused(1).await, RefusalCode::CreditsExhausted);
}

#[tokio::test]
async fn credits_are_in_force_again_after_a_kill() {
    let bench = Bench::with([]).await;
    bench.add(grant("g1", 100)).await;
    let reservation = bench.admitted(60).await;
    let bench = bench.killed_and_restarted().await;
    assert_eq!(bench.refused(50).await, RefusalCode::BudgetInFlight);
    bench.engine.report(cost_of(reservation, "s1", 60)).await.unwrap();
    assert_eq!(bench.refused(50).await, RefusalCode::RequestExceedsBudget);
    assert_eq!(bench.balance().await, 40);
}

#[tokio::test]
async fn a_grant_whose_answer_was_lost_is_in_force_soon_and_can_be_repeated() {
    let bench = Bench::with([]).await;
    bench.store.turn(Weather::Mute);
    bench.engine.add_credit(&id(WORKSPACE), &grant("g1", 100)).await.unwrap_err();
    bench.store.turn(Weather::Fair);
    until("the gate", async || {
        let asked = bench.ask(1000).await;
        matches!(asked.decision(), Decision::Deny(_))
    })
    .await;
    let again = bench.engine.add_credit(&id(WORKSPACE), &grant("g1", 100)).await.unwrap();
    assert_eq!(again, Added::Before(grant("g1", 100)));
    assert_eq!(bench.balance().await, 100);
}

#[tokio::test]
async fn the_sum_of_the_entries_is_the_balance_whatever_happens() {
    for seed in 1..6 {
        let mut random = random(seed);
        let bench = Bench::with([]).await;
        bench.add(grant("first", 100)).await;
        let mut open = Vec::new();
        for step in 0..100 {
            let name = format!("n{step}");
            match random(8) {
                0 => {
                    let seconds = Duration::from_secs(1 + random(40));
                    let ends = (random(2) == 0).then(|| bench.engine.wall().plus(seconds));
                    let amount = i64::try_from(1 + random(300)).unwrap();
                    bench.add(CreditGrant { expires_at: ends, ..grant(&name, amount) }).await;
                }
                1 => bench.clock.advance(Duration::from_secs(random(9))),
                2..5 => {
                    let cost = i64::try_from(random(60)).unwrap();
                    if let Decision::Allow(admission) = bench.ask(cost).await.hand_over() {
                        open.push((admission.reservation.unwrap(), cost));
                    }
                }
                5 => drop(bench.ask(20).await),
                _ => {
                    let Some((reservation, cost)) = open.pop() else { continue };
                    let actual = cost + i64::try_from(random(20)).unwrap() - 10;
                    bench.engine.report(cost_of(reservation, &name, actual.max(0))).await.unwrap();
                    let corrected = i64::try_from(random(60)).unwrap();
                    let corrected = cost_of(reservation, &format!("{name}-corrected"), corrected);
                    let corrected = Report { correction: Correction::Yes, ..corrected };
                    bench.engine.report(corrected).await.unwrap();
                }
            }
        }
        let balance = bench.balance().await;
        let sum: i64 = bench.entries().await.iter().map(|(_, amount)| amount).sum();
        assert_eq!(sum, balance, "seed {seed}: {:?}", bench.entries().await);
    }
}
