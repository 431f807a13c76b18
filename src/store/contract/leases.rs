//! Leases: exchanges, expiry, adoption, reset.

use super::*;
use crate::domain::ledger::escrow::{GRACE, LeaseState};
use crate::store::AdoptedLease;

contract!(
    a_batch_lends_up_to_the_limit_of_each_dimension,
    a_batch_sent_again_has_no_further_effect,
    a_lost_lease_rolls_the_whole_batch_back,
    an_exchange_on_a_deleted_budget_holds_nothing_up,
    a_lowered_limit_lends_nothing_more,
    a_lease_among_many_lasts_longer,
    what_expired_is_forfeited_until_its_holder_comes_back,
    request_slots_come_back_a_minute_after_expiry,
    a_clock_that_steps_ahead_frees_no_slots_that_may_be_in_use,
    closed_leases_are_forgotten_after_a_day,
    an_adopted_lease_keeps_its_name_and_goes_on_under_its_new_holder,
    nothing_of_a_holder_that_was_taken_over_is_applied,
    who_was_taken_over_takes_nothing_over,
    an_adopted_lease_is_spared_for_as_long_as_it_would_last,
    a_lease_that_was_taken_over_twice_is_the_last_holders,
    a_reset_starts_anew_and_writes_expired_leases_off,
    a_hundred_accounts_fit_in_one_batch,
    a_store_answers,
);

async fn a_batch_lends_up_to_the_limit_of_each_dimension(store: &dyn Store) {
    let budget = budget(1, "p1");
    store.create_budget(&budget).await.unwrap();
    let asks = [exchange(&cost_of(&budget), 1, 1000), exchange(&requests_of(&budget), 1, 61)];
    let grants = store.commit(&batch(&[], &asks), NOON).await.unwrap();
    assert_eq!(
        (grants[0].granted.get(), grants[0].limit.get(), grants[0].free.get()),
        (1000, 1000, 0)
    );
    assert_eq!((grants[1].granted.get(), grants[1].limit.get(), grants[1].free.get()), (0, 60, 60));
    assert_eq!(grants[0].ttl, TTL);
    let other = Exchange { holder: HolderId(2), ..exchange(&cost_of(&budget), 1, 1) };
    let grants = store.commit(&batch(&[], &[other]), NOON).await.unwrap();
    assert_eq!((grants[0].granted.get(), grants[0].holders), (0, 2));
    assert_eq!(store.accounts(&budget, MONTH).await.unwrap().len(), 2);
    assert_eq!(store.accounts(&budget, "2026-12").await.unwrap().len(), 1);
}

async fn a_batch_sent_again_has_no_further_effect(store: &dyn Store) {
    let budget = budget(1, "p1");
    let cost = cost_of(&budget);
    store.create_budget(&budget).await.unwrap();
    store.commit(&batch(&[], &[exchange(&cost, 1, 100)]), NOON).await.unwrap();
    let settled = [
        settlement("s1", 1, &[(&cost, 60, Road::Lease)]),
        settlement("s2", 2, &[(&cost, 5, Road::Direct)]),
    ];
    let report = Exchange { consumed: Units::new(60), ..exchange(&cost, 2, 50) };
    let sent = batch(&settled, &[report]);
    let grants = store.commit(&sent, NOON).await.unwrap();
    let before = account(store, &budget, &cost).await;
    assert_eq!((grants[0].granted.get(), grants[0].spent.get()), (150, 65));
    assert_eq!(store.commit(&sent, NOON).await.unwrap(), grants);
    assert_eq!(store.commit(&sent, NOON).await.unwrap(), grants);
    assert_eq!(account(store, &budget, &cost).await, before);
}

