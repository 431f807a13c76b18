//! Prepaid credits: grants, what is spent of them, entries, statements, alerts.

use super::*;
use crate::domain::credits::{
    self, Added, Alert, AlertTerms, CreditGrant, Entry, EntryId, EntryKind, Holdings, InForce,
    Secret, Spender, Watch,
};
use crate::domain::period::Window;
use crate::domain::subject::Subject;

contract!(
    a_grant_counts_once_for_each_id,
    credits_are_lent_and_spent_like_a_budget,
    credits_read_back_in_the_order_of_drawing,
    an_expired_grant_takes_its_rest_along_once,
    the_sum_of_the_entries_is_the_balance,
    entries_page_newest_first,
    a_statement_adds_up_and_a_closed_month_stays_closed,
    an_alert_tells_of_each_crossing_once,
    a_notice_is_taken_back_when_the_balance_has_risen,
    an_alert_is_replaced_and_removed,
    sums_that_no_number_holds_are_the_nearest_that_one_does,
);

pub(in crate::store) fn grant(name: &str, amount: i64) -> CreditGrant {
    CreditGrant {
        id: id(name),
        amount: NanoUsd::new(amount),
        priority: 50,
        expires_at: None,
        reason: id("Rechnung \"7\""),
        created_at: NOON,
    }
}

fn ws() -> Id {
    id("ws")
}

fn later(seconds: u64) -> Wall {
    NOON.plus(Duration::from_secs(seconds))
}

async fn added(store: &dyn Store, grant: &CreditGrant) -> InForce {
    match store.add_credit(&ws(), grant, NOON).await.unwrap() {
        Added::New(in_force) => in_force,
        other => panic!("{other:?}"),
    }
}

async fn held(store: &dyn Store) -> Holdings {
    store.credits(&ws()).await.unwrap().unwrap()
}

/// Settles an amount of credits, on behalf of a project.
async fn spend(store: &dyn Store, name: &str, project: &str, amount: i64, at: Wall) {
    let charged = [(&credits::account(&ws()), amount, Road::Direct)];
    let subject = Subject {
        project: Some(id(project)),
        api_key: Some(id("k1")),
        ..Subject::of_workspace(ws())
    };
    let settlement = Settlement { subject: Arc::new(subject), ..settlement(name, 1, &charged) };
    store.commit(&batch(&[settlement], &[]), at).await.unwrap();
}

async fn entries(store: &dyn Store) -> Vec<(String, i64)> {
    let page = store.credit_entries(&ws(), None, 200).await.unwrap();
    page.entries.iter().map(|entry| (entry.id.to_string(), entry.amount.get())).collect()
}

async fn a_grant_counts_once_for_each_id(store: &dyn Store) {
    assert_eq!(store.credits(&ws()).await.unwrap(), None);
    assert_eq!(store.expire_credits(&ws(), NOON).await.unwrap(), None);
    let first = grant("g1", 700);
    let in_force = added(store, &first).await;
    assert_eq!(in_force, InForce { granted: NanoUsd::new(700), next_expiry: None });
    let again = CreditGrant { created_at: later(9), ..first.clone() };
    let repeated = store.add_credit(&ws(), &again, later(9)).await.unwrap();
    assert_eq!(repeated, Added::Before(first.clone()));
    for other in [
        CreditGrant { amount: NanoUsd::new(701), ..first.clone() },
        CreditGrant { reason: id("other"), ..first.clone() },
        CreditGrant { priority: 51, ..first.clone() },
        CreditGrant { expires_at: Some(later(1)), ..first.clone() },
    ] {
        assert_eq!(store.add_credit(&ws(), &other, NOON).await.unwrap(), Added::Differs);
    }
    let late = CreditGrant { expires_at: Some(NOON), ..grant("late", 1) };
    assert_eq!(store.add_credit(&ws(), &late, NOON).await.unwrap(), Added::Expired);
    assert_eq!(store.add_credit(&id("another"), &late, NOON).await.unwrap(), Added::Expired);
    assert_eq!(store.credits(&id("another")).await.unwrap(), None);
    store.add_credit(&id("another"), &first, NOON).await.unwrap();
    assert_eq!(store.load_credits().await.unwrap(), [(id("another"), in_force), (ws(), in_force)]);
    assert_eq!(entries(store).await, [("grant:g1".to_owned(), 700)]);
}

