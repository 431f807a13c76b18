//! Budgets and API keys.

use super::*;
use crate::store::{BudgetFilter, Cursor, Page, SortBy};

contract!(
    a_budget_reads_back_as_it_was_written,
    a_scope_has_one_budget_in_its_workspace,
    a_replaced_budget_is_the_new_one,
    whatever_a_replacement_knew_generations_and_resets_go_on_from_what_is_on_record,
    a_replacement_of_what_is_no_longer_on_record_is_refused,
    a_reset_of_an_earlier_generation_is_refused,
    a_deleted_budget_takes_its_accounts_and_leases_along,
    pages_run_newest_first_in_both_directions,
    pages_follow_the_instant_that_is_asked_for,
    filters_combine,
    a_grown_generation_starts_from_what_its_window_was_charged,
    keys_are_found_by_their_hash_and_listed_newest_first,
    a_key_has_an_id_and_a_secret_of_its_own,
);

async fn a_budget_reads_back_as_it_was_written(store: &dyn Store) {
    let rich = Budget {
        scope: Scope { kind: ScopeKind::Identity, target: Target::Each },
        is_active: false,
        expires_at: Some(Wall::from_ms(i64::MAX)),
        shadow: true,
        when_unavailable: WhenUnavailable::AllowUpTo(NanoUsd::new(i64::MAX)),
        name: Some(id("Ünïcode \"quotes\" 'and' $.json[0]")),
        generation: u32::MAX,
        ..budget(2, "p2")
    };
    let bare = Budget {
        limits: Limits { requests_per_minute: Some(0), ..Limits::default() },
        when_unavailable: WhenUnavailable::Allow,
        workspace: id("another"),
        id: BudgetId(u128::MAX),
        ..budget(3, "p3")
    };
    for budget in [&rich, &bare] {
        store.create_budget(budget).await.unwrap();
        assert_eq!(
            store.budget(&budget.workspace, budget.id).await.unwrap().as_ref(),
            Some(budget)
        );
    }
    assert_eq!(store.load_budgets().await.unwrap(), [bare, rich.clone()]);
    assert_eq!(store.budget(&id("another"), rich.id).await.unwrap(), None);
}

async fn a_scope_has_one_budget_in_its_workspace(store: &dyn Store) {
    store.create_budget(&budget(1, "p1")).await.unwrap();
    store.create_budget(&budget(2, "p2")).await.unwrap();
    store.create_budget(&Budget { workspace: id("another"), ..budget(3, "p1") }).await.unwrap();
    assert_eq!(conflict(store.create_budget(&budget(4, "p1")).await), BudgetId(1).to_string());
    assert_eq!(conflict(store.create_budget(&budget(1, "p4")).await), BudgetId(1).to_string());
    assert_eq!(
        conflict(store.replace_budget(&budget(2, "p1"), None, None).await),
        BudgetId(1).to_string()
    );
    assert_eq!(store.load_budgets().await.unwrap().len(), 3);
}

async fn a_replaced_budget_is_the_new_one(store: &dyn Store) {
    let new = Budget { is_active: false, ..budget(1, "p9") };
    assert!(matches!(store.replace_budget(&new, None, None).await, Err(StoreError::NotFound)));
    store.create_budget(&budget(1, "p1")).await.unwrap();
    assert_eq!(store.replace_budget(&new, None, None).await.unwrap(), new);
    assert_eq!(store.load_budgets().await.unwrap(), [new]);
    store.create_budget(&budget(2, "p1")).await.unwrap();
}

async fn whatever_a_replacement_knew_generations_and_resets_go_on_from_what_is_on_record(
    store: &dyn Store,
) {
    let first = budget(1, "p1");
    store.create_budget(&first).await.unwrap();
    store.reset_budget(&first, MONTH).await.unwrap();
    let stale = Budget { generation: 7, resets: 9, ..first.clone() };
    for (sent, generation, resets) in
        [(&stale, 0, 1), (&weekly(&stale), 1, 1), (&weekly(&first), 1, 1), (&first, 2, 1)]
    {
        let on_record = Budget { generation, resets, ..sent.clone() };
        assert_eq!(store.replace_budget(sent, None, None).await.unwrap(), on_record);
        assert_eq!(store.budget(&first.workspace, first.id).await.unwrap(), Some(on_record));
    }
}

