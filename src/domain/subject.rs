//! Who is asking (a subject) and whom a budget covers (a scope).

use std::fmt;

use crate::domain::ids::Id;

/// The six kinds of scope, in the order in which ties between refusals are broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScopeKind {
    /// Everything in a workspace.
    Workspace,
    /// One project.
    Project,
    /// One end user.
    Identity,
    /// One API key.
    ApiKey,
    /// One provider.
    Provider,
    /// One model.
    Model,
}

impl ScopeKind {
    /// All kinds, in order.
    pub const ALL: [Self; 6] =
        [Self::Workspace, Self::Project, Self::Identity, Self::ApiKey, Self::Provider, Self::Model];

    /// The name in refusals: `WORKSPACE`, `PROJECT`, `IDENTITY`, `API_KEY`, `PROVIDER` or `MODEL`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Workspace => "WORKSPACE",
            Self::Project => "PROJECT",
            Self::Identity => "IDENTITY",
            Self::ApiKey => "API_KEY",
            Self::Provider => "PROVIDER",
            Self::Model => "MODEL",
        }
    }

    /// The kind with this name, as [`ScopeKind::as_str`] writes it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for ScopeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which targets of its kind a budget covers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// `*`: every target that has no budget of its own; each gets its own account.
    Each,
    /// This one.
    One(Id),
}

impl Target {
    /// The text form: the id, or `*`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Each => "*",
            Self::One(id) => id.as_str(),
        }
    }

    /// Reads an id, or `*`.
    #[must_use]
    pub fn from_id(id: Id) -> Self {
        if id.as_str() == "*" { Self::Each } else { Self::One(id) }
    }
}

/// Whom a budget covers. The target of the workspace scope is the workspace's own id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// The kind.
    pub kind: ScopeKind,
    /// Which of that kind.
    pub target: Target,
}

/// Who is asking: the six ids of one request. What is `None` was not said.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    /// The workspace whose budgets apply.
    pub workspace: Id,
    /// The project.
    pub project: Option<Id>,
    /// The end user.
    pub identity: Option<Id>,
    /// The API key's id (never its secret).
    pub api_key: Option<Id>,
    /// The provider, such as `openai`.
    pub provider: Option<Id>,
    /// The model as the caller named it, such as `openai/gpt-4o` or `gpt-4o`.
    pub model: Option<Id>,
}

impl Subject {
    /// A subject of which only the workspace is known.
    #[must_use]
    pub fn of_workspace(workspace: Id) -> Self {
        Self {
            workspace,
            project: None,
            identity: None,
            api_key: None,
            provider: None,
            model: None,
        }
    }

    /// The id of this kind as it was said.
    #[must_use]
    pub fn id(&self, kind: ScopeKind) -> Option<&Id> {
        match kind {
            ScopeKind::Workspace => Some(&self.workspace),
            ScopeKind::Project => self.project.as_ref(),
            ScopeKind::Identity => self.identity.as_ref(),
            ScopeKind::ApiKey => self.api_key.as_ref(),
            ScopeKind::Provider => self.provider.as_ref(),
            ScopeKind::Model => self.model.as_ref(),
        }
    }

    /// The model without its provider's prefix, when the provider is known and the model carries it:
    /// `gpt-4o` for `openai/gpt-4o` at `openai`.
    #[must_use]
    pub fn bare_model(&self) -> Option<&str> {
        let provider = self.provider.as_ref()?.as_str();
        let bare = self.model.as_ref()?.as_str().strip_prefix(provider)?.strip_prefix('/')?;
        (!bare.is_empty()).then_some(bare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_bare_only_under_its_own_provider() {
        let subject = |provider: &str, model: &str| Subject {
            provider: Id::parse(provider).ok(),
            model: Id::parse(model).ok(),
            ..Subject::of_workspace(Id::parse("ws").unwrap())
        };
        assert_eq!(subject("openai", "openai/gpt-4o").bare_model(), Some("gpt-4o"));
        assert_eq!(subject("openai", "azure/gpt-4o").bare_model(), None);
        assert_eq!(subject("open", "openai/gpt-4o").bare_model(), None);
        assert_eq!(subject("", "openai/gpt-4o").bare_model(), None);
        assert_eq!(subject("openai", "openai/").bare_model(), None);
    }
}