async fn credits_are_lent_and_spent_like_a_budget(store: &dyn Store) {
    let account = credits::account(&ws());
    let early = store.commit(&batch(&[], &[exchange(&account, 1, 100)]), NOON).await.unwrap();
    assert_eq!((early[0].granted, early[0].limit), (Units::ZERO, Units::ZERO), "none is granted");
    added(store, &grant("g1", 1000)).await;
    let grants = store.commit(&batch(&[], &[exchange(&account, 1, 600)]), NOON).await.unwrap();
    assert_eq!((grants[0].granted.get(), grants[0].limit.get()), (600, 1000));
    let spent = settlement("s1", 1, &[(&account, 450, Road::Lease)]);
    let report = Exchange { consumed: Units::new(450), ..exchange(&account, 2, 0) };
    let sent = batch(&[spent], &[report]);
    let grants = store.commit(&sent, later(1)).await.unwrap();
    assert_eq!(store.commit(&sent, later(2)).await.unwrap(), grants);
    let held = held(store).await;
    assert_eq!((held.balance().get(), held.free().get()), (550, 400));
    assert_eq!(
        entries(store).await,
        [("usage:s1".to_owned(), -450), ("grant:g1".to_owned(), 1000)]
    );
    added(store, &grant("g2", 100)).await;
    let more = Exchange { consumed: Units::new(450), ..exchange(&account, 3, 500) };
    let grants = store.commit(&batch(&[], &[more]), NOON).await.unwrap();
    assert_eq!((grants[0].granted.get(), grants[0].limit.get()), (1100, 1100));
    assert_eq!(store.load_budgets().await.unwrap(), []);
}

async fn credits_read_back_in_the_order_of_drawing(store: &dyn Store) {
    let rich = CreditGrant {
        priority: 255,
        expires_at: Some(Wall::from_ms(i64::MAX)),
        ..grant("rich", i64::MAX / 2)
    };
    let urgent = CreditGrant { priority: 0, ..grant("urgent", 10) };
    added(store, &rich).await;
    added(store, &grant("plain", 10)).await;
    spend(store, "s1", "p1", 4, NOON).await;
    added(store, &urgent).await;
    spend(store, "s2", "p1", 12, NOON).await;
    let open = held(store).await.credits.open;
    let left: Vec<_> = open.iter().map(|open| (&open.grant, open.left.get())).collect();
    assert_eq!(left, [(&urgent, 0), (&grant("plain", 10), 4), (&rich, i64::MAX / 2)]);
}

async fn an_expired_grant_takes_its_rest_along_once(store: &dyn Store) {
    let soon = CreditGrant { expires_at: Some(later(10)), ..grant("soon", 100) };
    assert_eq!(added(store, &soon).await.next_expiry, Some(later(10)));
    added(store, &grant("late", 50)).await;
    spend(store, "s1", "p1", 30, NOON).await;
    let account = credits::account(&ws());
    store.commit(&batch(&[], &[exchange(&account, 1, 20)]), NOON).await.unwrap();
    let before = store.expire_credits(&ws(), later(9)).await.unwrap().unwrap();
    assert_eq!((before.granted.get(), before.next_expiry), (150, Some(later(10))));
    for _ in 0..2 {
        let after = store.expire_credits(&ws(), later(10)).await.unwrap().unwrap();
        assert_eq!((after.granted.get(), after.next_expiry), (100, None));
        assert_eq!(store.load_credits().await.unwrap(), [(ws(), after)]);
    }
    let held = held(store).await;
    assert_eq!((held.balance().get(), held.credits.open.len()), (70, 1));
    assert_eq!(entries(store).await[0], ("expiry:soon".to_owned(), -50));
    let page = store.credit_entries(&ws(), None, 1).await.unwrap();
    assert_eq!((page.entries[0].reason.as_str(), page.entries[0].at), ("expired", later(10)));
    assert_eq!(store.add_credit(&ws(), &soon, later(11)).await.unwrap(), Added::Before(soon));
}

async fn the_sum_of_the_entries_is_the_balance(store: &dyn Store) {
    let soon = CreditGrant { expires_at: Some(later(10)), ..grant("soon", 100) };
    added(store, &soon).await;
    added(store, &grant("late", 50)).await;
    spend(store, "s1", "p1", 30, NOON).await;
    let account = credits::account(&ws());
    let other = cost_of(&budget(1, "p1"));
    let correction = Settlement {
        certainty: Certainty::Adjustment,
        ..settlement("s2", 1, &[(&account, -20, Road::Direct), (&other, -20, Road::Direct)])
    };
    let elsewhere = settlement("s3", 2, &[(&other, 7, Road::Direct)]);
    let nothing = settlement("s4", 3, &[(&account, 0, Road::Direct)]);
    store.commit(&batch(&[correction, elsewhere, nothing], &[]), NOON).await.unwrap();
    store.expire_credits(&ws(), later(10)).await.unwrap();
    spend(store, "s5", "p2", 55, later(11)).await;
    let entries = entries(store).await;
    assert_eq!(entries.len(), 6, "{entries:?}");
    let sum: i64 = entries.iter().map(|(_, amount)| amount).sum();
    assert_eq!((held(store).await.balance().get(), sum), (-5, -5));
    added(store, &grant("more", 20)).await;
    let after = held(store).await;
    assert_eq!((after.balance().get(), after.credits.open[0].left.get()), (15, 15));
}

