//! Reservations of this replica that another settled for it, because this one did not take what was handed over to it for a minute:
//! it was suspended, or cut off from the store.
//!
//! Rule: in a fleet, a reservation is ended by its time limit only after the store has said that it has no entry of it. One that has is
//! given back here without a charge, because the other replica charged the accounts directly. The same is asked about all open
//! reservations when the news come again after a silence. One and the same report counts once, whoever of the two is sooner: the store takes what
//! a lease says of it for said. Under another name (another report, or its time limit) what is settled here while the other's entry is on
//! its way may be charged twice in the end, never too little: the entries stand side by side until a correction replaces both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::journal::{Buffer, End};
use super::news::in_time;
use super::{Engine, Room, Shared, State};
use crate::domain::ids::{Id, ReservationId};
use crate::domain::ledger::{Ledger, OnTimeout};
use crate::domain::time::Now;
use crate::store::StoreError;

/// How often overdue reservations are ended.
const LOOK: Duration = Duration::from_secs(1);
/// Reservations that the store is asked about at once.
const AT_ONCE: usize = 1000;

/// Ends overdue reservations of a fleet's replica, until it is aborted.
pub(super) async fn end_overdue(shared: Arc<Shared>) {
    loop {
        sleep(shared.about(LOOK)).await;
        if let Err(error) = shared.end_overdue_in_fleet().await {
            tracing::warn!(%error, "overdue reservations stay open until the store answers");
        }
    }
}

impl Engine {
    /// Gives back open reservations that another replica settled.
    pub(super) async fn give_up_what_others_settled(&self) -> Result<(), StoreError> {
        let open =
            self.shared.reservations_of(|ledger| ledger.reservations().map(|(id, _)| id).collect());
        for (workspace, ids) in open {
            self.shared.give_up_settled(&workspace, &ids).await?;
        }
        Ok(())
    }
}

impl Shared {
    pub(super) async fn end_overdue_in_fleet(&self) -> Result<(), StoreError> {
        let now = self.now();
        let overdue = self.reservations_of(|ledger| ledger.overdue(now).collect());
        for (workspace, ids) in overdue {
            self.give_up_settled(&workspace, &ids).await?;
            let mut state = self.state();
            let State { rooms, records, .. } = &mut *state;
            if let Some(room) = rooms.get_mut(&workspace) {
                room.end_overdue(records, self.terms.on_timeout, now);
            }
            self.stir(&mut state, &workspace);
        }
        Ok(())
    }

    /// Some reservations of each workspace that has any.
    fn reservations_of(
        &self,
        of: impl Fn(&Ledger) -> Vec<ReservationId>,
    ) -> BTreeMap<Id, Vec<ReservationId>> {
        let state = self.state();
        let found =
            state.rooms.iter().map(|(workspace, room)| (workspace.clone(), of(&room.ledger)));
        found.filter(|(_, ids)| !ids.is_empty()).collect()
    }

    /// Gives back those of these reservations that have an entry at the store: one that is open here has none by this replica.
    async fn give_up_settled(
        &self,
        workspace: &Id,
        reservations: &[ReservationId],
    ) -> Result<(), StoreError> {
        for some in reservations.chunks(AT_ONCE) {
            let settled = in_time(self.store.settled_among(workspace, some)).await?;
            let mut state = self.state();
            let now = self.now();
            let State { rooms, records, .. } = &mut *state;
            let Some(room) = rooms.get_mut(workspace) else { continue };
            for id in settled {
                // Settled here since it was asked about, it is no longer open.
                if room.ledger.release(id, now).is_some() {
                    tracing::info!(reservation = %id, "another replica has settled a reservation of this one");
                    records.end(id, End::Over);
                }
            }
            self.stir(&mut state, workspace);
        }
        Ok(())
    }
}

impl Room {
    /// Ends reservations whose time is up.
    pub(super) fn end_overdue(&mut self, records: &mut Buffer, on_timeout: OnTimeout, now: Now) {
        for id in self.ledger.end_overdue(now) {
            // The end of a reservation that was charged is recorded when its settlement is durable.
            if on_timeout == OnTimeout::Release {
                records.end(id, End::Over);
            }
        }
    }
}