async fn a_replacement_of_what_is_no_longer_on_record_is_refused(store: &dyn Store) {
    let first = budget(1, "p1");
    store.create_budget(&first).await.unwrap();
    store.reset_budget(&first, MONTH).await.unwrap();
    let named = Budget { name: Some(id("a name")), ..first.clone() };
    let named = store.replace_budget(&named, Some(&first), None).await.unwrap();
    assert_eq!(named.resets, 1, "a reset is in nobody's way");
    let off = Budget { is_active: false, ..first.clone() };
    let late = store.replace_budget(&off, Some(&first), None).await;
    assert!(matches!(late, Err(StoreError::Changed)), "{late:?}");
    assert_eq!(store.budget(&first.workspace, first.id).await.unwrap().as_ref(), Some(&named));
    let off = Budget { is_active: false, ..named.clone() };
    assert_eq!(store.replace_budget(&off, Some(&named), None).await.unwrap(), off);
}

async fn a_reset_of_an_earlier_generation_is_refused(store: &dyn Store) {
    let first = budget(1, "p1");
    store.create_budget(&first).await.unwrap();
    let second = store.replace_budget(&weekly(&first), None, None).await.unwrap();
    let late = store.reset_budget(&first, MONTH).await;
    assert!(matches!(late, Err(StoreError::Changed)), "{late:?}");
    assert_eq!(store.budget(&first.workspace, first.id).await.unwrap(), Some(second.clone()));
    store.reset_budget(&second, "2026-W47").await.unwrap();
    let reset = Budget { resets: 1, ..second };
    assert_eq!(store.load_budgets().await.unwrap(), [reset]);
}

async fn a_deleted_budget_takes_its_accounts_and_leases_along(store: &dyn Store) {
    let (gone, stays) = (budget(1, "p1"), budget(2, "p2"));
    for budget in [&gone, &stays] {
        store.create_budget(budget).await.unwrap();
        store.commit(&batch(&[], &[exchange(&cost_of(budget), 1, 100)]), NOON).await.unwrap();
    }
    let charge = settlement("s1", 1, &[(&cost_of(&gone), 5, Road::Direct)]);
    store.commit(&batch(std::slice::from_ref(&charge), &[]), NOON).await.unwrap();
    store.delete_budget(&gone.workspace, gone.id).await.unwrap();
    assert!(matches!(
        store.delete_budget(&gone.workspace, gone.id).await,
        Err(StoreError::NotFound)
    ));
    assert_eq!(store.budget(&gone.workspace, gone.id).await.unwrap(), None);
    assert_eq!(store.accounts(&gone, MONTH).await.unwrap(), []);
    assert_eq!(account(store, &stays, &cost_of(&stays)).await.unwrap().leased.get(), 100);
    assert_eq!(store.settlement(&gone.workspace, &charge.id).await.unwrap(), Some(charge));
    assert_eq!(store.adopt(&[HolderId(1)], HolderId(2), NOON).await.unwrap().len(), 1);
}

async fn pages_run_newest_first_in_both_directions(store: &dyn Store) {
    // Two of them changed at the same instant; their ids decide.
    for (number, updated_at) in [(1, 10), (2, 30), (3, 20), (4, 30), (5, 5)] {
        let updated_at = Wall::from_ms(updated_at);
        store
            .create_budget(&Budget { updated_at, ..budget(number, &format!("p{number}")) })
            .await
            .unwrap();
    }
    let ws = id("ws");
    let page = async |cursor, limit| {
        let Page { budgets, has_more } =
            store.list_budgets(&ws, &BudgetFilter::default(), cursor, limit).await.unwrap();
        (budgets.iter().map(|budget| budget.id.0).collect::<Vec<_>>(), has_more)
    };
    assert_eq!(page(Cursor::Start, 5).await, (vec![4, 2, 3, 1, 5], false));
    assert_eq!(page(Cursor::Start, 2).await, (vec![4, 2], true));
    assert_eq!(page(Cursor::After(BudgetId(2)), 2).await, (vec![3, 1], true));
    assert_eq!(page(Cursor::After(BudgetId(1)), 2).await, (vec![5], false));
    assert_eq!(page(Cursor::After(BudgetId(5)), 2).await, (vec![], false));
    assert_eq!(page(Cursor::Before(BudgetId(5)), 2).await, (vec![3, 1], true));
    assert_eq!(page(Cursor::Before(BudgetId(3)), 2).await, (vec![4, 2], false));
    assert_eq!(page(Cursor::Before(BudgetId(4)), 2).await, (vec![], false));
    assert_eq!(page(Cursor::After(BudgetId(99)), 2).await, (vec![], false));
    assert_eq!(page(Cursor::Before(BudgetId(99)), 2).await, (vec![], false));
}