async fn entries_page_newest_first(store: &dyn Store) {
    added(store, &grant("g", 100)).await;
    for (name, seconds) in [("b", 2), ("a", 2), ("c", 1)] {
        spend(store, name, "p1", 1, later(seconds)).await;
    }
    let page = async |after: Option<&str>, limit| {
        let after = after.map(|text| EntryId::parse(text).unwrap());
        let page = store.credit_entries(&ws(), after.as_ref(), limit).await.unwrap();
        let ids: Vec<_> = page.entries.iter().map(|entry| entry.id.to_string()).collect();
        (ids.join(" "), page.has_more)
    };
    let text = |ids: &str, has_more| (ids.to_owned(), has_more);
    assert_eq!(page(None, 4).await, text("usage:b usage:a usage:c grant:g", false));
    assert_eq!(page(None, 1).await, text("usage:b", true));
    assert_eq!(page(Some("usage:b"), 2).await, text("usage:a usage:c", true));
    assert_eq!(page(Some("usage:c"), 2).await, text("grant:g", false));
    assert_eq!(page(Some("grant:g"), 2).await, text("", false));
    assert_eq!(page(Some("usage:g"), 2).await, text("", false));
    let newest = store.credit_entries(&ws(), None, 1).await.unwrap().entries.remove(0);
    let spender =
        Spender { project: Some(id("p1")), api_key: Some(id("k1")), model: Some(id("gpt-4o")) };
    let of = EntryId { kind: EntryKind::Usage, of: id("b") };
    let amount = NanoUsd::new(-1);
    assert_eq!(newest, Entry { id: of, amount, reason: id("exact"), spender, at: later(2) });
}

async fn a_statement_adds_up_and_a_closed_month_stays_closed(store: &dyn Store) {
    added(store, &grant("g1", 1000)).await;
    spend(store, "s1", "p1", 100, later(10)).await;
    spend(store, "s2", "p2", 300, later(19)).await;
    spend(store, "s3", "p1", 50, later(19)).await;
    let correction = Settlement {
        certainty: Certainty::Adjustment,
        ..settlement("s4", 1, &[(&credits::account(&ws()), -30, Road::Direct)])
    };
    store.commit(&batch(&[correction], &[]), later(15)).await.unwrap();
    let closed = store.credit_statement(&ws(), later(5), later(20)).await.unwrap();
    let spend_of: Vec<_> = closed
        .spend
        .iter()
        .map(|(spender, amount)| (spender.project.as_ref().unwrap().as_str(), amount.get()))
        .collect();
    assert_eq!(spend_of, [("p2", -300), ("p1", -150)]);
    assert_eq!((closed.opening.get(), closed.granted.get(), closed.adjusted.get()), (1000, 0, 30));
    assert_eq!((closed.closing().get(), closed.other_spend.get()), (580, 0));
    // Usage of that time, which is reported later.
    spend(store, "s5", "p1", 7, later(30)).await;
    assert_eq!(store.credit_statement(&ws(), later(5), later(20)).await.unwrap(), closed);
    let next = store.credit_statement(&ws(), later(20), later(99)).await.unwrap();
    assert_eq!((next.opening, next.closing()), (closed.closing(), held(store).await.balance()));
    let nobody = store.credit_statement(&id("another"), later(5), later(20)).await.unwrap();
    assert_eq!(nobody, credits::Statement::default());
}

pub(super) fn terms(threshold: i64) -> AlertTerms {
    AlertTerms {
        threshold: NanoUsd::new(threshold),
        url: Arc::from("https://example.com/low?a=b"),
        secret: Secret(Arc::from("whsec_0123456789")),
    }
}

async fn an_alert_tells_of_each_crossing_once(store: &dyn Store) {
    store.set_credit_alert(&ws(), Some(&terms(100))).await.unwrap();
    assert_eq!(store.due_notices(NOON).await.unwrap(), [], "there are no credits");
    added(store, &grant("g1", 1000)).await;
    assert_eq!(store.due_notices(NOON).await.unwrap(), []);
    spend(store, "s1", "p1", 900, NOON).await;
    let notices = store.due_notices(later(1)).await.unwrap();
    assert_eq!(notices.len(), 1);
    assert_eq!((&notices[0].workspace, notices[0].attempt), (&ws(), 1));
    assert_eq!((notices[0].crossing.balance.get(), notices[0].crossing.at), (100, later(1)));
    assert_eq!(notices[0].terms, terms(100));
    assert_eq!(store.due_notices(later(2)).await.unwrap(), []);
    let again = store.due_notices(later(60)).await.unwrap();
    assert_eq!((again[0].attempt, again[0].crossing), (2, notices[0].crossing));
    store.notice_told(&again[0]).await.unwrap();
    assert_eq!(store.due_notices(later(9999)).await.unwrap(), []);
    assert_eq!(store.credit_alert(&ws()).await.unwrap().unwrap().watch, Watch::Told);
}

