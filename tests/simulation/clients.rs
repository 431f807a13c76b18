//! The clients: they make requests, get answers in time or leave, and use less or more than was estimated.

use std::sync::Arc;

use bursar::domain::decision::Decision;
use bursar::domain::estimate::Estimate;
use bursar::domain::ids::{HolderId, ReservationId};
use bursar::domain::ledger::{NamedHold, Verdict, WaiterId};
use bursar::domain::money::{Amounts, NanoUsd, Tokens};
use bursar::domain::subject::Subject;
use bursar::domain::time::Wall;
use bursar::engine::journal::End;

use super::plan::{MS, room_of};
use super::replica::Stage;
use super::room::Overruns;
use super::store::Fault;
use super::truth::Held;
use super::world::{Event, Inbox, Phase, Place, World};

/// What becomes of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its exact usage is reported until that is acknowledged.
    Reported,
    /// It is metered here, which nobody waits for.
    Metered,
    /// A lower bound is reported first.
    InParts,
    /// Nobody says anything.
    Silent,
    /// The request never reached its provider.
    Released,
}

/// How a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Asking,
    Admitted,
    /// Answered with no, or its client left.
    Over,
}

#[derive(Debug)]
pub(crate) struct Request {
    /// Its workspace.
    pub(crate) room: usize,
    /// How many requests of its workspace came before it: what is reported of it is named by this, so that workspaces have the same names.
    pub(crate) ordinal: usize,
    pub(crate) subject: Arc<Subject>,
    pub(crate) estimate: Amounts,
    pub(crate) actual: Amounts,
    pub(crate) at: usize,
    pub(crate) arrived: u64,
    /// When it was admitted, by its replica's clock, as whoever settles it in that replica's place is told.
    pub(crate) made_at: Wall,
    /// What was set aside for it, of which that one is told as well.
    pub(crate) holds: Vec<NamedHold>,
    pub(crate) reservation: ReservationId,
    pub(crate) fate: Fate,
    pub(crate) standing: Standing,
    /// Times that a report was tried.
    pub(crate) tries: u32,
    /// Reports that were acknowledged: of [`Fate::InParts`] there are two.
    pub(crate) acknowledged: u32,
}

impl Request {
    /// Where it was made.
    pub(crate) fn place(&self) -> Place {
        Place { at: self.at, room: self.room }
    }

    /// Whether there is nothing more to report.
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.acknowledged > u32::from(self.fate == Fate::InParts)
    }

    /// Its client is gone.
    pub(crate) fn leave(&mut self) {
        if self.standing == Standing::Asking {
            self.standing = Standing::Over;
        }
    }
}

impl World {
    /// The next request arrives.
    pub(crate) fn arrive(&mut self) {
        if self.phase == Phase::Healed {
            return;
        }
        let pause = self.random.below(self.plan.between_requests * 2 + 1);
        self.after(pause, Event::Arrive);
        let at = self.random.index(self.replicas.len());
        let fate = self.fate();
        let room = self.random.index(self.plan.workspaces);
        let subject = self.plan.subject(room, &mut self.random);
        self.request(at, subject, fate);
    }

    /// Makes a request of a replica. Returns its number.
    pub(crate) fn request(&mut self, at: usize, subject: Arc<Subject>, fate: Fate) -> usize {
        let estimate = self.amounts();
        let actual = self.actual(estimate, fate);
        let holder = self.replicas[at].holder;
        let room = room_of(&subject.workspace);
        let reservation = ReservationId { holder, nonce: self.nonce(holder, room) };
        let number = self.requests.len();
        let ordinal = self.asked[room];
        self.asked[room] += 1;
        self.requests.push(Request {
            room,
            ordinal,
            subject,
            estimate,
            actual,
            at,
            arrived: self.now,
            made_at: Wall::default(),
            holds: Vec::new(),
            reservation,
            fate,
            standing: Standing::Asking,
            tries: 0,
            acknowledged: 0,
        });
        self.later(at, 0, Inbox::Ask(number));
        number
    }