async fn a_lost_lease_rolls_the_whole_batch_back(store: &dyn Store) {
    let budget = budget(1, "p1");
    let (cost, requests) = (cost_of(&budget), requests_of(&budget));
    store.create_budget(&budget).await.unwrap();
    store.commit(&batch(&[], &[exchange(&cost, 1, 100)]), NOON).await.unwrap();
    let before = store.accounts(&budget, MONTH).await.unwrap();
    let direct = settlement("s1", 1, &[(&cost, 5, Road::Direct)]);
    let good = Exchange { consumed: Units::new(60), ..exchange(&cost, 2, 0) };
    let lost = exchange(&requests, 7, 1);
    let result =
        store.commit(&batch(std::slice::from_ref(&direct), &[good.clone(), lost]), NOON).await;
    assert!(matches!(result, Err(StoreError::LeaseLost(account)) if *account == requests));
    assert_eq!(store.accounts(&budget, MONTH).await.unwrap(), before);
    assert_eq!(store.settlement(&budget.workspace, &direct.id).await.unwrap(), None);
    let grants = store.commit(&batch(&[direct], &[good]), NOON).await.unwrap();
    assert_eq!(grants[0].spent.get(), 65);
}

async fn an_exchange_on_a_deleted_budget_holds_nothing_up(store: &dyn Store) {
    let (gone, stays) = (budget(1, "p1"), budget(2, "p2"));
    store.create_budget(&stays).await.unwrap();
    let settled = settlement(
        "s1",
        1,
        &[(&cost_of(&gone), 60, Road::Lease), (&cost_of(&stays), 5, Road::Direct)],
    );
    let late = Exchange {
        consumed: Units::new(60),
        returned: Units::new(10),
        ..exchange(&cost_of(&gone), 9, 50)
    };
    let sent = batch(std::slice::from_ref(&settled), &[late, exchange(&cost_of(&stays), 1, 10)]);
    let grants = store.commit(&sent, NOON).await.unwrap();
    assert_eq!((grants[0].granted.get(), grants[0].limit.get(), grants[0].free.get()), (70, 0, 0));
    assert_eq!((grants[1].granted.get(), grants[1].spent.get()), (10, 5));
    assert_eq!(store.accounts(&gone, MONTH).await.unwrap(), []);
    assert_eq!(store.settlement(&gone.workspace, &settled.id).await.unwrap(), Some(settled));
    assert_eq!(store.commit(&sent, NOON).await.unwrap(), grants);
}

async fn a_lowered_limit_lends_nothing_more(store: &dyn Store) {
    let mut budget = budget(1, "p1");
    let cost = cost_of(&budget);
    store.create_budget(&budget).await.unwrap();
    store.commit(&batch(&[], &[exchange(&cost, 1, 600)]), NOON).await.unwrap();
    budget.limits.cost = Some(NanoUsd::new(500));
    store.replace_budget(&budget, None, None).await.unwrap();
    let grants = store.commit(&batch(&[], &[exchange(&cost, 2, 1)]), NOON).await.unwrap();
    assert_eq!(
        (grants[0].granted.get(), grants[0].limit.get(), grants[0].free.get()),
        (600, 500, -100)
    );
    budget.limits.cost = None;
    store.replace_budget(&budget, None, None).await.unwrap();
    let grants = store.commit(&batch(&[], &[exchange(&cost, 3, 1)]), NOON).await.unwrap();
    assert_eq!((grants[0].granted.get(), grants[0].limit.get()), (600, 0));
}

async fn a_lease_among_many_lasts_longer(store: &dyn Store) {
    let budget = budget(1, "p1");
    let cost = cost_of(&budget);
    store.create_budget(&budget).await.unwrap();
    let of = |epoch| Exchange { epoch, ..exchange(&cost, 1, 1) };
    let few: Vec<_> = (1..=64).map(of).collect();
    let grants = store.commit(&batch(&[], &few), NOON).await.unwrap();
    assert!(grants.iter().all(|grant| grant.ttl == TTL), "{grants:?}");
    let more: Vec<_> = (65..=96).map(of).collect();
    let sent = batch(&[], &more);
    let grants = store.commit(&sent, NOON).await.unwrap();
    assert_eq!(grants[31].ttl, TTL + TTL / 2, "half as many more");
    assert_eq!(store.commit(&sent, NOON).await.unwrap()[31].ttl, TTL, "good for that at the least");
    for (passed, left) in [(TTL, 32), (TTL + TTL / 2, 0)] {
        store.sweep(NOON.plus(passed + GRACE).plus(Duration::from_millis(1))).await.unwrap();
        let account = account(store, &budget, &cost).await.unwrap();
        assert_eq!(account.holders, left, "after {passed:?}");
    }
}