async fn a_notice_is_taken_back_when_the_balance_has_risen(store: &dyn Store) {
    store.set_credit_alert(&ws(), Some(&terms(100))).await.unwrap();
    added(store, &grant("g1", 100)).await;
    assert_eq!(store.due_notices(NOON).await.unwrap().len(), 1);
    added(store, &grant("g2", 1)).await;
    assert_eq!(store.due_notices(later(99)).await.unwrap(), []);
    spend(store, "s1", "p1", 1, NOON).await;
    let next = store.due_notices(later(100)).await.unwrap();
    assert_eq!((next[0].attempt, next[0].crossing.at), (1, later(100)));
}

async fn an_alert_is_replaced_and_removed(store: &dyn Store) {
    assert_eq!(store.credit_alert(&ws()).await.unwrap(), None);
    for threshold in [-5, 7] {
        store.set_credit_alert(&ws(), Some(&terms(threshold))).await.unwrap();
        let alert = store.credit_alert(&ws()).await.unwrap();
        assert_eq!(alert, Some(Alert::new(terms(threshold))));
    }
    store.set_credit_alert(&ws(), None).await.unwrap();
    assert_eq!(store.credit_alert(&ws()).await.unwrap(), None);
}

async fn sums_that_no_number_holds_are_the_nearest_that_one_does(store: &dyn Store) {
    const LEAST: i64 = i64::MIN + 1;
    let budget = budget(1, "p1");
    let (cost, credits) = (cost_of(&budget), credits::account(&ws()));
    store.create_budget(&budget).await.unwrap();
    store.add_credit(&ws(), &grant("g1", 1000), NOON).await.unwrap();
    store.set_credit_alert(&ws(), Some(&terms(100))).await.unwrap();
    for number in 1..=2 {
        let charged = [&cost, &cost, &credits].map(|account| (account, LEAST, Road::Direct));
        let settled = settlement(&format!("s{number}"), number, &charged);
        store.commit(&batch(std::slice::from_ref(&settled), &[]), NOON).await.unwrap();
        let on_record = store.settlement(&ws(), &settled.id).await.unwrap().unwrap();
        let amounts: Vec<_> = on_record.charges.iter().map(|charge| charge.amount.get()).collect();
        assert_eq!(amounts, [LEAST, i64::MIN]);
    }
    assert_eq!(account(store, &budget, &cost).await.unwrap().spent.get(), i64::MIN);
    assert_eq!(store.due_notices(NOON).await.unwrap(), []);
    let statement = store.credit_statement(&ws(), NOON, Wall::from_ms(i64::MAX)).await.unwrap();
    let spend: Vec<_> = statement.spend.iter().map(|(_, sum)| sum.get()).collect();
    assert_eq!(spend, [i64::MAX]);
}

/// What a budget's new window starts with, and what a statement tells, when no number holds the sum of what is on record. How near to
/// the largest number the accounts are is each store's own.
pub(in crate::store) async fn spent_beyond_all_numbers(store: &dyn Store) -> Vec<i64> {
    let old = budget(1, "p1");
    let (cost, credits) = (cost_of(&old), crate::domain::credits::account(&id("ws")));
    store.create_budget(&old).await.unwrap();
    store.add_credit(&id("ws"), &grant("g1", 1000), NOON).await.unwrap();
    for number in 0..3 {
        let charged = [(&cost, i64::MAX, Road::Direct), (&credits, i64::MAX, Road::Direct)];
        let settled = settlement(&format!("s{number}"), number, &charged);
        store.commit(&batch(&[settled], &[]), NOON).await.unwrap();
    }
    let statement = store.credit_statement(&id("ws"), NOON, Wall::from_ms(i64::MAX)).await.unwrap();
    assert_eq!(statement.spend.first().unwrap().1, NanoUsd::new(i64::MIN));

    let window = Window { start: NOON, end: None, label: Arc::from("2026-W47") };
    let new = store.replace_budget(&weekly(&old), None, Some(&window)).await.unwrap();
    let seeded = store.accounts(&new, "2026-W47").await.unwrap();
    seeded.iter().map(|(_, account)| account.spent.get()).collect()
}
