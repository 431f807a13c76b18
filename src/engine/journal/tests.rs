//! What is written is read back, wherever it was cut short.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::record::Record;
use super::*;
use crate::domain::budget::{Budget, Limits, WhenUnavailable};
use crate::domain::estimate::Estimate;
use crate::domain::ids::BudgetId;
use crate::domain::ledger::escrow::{Grant, Lease};
use crate::domain::ledger::{Actual, NamedHold, OnTimeout, Orphan, Sharing, Terms, Verdict};
use crate::domain::money::{Amounts, NanoUsd, Tokens, Units};
use crate::domain::period::{Period, Schedule, WeekStart, Zone};
use crate::domain::settlement::Certainty;
use crate::domain::subject::{Scope, ScopeKind, Subject, Target};
use crate::domain::time::Wall;

const BOOT: &str = "this boot";
const HOLDER: HolderId = HolderId(9);
const TTL: Duration = Duration::from_secs(3600);
const PLENTY: Units = Units::new(1_000_000_000);

fn id(text: &str) -> Id {
    Id::parse(text).unwrap()
}

fn at(ms: u64) -> Now {
    let wall = Wall::from_ms(1_794_000_000_000 + i64::try_from(ms).unwrap());
    Now { wall, mono: Mono::from_ns(3_600_000_000_000 + ms * 1_000_000) }
}

/// For each project a budget of its own, of money and of requests.
fn budget() -> Budget {
    let schedule =
        Schedule { period: Period::Yearly, zone: Zone::utc(), week_start: WeekStart::Monday };
    let limits = Limits {
        cost: Some(NanoUsd::new(PLENTY.get())),
        tokens: None,
        schedule: Some(schedule),
        requests_per_minute: Some(6000),
    };
    Budget {
        workspace: id("ws"),
        id: BudgetId(1),
        generation: 3,
        resets: 0,
        scope: Scope { kind: ScopeKind::Project, target: Target::Each },
        limits,
        is_active: true,
        expires_at: None,
        shadow: false,
        when_unavailable: WhenUnavailable::Deny,
        name: None,
        created_at: at(0).wall,
        updated_at: at(0).wall,
    }
}

fn ledger() -> Ledger {
    let terms = Terms {
        reservation_timeout: TTL,
        on_timeout: OnTimeout::Charge,
        lease_ttl: TTL,
        sharing: Sharing::Alone,
    };
    let mut ledger = Ledger::new(id("ws"), HOLDER, terms);
    ledger.put_budget(budget(), at(0));
    ledger
}

/// Answers whatever the ledger asks for with plenty.
fn feed(ledger: &mut Ledger, now: Now) {
    while let Some(batch) = ledger.next_batch(now) {
        let grant = Grant {
            granted: PLENTY,
            limit: PLENTY,
            spent: Units::ZERO,
            forfeited: Units::ZERO,
            free: Units::ZERO,
            holders: 1,
            recalls: 0,
            ttl: TTL,
        };
        ledger.apply(&vec![grant; batch.exchanges.len()], now);
    }
}

/// What happens to a journal.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// A request of one of three projects is admitted.
    Admit(u8, i64),
    /// One of the open reservations is over, or withdrawn.
    End(usize, bool),
    /// The file is started anew.
    Rewrite,
    /// The next piece of all that is open is said once more, or the head of the file is cut off.
    Renew,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => (0..3u8, 0..1000i64).prop_map(|(project, cost)| Event::Admit(project, cost)),
        4 => (0..8usize, any::<bool>()).prop_map(|(which, withdrawn)| Event::End(which, withdrawn)),
        1 => Just(Event::Rewrite),
        4 => Just(Event::Renew),
    ];
    vec(event, 1..40)
}

/// What should be read back: open reservations with what they may cost, and slots by project and time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Model {
    open: BTreeMap<ReservationId, (String, i64)>,
    slots: BTreeSet<(String, Mono)>,
}

impl Model {
    fn of(recovered: &Recovered) -> Self {
        let open = recovered.reservations.iter().map(|open| {
            let project = open.subject.project.as_ref().unwrap().to_string();
            let of_project = |hold: &&NamedHold| hold.account.target == id(&project);
            assert_eq!(open.holds.iter().filter(of_project).count(), 2);
            (open.id, (project, open.estimate.cost.get()))
        });
        let slots = recovered.stamps.iter();
        Self {
            open: open.collect(),
            slots: slots.map(|stamp| (stamp.account.target.to_string(), stamp.at)).collect(),
        }
    }
}

/// A ledger and its journal, with what the file should say after each event.
struct Life {
    ledger: Ledger,
    buffer: Buffer,
    file: Vec<u8>,
    model: Model,
    /// Bytes in the file, and what they should be read as.
    history: Vec<(usize, Model)>,
    number: u64,
    renewal: Option<Renewal>,
}

/// What is left to say once more, and where in the file that begins.
struct Renewal {
    from: usize,
    open: Vec<ReservationId>,
    places: Vec<u32>,
}

