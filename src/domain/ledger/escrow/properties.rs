//! What must hold after any sequence of exchanges, replays, expiries, resets and charges by several holders.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const TTL: Duration = Duration::from_secs(10);
const HOLDERS: usize = 3;

fn request(seq: u32, totals: (i64, i64, i64), draw: Option<i64>) -> Exchange {
    Exchange {
        account: AccountKey {
            workspace: Id::parse("ws").unwrap(),
            budget: BudgetId(1),
            generation: 0,
            dimension: Dimension::Cost,
            target: Id::parse("ws").unwrap(),
            window: Arc::from("2026-11"),
        },
        holder: HolderId(1),
        opened_by: None,
        epoch: 1,
        seq,
        consumed: Units::new(totals.0),
        returned: Units::new(totals.1),
        overrun: Units::new(totals.2),
        draw: draw.map(|n| Draw {
            need_min: Units::new(n),
            need: Units::new(n),
            want: Units::new(n),
        }),
        then: Then::Renew,
    }
}

/// Applies a request under a limit of 100.
fn apply(
    account: &mut Account,
    lease: &mut Option<Lease>,
    request: &Exchange,
) -> Result<Grant, Lost> {
    exchange(account, lease, request, Units::new(100), TTL, Wall::from_ms(1000))
}

#[test]
fn the_first_exchange_opens_the_lease_and_reports_and_returns_move_it_on() {
    let (mut account, mut lease) = (Account::default(), None);
    let grant = apply(&mut account, &mut lease, &request(1, (0, 0, 0), Some(60))).unwrap();
    assert_eq!((grant.granted.get(), grant.free.get(), grant.holders, grant.ttl), (60, 40, 1, TTL));
    let grant = apply(&mut account, &mut lease, &request(2, (20, 10, 0), None)).unwrap();
    assert_eq!((grant.granted.get(), grant.spent.get(), grant.free.get()), (60, 20, 50));
    assert_eq!(account.leased.get(), 30);
    assert_eq!(lease.unwrap().expires_at, Wall::from_ms(11_000));
}

#[test]
fn a_draw_below_the_smallest_waiting_request_lends_nothing() {
    let (mut account, mut lease) = (Account::default(), None);
    assert_eq!(
        apply(&mut account, &mut lease, &request(1, (0, 0, 0), Some(101))).unwrap().granted,
        Units::ZERO
    );
    assert_eq!(
        apply(&mut account, &mut lease, &request(2, (0, 0, 0), Some(100))).unwrap().granted.get(),
        100
    );
}

#[test]
fn a_draw_leaves_the_other_holders_their_part() {
    let mut account = Account::default();
    let (mut first, mut second) = (None, None);
    apply(&mut account, &mut first, &request(1, (0, 0, 0), None)).unwrap();
    let mut ask = request(1, (0, 0, 0), Some(10));
    ask.draw = Some(Draw { need_min: Units::new(5), need: Units::new(10), want: Units::new(90) });
    assert_eq!(apply(&mut account, &mut second, &ask).unwrap().granted.get(), 12, "an eighth");
    account.holders = 160;
    (ask.seq, ask.draw) = (2, ask.draw.map(|draw| Draw { need: Units::ONE, ..draw }));
    assert_eq!(apply(&mut account, &mut second, &ask).unwrap().granted.get(), 17, "ten parts");
    (ask.seq, ask.draw) = (3, ask.draw.map(|draw| Draw { need: Units::new(30), ..draw }));
    assert_eq!(apply(&mut account, &mut second, &ask).unwrap().granted.get(), 47, "the need");
}

