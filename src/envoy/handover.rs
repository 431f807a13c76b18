//! What ext_authz leaves in a request's dynamic metadata for those who see its response: whose reservation it settles.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::google::protobuf::{Struct, value::Kind};

use crate::domain::estimate::Reasoning;
use crate::domain::ids::{Id, ReservationId};
use crate::domain::money::{Amounts, NanoUsd, Tokens};
use crate::domain::subject::Subject;
use crate::domain::time::Wall;
use crate::engine::Origin;

/// Where Envoy keeps what an ext_authz service tells it.
const NAMESPACE: &str = "envoy.filters.http.ext_authz";

const RESERVATION: &str = "reservation_id";
const WORKSPACE: &str = "workspace";
const PROVIDER: &str = "provider";
const INPUT_TOKENS: &str = "input_tokens";
const PROJECT: &str = "project_id";
const IDENTITY: &str = "identity_external_id";
const API_KEY: &str = "api_key_id";
const MODEL: &str = "model_id";
const MADE_AT: &str = "made_at_ms";
const ESTIMATED_COST: &str = "estimated_cost_nano_usd";
const ESTIMATED_TOKENS: &str = "estimated_tokens";
/// What each account holds of the estimate.
const HOLDS: &str = "holds";
/// There where the model may reason; its value says no more.
const REASONING: &str = "reasoning";
/// There with this value where Envoy is to show the request to Bursar once more.
const MAY_NEED_ASKING: (&str, &str) = ("may_need_asking", "true");

/// An admitted request, on its way to its response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Handover {
    /// What its usage settles.
    pub(super) reservation: ReservationId,
    /// Whose it is.
    pub(super) workspace: Id,
    /// Where the request goes, as its subject says.
    pub(super) provider: Option<Id>,
    /// The input that it was estimated at, for a response that ends before it tells.
    pub(super) input_tokens: u64,
    /// Who asked, when, and what was set aside where, for a replica that does not hold the reservation while the one that did is gone.
    pub(super) origin: Option<Origin>,
    /// Whether its response may cost what nobody sees of it.
    pub(super) reasoning: Reasoning,
    /// Whether its response may be a stream that does not tell its usage unless the request is changed to ask for it.
    pub(super) may_need_asking: bool,
}

impl Handover {
    /// As fields of dynamic metadata. The count is text, because a number there is a double.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'static str, Kind)> {
        let provider = self.provider.as_ref().map(|provider| (PROVIDER, provider.to_string()));
        let reasoning =
            (self.reasoning == Reasoning::Possible).then(|| (REASONING, "possible".to_owned()));
        let asking =
            self.may_need_asking.then(|| (MAY_NEED_ASKING.0, MAY_NEED_ASKING.1.to_owned()));
        let others = [
            (RESERVATION, self.reservation.to_string()),
            (WORKSPACE, self.workspace.to_string()),
            (INPUT_TOKENS, self.input_tokens.to_string()),
        ];
        let origin = self.origin.iter().flat_map(origin_fields);
        let all = others.into_iter().chain(provider).chain(reasoning).chain(asking).chain(origin);
        all.map(|(name, text)| (name, Kind::StringValue(text)))
    }

    /// Reads it back. `None` for a request that was refused, or let pass without an answer.
    pub(super) fn read(metadata: &Metadata) -> Option<Self> {
        let fields = metadata.filter_metadata.get(NAMESPACE)?;
        let workspace = id(fields, WORKSPACE)?;
        Some(Self {
            reservation: ReservationId::parse(text(fields, RESERVATION)?).ok()?,
            provider: id(fields, PROVIDER),
            input_tokens: text(fields, INPUT_TOKENS)?.parse().ok()?,
            reasoning: match text(fields, REASONING) {
                Some(_) => Reasoning::Possible,
                None => Reasoning::Unlikely,
            },
            may_need_asking: text(fields, MAY_NEED_ASKING.0).is_some(),
            origin: origin(fields, &workspace),
            workspace,
        })
    }
}

fn origin_fields(origin: &Origin) -> impl Iterator<Item = (&'static str, String)> {
    let subject = &origin.subject;
    let ids = [
        (PROJECT, &subject.project),
        (IDENTITY, &subject.identity),
        (API_KEY, &subject.api_key),
        (MODEL, &subject.model),
    ];
    let ids = ids.into_iter().filter_map(|(name, id)| Some((name, id.as_ref()?.to_string())));
    let holds = origin.holds_text().map(|text| (HOLDS, text));
    ids.chain(holds).chain([
        (MADE_AT, origin.at.as_ms().to_string()),
        (ESTIMATED_COST, origin.estimate.cost.get().to_string()),
        (ESTIMATED_TOKENS, origin.estimate.tokens.get().to_string()),
    ])
}

