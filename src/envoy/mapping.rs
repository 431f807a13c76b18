//! Who is asking: from what Envoy tells about a request to the six ids of its subject, by rules that say whom to believe.

use hyper::header::{AUTHORIZATION, HeaderName};

use crate::domain::decision::RefusalCode;
use crate::domain::ids::Id;
use crate::domain::keys::ApiKey;
use crate::domain::subject::{ScopeKind, Subject};
use crate::envoy::attributes::Attributes;
use crate::envoy::keys::UnknownKeys;
use crate::envoy::source::{JsonPointer, Source, Trust};

/// Where the ids of a subject stand. For each scope the first source that says something wins. What a known API key fixes, its
/// workspace and its project, stands above all of them, and whatever contradicts it is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Sources of the workspace. A request without one is refused.
    pub workspace: Vec<Source>,
    /// Sources of the project.
    pub project: Vec<Source>,
    /// Sources of the end user.
    pub identity: Vec<Source>,
    /// Sources of the API key's id.
    pub api_key: Vec<Source>,
    /// Sources of the provider.
    pub provider: Vec<Source>,
    /// Sources of the model.
    pub model: Vec<Source>,
    /// Headers in which API keys are shown. In `authorization` behind `Bearer`, in others with or without it.
    pub key_headers: Vec<HeaderName>,
    /// What to do with a key that is neither ours nor registered.
    pub unknown_keys: UnknownKeys,
}

/// A refusal before any budget is asked: 403.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// `unknown_subject`, `scope_mismatch` or `unknown_key`.
    pub code: RefusalCode,
    /// A sentence that names the place and what is accepted there.
    pub message: String,
}

/// The workspace of every request that names none.
const WORKSPACE: &str = "default";
/// What an id looks like, for those whose id does not.
const ACCEPTED: &str = "Accepted are 1 to 256 bytes of UTF-8 without control characters.";

impl Default for Mapping {
    /// Headers for everything, all trusted but the workspace's; the model from the body too; one workspace.
    fn default() -> Self {
        let header = |name, trust| Source::Header(HeaderName::from_static(name), trust);
        let mut workspace = vec![Source::ApiKey, header("x-bursar-workspace", Trust::Untrusted)];
        workspace.extend(Id::parse(WORKSPACE).map(Source::Constant));
        let mut model = vec![header("x-bursar-model", Trust::Trusted)];
        model.extend(JsonPointer::parse("/model").map(Source::Body));
        Self {
            workspace,
            project: vec![Source::ApiKey, header("x-orq-project-id", Trust::Trusted)],
            identity: vec![header("x-orq-identity-id", Trust::Trusted)],
            api_key: vec![Source::ApiKey],
            provider: vec![header("x-bursar-provider", Trust::Trusted)],
            model,
            key_headers: vec![AUTHORIZATION, HeaderName::from_static("x-api-key")],
            unknown_keys: UnknownKeys::default(),
        }
    }
}

impl Mapping {
    /// The same with this workspace for every request that names none.
    #[must_use]
    pub fn falling_back_to(mut self, workspace: Id) -> Self {
        self.workspace.retain(|source| !matches!(source, Source::Constant(_)));
        self.workspace.push(Source::Constant(workspace));
        self
    }

    /// The sources of one scope, in order.
    #[must_use]
    pub fn sources(&self, kind: ScopeKind) -> &[Source] {
        match kind {
            ScopeKind::Workspace => &self.workspace,
            ScopeKind::Project => &self.project,
            ScopeKind::Identity => &self.identity,
            ScopeKind::ApiKey => &self.api_key,
            ScopeKind::Provider => &self.provider,
            ScopeKind::Model => &self.model,
        }
    }