async fn pages_follow_the_instant_that_is_asked_for(store: &dyn Store) {
    let at = Wall::from_ms;
    for (number, updated_at, created_at, expires_at) in
        [(1, 30, 10, None), (2, 20, 30, Some(10)), (3, 10, 20, Some(-20)), (4, 5, 5, None)]
    {
        let expires_at = expires_at.map(at);
        let budget = budget(number, &format!("p{number}"));
        let (updated_at, created_at) = (at(updated_at), at(created_at));
        let budget = Budget { updated_at, created_at, expires_at, ..budget };
        store.create_budget(&budget).await.unwrap();
    }
    let ws = id("ws");
    let page = async |sort_by, cursor| {
        let filter = BudgetFilter { sort_by, ..Default::default() };
        let page = store.list_budgets(&ws, &filter, cursor, 2).await.unwrap();
        (page.budgets.iter().map(|budget| budget.id.0).collect::<Vec<_>>(), page.has_more)
    };
    for (sort_by, order) in [
        (SortBy::UpdatedAt, [1, 2, 3, 4]),
        (SortBy::CreatedAt, [2, 3, 1, 4]),
        (SortBy::ExpiresAt, [2, 3, 4, 1]),
    ] {
        let (second, third) =
            (Cursor::After(BudgetId(order[1])), Cursor::Before(BudgetId(order[2])));
        assert_eq!(page(sort_by, Cursor::Start).await, (order[..2].to_vec(), true), "{sort_by:?}");
        assert_eq!(page(sort_by, second).await, (order[2..].to_vec(), false), "{sort_by:?}");
        assert_eq!(page(sort_by, third).await, (order[..2].to_vec(), false), "{sort_by:?}");
    }
}

async fn filters_combine(store: &dyn Store) {
    let each = Scope { kind: ScopeKind::Identity, target: Target::Each };
    let no_period = Limits { requests_per_minute: Some(1), ..Limits::default() };
    let all = [
        budget(1, "Alpha"),
        Budget { is_active: false, ..budget(2, "alphabet") },
        Budget { scope: each, ..budget(3, "x") },
        Budget { limits: no_period, ..budget(4, "100%_beta") },
        Budget { workspace: id("another"), ..budget(5, "Alpha") },
    ];
    for budget in &all {
        store.create_budget(budget).await.unwrap();
    }
    let check = async |filter: BudgetFilter, expected: &[u128]| {
        let page = store.list_budgets(&id("ws"), &filter, Cursor::Start, 200).await.unwrap();
        assert_eq!(page.budgets.iter().map(|b| b.id.0).collect::<Vec<_>>(), expected, "{filter:?}");
    };
    let text = |text: &str| Some(text.to_owned());
    check(BudgetFilter::default(), &[4, 3, 2, 1]).await;
    check(BudgetFilter { scope_kinds: vec![ScopeKind::Identity], ..Default::default() }, &[3])
        .await;
    check(
        BudgetFilter { scope_kinds: ScopeKind::ALL.to_vec(), ..Default::default() },
        &[4, 3, 2, 1],
    )
    .await;
    check(BudgetFilter { target: text("*"), ..Default::default() }, &[3]).await;
    check(BudgetFilter { target: text("alpha"), ..Default::default() }, &[]).await;
    check(BudgetFilter { target_contains: text("lpha"), ..Default::default() }, &[2, 1]).await;
    check(BudgetFilter { target_contains: text("alpha"), ..Default::default() }, &[2]).await;
    check(BudgetFilter { target_contains: text("%_"), ..Default::default() }, &[4]).await;
    check(BudgetFilter { is_active: Some(false), ..Default::default() }, &[2]).await;
    check(
        BudgetFilter { periods: vec![Period::Monthly, Period::Daily], ..Default::default() },
        &[3, 2, 1],
    )
    .await;
    let narrow = BudgetFilter {
        is_active: Some(true),
        periods: vec![Period::Monthly],
        ..Default::default()
    };
    check(BudgetFilter { target_contains: text("lpha"), ..narrow }, &[1]).await;
}

