//! Shows settings by the names that the file has for them, for a person who wants to see what was understood. No secret is
//! among them, and a database's URL is not shown because it may hold a password.

use std::fmt::{self, Display, Formatter};

use super::estimate::{LEARN, MODES};
use super::file::ON_TIMEOUT;
use super::mapping::setting;
use super::parse::{SAME, shown};
use super::settings::{
    LogFormat, NoWorkspace, PrincipalPart, RateLimitService, Role, Settings, Source, StoreUrl,
    UnknownKeys,
};
use crate::domain::estimate::Unpriced;
use crate::domain::money::NanoUsd;
use crate::domain::pricing::{Billable, Rate};
use crate::domain::subject::ScopeKind;

/// Width of the column of names.
const NAME_WIDTH: usize = 32;

impl Display for Settings {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: &dyn Display| {
            writeln!(f, "{:<NAME_WIDTH$}{value}", format!("{name}:"))
        };
        line("workspace", &self.workspace)?;
        line(
            "listen.grpc",
            &self.listen.grpc.map_or("off".to_owned(), |address| address.to_string()),
        )?;
        line(
            "listen.unix",
            &self.listen.unix.as_ref().map_or("off".to_owned(), |path| path.display().to_string()),
        )?;
        line("listen.http", &self.listen.http)?;
        line("store.url", &self.store)?;
        line("store.pool", &self.link.connections)?;
        line("store.listen", &self.link.listen)?;
        line("store.prepared_statements", &self.link.prepared_statements)?;
        line(
            "store.migration_url",
            &self.link.migration_url.as_ref().map_or(SAME, |_| "postgres://…"),
        )?;
        line("journal.path", &self.journal.display())?;
        line("lease.ttl", &shown(self.terms.lease_ttl))?;
        line("patience", &shown(self.patience))?;
        line("drain_timeout", &shown(self.drain_timeout))?;
        line("reservation.timeout", &shown(self.terms.reservation_timeout))?;
        line("reservation.on_timeout", &name_of(&ON_TIMEOUT, self.terms.on_timeout))?;
        line("estimate.mode", &name_of(&MODES, self.estimate.mode))?;
        line("estimate.learn", &name_of(&LEARN, self.estimate.learn))?;
        line("estimate.unknown_model.cost", &self.estimate.unknown_model.cost)?;
        line("estimate.unknown_model.tokens", &self.estimate.unknown_model.tokens.get())?;
        line("estimate.unpriced", &unpriced(&self.estimate.unpriced))?;
        line(
            "prices.file",
            &self.prices.as_ref().map_or("none".to_owned(), |path| path.display().to_string()),
        )?;
        for kind in ScopeKind::ALL {
            line(&format!("mapping.{}", setting(kind)), &list(self.mapping.sources(kind)))?;
        }
        line("mapping.trusted_headers", &list(&self.mapping.trusted_headers))?;
        line("mapping.no_workspace", &name_of(&NoWorkspace::NAMES, self.mapping.no_workspace))?;
        line("mapping.unknown_keys", &name_of(&UnknownKeys::NAMES, self.mapping.unknown_keys))?;
        line("reply.credits_status", &self.reply.credits_status)?;
        line("reply.openai_headers", &self.reply.openai_headers)?;
        line("reply.ietf_headers", &self.reply.ietf_headers)?;
        line("rate_limit_service", &name_of(&RateLimitService::NAMES, self.rate_limit_service))?;
        line("log.format", &name_of(&LogFormat::NAMES, self.log.format))?;
        line("log.filter", &self.log.filter)?;
        let roles: Vec<&Role> = self.keys.iter().map(|key| &key.role).collect();
        line("keys", &list(&roles))
    }
}

fn name_of<T: PartialEq>(names: &[(&'static str, T)], value: T) -> &'static str {
    names.iter().find(|(_, known)| *known == value).map_or("", |(name, _)| name)
}

fn list<T: Display>(elements: &[T]) -> String {
    let shown: Vec<String> = elements.iter().map(T::to_string).collect();
    format!("[{}]", shown.join(", "))
}

fn unpriced(policy: &Unpriced) -> String {
    match policy {
        Unpriced::Deny => "deny".to_owned(),
        Unpriced::DefaultPrice(price) => {
            let rates = price.rates_for(Billable::default());
            let (input, output) = (dollars(rates.input), dollars(rates.output));
            format!("default_price, {input} in and {output} out per million tokens")
        }
        Unpriced::CountTokensOnly => "count_tokens_only".to_owned(),
    }
}

/// A rate in US dollars per million tokens.
fn dollars(rate: Rate) -> NanoUsd {
    NanoUsd::new(i64::try_from(rate.get()).unwrap_or(i64::MAX))
}

impl Display for StoreUrl {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite { url, .. } => f.write_str(url),
            Self::Postgres { .. } => f.write_str("postgres://…"),
        }
    }
}

impl Display for Source {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Metadata { namespace, path } => {
                write!(f, "metadata: [{namespace}, {}]", path.join(", "))
            }
            Self::Principal(PrincipalPart::Whole) => f.write_str("principal"),
            Self::Principal(PrincipalPart::After(segment)) => write!(f, "principal: {segment}"),
            Self::Context(key) => write!(f, "context: {key}"),
            Self::ApiKey => f.write_str("api_key"),
            Self::Header(name) => write!(f, "header: {name}"),
            Self::Body(pointer) => write!(f, "body: {pointer}"),
            Self::Constant(id) => write!(f, "constant: {id}"),
        }
    }
}

impl Display for Role {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("operator of every workspace"),
            Self::Manage(workspace) => write!(f, "manage {workspace}"),
            Self::Check(workspace) => write!(f, "check {workspace}"),
        }
    }
}