    /// At times that of another replica's reservation in another workspace, from which a name without its holder does not tell it.
    fn nonce(&mut self, holder: HolderId, room: usize) -> u128 {
        let nonce = self.random.wide();
        // Every second one at the most, so that none is taken twice.
        let other = self.requests.last().filter(|last| {
            let is_other = last.room != room && last.reservation.holder != holder;
            is_other && !self.requests.len().is_multiple_of(2)
        });
        other.map_or(nonce, |other| other.reservation.nonce)
    }

    fn fate(&mut self) -> Fate {
        if self.random.chance(self.plan.silent) {
            return Fate::Silent;
        }
        match self.random.below(20) {
            0 => Fate::Released,
            1..=3 => Fate::InParts,
            4..=10 => Fate::Metered,
            _ => Fate::Reported,
        }
    }

    fn amounts(&mut self) -> Amounts {
        let most = i64::try_from(self.plan.estimate).expect("small");
        let mut amount = || self.random.signed(0, most);
        Amounts { cost: NanoUsd::new(amount()), tokens: Tokens::new(amount()) }
    }

    fn actual(&mut self, estimate: Amounts, fate: Fate) -> Amounts {
        if fate == Fate::Released {
            return Amounts::default();
        }
        let factor = if self.random.chance(self.plan.beyond) { 4 } else { 1 };
        let mut part = |of: i64| self.random.signed(0, of * factor);
        let (cost, tokens) = (part(estimate.cost.get()), part(estimate.tokens.get()));
        Amounts { cost: NanoUsd::new(cost), tokens: Tokens::new(tokens) }
    }

    /// A request reaches its replica.
    pub(crate) fn ask(&mut self, at: usize, number: usize) -> Result<(), Fault> {
        let replica = &mut self.replicas[at];
        if replica.stage != Stage::Running || self.requests[number].standing == Standing::Over {
            self.requests[number].leave();
            return Ok(());
        }
        let now = self.clocks(at);
        let request = &self.requests[number];
        let (place, reservation) = (request.place(), request.reservation);
        let (subject, estimate) = (Arc::clone(&request.subject), Estimate::of(request.estimate));
        let room = self.room_mut(place);
        match room.ledger.reserve(subject, estimate, reservation, now) {
            Verdict::Decided(decision) => self.decided(number, &decision, &Overruns::new()),
            Verdict::Starved(waiter) => {
                room.waiting.insert(waiter, number);
                self.later(at, self.plan.patience, Inbox::GiveUp(place.room, waiter));
                Ok(())
            }
        }
    }

    /// A request has waited long enough.
    pub(crate) fn lose_patience(&mut self, place: Place, waiter: WaiterId) -> Result<(), Fault> {
        let Some(number) = self.room_mut(place).waiting.remove(&waiter) else { return Ok(()) };
        let now = self.clocks(place.at);
        let before = self.room(place).overruns();
        if self.random.chance(100) {
            self.room_mut(place).ledger.abandon(waiter);
            self.requests[number].leave();
            return Ok(());
        }
        match self.room_mut(place).ledger.give_up(waiter, now) {
            Some(decision) => self.decided(number, &decision, &before),
            None => Err(format!("{waiter:?} waits here and not in the ledger")),
        }
    }

    /// Passes on what the ledger decided for those who wait.
    pub(crate) fn take_decided(&mut self, place: Place) -> Result<(), Fault> {
        for (waiter, decision) in self.room_mut(place).ledger.take_decided() {
            let number = self.room_mut(place).waiting.remove(&waiter);
            let number = number.ok_or_else(|| format!("nobody waits as {waiter:?}"))?;
            self.decided(number, &decision, &Overruns::new())?;
        }
        Ok(())
    }