#[test]
fn a_lease_lasts_longer_among_many_and_never_longer_than_the_store_keeps_it() {
    for (others, secs) in [(0, 10), (63, 10), (127, 20), (383, 60), (5_000, 60)] {
        let mut account = Account { holders: others, ..Account::default() };
        let mut lease = None;
        let ask = request(1, (0, 0, 0), None);
        let grant = apply(&mut account, &mut lease, &ask).unwrap();
        assert_eq!(grant.ttl, Duration::from_secs(secs), "{others} others");
        assert_eq!(lease.unwrap().expires_at, Wall::from_ms(1_000).plus(grant.ttl));
        account.holders = 5_000;
        let replay = apply(&mut account, &mut lease, &ask).unwrap();
        assert!(replay.ttl <= grant.ttl, "{others} others: {:?}", replay.ttl);
    }
}

#[test]
fn nothing_is_recalled_for_a_refill_that_nobody_waits_for() {
    let mut account = Account::default();
    let (mut first, mut second) = (None, None);
    apply(&mut account, &mut first, &request(1, (0, 0, 0), Some(100))).unwrap();
    let mut ask = request(1, (0, 0, 0), Some(10));
    ask.draw = ask.draw.map(|draw| Draw { need_min: Units::ZERO, ..draw });
    assert_eq!(apply(&mut account, &mut second, &ask).unwrap().recalls, 0);
    let waits = request(2, (0, 0, 0), Some(10));
    assert_eq!(apply(&mut account, &mut second, &waits).unwrap().recalls, 1);
}

#[test]
fn a_replay_gives_the_same_grant_and_changes_nothing() {
    let (mut account, mut lease) = (Account::default(), None);
    let ask = request(1, (0, 0, 0), Some(60));
    let grant = apply(&mut account, &mut lease, &ask);
    let before = (account, lease);
    assert_eq!(apply(&mut account, &mut lease, &ask), grant);
    assert_eq!((account, lease), before);
}

#[test]
fn a_wrong_sequence_or_a_falling_total_is_lost_and_changes_nothing() {
    let (mut account, mut lease) = (Account::default(), None);
    assert_eq!(apply(&mut account, &mut lease, &request(0, (0, 0, 0), None)), Err(Lost));
    assert_eq!(apply(&mut account, &mut lease, &request(2, (0, 0, 0), None)), Err(Lost));
    assert_eq!(apply(&mut account, &mut lease, &request(1, (-1, 0, 0), None)), Err(Lost));
    apply(&mut account, &mut lease, &request(1, (0, 0, 0), Some(60))).unwrap();
    apply(&mut account, &mut lease, &request(2, (20, 10, 0), None)).unwrap();
    let before = (account, lease);
    for bad in
        [(1, (20, 10, 0)), (4, (20, 10, 0)), (3, (19, 10, 0)), (3, (20, 9, 0)), (3, (20, 10, -1))]
    {
        assert_eq!(
            apply(&mut account, &mut lease, &request(bad.0, bad.1, Some(1))),
            Err(Lost),
            "{bad:?}"
        );
    }
    assert_eq!((account, lease), before);
}

#[test]
fn a_closed_lease_gives_back_the_rest_and_answers_its_last_exchange_only() {
    let (mut account, mut lease) = (Account::default(), None);
    apply(&mut account, &mut lease, &request(1, (0, 0, 0), Some(60))).unwrap();
    let last = Exchange { then: Then::Close, ..request(2, (20, 0, 0), Some(50)) };
    let grant = apply(&mut account, &mut lease, &last).unwrap();
    assert_eq!((grant.free.get(), grant.holders, account.leased), (80, 0, Units::ZERO));
    assert_eq!(apply(&mut account, &mut lease, &last), Ok(grant));
    let swept = apply(&mut account, &mut lease, &request(2, (20, 0, 0), None)).unwrap();
    assert_eq!(swept, Grant { ttl: Duration::ZERO, ..grant });
    assert_eq!(apply(&mut account, &mut lease, &request(3, (20, 40, 0), None)), Err(Lost));
}