impl Life {
    fn begin() -> Self {
        let (ledger, model) = (ledger(), Model::default());
        let mut life = Self {
            ledger,
            buffer: Buffer::default(),
            file: Vec::new(),
            model,
            history: vec![],
            number: 0,
            renewal: None,
        };
        life.buffer.own(BOOT, &[HOLDER]);
        life.write();
        life
    }

    fn after(events: &[Event]) -> Self {
        let mut life = Self::begin();
        for event in events {
            life.happen(*event);
        }
        life
    }

    fn happen(&mut self, event: Event) {
        self.number += 1;
        let now = at(self.number);
        match event {
            Event::Admit(project, cost) => self.admit(&format!("p{project}"), cost, now),
            Event::End(which, withdrawn) => self.end(which, withdrawn),
            Event::Rewrite => {
                self.buffer.rewrite(
                    BOOT,
                    HOLDER,
                    &[],
                    std::iter::once((&mut self.ledger, Vec::new())),
                    now,
                );
                self.file.clear();
                self.history.clear();
                self.renewal = None;
            }
            Event::Renew => self.renew(now),
        }
        self.write();
    }

    /// One piece of a renewal, as small as can be.
    fn renew(&mut self, now: Now) {
        let Some(mut renewal) = self.renewal.take() else {
            let open = self.ledger.reservations().map(|(id, _)| id).collect();
            self.buffer.begin_again(BOOT, [HOLDER]);
            let places = self.ledger.places().collect();
            self.renewal = Some(Renewal { from: self.file.len(), open, places });
            return;
        };
        if let Some(id) = renewal.open.pop() {
            self.buffer.open_again(&self.ledger, &[id]);
        } else if let Some(place) = renewal.places.pop() {
            self.buffer.stamps_again(&mut self.ledger, place..place + 1, now);
        } else {
            self.file.drain(..renewal.from);
            self.history = vec![(self.file.len(), self.model.clone())];
            return;
        }
        self.renewal = Some(renewal);
    }

    fn renew_to_the_end(&mut self) {
        self.happen(Event::Renew);
        while self.renewal.is_some() {
            self.happen(Event::Renew);
        }
    }

    fn admit(&mut self, project: &str, cost: i64, now: Now) {
        let subject = Subject { project: Some(id(project)), ..Subject::of_workspace(id("ws")) };
        let amounts = Amounts { cost: NanoUsd::new(cost), tokens: Tokens::ZERO };
        let estimate = Estimate::of(amounts);
        let reservation = ReservationId { holder: HOLDER, nonce: self.number.into() };
        let verdict = self.ledger.reserve(Arc::new(subject), estimate, reservation, now);
        if matches!(verdict, Verdict::Starved(_)) {
            feed(&mut self.ledger, now);
        }
        self.buffer.admit(&self.ledger, reservation);
        self.model.open.insert(reservation, (project.to_owned(), cost));
        self.model.slots.insert((project.to_owned(), now.mono));
    }

    fn end(&mut self, which: usize, withdrawn: bool) {
        let Some((reservation, (project, _))) = self.model.open.iter().nth(which) else { return };
        let (reservation, project) = (*reservation, project.clone());
        self.model.open.remove(&reservation);
        let now = at(u64::try_from(reservation.nonce).unwrap());
        if withdrawn {
            self.ledger.withdraw(reservation, now);
            self.buffer.end(reservation, End::Withdrawn);
            self.model.slots.remove(&(project, now.mono));
        } else {
            self.ledger.release(reservation, now);
            self.buffer.end(reservation, End::Over);
        }
    }

