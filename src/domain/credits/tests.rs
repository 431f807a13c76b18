//! Drawing, expiry and alerts, by example and by chance.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const fn usd(nano: i64) -> NanoUsd {
    NanoUsd::new(nano)
}

fn grant(id: &str, amount: i64, priority: u8, expires_at: Option<i64>) -> CreditGrant {
    CreditGrant {
        id: Id::parse(id).unwrap(),
        amount: usd(amount),
        priority,
        expires_at: expires_at.map(Wall::from_ms),
        reason: Id::parse("test").unwrap(),
        created_at: Wall::from_ms(0),
    }
}

fn left(credits: &Credits) -> Vec<(&str, i64)> {
    credits.open.iter().map(|open| (open.grant.id.as_str(), open.left.get())).collect()
}

fn account(spent: i64, leased: i64) -> Account {
    Account { spent: Units::new(spent), leased: Units::new(leased), ..Account::default() }
}

fn add(credits: &mut Credits, grant: CreditGrant, spent: i64) {
    let added = credits.add(grant, &account(spent, 0), Wall::from_ms(0));
    assert_eq!(added, Added::New(credits.in_force()));
}

#[test]
fn grants_are_drawn_by_priority_then_expiry_then_id() {
    let mut credits = Credits::default();
    for grant in [
        grant("last", 10, 60, None),
        grant("b", 10, 50, None),
        grant("a", 10, 50, None),
        grant("soon", 10, 50, Some(9)),
        grant("first", 10, 0, None),
    ] {
        add(&mut credits, grant, 0);
    }
    credits.draw(usd(35));
    let rest = [("first", 0), ("soon", 0), ("a", 0), ("b", 5), ("last", 10)];
    assert_eq!(left(&credits), rest);
    credits.draw(usd(35));
    assert_eq!(left(&credits), rest, "the same spend is drawn once");
    credits.draw(usd(22));
    assert_eq!(
        left(&credits),
        [("first", 0), ("soon", 0), ("a", 8), ("b", 10), ("last", 10)],
        "what a correction gives back goes where it was drawn last"
    );
}

#[test]
fn a_grant_does_not_pay_for_what_was_drawn_before_it_came() {
    let mut credits = Credits::default();
    add(&mut credits, grant("old", 10, 50, None), 0);
    add(&mut credits, grant("urgent", 10, 0, None), 4);
    credits.draw(usd(5));
    assert_eq!(left(&credits), [("urgent", 9), ("old", 6)]);
}

#[test]
fn the_next_grant_pays_a_debt() {
    let mut credits = Credits::default();
    add(&mut credits, grant("a", 10, 50, None), 0);
    add(&mut credits, grant("b", 10, 50, None), 13);
    credits.draw(usd(13));
    assert_eq!(left(&credits), [("a", 0), ("b", 7)]);
    assert_eq!(balance(credits.granted, &account(13, 0)), usd(7));
}

#[test]
fn what_expires_is_the_rest_that_nobody_drew_or_holds() {
    let mut credits = Credits::default();
    add(&mut credits, grant("a", 10, 0, Some(5)), 0);
    add(&mut credits, grant("b", 10, 50, None), 0);
    assert_eq!(credits.in_force().next_expiry, Some(Wall::from_ms(5)));
    assert_eq!(credits.expire(&account(3, 2), Wall::from_ms(4)), []);
    let expired = credits.expire(&account(3, 2), Wall::from_ms(5));
    assert_eq!(expired, [Expiry { grant: Id::parse("a").unwrap(), rest: usd(5) }]);
    assert_eq!(credits.in_force(), InForce { granted: usd(15), next_expiry: None });
    assert_eq!(credits.expire(&account(3, 2), Wall::from_ms(9)), []);
    credits.draw(usd(5));
    assert_eq!(left(&credits), [("b", 10)], "what was held is not drawn twice");
}

#[test]
fn grants_are_bounded_in_number_and_in_sum() {
    let mut credits = Credits::default();
    for number in 0..OPEN_GRANTS_MAX {
        add(&mut credits, grant(&number.to_string(), 1, 50, None), 0);
    }
    let refused = |credits: &mut Credits, expires_at| {
        credits.add(grant("more", 1, 50, expires_at), &account(0, 0), Wall::from_ms(5))
    };
    assert_eq!(refused(&mut credits, None), Added::Full);
    assert_eq!(refused(&mut credits, Some(5)), Added::Expired);
    // One is used up.
    add(&mut credits, grant("more", 1, 50, None), 1);
    let mut credits = Credits::default();
    add(&mut credits, grant("all", i64::MAX, 50, None), 0);
    assert_eq!(refused(&mut credits, None), Added::Full);
}

