//! Reads the `mapping` section: where scope ids come from and which headers count.

use crate::domain::subject::ScopeKind;

use super::parse;
use super::settings::{Mapping, NoWorkspace, PrincipalPart, Source, UnknownKeys};
use super::walk::{Node, Section};

/// The most sources one scope may have: each is looked at on every request.
const SOURCES_MAX: usize = 16;

/// Reads the section. Whoever writes a mapping says which headers count: a default would let clients choose their own ids unnoticed.
pub(super) fn read(root: &mut Section<'_>) -> Mapping {
    let Some(node) = root.node("mapping") else { return Mapping::default() };
    let mut section = node.clone().section();
    let trusted = trusted_headers(&mut section, &node);
    let mapping = Mapping {
        sources: ScopeKind::ALL.map(|kind| sources(&mut section, kind, &trusted)),
        no_workspace: section
            .read("no_workspace", parse::one_of(&NoWorkspace::NAMES))
            .unwrap_or(NoWorkspace::UseDefault),
        unknown_keys: section
            .read("unknown_keys", parse::one_of(&UnknownKeys::NAMES))
            .unwrap_or(UnknownKeys::Ignore),
        trusted_headers: trusted,
    };
    section.close();
    mapping
}

fn trusted_headers(section: &mut Section<'_>, mapping: &Node<'_>) -> Vec<String> {
    match section.list("trusted_headers") {
        Some(names) => names.iter().filter_map(|name| name.read(parse::header_name)).collect(),
        None => {
            let usual = Mapping::default_trusted_headers().join(", ");
            mapping.fault(format!(
                "has no trusted_headers; list the headers that clients cannot set by themselves, [] for none, [{usual}] as without a mapping"
            ));
            Vec::new()
        }
    }
}

/// The setting of each kind's sources.
pub(super) const fn setting(kind: ScopeKind) -> &'static str {
    match kind {
        ScopeKind::Workspace => "workspace",
        ScopeKind::Project => "project",
        ScopeKind::Identity => "identity",
        ScopeKind::ApiKey => "api_key",
        ScopeKind::Provider => "provider",
        ScopeKind::Model => "model",
    }
}

fn sources(section: &mut Section<'_>, kind: ScopeKind, trusted: &[String]) -> Vec<Source> {
    let Some(nodes) = section.list(setting(kind)) else { return Mapping::default_sources(kind) };
    if let Some(extra) = nodes.get(SOURCES_MAX) {
        extra.fault(format!("is one source too many; a scope has at most {SOURCES_MAX}"));
    }
    nodes.iter().filter_map(|node| checked_source(node, kind, trusted)).collect()
}

fn checked_source(node: &Node<'_>, kind: ScopeKind, trusted: &[String]) -> Option<Source> {
    let source = source(node)?;
    let on_record = matches!(kind, ScopeKind::Workspace | ScopeKind::Project | ScopeKind::ApiKey);
    if source == Source::ApiKey && !on_record {
        node.fault("is no source of this scope: a key is on record with its workspace and project");
    }
    if let Source::Header(name) = &source
        && !trusted.contains(name)
    {
        node.warning(format!("{name} never counts until it is among mapping.trusted_headers"));
    }
    Some(source)
}

/// Reads one form of source.
type Reader = fn(&Node<'_>) -> Option<Source>;

/// How a source is written, for messages.
const FORMS: &str = "api_key, principal, principal: SEGMENT, header: NAME, metadata: [NAMESPACE, KEY, …], context: KEY, body: /POINTER or constant: ID";

/// A source is one word, or one `word: value`.
fn source(node: &Node<'_>) -> Option<Source> {
    if node.text().is_some() {
        return node.read(|word| match word {
            "api_key" => Ok(Source::ApiKey),
            "principal" => Ok(Source::Principal(PrincipalPart::Whole)),
            other => Err(format!("{other:?} is no source; a source is {FORMS}")),
        });
    }
    let mut form = node.clone().section();
    let written = [
        (form.node("header"), header as Reader),
        (form.node("context"), |node| node.read(text).map(Source::Context)),
        (form.node("body"), |node| node.read(parse::json_pointer).map(Source::Body)),
        (form.node("principal"), |node| {
            node.read(text).map(|name| Source::Principal(PrincipalPart::After(name)))
        }),
        (form.node("constant"), |node| node.read(parse::id).map(Source::Constant)),
        (form.node("metadata"), metadata),
    ];
    let strange = !form.is_empty();
    form.close();
    let mut written = written.into_iter().filter_map(|(node, read)| Some((node?, read)));
    match (written.next(), written.next()) {
        (Some((value, read)), None) => read(&value),
        (Some(_), Some(_)) => {
            node.fault("is several sources; write each as an element of its own");
            None
        }
        (None, _) => {
            if !strange {
                node.fault(format!("is no source; a source is {FORMS}"));
            }
            None
        }
    }
}

fn header(node: &Node<'_>) -> Option<Source> {
    node.read(parse::header_name).map(Source::Header)
}

fn metadata(node: &Node<'_>) -> Option<Source> {
    let nodes = node.list();
    if nodes.len() < 2 {
        node.fault("needs a namespace and at least one key, such as [envoy.filters.http.jwt_authn, claims, sub]");
    }
    let keys: Option<Vec<String>> = nodes.iter().map(|key| key.read(text)).collect();
    let (namespace, path) = keys.as_ref()?.split_first()?;
    Some(Source::Metadata { namespace: namespace.clone(), path: path.to_vec() })
}

fn text(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("is empty".to_owned()) } else { Ok(text.to_owned()) }
}