async fn what_expired_is_forfeited_until_its_holder_comes_back(store: &dyn Store) {
    let budget = budget(1, "p1");
    let cost = cost_of(&budget);
    store.create_budget(&budget).await.unwrap();
    store.commit(&batch(&[], &[exchange(&cost, 1, 600)]), NOON).await.unwrap();
    let seconds = |seconds| NOON.plus(Duration::from_secs(seconds));
    assert_eq!(store.sweep(seconds(12)).await.unwrap(), 0);
    assert_eq!(store.sweep(seconds(13)).await.unwrap(), 1);
    assert_eq!(store.sweep(seconds(13)).await.unwrap(), 0);
    let swept = account(store, &budget, &cost).await.unwrap();
    assert_eq!((swept.leased.get(), swept.forfeited.get(), swept.holders), (0, 600, 0));
    let other = Exchange { holder: HolderId(2), ..exchange(&cost, 1, 401) };
    assert_eq!(
        store.commit(&batch(&[], &[other]), seconds(14)).await.unwrap()[0].granted,
        Units::ZERO
    );
    let late = Exchange { consumed: Units::new(450), ..exchange(&cost, 2, 0) };
    let grants = store.commit(&batch(&[], &[late]), seconds(14)).await.unwrap();
    assert_eq!((grants[0].spent.get(), grants[0].forfeited.get(), grants[0].holders), (450, 0, 2));
}

async fn request_slots_come_back_a_minute_after_expiry(store: &dyn Store) {
    let budget = budget(1, "p1");
    let requests = requests_of(&budget);
    store.create_budget(&budget).await.unwrap();
    store.commit(&batch(&[], &[exchange(&requests, 1, 60)]), NOON).await.unwrap();
    let seconds = |seconds| NOON.plus(Duration::from_secs(seconds));
    assert_eq!(store.sweep(seconds(13)).await.unwrap(), 1);
    assert_eq!(store.sweep(seconds(73)).await.unwrap(), 0);
    assert_eq!(account(store, &budget, &requests).await.unwrap().forfeited.get(), 60);
    assert_eq!(store.sweep(seconds(74)).await.unwrap(), 1);
    assert_eq!(account(store, &budget, &requests).await.unwrap().forfeited.get(), 0);
    let late = store.commit(&batch(&[], &[exchange(&requests, 2, 0)]), seconds(74)).await;
    assert!(matches!(late, Err(StoreError::LeaseLost(_))));
}

async fn a_clock_that_steps_ahead_frees_no_slots_that_may_be_in_use(store: &dyn Store) {
    let budget = budget(1, "p1");
    let requests = requests_of(&budget);
    store.create_budget(&budget).await.unwrap();
    store.commit(&batch(&[], &[exchange(&requests, 1, 60)]), NOON).await.unwrap();
    let stepped = |seconds: u64| NOON.plus(Duration::from_secs(3600 + seconds));
    assert_eq!(store.sweep(stepped(0)).await.unwrap(), 1);
    // Another replica sweeps at once.
    assert_eq!(store.sweep(stepped(1)).await.unwrap(), 0);
    // The holder was never away.
    let grants = store.commit(&batch(&[], &[exchange(&requests, 2, 0)]), stepped(1)).await;
    assert_eq!((grants.unwrap()[0].granted.get(), store.sweep(stepped(2)).await.unwrap()), (60, 0));
}

async fn closed_leases_are_forgotten_after_a_day(store: &dyn Store) {
    let budget = budget(1, "p1");
    let last = Exchange { then: Then::Close, ..exchange(&cost_of(&budget), 2, 0) };
    store.create_budget(&budget).await.unwrap();
    store.commit(&batch(&[], &[exchange(&cost_of(&budget), 1, 60)]), NOON).await.unwrap();
    store.commit(&batch(&[], std::slice::from_ref(&last)), NOON).await.unwrap();
    let hours = |hours: u64| NOON.plus(Duration::from_secs(hours * 3600));
    assert_eq!(store.sweep(hours(24)).await.unwrap(), 0);
    assert_eq!(
        store.commit(&batch(&[], std::slice::from_ref(&last)), NOON).await.unwrap()[0].free.get(),
        1000
    );
    assert_eq!(store.sweep(hours(25)).await.unwrap(), 1);
    assert!(matches!(
        store.commit(&batch(&[], &[last]), NOON).await,
        Err(StoreError::LeaseLost(_))
    ));
}

