//! What happens to messages between replicas and their store, and what the store does with them.

use bursar::domain::ids::HolderId;
use bursar::domain::ledger::escrow::Grant;
use bursar::store::{Batch, Change, FleetStore as _, Store as _, StoreError};

use super::replica::{Stage, replica_of};
use super::store::{Fault, at_once};
use super::world::{Answer, Call, Event, Inbox, News, Query, World};

impl World {
    /// A message reaches the store. Its answer goes back, if nothing comes in between.
    pub(crate) fn at_store(&mut self, call: Call) -> Result<(), Fault> {
        let is_away = self.store_away_until > self.now;
        if is_away && self.random.chance(500) {
            // It hangs.
            return Ok(());
        }
        let answer = if is_away || self.random.chance(self.plan.weather.refused) {
            Answer::Failed
        } else {
            self.serve(&call)?
        };
        let sender = &self.replicas[call.from];
        if sender.hears_nothing || self.random.chance(self.plan.weather.loss) {
            return Ok(());
        }
        let delay = self.delay();
        self.after(delay, Event::At(call.from, call.life, Inbox::Answer(call.token, answer)));
        Ok(())
    }

    fn serve(&mut self, call: &Call) -> Result<Answer, Fault> {
        let now = self.store_wall();
        let memory = &self.store.memory;
        Ok(match &call.query {
            Query::Commit(number, batch) => return self.commit(call, *number, batch),
            Query::Sweep => {
                if self.store.sweep(now)? > 0 {
                    self.trace.mark(self.now, "swept", call.from, String::new);
                    self.store.check_all(&self.truth)?;
                    self.check_all_covers()?;
                }
                Answer::Done
            }
            Query::News(holders, known) => Answer::News(self.news(holders, known)?),
            Query::HandOver(handoff) => {
                self.store.tell_time(now)?;
                let memory = &self.store.memory;
                at_once(memory.hand_over(handoff)).map_err(|error| error.to_string())?;
                Answer::Done
            }
            Query::HandoffSettled(handoff, against) => {
                let settled = at_once(memory.handoff_settled(handoff, against));
                settled.map_err(|error| error.to_string())?;
                let replica = replica_of(handoff.reservation.holder);
                let from = against.iter().map(|(account, _)| (account.clone(), replica));
                self.taken_back.extend(from);
                self.store.note(|key| against.iter().any(|(account, _)| account == key));
                self.store.check_all(&self.truth)?;
                self.check_all_covers()?;
                Answer::Done
            }
            Query::Untaken => Answer::Untaken(
                at_once(memory.untaken_handoffs(now)).map_err(|error| error.to_string())?,
            ),
            Query::Settled(workspace, ids) => Answer::Settled(
                at_once(memory.settled_among(workspace, ids)).map_err(|e| e.to_string())?,
            ),
            Query::Adopt(from) => {
                let adopted = at_once(memory.adopt(from, call.holder, now));
                let adopted = match adopted {
                    // Its process died and was taken over before this came.
                    Err(StoreError::TakenOver) if self.is_of_before(call) => Vec::new(),
                    adopted => adopted.map_err(|error| error.to_string())?,
                };
                self.trace.mark(self.now, "adopted", call.from, || format!("{adopted:?}"));
                self.store.check_all(&self.truth)?;
                self.check_all_covers()?;
                Answer::Adopted(adopted)
            }
            Query::Entry(workspace, id) => {
                Answer::Entry(at_once(memory.settlement(workspace, id)).map_err(|e| e.to_string())?)
            }
            Query::Entries(workspace, id, reservation) => {
                let own = at_once(memory.settlement(workspace, id));
                let all = at_once(memory.settlements_of(workspace, *reservation));
                Answer::Entries(own.map_err(|e| e.to_string())?, all.map_err(|e| e.to_string())?)
            }
            Query::Grant(workspace, grant, at) => {
                Answer::Granted(self.store.grant((workspace, grant), *at, now, &self.truth)?)
            }
            Query::ExpireCredits(workspace, at) => {
                Answer::Credits(self.store.expire_credits(workspace, *at, now, &self.truth)?)
            }
        })
    }

    fn commit(&mut self, call: &Call, number: u64, batch: &Batch) -> Result<Answer, Fault> {
        let (name, now) = ((number, call.holder), self.store_wall());
        let answer = self.store.commit(name, batch, now, &mut self.truth)?;
        self.trace.mark(self.now, "applied", call.from, || format!("{number} {answer:?}"));
        let sender = &self.replicas[call.from];
        if sender.life != call.life && sender.stage != Stage::Down {
            // It was on its way when its process died, and its successor may have taken over without it.
            self.gone.insert(call.holder);
        }
        self.check_covers(batch.exchanges.iter().map(|exchange| &exchange.account))?;
        Ok(match answer {
            Ok(grants) => {
                self.tell_of_recalls(call.from, batch, &grants);
                Answer::Grants(grants)
            }
            Err(Some(key)) => Answer::Lost(key),
            // Nobody hears it any more.
            Err(None) if self.is_of_before(call) => Answer::Done,
            Err(None) => return Err(format!("r{} was taken over while it lives", call.from)),
        })
    }

    /// Whether the process that called has died since.
    fn is_of_before(&self, call: &Call) -> bool {
        self.replicas[call.from].life != call.life
    }

    /// Word of a recall reaches most replicas at once.
    fn tell_of_recalls(&mut self, from: usize, batch: &Batch, grants: &[Grant]) {
        for (exchange, grant) in batch.exchanges.iter().zip(grants) {
            let key = &exchange.account;
            let known = self.recalls.insert(key.clone(), grant.recalls).unwrap_or(0);
            if grant.recalls <= known || !self.plan.is_notified {
                continue;
            }
            for at in (0..self.replicas.len()).filter(|at| *at != from) {
                if self.replicas[at].hears_nothing || self.random.chance(self.plan.weather.loss) {
                    continue;
                }
                let delay = self.delay();
                self.later(at, delay, Inbox::Recalled(key.clone(), grant.recalls));
            }
        }
    }

    fn news(&self, holders: &[HolderId], known: &[Change]) -> Result<News, Fault> {
        let heard = at_once(self.store.memory.news(holders, self.store_wall()));
        let heard = heard.map_err(|error| error.to_string())?;
        Ok(News {
            handed_over: heard.handed_over,
            changed: self.store.changed_since(known),
            recalled: heard.recalled,
        })
    }
}
