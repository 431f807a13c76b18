//! Turns the operator's settings into each adapter's own, so that no adapter knows the file.

use anyhow::{Context, Result};
use hyper::header::HeaderName;

use crate::config::{self, NoWorkspace, PrincipalPart, Source};
use crate::domain::subject::ScopeKind;
use crate::envoy::reply::{CreditsStatus, MoreHeaders, Style};
use crate::envoy::source::{self, JsonPointer, Trust};
use crate::envoy::{keys, mapping};
use crate::store::postgres::{Clock, PostgresSettings};
use crate::{admin, envoy};

/// What the Envoy side needs.
pub(super) fn envoy(settings: &config::Settings) -> Result<envoy::Settings> {
    Ok(envoy::Settings {
        mapping: mapping(settings)?,
        estimate: settings.estimate.clone(),
        patience: settings.patience,
        style: style(&settings.reply),
    })
}

/// What the store needs that replicas share.
pub(super) fn postgres(settings: &config::Settings, url: &str) -> PostgresSettings {
    let config::StoreLink { connections, listen, prepared_statements, migration_url } =
        &settings.link;
    PostgresSettings {
        url: url.into(),
        migration_url: migration_url.as_deref().map(Into::into),
        connections: *connections,
        listen: *listen,
        prepared_statements: *prepared_statements,
        ttl: settings.terms.lease_ttl,
        clock: Clock::Database,
    }
}

/// What the HTTP API and `bursar.v1` need.
pub(super) fn admin(settings: &config::Settings) -> admin::Settings {
    let key = |key: &config::AccessKey| admin::AdminKey {
        hash: key.hash,
        role: match &key.role {
            config::Role::Operator => admin::Role::Operator,
            config::Role::Manage(workspace) => admin::Role::Manage(workspace.clone()),
            config::Role::Check(workspace) => admin::Role::Check(workspace.clone()),
        },
    };
    admin::Settings {
        keys: settings.keys.iter().map(key).collect(),
        default_workspace: settings.workspace.clone(),
        patience: settings.patience,
    }
}

fn mapping(settings: &config::Settings) -> Result<mapping::Mapping> {
    let of = |kind| {
        let sources = settings.mapping.sources(kind).iter();
        sources.map(|source| self::source(source, &settings.mapping)).collect::<Result<Vec<_>>>()
    };
    let mut workspace = of(ScopeKind::Workspace)?;
    match settings.mapping.no_workspace {
        NoWorkspace::UseDefault => {
            workspace.push(source::Source::Constant(settings.workspace.clone()))
        }
        NoWorkspace::Refuse => {}
    }
    Ok(mapping::Mapping {
        workspace,
        project: of(ScopeKind::Project)?,
        identity: of(ScopeKind::Identity)?,
        api_key: of(ScopeKind::ApiKey)?,
        provider: of(ScopeKind::Provider)?,
        model: of(ScopeKind::Model)?,
        unknown_keys: match settings.mapping.unknown_keys {
            config::UnknownKeys::Ignore => keys::UnknownKeys::Ignore,
            config::UnknownKeys::Refuse => keys::UnknownKeys::Refuse,
        },
        ..mapping::Mapping::default()
    })
}

fn source(written: &Source, mapping: &config::Mapping) -> Result<source::Source> {
    Ok(match written {
        Source::Metadata { namespace, path } => {
            source::Source::Metadata { namespace: namespace.clone(), keys: path.clone() }
        }
        Source::Principal(PrincipalPart::Whole) => {
            source::Source::Principal(source::PrincipalPart::Whole)
        }
        Source::Principal(PrincipalPart::After(segment)) => {
            source::Source::Principal(source::PrincipalPart::After(segment.clone()))
        }
        Source::Context(key) => source::Source::Extension(key.clone()),
        Source::ApiKey => source::Source::ApiKey,
        Source::Header(name) => {
            let trust = if mapping.trusted_headers.contains(name) {
                Trust::Trusted
            } else {
                Trust::Untrusted
            };
            let name = HeaderName::from_bytes(name.as_bytes())
                .with_context(|| format!("header {name:?}"))?;
            source::Source::Header(name, trust)
        }
        Source::Body(pointer) => source::Source::Body(
            JsonPointer::parse(pointer).with_context(|| format!("pointer {pointer:?}"))?,
        ),
        Source::Constant(id) => source::Source::Constant(id.clone()),
    })
}

fn style(reply: &config::Reply) -> Style {
    let credits_status = match reply.credits_status {
        402 => CreditsStatus::PaymentRequired,
        _ => CreditsStatus::TooManyRequests,
    };
    let openai = reply.openai_headers.then_some(MoreHeaders::OpenAi);
    let ietf = reply.ietf_headers.then_some(MoreHeaders::Ietf);
    Style { credits_status, more_headers: openai.into_iter().chain(ietf).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    #[test]
    fn without_a_file_the_envoy_side_has_its_own_defaults() {
        let settings = config::settings("", &Environment::default()).unwrap().0;
        assert_eq!(envoy(&settings).unwrap(), envoy::Settings::default());
    }

    #[test]
    fn a_header_is_trusted_only_where_the_file_says_so() {
        let text = "mapping: {trusted_headers: [x-a], project: [header: x-a, header: x-b], no_workspace: refuse}";
        let settings = config::settings(text, &Environment::default()).unwrap().0;
        let mapping = envoy(&settings).unwrap().mapping;
        let untrusted: Vec<&str> = mapping.untrusted_headers().map(HeaderName::as_str).collect();
        assert!(untrusted.contains(&"x-b") && !untrusted.contains(&"x-a"), "{untrusted:?}");
        assert!(
            !mapping.workspace.iter().any(|source| matches!(source, source::Source::Constant(_)))
        );
    }
}
