//! The audit trail.

use super::*;

contract!(
    a_settlement_reads_back_as_it_was_written,
    the_first_settlement_with_an_id_is_the_one_on_record,
    the_settlements_of_a_reservation_are_read_oldest_first,
    a_direct_charge_makes_its_account_and_may_give_back,
    what_others_charged_in_its_place_a_lease_does_not_charge_again,
    the_settled_among_many_reservations_are_told,
    what_a_long_outage_left_over_is_taken_at_once,
);

async fn a_settlement_reads_back_as_it_was_written(store: &dyn Store) {
    let budget = budget(1, "p1");
    let (cost, requests) = (cost_of(&budget), requests_of(&budget));
    store.create_budget(&budget).await.unwrap();
    let full =
        settlement("s/1 \"x\"", 1, &[(&cost, 7, Road::Lease), (&requests, -1, Road::Direct)]);
    let bare = Settlement {
        reservation: None,
        certainty: Certainty::Adjustment,
        usage: None,
        model: None,
        rates: None,
        subject: Arc::new(Subject::of_workspace(id("ws"))),
        ..settlement("s2", 2, &[])
    };
    store.commit(&batch(&[full.clone(), bare.clone()], &[]), NOON).await.unwrap();
    for expected in [full, bare] {
        assert_eq!(
            store.settlement(&id("ws"), &expected.id).await.unwrap(),
            Some(expected.clone())
        );
        assert_eq!(store.settlement(&id("another"), &expected.id).await.unwrap(), None);
    }
}

async fn the_first_settlement_with_an_id_is_the_one_on_record(store: &dyn Store) {
    let budget = budget(1, "p1");
    let cost = cost_of(&budget);
    store.create_budget(&budget).await.unwrap();
    let first = settlement("s1", 1, &[(&cost, 5, Road::Direct)]);
    let second = settlement("s1", 2, &[(&cost, 900, Road::Direct)]);
    store.commit(&batch(&[first.clone(), second.clone()], &[]), NOON).await.unwrap();
    store.commit(&batch(std::slice::from_ref(&second), &[]), NOON).await.unwrap();
    assert_eq!(store.settlement(&id("ws"), &first.id).await.unwrap(), Some(first));
    assert_eq!(store.settlements_of(&id("ws"), second.reservation.unwrap()).await.unwrap(), []);
    assert_eq!(account(store, &budget, &cost).await.unwrap().spent.get(), 5);
}

async fn the_settlements_of_a_reservation_are_read_oldest_first(store: &dyn Store) {
    let (first, second) = (settlement("z", 1, &[]), settlement("a", 1, &[]));
    let third = Settlement { at: Wall::from_ms(0), ..settlement("m", 1, &[]) };
    store
        .commit(&batch(&[first.clone(), settlement("other", 2, &[]), second.clone()], &[]), NOON)
        .await
        .unwrap();
    store.commit(&batch(std::slice::from_ref(&third), &[]), NOON).await.unwrap();
    let reservation = first.reservation.unwrap();
    assert_eq!(store.settlements_of(&id("ws"), reservation).await.unwrap(), [first, second, third]);
    assert_eq!(store.settlements_of(&id("another"), reservation).await.unwrap(), []);
}

async fn a_direct_charge_makes_its_account_and_may_give_back(store: &dyn Store) {
    let budget = budget(1, "p1");
    let cost = cost_of(&budget);
    store.create_budget(&budget).await.unwrap();
    let charge = async |name: &str, amount| {
        let charged = settlement(name, 1, &[(&cost, amount, Road::Direct)]);
        store.commit(&batch(&[charged], &[]), NOON).await.unwrap();
        let account = account(store, &budget, &cost).await.unwrap();
        (account.spent.get(), account.overdraft.get())
    };
    assert_eq!(charge("s1", -50).await, (-50, 0));
    assert_eq!(charge("s2", 1100).await, (1050, 50));
    assert_eq!(charge("s3", -1).await, (1049, 50));
    // Twice for one account is one charge of the sum.
    let twice = settlement("s4", 1, &[(&cost, 2, Road::Direct), (&cost, 3, Road::Direct)]);
    store.commit(&batch(&[twice], &[]), NOON).await.unwrap();
    let on_record = store.settlement(&id("ws"), &id("s4")).await.unwrap().unwrap();
    assert_eq!(on_record.charges.iter().map(|charge| charge.amount.get()).collect::<Vec<_>>(), [5]);
}