/// An exchange of holder 2 on a lease that holder 1 opened.
fn successors(exchange: Exchange) -> Exchange {
    Exchange { holder: HolderId(2), opened_by: Some(HolderId(1)), ..exchange }
}

async fn is_lost(store: &dyn Store, exchange: Exchange, now: Wall) -> bool {
    let charged = settlement("late", 9, &[(&exchange.account, 5, Road::Direct)]);
    let before = store.settlement(&id("ws"), &charged.id).await.unwrap();
    let result = store.commit(&batch(std::slice::from_ref(&charged), &[exchange]), now).await;
    let after = store.settlement(&id("ws"), &charged.id).await.unwrap();
    matches!(result, Err(StoreError::LeaseLost(_) | StoreError::TakenOver)) && before == after
}

async fn an_adopted_lease_keeps_its_name_and_goes_on_under_its_new_holder(store: &dyn Store) {
    let budget = budget(1, "p1");
    let (cost, requests) = (cost_of(&budget), requests_of(&budget));
    store.create_budget(&budget).await.unwrap();
    store.commit(&batch(&[], &[exchange(&cost, 1, 100)]), NOON).await.unwrap();
    let other = Exchange { holder: HolderId(3), ..exchange(&cost, 1, 50) };
    store.commit(&batch(&[], &[other]), NOON).await.unwrap();
    let closed = Exchange { then: Then::Close, ..exchange(&requests, 1, 0) };
    store.commit(&batch(&[], &[closed]), NOON).await.unwrap();
    store.sweep(NOON.plus(Duration::from_secs(60))).await.unwrap();

    let later = NOON.plus(Duration::from_secs(61));
    let adopted = store.adopt(&[HolderId(1), HolderId(9)], HolderId(2), later).await.unwrap();
    assert_eq!(adopted.len(), 1);
    let AdoptedLease { account: key, opener, epoch, lease } = &adopted[0];
    assert_eq!((key, *opener, *epoch), (&cost, HolderId(1), 1));
    assert_eq!((lease.seq, lease.granted.get(), lease.state), (1, 100, LeaseState::Expired));
    // A call whose answer was lost gives the same answer again.
    assert_eq!(store.adopt(&[HolderId(1)], HolderId(2), later).await.unwrap(), adopted);

    let report = Exchange { consumed: Units::new(60), ..exchange(&cost, 2, 0) };
    let stranger = Exchange { holder: HolderId(3), ..successors(report.clone()) };
    assert!(is_lost(store, stranger, later).await);
    let sent = batch(&[], &[successors(report)]);
    let grants = store.commit(&sent, later).await.unwrap();
    assert_eq!((grants[0].spent.get(), grants[0].forfeited.get()), (60, 50));
    assert_eq!(store.commit(&sent, later).await.unwrap(), grants);
    let now = account(store, &budget, &cost).await.unwrap();
    assert_eq!((now.leased.get(), now.forfeited.get(), now.holders), (40, 50, 1));
    // Its own leases have names of their own.
    let own = Exchange { holder: HolderId(2), ..exchange(&cost, 1, 10) };
    assert_eq!(store.commit(&batch(&[], &[own]), later).await.unwrap()[0].granted.get(), 10);
    let all = store.adopt(&[HolderId(1)], HolderId(2), later).await.unwrap();
    let names: Vec<_> = all.iter().map(|lease| (lease.opener, lease.epoch)).collect();
    assert_eq!(names, [(HolderId(1), 1), (HolderId(2), 1)]);
}