    fn write(&mut self) {
        let (bytes, _) = self.buffer.drain();
        self.file.extend(bytes);
        self.history.push((self.file.len(), self.model.clone()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn a_journal_reads_back_what_was_open_wherever_it_was_cut(events in events()) {
        let life = Life::after(&events);
        for cut in 0..=life.file.len() {
            let whole = life.history.partition_point(|(end, _)| *end <= cut);
            let read = Recovered::read(&life.file[..cut], BOOT);
            let Some(recovered) = read else {
                prop_assert_eq!(whole, 0, "cut at {}", cut);
                continue;
            };
            let is = Model::of(&recovered);
            prop_assert!(usize::try_from(recovered.bytes).unwrap() <= cut);
            // A rewrite is put in the file's place at once; only appended records can be cut.
            let Some((end, should)) = whole.checked_sub(1).map(|last| &life.history[last]) else { continue };
            prop_assert_eq!(&is.open, &should.open);
            if *end == cut {
                prop_assert_eq!(&is.slots, &should.slots);
            }
            prop_assert!(is.slots.is_superset(&should.slots));
        }
    }

    #[test]
    fn a_flipped_byte_ends_what_is_believed(events in events(), flip in 1..=255u8, place in any::<prop::sample::Index>()) {
        let life = Life::after(&events);
        let place = place.index(life.file.len());
        let mut flipped = life.file.clone();
        flipped[place] ^= flip;
        let starts = starts(&life.file);
        let start = starts[starts.partition_point(|start| *start <= place) - 1];
        let (is, should) = (Recovered::read(&flipped, BOOT), Recovered::read(&life.file[..start], BOOT));
        prop_assert_eq!(is.as_ref().map(Model::of), should.as_ref().map(Model::of));
    }

    #[test]
    fn a_rewritten_journal_holds_exactly_what_is_open(events in events()) {
        let mut life = Life::after(&events);
        life.happen(Event::Rewrite);
        let recovered = Recovered::read(&life.file, BOOT).unwrap();
        prop_assert_eq!(Model::of(&recovered), life.model);
        prop_assert_eq!(recovered.stamps.len(), life.history[0].1.slots.len());
    }

    #[test]
    fn a_journal_that_was_renewed_while_others_wrote_holds_exactly_what_is_open(events in events()) {
        let mut life = Life::after(&events);
        life.renew_to_the_end();
        for renewed in [false, true] {
            if renewed {
                life.renew_to_the_end();
            }
            let recovered = Recovered::read(&life.file, BOOT).unwrap();
            prop_assert_eq!(Model::of(&recovered), life.model.clone());
            prop_assert_eq!(recovered.stamps.len(), life.model.slots.len());
        }
        prop_assert!(starts(&life.file).len() <= 2 + life.model.open.len() + 8 * life.model.slots.len());
    }
}

/// Where the records begin.
fn starts(file: &[u8]) -> Vec<usize> {
    let mut starts = Vec::new();
    let mut rest = file;
    while let Some((_, after)) = Record::read_from(rest) {
        starts.push(file.len() - rest.len());
        rest = after;
    }
    starts
}

#[test]
fn a_journal_of_another_boot_is_not_believed() {
    let life = Life::after(&[Event::Admit(1, 5)]);
    assert!(Recovered::read(&life.file, "another boot").is_none());
    assert!(Recovered::read(&[], BOOT).is_none());
}

#[test]
fn whose_leases_there_may_be_is_what_the_last_owner_said() {
    let mut life = Life::after(&[Event::Admit(1, 5)]);
    life.buffer.own(BOOT, &[HOLDER, HolderId(10)]);
    life.write();
    let recovered = Recovered::read(&life.file, BOOT).unwrap();
    assert_eq!(recovered.holders, [HOLDER, HolderId(10)]);
    assert_eq!(recovered.reservations.len(), 1);
}

#[test]
fn what_is_booked_in_the_place_of_another_replica_is_not_open_here() {
    for (holder, open) in [(HOLDER, 1), (HolderId(8), 1), (HolderId(7), 0)] {
        let mut ledger = ledger();
        let reservation = ReservationId { holder, nonce: 1 };
        let subject = Arc::new(Subject::of_workspace(id("ws")));
        let actual = Actual {
            settlement: id("s"),
            certainty: Certainty::Exact,
            amounts: Amounts::default(),
            usage: None,
            model: None,
            rates: None,
        };
        let orphan = Orphan { reservation, subject, at: at(0).wall, holds: None };
        let booked = ledger.book_directly(orphan, actual, at(0));
        let unrecorded = vec![booked.unwrap()];
        let mut buffer = Buffer::default();
        let ledgers = std::iter::once((&mut ledger, unrecorded));
        buffer.rewrite(BOOT, HOLDER, &[HolderId(8)], ledgers, at(0));
        let recovered = Recovered::read(&buffer.drain().0, BOOT).unwrap();
        assert_eq!(recovered.reservations.len(), open, "{holder:?}");
    }
}

#[test]
fn of_two_leases_on_an_account_the_later_goes_on_and_its_opener_is_on_record() {
    let account = AccountKey {
        workspace: id("ws"),
        budget: BudgetId(1),
        generation: 3,
        dimension: Dimension::Cost,
        target: id("p1"),
        window: Arc::from("2026"),
    };
    let lease = Lease { seq: 1, ..Lease::default() };
    for order in [[(1, 7), (2, 6)], [(2, 6), (1, 7)]] {
        let mut ledger = ledger();
        for (opener, epoch) in order {
            ledger.restore_lease(&account, (HolderId(opener), epoch), &lease, at(0));
        }
        ledger.hurry();
        let sent = ledger.next_batch(at(0)).unwrap().exchanges;
        let names: Vec<_> = sent.iter().map(|sent| (sent.opened_by, sent.epoch)).collect();
        assert_eq!(names, [(Some(HolderId(1)), 7)]);
        let mut buffer = Buffer::default();
        buffer.rewrite(BOOT, HOLDER, &[], std::iter::once((&mut ledger, Vec::new())), at(0));
        let recovered = Recovered::read(&buffer.drain().0, BOOT).unwrap();
        assert_eq!(recovered.holders, [HolderId(1), HOLDER]);
    }
}