fn origin(fields: &Struct, workspace: &Id) -> Option<Origin> {
    let at = Wall::from_ms(text(fields, MADE_AT)?.parse().ok()?);
    let subject = Subject {
        workspace: workspace.clone(),
        project: id(fields, PROJECT),
        identity: id(fields, IDENTITY),
        api_key: id(fields, API_KEY),
        provider: id(fields, PROVIDER),
        model: id(fields, MODEL),
    };
    let amount = |name| text(fields, name).and_then(|text| text.parse().ok()).unwrap_or(0);
    let estimate = Amounts {
        cost: NanoUsd::new(amount(ESTIMATED_COST)),
        tokens: Tokens::new(amount(ESTIMATED_TOKENS)),
    };
    let holds = text(fields, HOLDS).and_then(|text| Origin::read_holds(text, &subject));
    Some(Origin { subject: Arc::new(subject), at, estimate, holds })
}

fn id(fields: &Struct, name: &str) -> Option<Id> {
    Id::parse(text(fields, name)?).ok()
}

fn text<'a>(fields: &'a Struct, name: &str) -> Option<&'a str> {
    match fields.fields.get(name)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        Kind::NullValue(_)
        | Kind::NumberValue(_)
        | Kind::BoolValue(_)
        | Kind::StructValue(_)
        | Kind::ListValue(_) => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use envoy_types::pb::google::protobuf::Value;

    use super::*;
    use crate::domain::budget::Dimension;
    use crate::domain::ids::{BudgetId, HolderId};
    use crate::domain::ledger::NamedHold;
    use crate::domain::ledger::escrow::AccountKey;
    use crate::domain::money::Units;

    pub(in crate::envoy) fn handover() -> Handover {
        Handover {
            reservation: ReservationId { holder: HolderId(1), nonce: 2 },
            workspace: Id::parse("acme").unwrap(),
            provider: Some(Id::parse("openai").unwrap()),
            input_tokens: 164,
            reasoning: Reasoning::Unlikely,
            may_need_asking: true,
            origin: Some(Origin {
                subject: Arc::new(subject()),
                at: Wall::from_ms(1_795_305_600_000),
                estimate: Amounts { cost: NanoUsd::new(1_500), tokens: Tokens::new(264) },
                holds: Some(vec![
                    hold("ada", "2026-11"),
                    hold("acme", ""),
                    hold("an \"other\"", ""),
                ]),
            }),
        }
    }

    fn subject() -> Subject {
        let id = |text| Some(Id::parse(text).unwrap());
        Subject {
            project: id("search"),
            identity: id("ada"),
            provider: id("openai"),
            model: id("gpt-4o"),
            ..Subject::of_workspace(Id::parse("acme").unwrap())
        }
    }

    fn hold(target: &str, window: &str) -> NamedHold {
        let account = AccountKey {
            workspace: Id::parse("acme").unwrap(),
            budget: BudgetId(7),
            generation: 1,
            dimension: Dimension::Cost,
            target: Id::parse(target).unwrap(),
            window: Arc::from(window),
        };
        NamedHold { account, amount: Units::new(1_500) }
    }

    /// The metadata that Envoy makes of it.
    pub(in crate::envoy) fn metadata(
        fields: impl IntoIterator<Item = (&'static str, Kind)>,
    ) -> Metadata {
        let fields = fields.into_iter();
        let fields = fields.map(|(name, kind)| (name.to_owned(), Value { kind: Some(kind) }));
        let fields = Struct { fields: fields.collect() };
        Metadata { filter_metadata: [(NAMESPACE.to_owned(), fields)].into(), ..Metadata::default() }
    }

    #[test]
    fn what_is_handed_over_arrives_and_a_refusal_hands_nothing_over() {
        for reasoning in [Reasoning::Unlikely, Reasoning::Possible] {
            let may_need_asking = reasoning == Reasoning::Possible;
            let handover = Handover { reasoning, may_need_asking, ..handover() };
            assert_eq!(Handover::read(&metadata(handover.fields())), Some(handover));
        }
        let refused = metadata([("decision", Kind::StringValue("deny".to_owned()))]);
        assert_eq!(Handover::read(&refused), None);
        assert_eq!(Handover::read(&Metadata::default()), None);
        let handover = handover();
        let forged = handover.fields().map(|(name, _)| (name, Kind::NumberValue(1.0)));
        assert_eq!(Handover::read(&metadata(forged)), None);
    }
}
