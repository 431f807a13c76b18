//! Turns: reports with the same settlement id are taken one after the other, so that each sees what the one before it recorded.

use tokio::sync::oneshot;

use super::Engine;
use crate::domain::ids::Id;

/// A workspace and a settlement id.
pub(super) type Name = (Id, Id);

/// The right to report under an id, until it is dropped.
pub(super) struct Turn {
    engine: Engine,
    name: Name,
}

impl Engine {
    /// Waits until nobody else reports under this id.
    pub(super) async fn turn(&self, workspace: &Id, settlement: &Id) -> Turn {
        let name = (workspace.clone(), settlement.clone());
        loop {
            let over = {
                let mut state = self.shared.state();
                let Some(waiting) = state.turns.get_mut(&name) else {
                    state.turns.insert(name.clone(), Vec::new());
                    return Turn { engine: self.clone(), name };
                };
                let (sender, receiver) = oneshot::channel();
                waiting.push(sender);
                receiver
            };
            // Whatever comes, the turn is over; all who waited try again.
            let _ = over.await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Dropping the senders wakes those who wait.
        self.engine.shared.state().turns.remove(&self.name);
    }
}