async fn nothing_of_a_holder_that_was_taken_over_is_applied(store: &dyn Store) {
    let budget = budget(1, "p1");
    let (cost, requests) = (cost_of(&budget), requests_of(&budget));
    store.create_budget(&budget).await.unwrap();
    let first = exchange(&cost, 1, 100);
    store.commit(&batch(&[], std::slice::from_ref(&first)), NOON).await.unwrap();
    store.adopt(&[HolderId(1)], HolderId(2), NOON).await.unwrap();
    let before = store.accounts(&budget, MONTH).await.unwrap();
    let report = Exchange { consumed: Units::new(60), ..exchange(&cost, 2, 50) };
    let next = Exchange { epoch: 2, ..exchange(&cost, 1, 10) };
    for late in [first, report.clone(), exchange(&requests, 1, 5), next] {
        assert!(is_lost(store, late.clone(), NOON).await, "{late:?}");
    }
    // Its successor has asked what is on record, and settles what was not: it must not come on record after that.
    let alone = settlement("alone", 9, &[(&cost, 5, Road::Direct)]);
    let late = store.commit(&batch(std::slice::from_ref(&alone), &[]), NOON).await;
    assert!(matches!(late, Err(StoreError::TakenOver)), "{late:?}");
    assert_eq!(store.settlement(&id("ws"), &alone.id).await.unwrap(), None);
    let nothing = store.commit(&batch(&[], &[]), NOON).await;
    assert!(matches!(nothing, Err(StoreError::TakenOver)), "{nothing:?}");
    assert_eq!(store.accounts(&budget, MONTH).await.unwrap(), before);
    let grants = store.commit(&batch(&[], &[successors(report)]), NOON).await.unwrap();
    assert_eq!((grants[0].granted.get(), grants[0].spent.get()), (150, 60));
}

async fn who_was_taken_over_takes_nothing_over(store: &dyn Store) {
    let budget = budget(1, "p1");
    let cost = cost_of(&budget);
    store.create_budget(&budget).await.unwrap();
    store.commit(&batch(&[], &[exchange(&cost, 1, 100)]), NOON).await.unwrap();
    // Holder 2 asked for the leases of holder 1 and was killed; its question comes after that of holder 3.
    let asked = [HolderId(1), HolderId(2)];
    assert_eq!(store.adopt(&asked, HolderId(3), NOON).await.unwrap().len(), 1);
    let refused = store.adopt(&[HolderId(1)], HolderId(2), NOON).await;
    assert!(matches!(refused, Err(StoreError::TakenOver)), "{refused:?}");
    assert!(is_lost(store, successors(exchange(&cost, 2, 0)), NOON).await);
    let last = Exchange { holder: HolderId(3), ..successors(exchange(&cost, 2, 0)) };
    store.commit(&batch(&[], &[last]), NOON).await.unwrap();
}

async fn an_adopted_lease_is_spared_for_as_long_as_it_would_last(store: &dyn Store) {
    let budget = budget(1, "p1");
    let (cost, requests) = (cost_of(&budget), requests_of(&budget));
    store.create_budget(&budget).await.unwrap();
    let all = [exchange(&cost, 1, 100), exchange(&requests, 1, 20)];
    store.commit(&batch(&[], &all), NOON).await.unwrap();
    let seconds = |seconds| NOON.plus(Duration::from_secs(seconds));
    store.adopt(&[HolderId(1)], HolderId(2), seconds(60)).await.unwrap();
    assert_eq!(store.sweep(seconds(72)).await.unwrap(), 0);
    assert_eq!(account(store, &budget, &cost).await.unwrap().leased.get(), 100);
    assert_eq!(store.sweep(seconds(73)).await.unwrap(), 2);
    assert_eq!(account(store, &budget, &cost).await.unwrap().forfeited.get(), 100);
    // Who is taken over again gets as much time again, for what has expired too.
    store.adopt(&[HolderId(1)], HolderId(3), seconds(130)).await.unwrap();
    let release = async |before| {
        store.release_forfeits(&budget.workspace, budget.id, seconds(before)).await.unwrap()
    };
    assert_eq!(release(140).await, []);
    assert_eq!(release(141).await, [(cost.clone(), Units::new(100))]);
    assert_eq!(store.sweep(seconds(202)).await.unwrap(), 0);
    assert_eq!(store.sweep(seconds(203)).await.unwrap(), 1);
    assert_eq!(account(store, &budget, &requests).await.unwrap().forfeited.get(), 0);
}