#[test]
fn an_expired_lease_counts_as_spent_until_its_holder_comes_back() {
    let (mut account, mut lease) = (Account::default(), None);
    apply(&mut account, &mut lease, &request(1, (0, 0, 0), Some(60))).unwrap();
    expire(&mut account, lease.as_mut().unwrap());
    assert_eq!(
        (account.leased.get(), account.forfeited.get(), account.free(Units::new(100)).get()),
        (0, 60, 40)
    );
    apply(&mut account, &mut lease, &request(2, (50, 0, 0), None)).unwrap();
    assert_eq!((account.leased.get(), account.forfeited.get(), account.holders), (10, 0, 1));
}

#[test]
fn what_is_consumed_beyond_the_grants_is_overdraft() {
    let (mut account, mut lease) = (Account::default(), None);
    apply(&mut account, &mut lease, &request(1, (0, 0, 0), Some(60))).unwrap();
    let grant = apply(&mut account, &mut lease, &request(2, (70, 0, 10), None)).unwrap();
    assert_eq!((grant.granted.get(), account.overdraft.get(), account.leased.get()), (70, 10, 0));
    let grant = apply(&mut account, &mut lease, &request(3, (75, 0, 10), None)).unwrap();
    assert_eq!((grant.granted.get(), account.overdraft.get(), account.leased.get()), (75, 15, 0));
}

#[test]
fn a_direct_charge_counts_as_overdraft_only_beyond_what_is_free() {
    let mut account = Account::default();
    for (amount, overdraft) in [(90, 0), (30, 20), (-50, 20), (40, 30)] {
        charge(&mut account, Units::new(amount), Units::new(100));
        assert_eq!(account.overdraft.get(), overdraft, "after {amount}");
    }
    assert_eq!(account.spent.get(), 110);
}

#[test]
fn time_asks_for_expiry_after_the_grace_and_for_slots_a_minute_later() {
    let lease = |state| Lease { state, expires_at: Wall::from_ms(10_000), ..Lease::default() };
    let check = |dimension, state, at, what| {
        assert_eq!(due(dimension, &lease(state), Wall::from_ms(at)), what)
    };
    check(Dimension::Cost, LeaseState::Active, 12_000, None);
    check(Dimension::Cost, LeaseState::Active, 12_001, Some(Due::Expire));
    check(Dimension::Cost, LeaseState::Expired, i64::MAX, None);
    check(Dimension::Requests, LeaseState::Expired, 72_000, None);
    check(Dimension::Requests, LeaseState::Expired, 72_001, Some(Due::FreeSlots));
    check(Dimension::Cost, LeaseState::Closed, 86_410_000, None);
    check(Dimension::Cost, LeaseState::Closed, 86_410_001, Some(Due::Forget));
}

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Exchange {
        holder: usize,
        consume: u16,
        give_back: u16,
        overrun: u16,
        draw: Option<u16>,
        then: Then,
    },
    Replay {
        holder: usize,
    },
    Expire {
        holder: usize,
    },
    FreeSlots {
        holder: usize,
    },
    Charge {
        amount: i16,
    },
    Limit {
        limit: u16,
    },
    Reset,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let exchange =
        (0..HOLDERS, 0u16..80, 0u16..80, 0u16..20, proptest::option::of(0u16..500), 0..8).prop_map(
            |(holder, consume, give_back, overrun, draw, then)| Step::Exchange {
                holder,
                consume,
                give_back,
                overrun: overrun.saturating_sub(15),
                draw,
                then: if then == 0 { Then::Close } else { Then::Renew },
            },
        );
    let step = prop_oneof![
        8 => exchange,
        2 => (0..HOLDERS).prop_map(|holder| Step::Replay { holder }),
        2 => (0..HOLDERS).prop_map(|holder| Step::Expire { holder }),
        1 => (0..HOLDERS).prop_map(|holder| Step::FreeSlots { holder }),
        1 => (-100i16..200).prop_map(|amount| Step::Charge { amount }),
        1 => (0u16..2000).prop_map(|limit| Step::Limit { limit }),
        1 => Just(Step::Reset),
    ];
    proptest::collection::vec(step, 1..120)
}