    /// The ids of a request, given the API key that was recognised in it.
    ///
    /// # Errors
    /// A [`Rejection`] names the source and what is wrong with it.
    pub fn subject(
        &self,
        attributes: &Attributes<'_>,
        key: Option<&ApiKey>,
    ) -> Result<Subject, Rejection> {
        let id = |kind| self.id(kind, attributes, key);
        Ok(Subject {
            workspace: id(ScopeKind::Workspace)?.ok_or_else(|| self.no_workspace())?,
            project: id(ScopeKind::Project)?,
            identity: id(ScopeKind::Identity)?,
            api_key: id(ScopeKind::ApiKey)?,
            provider: id(ScopeKind::Provider)?,
            model: id(ScopeKind::Model)?,
        })
    }

    /// The scope headers that never go upstream, whatever they say and whoever sent them.
    pub fn untrusted_headers(&self) -> impl Iterator<Item = &HeaderName> {
        let sources = ScopeKind::ALL.into_iter().flat_map(|kind| self.sources(kind));
        sources.filter_map(|source| {
            if let Source::Header(name, Trust::Untrusted) = source { Some(name) } else { None }
        })
    }

    fn id(
        &self,
        kind: ScopeKind,
        attributes: &Attributes<'_>,
        key: Option<&ApiKey>,
    ) -> Result<Option<Id>, Rejection> {
        if let Some(fixed) = key.and_then(|key| fixed_by(key, kind)) {
            return self.agreed(kind, fixed, attributes).map(Some);
        }
        for source in self.sources(kind) {
            let id = match source {
                Source::Constant(id) => Some(id.clone()),
                Source::ApiKey => {
                    key.filter(|_| kind == ScopeKind::ApiKey).map(|key| key.id.clone())
                }
                Source::Metadata { .. }
                | Source::Principal(_)
                | Source::Extension(_)
                | Source::Header(..)
                | Source::Body(_) => said(kind, source, attributes)?,
            };
            if id.is_some() {
                return Ok(id);
            }
        }
        Ok(None)
    }

    /// What the key fixes, when nothing else in the request says otherwise. Untrusted headers are held against it too: who
    /// sends one means something by it, and should learn that it does not hold.
    fn agreed(
        &self,
        kind: ScopeKind,
        fixed: &Id,
        attributes: &Attributes<'_>,
    ) -> Result<Id, Rejection> {
        let disagrees = |source: &&Source| match source {
            Source::Header(name, _) => {
                let mut values = attributes.header_values(name);
                values.any(|value| !value.is_empty() && value != fixed.as_str().as_bytes())
            }
            Source::Metadata { .. }
            | Source::Principal(_)
            | Source::Extension(_)
            | Source::Body(_) => source
                .text(attributes)
                .map_or(true, |text| text.is_some_and(|text| text != fixed.as_str())),
            Source::ApiKey | Source::Constant(_) => false,
        };
        match self.sources(kind).iter().find(disagrees) {
            Some(source) => Err(Rejection {
                code: RefusalCode::ScopeMismatch,
                message: format!(
                    "The {} in {source} is not the one of the API key. Leave it out, or use a key that was made for it.",
                    noun(kind)
                ),
            }),
            None => Ok(fixed.clone()),
        }
    }

    fn no_workspace(&self) -> Rejection {
        let believed = self
            .workspace
            .iter()
            .filter(|source| !matches!(source, Source::Header(_, Trust::Untrusted)));
        let places: Vec<String> = believed.map(ToString::to_string).collect();
        let message =
            format!("The request names no workspace. It is taken from {}.", places.join(", or "));
        Rejection { code: RefusalCode::UnknownSubject, message }
    }
}

/// The id that a key on record fixes beyond dispute.
const fn fixed_by(key: &ApiKey, kind: ScopeKind) -> Option<&Id> {
    match kind {
        ScopeKind::Workspace => Some(&key.workspace),
        ScopeKind::Project => key.project.as_ref(),
        ScopeKind::Identity | ScopeKind::ApiKey | ScopeKind::Provider | ScopeKind::Model => None,
    }
}