async fn a_lease_that_was_taken_over_twice_is_the_last_holders(store: &dyn Store) {
    let budget = budget(1, "p1");
    let cost = cost_of(&budget);
    store.create_budget(&budget).await.unwrap();
    store.commit(&batch(&[], &[exchange(&cost, 1, 100)]), NOON).await.unwrap();
    store.adopt(&[HolderId(1)], HolderId(2), NOON).await.unwrap();
    store.commit(&batch(&[], &[successors(exchange(&cost, 2, 0))]), NOON).await.unwrap();
    let both = [HolderId(1), HolderId(2)];
    let adopted = store.adopt(&both, HolderId(3), NOON).await.unwrap();
    assert_eq!((adopted[0].opener, adopted[0].lease.seq), (HolderId(1), 2));
    assert!(is_lost(store, successors(exchange(&cost, 3, 0)), NOON).await);
    let days = |days: u64| NOON.plus(Duration::from_secs(days * 24 * 3600));
    let last = |seq, then| {
        let next = Exchange { then, ..exchange(&cost, seq, 0) };
        batch(&[], &[Exchange { holder: HolderId(3), ..successors(next) }])
    };
    // It is known whose it is for as long as it is there, and a while longer.
    store.sweep(days(2)).await.unwrap();
    store.commit(&last(3, Then::Renew), days(2)).await.unwrap();
    store.commit(&last(4, Then::Close), days(2)).await.unwrap();
    assert!(is_lost(store, exchange(&cost, 1, 0), days(3)).await);
    assert_eq!(store.sweep(days(4)).await.unwrap(), 1);
    let unknown = Exchange { consumed: Units::new(1), ..exchange(&cost, 1, 0) };
    assert_eq!(store.commit(&batch(&[], &[unknown]), days(4)).await.unwrap()[0].spent.get(), 1);
}

async fn a_reset_starts_anew_and_writes_expired_leases_off(store: &dyn Store) {
    let budget = budget(1, "p1");
    let (cost, requests) = (cost_of(&budget), requests_of(&budget));
    assert!(matches!(store.reset_budget(&budget, MONTH).await, Err(StoreError::NotFound)));
    store.create_budget(&budget).await.unwrap();
    let expired = Exchange { holder: HolderId(2), ..exchange(&cost, 1, 300) };
    store.commit(&batch(&[], &[expired, exchange(&requests, 1, 20)]), NOON).await.unwrap();
    let later = NOON.plus(Duration::from_secs(20));
    store.sweep(later).await.unwrap();
    store.commit(&batch(&[], &[exchange(&cost, 1, 100)]), later).await.unwrap();
    let report = Exchange { consumed: Units::new(60), ..exchange(&cost, 2, 0) };
    store.commit(&batch(&[], &[report]), later).await.unwrap();
    store.reset_budget(&budget, MONTH).await.unwrap();

    let now = account(store, &budget, &cost).await.unwrap();
    assert_eq!(
        (now.spent.get(), now.base.get(), now.leased.get(), now.forfeited.get()),
        (360, 360, 40, 0)
    );
    assert_eq!(account(store, &budget, &requests).await.unwrap().forfeited.get(), 20);
    let open = Exchange { consumed: Units::new(100), ..exchange(&cost, 3, 900) };
    let grants = store.commit(&batch(&[], &[open]), later).await.unwrap();
    assert_eq!(
        (grants[0].spent.get(), grants[0].granted.get(), grants[0].free.get()),
        (40, 1000, 60)
    );
    let written_off = Exchange { holder: HolderId(2), ..exchange(&cost, 2, 0) };
    let result = store.commit(&batch(&[], &[written_off]), later).await;
    assert!(matches!(result, Err(StoreError::LeaseLost(_))));
}

async fn a_hundred_accounts_fit_in_one_batch(store: &dyn Store) {
    let budget = budget(1, "*");
    store.create_budget(&budget).await.unwrap();
    let keys: Vec<_> =
        (0..100).map(|n| AccountKey { target: id(&format!("p{n}")), ..cost_of(&budget) }).collect();
    let asks: Vec<_> = keys.iter().zip(1..).map(|(key, n)| exchange(key, 1, n)).collect();
    let grants = store.commit(&batch(&[], &asks), NOON).await.unwrap();
    assert!(grants.iter().zip(1..).all(|(grant, n)| grant.granted.get() == n), "{grants:?}");
    let accounts = store.accounts(&budget, MONTH).await.unwrap();
    assert_eq!(accounts.len(), 100);
    assert!(accounts.is_sorted_by_key(|(key, _)| key.clone()));
    store.delete_budget(&budget.workspace, budget.id).await.unwrap();
}

async fn a_store_answers(store: &dyn Store) {
    store.ping().await.unwrap();
}