/// One account with every lease ever opened on it, and what each holder sent last.
struct World {
    account: Account,
    limit: Units,
    direct: Units,
    closed: Vec<Lease>,
    leases: [Option<Lease>; HOLDERS],
    last: [Option<(Exchange, Grant)>; HOLDERS],
}

impl World {
    fn run(&mut self, step: Step) {
        match step {
            Step::Exchange { holder, consume, give_back, overrun, draw, then } => {
                let held = self.leases[holder].unwrap_or_default();
                let totals = (
                    held.consumed.get() + i64::from(consume),
                    held.returned.get() + i64::from(give_back),
                    held.overrun.get() + i64::from(overrun),
                );
                let ask = Exchange { then, ..request(held.seq + 1, totals, draw.map(i64::from)) };
                self.exchange(holder, ask);
            }
            Step::Replay { holder } => self.replay(holder),
            Step::Expire { holder } => self.on_lease(holder, expire),
            Step::FreeSlots { holder } => self.on_lease(holder, free_slots),
            Step::Charge { amount } => {
                charge(&mut self.account, Units::new(i64::from(amount)), self.limit);
                self.direct = self.direct.plus(Units::new(i64::from(amount)));
            }
            Step::Limit { limit } => self.limit = Units::new(i64::from(limit)),
            Step::Reset => {
                (0..HOLDERS).for_each(|holder| self.on_lease(holder, write_off));
                reset(&mut self.account);
            }
        }
    }

    fn exchange(&mut self, holder: usize, ask: Exchange) {
        let before = self.account;
        let lease = &mut self.leases[holder];
        let held = lease.unwrap_or_default();
        let grant =
            exchange(&mut self.account, lease, &ask, self.limit, TTL, Wall::from_ms(0)).unwrap();
        let beyond = self.account.overdraft.minus(before.overdraft);
        if grant.granted > held.granted.plus(beyond) {
            let counted = self.account.spent.plus(self.account.leased).plus(self.account.forfeited);
            assert!(
                counted <= self.limit.plus(self.account.base).plus(self.account.overdraft),
                "I4: {self:?}"
            );
        }
        assert!(grant.granted >= held.granted, "I5: {self:?}");
        self.last[holder] = Some((ask, grant));
        self.retire(holder);
    }

    /// Sends the last exchange again: the same is lent, and nothing changes.
    fn replay(&mut self, holder: usize) {
        let (Some((ask, grant)), Some(lease)) = (&self.last[holder], self.leases[holder]) else {
            return;
        };
        let (mut account, mut again) = (self.account, Some(lease));
        let replayed =
            exchange(&mut account, &mut again, ask, self.limit, TTL, Wall::from_ms(99)).unwrap();
        assert_eq!(
            (replayed.granted, account, again),
            (grant.granted, self.account, Some(lease)),
            "I8"
        );
    }

    fn on_lease(&mut self, holder: usize, change: impl Fn(&mut Account, &mut Lease)) {
        if let Some(lease) = &mut self.leases[holder] {
            change(&mut self.account, lease);
        }
        self.retire(holder);
    }

    /// A closed lease stays as it is; its holder opens another.
    fn retire(&mut self, holder: usize) {
        if let Some(lease) = self.leases[holder].take_if(|lease| lease.state == LeaseState::Closed)
        {
            self.closed.push(lease);
        }
    }

    fn check(&self) {
        let leases: Vec<Lease> =
            self.closed.iter().chain(self.leases.iter().flatten()).copied().collect();
        assert_eq!(check_invariants(&self.account, &leases, self.direct), Ok(()));
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "limit {:?}, {:?}, {:?}", self.limit, self.account, self.leases)
    }
}

proptest! {
    #[test]
    fn no_history_breaks_an_invariant(steps in steps()) {
        let mut world = World {
            account: Account::default(),
            limit: Units::new(1000),
            direct: Units::ZERO,
            closed: Vec::new(),
            leases: [None; HOLDERS],
            last: [const { None }; HOLDERS],
        };
        for step in steps {
            world.run(step);
            world.check();
        }
    }
}
