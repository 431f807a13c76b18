//! API keys that callers show: what is kept of them, never the secret itself.

use crate::domain::ids::Id;
use crate::domain::time::Wall;

/// SHA-256 of a key's secret.
pub type KeyHash = [u8; 32];

/// A registered API key. It fixes the workspace, and the project where it names one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id: the target of API-key budgets.
    pub id: Id,
    /// The workspace of every request that shows it.
    pub workspace: Id,
    /// The project of every request that shows it.
    pub project: Option<Id>,
    /// A person's name for it.
    pub name: Id,
    /// SHA-256 of the secret; unique over all workspaces.
    pub hash: KeyHash,
    /// When it was registered.
    pub created_at: Wall,
}