/// What one source says, as an id.
fn said(
    kind: ScopeKind,
    source: &Source,
    attributes: &Attributes<'_>,
) -> Result<Option<Id>, Rejection> {
    let rejection = |why: String| Rejection {
        code: RefusalCode::UnknownSubject,
        message: format!("The {} in {source} {why}. {ACCEPTED}", noun(kind)),
    };
    let text = source.text(attributes).map_err(|fault| rejection(fault.to_string()))?;
    text.map(|text| Id::parse(&text).map_err(|error| rejection(error.to_string()))).transpose()
}

const fn noun(kind: ScopeKind) -> &'static str {
    match kind {
        ScopeKind::Workspace => "workspace",
        ScopeKind::Project => "project",
        ScopeKind::Identity => "identity",
        ScopeKind::ApiKey => "API key id",
        ScopeKind::Provider => "provider",
        ScopeKind::Model => "model",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::envoy::source::PrincipalPart;
    use crate::envoy::testing::{Form, Request, key};

    fn subject(
        mapping: &Mapping,
        request: Request,
        key: Option<&ApiKey>,
    ) -> Result<Subject, Rejection> {
        let request = request.build();
        mapping.subject(&Attributes::of(&request), key)
    }

    fn refused(request: Request, key: Option<&ApiKey>) -> (RefusalCode, String) {
        let rejection = subject(&Mapping::default(), request, key).unwrap_err();
        (rejection.code, rejection.message)
    }

    fn id(text: &str) -> Option<Id> {
        Some(Id::parse(text).unwrap())
    }

    #[test]
    fn without_any_settings_the_well_known_headers_and_the_body_speak() {
        for form in [Form::Joined, Form::Raw] {
            let request = Request::new(form)
                .header("x-orq-project-id", "p1")
                .header("x-orq-identity-id", "user-7")
                .header("x-bursar-provider", "openai")
                .body(r#"{"messages":[],"model":"gpt-4o"}"#);
            let subject = subject(&Mapping::default(), request, None).unwrap();
            assert_eq!(subject.workspace.as_str(), "default");
            assert_eq!(
                (subject.project, subject.identity, subject.api_key),
                (id("p1"), id("user-7"), None)
            );
            assert_eq!((subject.provider, subject.model), (id("openai"), id("gpt-4o")));
        }
    }

    #[test]
    fn an_untrusted_workspace_header_is_not_believed_and_never_goes_upstream() {
        let mapping = Mapping::default();
        let spoofed = Request::new(Form::Raw).header("x-bursar-workspace", "victim");
        assert_eq!(subject(&mapping, spoofed, None).unwrap().workspace.as_str(), "default");
        assert_eq!(
            mapping.untrusted_headers().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["x-bursar-workspace"]
        );
    }

    #[test]
    fn a_known_key_fixes_workspace_project_and_its_own_id() {
        let key = key("ws1", Some("p1"));
        let agreeing = Request::new(Form::Raw)
            .header("x-orq-project-id", "p1")
            .header("x-bursar-workspace", "ws1");
        let subject = subject(&Mapping::default(), agreeing, Some(&key)).unwrap();
        assert_eq!(
            (subject.workspace, subject.project, subject.api_key),
            (key.workspace, id("p1"), Some(key.id))
        );
    }

    #[test]
    fn a_header_that_disagrees_with_the_key_is_refused_whether_trusted_or_not() {
        let key = key("ws1", Some("p1"));
        for (header, value) in [
            ("x-orq-project-id", b"p2".as_slice()),
            ("x-bursar-workspace", b"ws2"),
            ("x-bursar-workspace", b"\xff"),
        ] {
            let (code, message) =
                refused(Request::new(Form::Raw).header(header, value), Some(&key));
            assert_eq!(code, RefusalCode::ScopeMismatch);
            assert!(message.contains(header), "{message}");
        }
    }

    #[test]
    fn a_key_of_a_workspace_leaves_the_project_open() {
        let request = Request::new(Form::Raw).header("x-orq-project-id", "p9");
        assert_eq!(
            subject(&Mapping::default(), request, Some(&key("ws1", None))).unwrap().project,
            id("p9")
        );
    }

    #[test]
    fn bad_ids_are_refused_by_the_name_of_their_header() {
        let check = |value: &[u8], why: &str| {
            let (code, message) =
                refused(Request::new(Form::Raw).header("x-orq-identity-id", value), None);
            assert_eq!(code, RefusalCode::UnknownSubject);
            assert!(
                message.starts_with("The identity in header x-orq-identity-id ")
                    && message.contains(why),
                "{message}"
            );
            assert!(message.ends_with(ACCEPTED), "{message}");
        };
        check(b"\xff\xfe", "is not valid UTF-8");
        check(&[b'x'; 257], "has 257 bytes");
        check(b"a\tb", "contains a control character at byte 1");
        check("a\u{85}".as_bytes(), "contains a control character at byte 1");
        let twice = Request::new(Form::Raw)
            .header("x-orq-identity-id", "a")
            .header("x-orq-identity-id", "b");
        assert!(refused(twice, None).1.contains("is sent 2 times"));
        let model = Request::new(Form::Raw).body(r#"{"model":{"name":"x"}}"#);
        assert!(refused(model, None).1.starts_with("The model in body field /model is neither"));
    }

    #[test]
    fn the_first_source_that_says_something_wins() {
        let metadata =
            Source::Metadata { namespace: "jwt".to_owned(), keys: vec!["org".to_owned()] };
        let header = Source::Header(HeaderName::from_static("x-org"), Trust::Trusted);
        let sources = vec![
            metadata,
            Source::Extension("tenant".to_owned()),
            header,
            Source::Principal(PrincipalPart::Whole),
        ];
        let mapping = Mapping { workspace: sources, ..Mapping::default() };
        let workspace =
            |request| subject(&mapping, request, None).map(|subject| subject.workspace.to_string());
        let request = || Request::new(Form::Raw).principal("spiffe://peer");
        assert_eq!(workspace(request()), Ok("spiffe://peer".to_owned()));
        assert_eq!(workspace(request().header("x-org", "a")), Ok("a".to_owned()));
        assert_eq!(
            workspace(request().header("x-org", "a").extension("tenant", "b")),
            Ok("b".to_owned())
        );
        let all =
            request().header("x-org", "a").extension("tenant", "b").metadata("jwt", &["org"], "c");
        assert_eq!(workspace(all), Ok("c".to_owned()));
    }

    #[test]
    fn a_workspace_that_is_required_and_missing_is_refused_with_the_places_it_may_stand_in() {
        let mapping = Mapping {
            workspace: vec![Source::ApiKey, Source::Extension("tenant".to_owned())],
            ..Mapping::default()
        };
        let rejection = subject(&mapping, Request::new(Form::Raw), None).unwrap_err();
        assert_eq!(rejection.code, RefusalCode::UnknownSubject);
        assert!(
            rejection
                .message
                .ends_with("from an API key that is registered here, or context extension tenant.")
        );
        let named = Mapping::default().falling_back_to(Id::parse("acme").unwrap());
        assert_eq!(
            subject(&named, Request::new(Form::Raw), None).unwrap().workspace.as_str(),
            "acme"
        );
    }

    proptest! {
        #[test]
        fn whatever_is_sent_gives_ids_or_one_clean_sentence(
            header in prop::collection::vec(any::<u8>(), 0..300),
            body in prop::collection::vec(any::<u8>(), 0..300),
            model in ".*",
        ) {
            let body = if body.len() % 2 == 0 { body } else { format!("{{\"model\":{model:?}}}").into_bytes() };
            let request = Request::new(Form::Raw).header("x-orq-identity-id", &header).body(&body);
            if let Err(rejection) = subject(&Mapping::default(), request, None) {
                prop_assert!(!rejection.message.contains(char::is_control), "{}", rejection.message);
                prop_assert!(rejection.message.starts_with("The "));
            }
        }
    }
}