#[test]
fn a_statement_closes_with_what_it_opened_with_and_its_lines() {
    let line = |amount| (Spender::default(), usd(amount));
    let statement = Statement {
        opening: usd(100),
        granted: usd(50),
        spend: vec![line(-30), line(-20)],
        other_spend: usd(-5),
        adjusted: usd(2),
        expired: usd(-7),
    };
    assert_eq!(statement.closing(), usd(90));
}

#[test]
fn an_entry_id_reads_back_what_it_shows() {
    for kind in EntryKind::ALL {
        let id = EntryId { kind, of: Id::parse("a:b").unwrap() };
        assert_eq!(EntryId::parse(&id.to_string()), Some(id));
    }
    for bad in ["", "grant", "grant:", "gift:a"] {
        assert_eq!(EntryId::parse(bad), None, "{bad}");
    }
}

fn alert() -> Alert {
    Alert::new(AlertTerms {
        threshold: usd(10),
        url: Arc::from("http://x"),
        secret: Secret(Arc::from("s")),
    })
}

/// At which of these seconds there is a notice to try.
fn tried(alert: &mut Alert, balance: i64, seconds: impl Iterator<Item = i64>) -> Vec<i64> {
    let workspace = Id::parse("ws").unwrap();
    seconds
        .filter(|second| {
            alert.observe(&workspace, usd(balance), Wall::from_ms(second * 1000)).is_some()
        })
        .collect()
}

#[test]
fn an_alert_goes_off_once_for_each_crossing() {
    let workspace = Id::parse("ws").unwrap();
    let mut alert = alert();
    assert_eq!(tried(&mut alert, 11, 0..5), [0i64; 0]);
    let notice = alert.observe(&workspace, usd(10), Wall::from_ms(5000)).unwrap();
    assert_eq!(notice.crossing, Crossing { balance: usd(10), at: Wall::from_ms(5000) });
    alert.told(notice.crossing);
    assert_eq!(tried(&mut alert, 3, 6..10_000), [0i64; 0]);
    assert_eq!(tried(&mut alert, 11, 10_000..10_001), [0i64; 0]);
    assert_eq!(tried(&mut alert, 9, 10_001..10_002), [10_001]);
    alert.told(notice.crossing);
    assert_ne!(alert.watch, Watch::Told, "the answer to an earlier notice ends no later one");
}

#[test]
fn a_notice_is_tried_with_growing_pauses_until_it_is_given_up_or_over() {
    let mut alert = alert();
    assert_eq!(tried(&mut alert, 9, 0..500), [0, 15, 45, 105, 225, 465]);
    assert_eq!(tried(&mut alert, 11, 500..1000), [0i64; 0]);
    assert_eq!(alert.watch, Watch::Armed);
    let all = tried(&mut alert, 9, 1000..200_000);
    assert_eq!(all.len(), 28);
    assert_eq!(alert.watch, Watch::Told);
    assert!((18..24).contains(&((all[27] - all[0]) / 3600)));
}

#[derive(Debug, Clone)]
enum Step {
    Grant { amount: i64, priority: u8, expires_in: Option<i64> },
    Spend(i64),
    Hold(i64),
    Pass(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1i64..100, 0u8..3, proptest::option::of(1i64..20)).prop_map(
            |(amount, priority, expires_in)| Step::Grant { amount, priority, expires_in }
        ),
        (-30i64..60).prop_map(Step::Spend),
        (0i64..40).prop_map(Step::Hold),
        (1i64..10).prop_map(Step::Pass),
    ]
}

proptest! {
    #[test]
    fn the_sum_of_the_entries_is_the_balance(steps in proptest::collection::vec(step(), 0..60)) {
        let (mut credits, mut account, mut entries, mut now) = (Credits::default(), account(0, 0), 0, 0);
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Grant { amount, priority, expires_in } => {
                    let expires_at = expires_in.map(|seconds| now + seconds);
                    let grant = grant(&number.to_string(), amount, priority, expires_at);
                    add(&mut credits, grant, account.spent.get());
                    entries += amount;
                }
                Step::Spend(amount) => {
                    account.spent = account.spent.plus(Units::new(amount));
                    entries -= amount;
                }
                Step::Hold(amount) => account.leased = Units::new(amount),
                Step::Pass(seconds) => now += seconds,
            }
            for expiry in credits.expire(&account, Wall::from_ms(now)) {
                prop_assert!(expiry.rest >= NanoUsd::ZERO);
                entries -= expiry.rest.get();
            }
            prop_assert_eq!(balance(credits.granted, &account).get(), entries);
            for open in &credits.open {
                prop_assert!((0..=open.grant.amount.get()).contains(&open.left.get()));
                prop_assert!(open.grant.expires_at.is_none_or(|end| end > Wall::from_ms(now)));
            }
        }
    }
}
