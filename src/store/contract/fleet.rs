//! What replicas tell each other through their store.

use super::*;
use crate::domain::credits::{self, CreditGrant};
use crate::store::{
    CHANGES_KEPT, Change, HANDOFFS_MAX, Handoff, REPORT_BYTES_MAX, Told, UNTAKEN_AFTER,
};

contract!(
    released_forfeits_go_back_to_the_pool,
    forfeits_of_another_budget_and_of_later_leases_stay,
);

shared_contract!(
    every_change_of_a_workspace_is_news_and_told,
    what_changes_nothing_is_no_news,
    budgets_are_read_by_what_changed_since,
    a_change_is_known_by_its_mark_until_a_day_after_the_next,
    a_recall_is_news_for_those_who_hold_a_lease,
    a_handoff_reaches_its_holder_once_settled_never_again,
    an_untaken_handoff_goes_to_one_replica_at_a_time,
    all_handoffs_of_a_reservation_go_to_the_same_replica,
    what_is_untaken_is_given_in_parts,
    what_was_charged_for_a_dead_holder_is_taken_out_of_its_forfeit,
    what_was_charged_for_a_holder_whose_lease_lasts_is_taken_out_when_it_has_expired,
    what_was_charged_for_a_dead_holder_is_taken_out_of_what_it_took_over_and_what_took_it_over,
    a_report_that_is_too_long_is_refused,
);

fn seconds(seconds: u64) -> Wall {
    NOON.plus(Duration::from_secs(seconds))
}

async fn forfeited(store: &dyn Store, key: &AccountKey, holder: u128, amount: i64) {
    let ask = Exchange { holder: HolderId(holder), ..exchange(key, 1, amount) };
    store.commit(&batch(&[], &[ask]), NOON).await.unwrap();
}

async fn released_forfeits_go_back_to_the_pool(store: &dyn Store) {
    let budget = budget(1, "p1");
    let (cost, requests) = (cost_of(&budget), requests_of(&budget));
    store.create_budget(&budget).await.unwrap();
    forfeited(store, &cost, 1, 600).await;
    forfeited(store, &cost, 2, 300).await;
    forfeited(store, &requests, 1, 20).await;
    store.sweep(seconds(20)).await.unwrap();
    let later = Exchange { holder: HolderId(3), ..exchange(&cost, 1, 50) };
    store.commit(&batch(&[], &[later]), seconds(20)).await.unwrap();
    assert_eq!(
        store.release_forfeits(&budget.workspace, budget.id, seconds(10)).await.unwrap(),
        []
    );
    let released = store.release_forfeits(&budget.workspace, budget.id, seconds(11)).await.unwrap();
    assert_eq!(released, [(cost.clone(), Units::new(900))]);
    let now = account(store, &budget, &cost).await.unwrap();
    assert_eq!((now.forfeited.get(), now.spent.get(), now.leased.get()), (0, 0, 50));
    assert_eq!(account(store, &budget, &requests).await.unwrap().forfeited.get(), 20);
    assert_eq!(
        store.release_forfeits(&budget.workspace, budget.id, seconds(11)).await.unwrap(),
        []
    );
    let late = Exchange { consumed: Units::new(450), ..exchange(&cost, 2, 0) };
    let late = store.commit(&batch(&[], &[late]), seconds(21)).await;
    assert!(matches!(late, Err(StoreError::LeaseLost(_))), "what was released is not the holder's");
}

async fn forfeits_of_another_budget_and_of_later_leases_stay(store: &dyn Store) {
    let (one, two) = (budget(1, "p1"), budget(2, "p2"));
    for budget in [&one, &two] {
        store.create_budget(budget).await.unwrap();
        forfeited(store, &cost_of(budget), 1, 600).await;
    }
    store.add_credit(&id("ws"), &super::credits::grant("g1", 100), NOON).await.unwrap();
    forfeited(store, &credits::account(&id("ws")), 1, 60).await;
    store.sweep(seconds(20)).await.unwrap();
    let released = store.release_forfeits(&id("another"), one.id, seconds(99)).await.unwrap();
    assert_eq!(released, []);
    let of_credits = store.release_forfeits(&id("ws"), credits::BUDGET, seconds(99)).await.unwrap();
    assert_eq!(of_credits, [(credits::account(&id("ws")), Units::new(60))]);
    store.release_forfeits(&id("ws"), one.id, seconds(99)).await.unwrap();
    assert_eq!(account(store, &two, &cost_of(&two)).await.unwrap().forfeited.get(), 600);
}