    /// The ledger has answered.
    fn decided(
        &mut self,
        number: usize,
        decision: &Decision,
        before: &Overruns,
    ) -> Result<(), Fault> {
        let place = self.requests[number].place();
        self.check_refusal(place, decision)?;
        let words = match decision {
            Decision::Allow(_) => "allows",
            Decision::Deny(_) => "denies",
            Decision::Undecided { .. } => "leaves undecided",
        };
        let estimate = self.requests[number].estimate;
        self.trace.mark(self.now, words, place.at, || format!("#{number} {estimate:?}"));
        match decision {
            Decision::Allow(admission) => {
                let blind = admission.unavailable.then_some(before);
                return self.allowed(place, number, blind);
            }
            Decision::Deny(_) => self.tally.refused += 1,
            Decision::Undecided { .. } => self.tally.undecided += 1,
        }
        self.requests[number].leave();
        Ok(())
    }

    /// An admission is in the journal before its answer leaves. `blind` is what was overrun before one that was passed without the
    /// store.
    fn allowed(
        &mut self,
        place: Place,
        number: usize,
        blind: Option<&Overruns>,
    ) -> Result<(), Fault> {
        let Place { at, room } = place;
        let id = self.requests[number].reservation;
        if let Some(before) = blind {
            self.tally.blind += 1;
            self.note_blind(place, before)?;
        }
        let replica = &mut self.replicas[at];
        replica.records.admit(&replica.rooms[room].ledger, id);
        replica.write_journal();
        let waited = self.now - self.requests[number].arrived;
        let leaves = self.phase == Phase::Stormy && self.random.chance(10);
        if waited > self.plan.patience + 200 * MS || leaves {
            let now = self.clocks(at);
            let replica = &mut self.replicas[at];
            replica.rooms[room].ledger.withdraw(id, now);
            replica.records.end(id, End::Withdrawn);
            self.requests[number].standing = Standing::Over;
            return Ok(());
        }
        self.check_admission(place, id, blind.is_some())?;
        self.requests[number].standing = Standing::Admitted;
        self.requests[number].made_at = self.clocks(at).wall;
        self.tally.admitted += 1;
        let room = &self.replicas[at].rooms[room];
        let reservation = room.ledger.reservation(id).ok_or("an admission without reservation")?;
        self.requests[number].holds = room.ledger.named_holds(reservation);
        let holds: Vec<_> = reservation
            .holds
            .iter()
            .filter_map(|hold| {
                let key = room.ledger.key(hold.account)?;
                let is_blind = blind.is_some() && room.is_lenient(&key);
                Some(Held { key, amount: hold.amount, is_blind })
            })
            .collect();
        let keys: Vec<_> = holds.iter().map(|held| held.key.clone()).collect();
        self.check_own_minute(place, &holds)?;
        let used = (self.requests[number].actual, self.said(number).2);
        self.truth.admitted(id, holds, used, self.now);
        let response = self.random.between(MS, self.plan.response);
        self.later(at, response, Inbox::Finished(number));
        self.check_limits(&keys, at)
    }

    /// What is lost when a message finds nobody.
    pub(crate) fn nobody_there(&mut self, what: &Inbox) {
        match what {
            Inbox::Ask(request) => self.requests[*request].leave(),
            Inbox::Finished(request) if self.requests[*request].fate != Fate::Silent => {
                // Whoever metered the response tells of it when the replica is back.
                let request = *request;
                if self.requests[request].fate == Fate::Released {
                    self.truth.released(self.requests[request].reservation);
                } else {
                    self.after(MS, Event::Report(request));
                }
            }
            _ => {}
        }
    }

    /// A response is complete.
    pub(crate) fn finished(&mut self, at: usize, number: usize) {
        let request = &self.requests[number];
        let (id, fate, place) = (request.reservation, request.fate, request.place());
        match fate {
            Fate::Silent => {}
            Fate::Released => {
                let now = self.clocks(at);
                let replica = &mut self.replicas[at];
                if replica.rooms[place.room].ledger.release(id, now).is_some() {
                    replica.records.end(id, End::Over);
                }
                self.truth.released(id);
            }
            Fate::Metered if self.room(place).ledger.reservation(id).is_some() => {
                let (id, ..) = self.said(number);
                self.book(place, number, &id, None);
            }
            Fate::Metered | Fate::Reported | Fate::InParts => {
                let pause = self.random.below(500 * MS);
                self.after(pause, Event::Report(number));
            }
        }
    }
}