async fn a_grown_generation_starts_from_what_its_window_was_charged(store: &dyn Store) {
    let old = budget(1, "p1");
    store.create_budget(&old).await.unwrap();
    let cost = cost_of(&old);
    let tokens = AccountKey { dimension: Dimension::Tokens, ..cost.clone() };
    let requests = requests_of(&old);
    let other_target = AccountKey { target: id("p2"), ..cost.clone() };
    let at = |ms, name: &str, charges: &[(&AccountKey, i64, Road)]| Settlement {
        at: Wall::from_ms(ms),
        ..settlement(name, 1, charges)
    };
    let charged = [
        at(999, "before", &[(&cost, 1, Road::Direct)]),
        at(
            1000,
            "first",
            &[(&cost, 10, Road::Direct), (&tokens, 7, Road::Lease), (&requests, 1, Road::Direct)],
        ),
        at(1999, "last", &[(&cost, -3, Road::Direct), (&other_target, 4, Road::Lease)]),
        at(2000, "after", &[(&cost, 100, Road::Direct)]),
    ];
    store.commit(&batch(&charged, &[]), NOON).await.unwrap();
    let window = crate::domain::period::Window {
        start: Wall::from_ms(1000),
        end: Some(Wall::from_ms(2000)),
        label: Arc::from("2026-W47"),
    };
    let new = store.replace_budget(&weekly(&old), None, Some(&window)).await.unwrap();
    assert_eq!(new.generation, 1);
    // The same again changes nothing: the generation did not grow.
    store.replace_budget(&new, None, Some(&window)).await.unwrap();
    let accounts = store.accounts(&new, "2026-W47").await.unwrap();
    let spent: Vec<_> = accounts
        .iter()
        .map(|(key, account)| {
            (key.dimension, key.target.as_str(), key.generation, account.spent.get())
        })
        .collect();
    // A rolling minute has no generations.
    let expected = [
        (Dimension::Requests, "p1", 0, 1),
        (Dimension::Cost, "p1", 1, 7),
        (Dimension::Cost, "p2", 1, 4),
        (Dimension::Tokens, "p1", 1, 7),
    ];
    assert_eq!(spent, expected);
    // What comes late for the earlier generation is counted there, and nothing more is lent of it.
    let late = store.commit(&batch(&[], &[exchange(&cost, 1, 10)]), NOON).await.unwrap();
    assert_eq!((late[0].granted, late[0].limit), (Units::ZERO, Units::ZERO));
    assert_eq!(account(store, &old, &cost).await.unwrap().spent.get(), 108);
}

async fn keys_are_found_by_their_hash_and_listed_newest_first(store: &dyn Store) {
    let bare = ApiKey { project: None, ..api_key("k3", 3) };
    let elsewhere = ApiKey { workspace: id("another"), ..api_key("k1", 4) };
    for key in [&api_key("k2", 2), &api_key("k1", 1), &bare, &elsewhere] {
        store.create_key(key).await.unwrap();
    }
    assert_eq!(store.key_by_hash(&[3; 32]).await.unwrap(), Some(bare.clone()));
    assert_eq!(store.key_by_hash(&[9; 32]).await.unwrap(), None);
    assert_eq!(
        store.list_keys(&id("ws")).await.unwrap(),
        [bare, api_key("k2", 2), api_key("k1", 1)]
    );
    store.delete_key(&id("ws"), &id("k1")).await.unwrap();
    assert!(matches!(store.delete_key(&id("ws"), &id("k1")).await, Err(StoreError::NotFound)));
    assert_eq!(store.key_by_hash(&[1; 32]).await.unwrap(), None);
    assert_eq!(store.key_by_hash(&[4; 32]).await.unwrap(), Some(elsewhere));
}

async fn a_key_has_an_id_and_a_secret_of_its_own(store: &dyn Store) {
    store.create_key(&api_key("k1", 1)).await.unwrap();
    assert_eq!(conflict(store.create_key(&api_key("k1", 2)).await), "k1");
    let same_secret = ApiKey { workspace: id("another"), ..api_key("k2", 1) };
    assert_eq!(conflict(store.create_key(&same_secret).await), "k1");
    assert_eq!(store.list_keys(&id("another")).await.unwrap(), []);
}