/// How many changes of the workspace are told, by the news and by word; word comes later.
async fn changes(store: &dyn Store, workspace: &Id) -> i64 {
    let news = store.news(&[], Wall::from_ms(0)).await.unwrap();
    news.changed.iter().find(|(id, _)| id == workspace).map_or(0, |(_, change)| change.number)
}

/// The next word, which comes within seconds. That words may have been missed before is none.
async fn next_word(store: &dyn Store) -> Told {
    let word = async {
        loop {
            match store.told().await {
                Told::Missed => {}
                word => return word,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), word).await.expect("nothing was told")
}

async fn every_change_of_a_workspace_is_news_and_told(store: &dyn Store) {
    let first = budget(1, "p1");
    let soon = CreditGrant { expires_at: Some(seconds(1)), ..super::credits::grant("g1", 9) };
    store.create_budget(&first).await.unwrap();
    store.replace_budget(&first, None, None).await.unwrap();
    store.reset_budget(&first, MONTH).await.unwrap();
    store.delete_budget(&first.workspace, first.id).await.unwrap();
    store.create_key(&api_key("k1", 1)).await.unwrap();
    store.delete_key(&id("ws"), &id("k1")).await.unwrap();
    store.add_credit(&id("ws"), &soon, NOON).await.unwrap();
    store.expire_credits(&id("ws"), seconds(1)).await.unwrap();
    assert_eq!(changes(store, &id("ws")).await, 8);
    assert_eq!(changes(store, &id("another")).await, 0);
    for _ in 0..8 {
        assert_eq!(next_word(store).await, Told::Changed(id("ws")));
    }
}

async fn what_changes_nothing_is_no_news(store: &dyn Store) {
    let (first, second) = (budget(1, "p1"), budget(2, "p1"));
    store.create_budget(&first).await.unwrap();
    conflict(store.create_budget(&second).await);
    store.replace_budget(&second, None, None).await.unwrap_err();
    store.delete_budget(&id("ws"), second.id).await.unwrap_err();
    store.reset_budget(&second, MONTH).await.unwrap_err();
    store.delete_key(&id("ws"), &id("k1")).await.unwrap_err();
    let grant = super::credits::grant("g1", 9);
    store.add_credit(&id("ws"), &grant, NOON).await.unwrap();
    store.add_credit(&id("ws"), &grant, NOON).await.unwrap();
    store.expire_credits(&id("ws"), NOON).await.unwrap();
    assert_eq!(changes(store, &id("ws")).await, 2);
}

async fn budgets_are_read_by_what_changed_since(store: &dyn Store) {
    let [first, second, third] =
        [(1, "p1"), (2, "p2"), (3, "p3")].map(|(number, project)| budget(number, project));
    for budget in [&first, &second, &third] {
        store.create_budget(budget).await.unwrap();
    }
    store.create_budget(&Budget { workspace: id("another"), ..budget(9, "p1") }).await.unwrap();
    let off = Budget { is_active: false, ..first.clone() };
    store.replace_budget(&off, None, None).await.unwrap();
    store.reset_budget(&second, MONTH).await.unwrap();
    store.create_key(&api_key("k1", 1)).await.unwrap();
    store.delete_budget(&id("ws"), third.id).await.unwrap();
    let changes = store.changes().await.unwrap();
    let numbers: Vec<_> = changes.iter().map(|(id, last)| (id.as_str(), last.number)).collect();
    assert_eq!(numbers, [("another", 1), ("ws", 7)]);
    let page = async |after| {
        let after = Change { number: after, mark: None };
        let page = store.changed_budgets(&id("ws"), &after, 2).await.unwrap().unwrap();
        assert!(page.upto.mark.is_some());
        (page.budgets, page.upto.number, page.has_more)
    };
    let reset = Budget { resets: 1, ..second.clone() };
    let budgets = vec![(first.id, Some(off)), (second.id, Some(reset.clone()))];
    assert_eq!(page(0).await, (budgets, 5, true));
    let budgets = vec![(second.id, Some(reset)), (third.id, None)];
    assert_eq!(page(4).await, (budgets, 7, false));
    assert_eq!(page(7).await, (Vec::new(), 7, false));
}

async fn a_change_is_known_by_its_mark_until_a_day_after_the_next(store: &dyn Store) {
    store.sweep(NOON).await.unwrap();
    let last = async || store.changes().await.unwrap().pop().unwrap().1;
    store.create_budget(&budget(1, "p1")).await.unwrap();
    let first = last().await;
    let days = |days: u32| NOON.plus(days * CHANGES_KEPT);
    store.sweep(days(3)).await.unwrap();
    store.create_budget(&budget(2, "p2")).await.unwrap();
    let second = last().await;
    assert_eq!((first.number, second.number), (1, 2));
    assert!(first.mark.is_some() && second.mark.is_some() && first.mark != second.mark);
    store.delete_budget(&id("ws"), budget(1, "p1").id).await.unwrap();
    let after = async |change: &Change| {
        let page = store.changed_budgets(&id("ws"), change, 9).await.unwrap();
        page.map(|page| page.budgets.len())
    };
    store.sweep(days(4)).await.unwrap();
    assert_eq!((after(&first).await, after(&second).await), (Some(2), Some(1)));
    // As it would be after the store was set back, and came to the same number by other changes.
    let other = Change { mark: second.mark.clone(), ..first.clone() };
    assert_eq!(after(&other).await, None);
    let lost = Change { number: 9, ..second.clone() };
    assert_eq!(after(&lost).await, None);
    store.sweep(days(4).plus(Duration::from_secs(1))).await.unwrap();
    assert_eq!((after(&first).await, after(&second).await), (None, None));
    assert_eq!(after(&last().await).await, Some(0), "nothing followed it");
}

async fn a_recall_is_news_for_those_who_hold_a_lease(store: &dyn Store) {
    let budget = budget(1, "p1");
    let cost = cost_of(&budget);
    store.create_budget(&budget).await.unwrap();
    assert_eq!(next_word(store).await, Told::Changed(id("ws")));
    store.commit(&batch(&[], &[exchange(&cost, 1, 1000)]), NOON).await.unwrap();
    let short = Exchange { holder: HolderId(2), ..exchange(&cost, 1, 10) };
    let sent = batch(&[], &[short]);
    for _ in 0..2 {
        let grants = store.commit(&sent, NOON).await.unwrap();
        assert_eq!((grants[0].granted.get(), grants[0].recalls), (0, 1));
    }
    assert_eq!(next_word(store).await, Told::Recalled(cost.clone(), 1));
    let recalled = async |holder| {
        let news = store.news(&[HolderId(holder)], Wall::from_ms(0)).await.unwrap();
        news.recalled
    };
    assert_eq!(recalled(1).await, [(cost.clone(), 1)]);
    assert_eq!(recalled(2).await, [(cost.clone(), 1)]);
    assert_eq!(recalled(3).await, []);
    store.sweep(seconds(13)).await.unwrap();
    assert_eq!(recalled(1).await, [], "its lease is expired");
}

fn handoff(holder: u128, settlement: &str) -> Handoff {
    Handoff {
        workspace: id("ws"),
        reservation: ReservationId { holder: HolderId(holder), nonce: 7 },
        settlement: id(settlement),
        report: "{\"usage\": \"Ünïcode ' $1\"}".to_owned(),
    }
}

async fn handed_over(store: &dyn Store, holders: &[u128]) -> Vec<Handoff> {
    let holders: Vec<_> = holders.iter().copied().map(HolderId).collect();
    let news = store.news(&holders, Wall::from_ms(i64::MAX / 2)).await.unwrap();
    let mut handoffs = news.handed_over;
    handoffs.sort_by(|a, b| a.settlement.cmp(&b.settlement));
    handoffs
}

async fn a_handoff_reaches_its_holder_once_settled_never_again(store: &dyn Store) {
    store.sweep(NOON).await.unwrap();
    let (first, second, other) = (handoff(1, "a"), handoff(1, "b"), handoff(2, "a"));
    for handoff in [&first, &second, &other] {
        store.hand_over(handoff).await.unwrap();
    }
    store.hand_over(&Handoff { report: "again".to_owned(), ..first.clone() }).await.unwrap();
    assert_eq!(next_word(store).await, Told::HandedOver(HolderId(1)));
    assert_eq!(next_word(store).await, Told::HandedOver(HolderId(1)));
    assert_eq!(next_word(store).await, Told::HandedOver(HolderId(2)));
    assert_eq!(handed_over(store, &[1]).await, [first.clone(), second.clone()]);
    assert_eq!(handed_over(store, &[3]).await, []);
    store.handoff_settled(&first, &[]).await.unwrap();
    store.handoff_settled(&first, &[]).await.unwrap();
    store.hand_over(&first).await.unwrap();
    assert_eq!(handed_over(store, &[1, 3]).await, std::slice::from_ref(&second));
    assert_eq!(store.untaken_handoffs(seconds(90)).await.unwrap().len(), 2);
}

async fn an_untaken_handoff_goes_to_one_replica_at_a_time(store: &dyn Store) {
    store.sweep(NOON).await.unwrap();
    store.hand_over(&handoff(1, "a")).await.unwrap();
    let until = |more| NOON.plus(UNTAKEN_AFTER).plus(Duration::from_secs(more));
    assert_eq!(store.untaken_handoffs(until(0)).await.unwrap(), []);
    assert_eq!(store.untaken_handoffs(until(1)).await.unwrap(), [handoff(1, "a")]);
    assert_eq!(store.untaken_handoffs(until(1)).await.unwrap(), []);
    assert_eq!(store.untaken_handoffs(until(61)).await.unwrap(), []);
    assert_eq!(store.untaken_handoffs(until(62)).await.unwrap(), [handoff(1, "a")]);
    assert_eq!(handed_over(store, &[1]).await, [handoff(1, "a")], "its holder may come back");
    store.handoff_settled(&handoff(1, "a"), &[]).await.unwrap();
    assert_eq!(store.untaken_handoffs(until(999)).await.unwrap(), []);
}

async fn all_handoffs_of_a_reservation_go_to_the_same_replica(store: &dyn Store) {
    store.sweep(NOON).await.unwrap();
    store.hand_over(&handoff(1, "a")).await.unwrap();
    store.sweep(seconds(50)).await.unwrap();
    store.hand_over(&handoff(1, "b")).await.unwrap();
    let both = [handoff(1, "a"), handoff(1, "b")];
    let mut given = store.untaken_handoffs(seconds(61)).await.unwrap();
    given.sort_by(|a, b| a.settlement.cmp(&b.settlement));
    assert_eq!(given, both);
    store.hand_over(&handoff(1, "c")).await.unwrap();
    store.handoff_settled(&handoff(1, "a"), &[]).await.unwrap();
    assert_eq!(store.untaken_handoffs(seconds(121)).await.unwrap(), []);
    assert_eq!(store.untaken_handoffs(seconds(122)).await.unwrap().len(), 2);
}

async fn what_is_untaken_is_given_in_parts(store: &dyn Store) {
    store.sweep(NOON).await.unwrap();
    for nonce in 0..=HANDOFFS_MAX {
        let nonce = u128::try_from(nonce).unwrap();
        let reservation = ReservationId { holder: HolderId(1), nonce };
        store.hand_over(&Handoff { reservation, ..handoff(1, "a") }).await.unwrap();
    }
    for given in [HANDOFFS_MAX, 1, 0] {
        assert_eq!(store.untaken_handoffs(seconds(61)).await.unwrap().len(), given);
    }
}

async fn what_was_charged_for_a_dead_holder_is_taken_out_of_its_forfeit(store: &dyn Store) {
    let budget = budget(1, "p1");
    let cost = cost_of(&budget);
    store.create_budget(&budget).await.unwrap();
    forfeited(store, &cost, 1, 300).await;
    forfeited(store, &cost, 2, 200).await;
    store.sweep(seconds(20)).await.unwrap();
    let left = async || account(store, &budget, &cost).await.unwrap().forfeited.get();
    store.handoff_settled(&handoff(1, "never"), &[(cost.clone(), Units::new(9))]).await.unwrap();
    assert_eq!(left().await, 500, "it was never handed over");
    for (settlement, amount, rest) in [("a", 100, 400), ("b", 900, 200)] {
        let handoff = handoff(1, settlement);
        store.hand_over(&handoff).await.unwrap();
        for _ in 0..2 {
            let against =
                [(cost.clone(), Units::new(amount)), (requests_of(&budget), Units::new(1))];
            store.handoff_settled(&handoff, &against).await.unwrap();
            assert_eq!(left().await, rest);
        }
    }
    let late = Exchange { consumed: Units::new(1), ..exchange(&cost, 2, 0) };
    let late = store.commit(&batch(&[], &[late]), seconds(21)).await;
    assert!(matches!(late, Err(StoreError::LeaseLost(_))));
}

async fn what_was_charged_for_a_holder_whose_lease_lasts_is_taken_out_when_it_has_expired(
    store: &dyn Store,
) {
    let budget = budget(1, "p1");
    let cost = cost_of(&budget);
    store.create_budget(&budget).await.unwrap();
    forfeited(store, &cost, 1, 300).await;
    store.adopt(&[HolderId(1)], HolderId(2), NOON).await.unwrap();
    store.hand_over(&handoff(2, "a")).await.unwrap();
    let against = [(cost.clone(), Units::new(100))];
    for (passed, rest, is_settled) in [(0, 0, false), (20, 200, true), (20, 200, true)] {
        store.sweep(seconds(passed)).await.unwrap();
        store.handoff_settled(&handoff(2, "a"), &against).await.unwrap();
        assert_eq!(account(store, &budget, &cost).await.unwrap().forfeited.get(), rest);
        assert_eq!(handed_over(store, &[2]).await.is_empty(), is_settled, "after {passed} s");
    }
}

async fn what_was_charged_for_a_dead_holder_is_taken_out_of_what_it_took_over_and_what_took_it_over(
    store: &dyn Store,
) {
    let budget = budget(1, "p1");
    let cost = cost_of(&budget);
    store.create_budget(&budget).await.unwrap();
    for (holder, amount) in [(1, 100), (2, 200), (3, 400), (4, 50)] {
        forfeited(store, &cost, holder, amount).await;
        let before: Vec<_> = (1..holder).map(HolderId).collect();
        if holder < 4 {
            store.adopt(&before, HolderId(holder), NOON).await.unwrap();
        }
    }
    store.sweep(seconds(20)).await.unwrap();
    let left = async || account(store, &budget, &cost).await.unwrap().forfeited.get();
    assert_eq!(left().await, 750);
    for (holder, rest) in [(2, 650), (3, 550), (1, 450)] {
        let handoff = handoff(holder, "a");
        store.hand_over(&handoff).await.unwrap();
        store.handoff_settled(&handoff, &[(cost.clone(), Units::new(100))]).await.unwrap();
        assert_eq!(left().await, rest, "of holder {holder}");
    }
    let all = handoff(2, "b");
    store.hand_over(&all).await.unwrap();
    store.handoff_settled(&all, &[(cost.clone(), Units::new(900))]).await.unwrap();
    assert_eq!(left().await, 50, "another replica's");
}

async fn a_report_that_is_too_long_is_refused(store: &dyn Store) {
    let long = Handoff { report: "x".repeat(REPORT_BYTES_MAX), ..handoff(1, "a") };
    store.hand_over(&long).await.unwrap();
    let longer = Handoff { report: "x".repeat(REPORT_BYTES_MAX + 1), ..handoff(1, "b") };
    assert!(matches!(store.hand_over(&longer).await, Err(StoreError::Corrupt(_))));
    assert_eq!(handed_over(store, &[1]).await, [long]);
}