async fn what_others_charged_in_its_place_a_lease_does_not_charge_again(store: &dyn Store) {
    let budget = budget(1, "p1");
    let cost = cost_of(&budget);
    store.create_budget(&budget).await.unwrap();
    store.commit(&batch(&[], &[exchange(&cost, 1, 100)]), NOON).await.unwrap();
    let by_another = settlement("s1", 1, &[(&cost, 30, Road::Direct)]);
    store.commit(&batch(std::slice::from_ref(&by_another), &[]), NOON).await.unwrap();

    let late = settlement("s1", 1, &[(&cost, 30, Road::Lease)]);
    let own = settlement("s2", 2, &[(&cost, 5, Road::Lease)]);
    let reported = Exchange { consumed: Units::new(35), ..exchange(&cost, 2, 0) };
    let sent = batch(&[late.clone(), own], std::slice::from_ref(&reported));
    for _ in 0..2 {
        let grants = store.commit(&sent, NOON).await.unwrap();
        assert_eq!(grants.iter().map(|grant| grant.spent.get()).collect::<Vec<_>>(), [35]);
        let account = account(store, &budget, &cost).await.unwrap();
        assert_eq!((account.spent.get(), account.leased.get()), (35, 65));
    }
    assert_eq!(store.settlement(&id("ws"), &late.id).await.unwrap(), Some(by_another));

    // What was recorded by the lease itself is no charge of another's.
    let again = batch(
        &[settlement("s2", 2, &[(&cost, 5, Road::Lease)])],
        &[Exchange { consumed: Units::new(40), ..exchange(&cost, 3, 0) }],
    );
    store.commit(&again, NOON).await.unwrap();
    assert_eq!(account(store, &budget, &cost).await.unwrap().spent.get(), 40);
}

async fn the_settled_among_many_reservations_are_told(store: &dyn Store) {
    let settled = [settlement("a", 3, &[]), settlement("b", 1, &[]), settlement("c", 3, &[])];
    store.commit(&batch(&settled, &[]), NOON).await.unwrap();
    let reservation = |nonce| ReservationId { holder: HolderId(1), nonce };
    let asked = [reservation(3), reservation(2), reservation(1)];
    let told = store.settled_among(&id("ws"), &asked).await.unwrap();
    assert_eq!(told, [reservation(3), reservation(1)]);
    assert_eq!(store.settled_among(&id("another"), &asked).await.unwrap(), []);
    assert_eq!(store.settled_among(&id("ws"), &[]).await.unwrap(), []);
}

async fn what_a_long_outage_left_over_is_taken_at_once(store: &dyn Store) {
    const MANY: u128 = 3_000;
    let budget = budget(1, "*");
    store.create_budget(&budget).await.unwrap();
    let account =
        |number: u128| AccountKey { target: id(&format!("p{number:05}")), ..cost_of(&budget) };
    let entry = |number: u128| {
        let charged = [(&account(0), 2, Road::Direct), (&account(number + 1), 1, Road::Lease)];
        settlement(&format!("s{number:05}"), number, &charged)
    };
    let settlements: Vec<_> = (0..MANY).map(entry).collect();
    let exchanges: Vec<_> = (0..=MANY).map(|number| exchange(&account(number), 1, 10)).collect();
    let grants = store.commit(&batch(&settlements, &exchanges), NOON).await.unwrap();
    assert!(grants.iter().skip(1).all(|grant| grant.granted.get() == 10));
    let spent = super::account(store, &budget, &account(0)).await.unwrap().spent;
    assert_eq!(spent.get(), i64::try_from(2 * MANY).unwrap());
    let again = store.commit(&batch(&settlements, &exchanges), NOON).await.unwrap();
    assert_eq!(again, grants);
    let last = id(&format!("s{:05}", MANY - 1));
    assert_eq!(store.settlement(&id("ws"), &last).await.unwrap().as_ref(), settlements.last());
}
