"""Drives the public client `orq-ai-sdk` through every budgets method against a running Bursar.

BURSAR_URL names the server, BURSAR_KEY a key that may manage. Ends with status 0 when every answer was as it should be.
The workspace may hold other budgets, as long as none of them applies to the subjects made up here.
"""

import asyncio
import os
import uuid
from datetime import datetime, timedelta, timezone

from orq_ai_sdk import Orq, models

RUN = uuid.uuid4().hex[:12]
CUSTOMER = f"customer-{RUN}"
TARGETS = {
    "project": {"project_id": f"project-{RUN}"},
    "identity": {"identity_external_id": CUSTOMER},
    "api_key": {"api_key_id": f"key-{RUN}"},
    "provider": {"provider": f"provider-{RUN}"},
    "model": {"model_id": f"provider-{RUN}/model"},
}


def main():
    client = Orq(api_key=os.environ["BURSAR_KEY"], server_url=os.environ["BURSAR_URL"])
    budgets = client.budgets
    made = []
    try:
        made += creates_one_of_each_scope(budgets)
        gets_what_was_created(budgets, made)
        lists_by_pages_and_filters(budgets, made)
        updates_only_what_is_given(budgets, made[1])
        expires_and_is_freed_again(budgets, made[1])
        checks_and_counts_requests(budgets, made[1])
        resets(budgets, made[1])
        reports_errors(budgets, made[1])
        asyncio.run(works_asynchronously(budgets, made))
    finally:
        for budget in made:
            assert budgets.delete(budget_id=budget.budget_id) is not None
    fails_with(404, lambda: budgets.get(budget_id=made[0].budget_id))
    print(f"the public client got the right answer from all {len(METHODS)} methods: {', '.join(METHODS)}")


METHODS = ["list", "create", "get", "update", "delete", "check", "get_consumption", "reset_consumption"]


def creates_one_of_each_scope(budgets):
    made = []
    for kind, target in TARGETS.items():
        budget = budgets.create(
            scope={kind: target},
            limits={"period": "BUDGET_PERIOD_MONTHLY", "amount": 5.25, "token_limit": 1_000_000},
            rate_limit={"requests_per_minute": 2},
        ).budget
        made.append(budget)
        assert len(budget.budget_id) == 26, budget
        assert getattr(budget.scope, kind).model_dump() == target, budget
        assert budget.limits.period == "BUDGET_PERIOD_MONTHLY", budget
        assert (budget.limits.amount, budget.limits.token_limit) == (5.25, 1_000_000), budget
        assert budget.rate_limit.requests_per_minute == 2, budget
        assert budget.is_active is True and budget.expires_at is None, budget
        assert budget.created_at == budget.updated_at and budget.created_at.tzinfo, budget
        assert budget.match.cel == f'{kind} == "{next(iter(target.values()))}"', budget
        assert budget.usage is None, "writes show no usage"
    return made


def gets_what_was_created(budgets, made):
    for one in made:
        got = budgets.get(budget_id=one.budget_id).budget
        usage, got.usage = got.usage, None
        assert got == one, (got, one)
        assert (usage.amount, usage.tokens, usage.requests) == (0, 0, 0), usage
        consumption = budgets.get_consumption(budget_id=one.budget_id)
        assert consumption.budget_id == one.budget_id, consumption
        assert consumption.period == "BUDGET_PERIOD_MONTHLY", consumption
        assert len(consumption.period_date) == len("2026-11"), consumption
        counted = (consumption.cost, consumption.tokens, consumption.requests_in_window)
        assert counted == (0, 0, 0), consumption


def lists_by_pages_and_filters(budgets, made):
    def ids(**query):
        page = budgets.list(**query)
        assert page.object == "list", page
        return [budget.budget_id for budget in page.data], page.has_more

    newest = sorted(made, key=lambda budget: (budget.updated_at, budget.budget_id), reverse=True)
    newest_first = [budget.budget_id for budget in newest]
    mine = {"query": RUN}
    assert ids(**mine) == (newest_first, False)
    assert ids(limit=2, **mine) == (newest_first[:2], True)
    assert ids(limit=2, starting_after=newest_first[1], **mine) == (newest_first[2:4], True)
    assert ids(limit=2, starting_after=newest_first[3], **mine) == (newest_first[4:], False)
    assert ids(limit=2, ending_before=newest_first[4], **mine) == (newest_first[2:4], True)
    two, more = ids(scope_kind=["BUDGET_SCOPE_KIND_IDENTITY", "BUDGET_SCOPE_KIND_MODEL"], **mine)
    assert (sorted(two), more) == (sorted([made[1].budget_id, made[4].budget_id]), False)
    assert ids(scope_target_id=CUSTOMER) == ([made[1].budget_id], False)
    assert ids(is_active=False, **mine) == ([], False)
    assert ids(is_active=True, period=["BUDGET_PERIOD_MONTHLY"], **mine) == (newest_first, False)
    assert ids(period=["BUDGET_PERIOD_DAILY", "BUDGET_PERIOD_ONE_TIME"], **mine) == ([], False)
    for field in ["UNSPECIFIED", "CREATED_AT", "UPDATED_AT"]:
        assert ids(sort_by=f"BUDGET_SORT_FIELD_{field}", **mine) == (newest_first, False), field
    assert len(ids(sort_by="BUDGET_SORT_FIELD_EXPIRES_AT", **mine)[0]) == len(made)
    assert budgets.list(**mine).data[0].usage.requests == 0, "listings show usage"


def updates_only_what_is_given(budgets, budget):
    updated = budgets.update(budget_id=budget.budget_id, limits={"amount": 0.1}).budget
    assert updated.limits.amount == 0.1, updated
    assert updated.limits.token_limit == 1_000_000, updated
    assert updated.limits.period == "BUDGET_PERIOD_MONTHLY", updated
    assert updated.rate_limit.requests_per_minute == 2, updated
    assert updated.scope == budget.scope and updated.created_at == budget.created_at, updated
    assert updated.updated_at >= budget.updated_at, updated
    assert budgets.list(query=RUN).data[0].budget_id == budget.budget_id, "the newest update comes first"
    off = budgets.update(budget_id=budget.budget_id, is_active=False).budget
    assert off.is_active is False, off
    assert budgets.check(identity_external_id=CUSTOMER).cost is None, "an inactive budget applies to nobody"
    on = budgets.update(budget_id=budget.budget_id, is_active=True).budget
    assert on.is_active is True and on.limits == updated.limits, on


def expires_and_is_freed_again(budgets, budget):
    end = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=1)
    assert budgets.update(budget_id=budget.budget_id, expires_at=end).budget.expires_at == end
    assert budgets.get(budget_id=budget.budget_id).budget.expires_at == end
    freed = budgets.update(budget_id=budget.budget_id, clear_expires_at=True).budget
    assert freed.expires_at is None, freed


def checks_and_counts_requests(budgets, budget):
    nobody = budgets.check(identity_external_id=f"nobody-{RUN}")
    assert nobody.allowed is True and nobody.rejection is None, nobody
    for remaining in [1, 0]:
        answer = budgets.check(
            identity_external_id=CUSTOMER,
            metadata={"team": "ml"},
            headers={"x-env": "prod"},
        )
        assert answer.allowed is True and answer.rejection is None, answer
        assert (answer.cost.limit, answer.cost.remaining) == (0.1, 0.1), answer
        assert (answer.tokens.limit, answer.tokens.remaining) == (1_000_000, 1_000_000), answer
        assert (answer.requests.limit, answer.requests.remaining) == (2, remaining), answer
        assert 0 < answer.cost.reset_seconds <= 31 * 24 * 3600, answer
        assert 0 < answer.requests.reset_seconds <= 60, answer
    answer = budgets.check(identity_external_id=CUSTOMER)
    assert answer.allowed is False, answer
    rejection = answer.rejection
    assert rejection.scope_kind == "IDENTITY", rejection
    assert rejection.scope_target_id == CUSTOMER, rejection
    assert rejection.dimension == "requests", rejection
    assert rejection.code == "requests_per_minute_exceeded", rejection
    assert rejection.message, rejection
    assert answer.requests.remaining == 0, answer
    assert budgets.get(budget_id=budget.budget_id).budget.usage.requests == 2
    assert budgets.get_consumption(budget_id=budget.budget_id).requests_in_window == 2


def resets(budgets, budget):
    reset = budgets.reset_consumption(
        budget_id=budget.budget_id, reset_budget_consumption_request={}
    ).budget
    assert reset.budget_id == budget.budget_id and reset.usage is None, reset
    assert budgets.get_consumption(budget_id=budget.budget_id).requests_in_window == 0
    assert budgets.check(identity_external_id=CUSTOMER).allowed is True


def reports_errors(budgets, budget):
    def create(**request):
        return lambda: budgets.create(**request)

    rate_limit = {"requests_per_minute": 1}
    taken = fails_with(409, create(scope={"identity": TARGETS["identity"]}, rate_limit=rate_limit))
    assert budget.budget_id in taken, taken
    fails_with(400, create(rate_limit=rate_limit))
    fails_with(400, create(scope={"workspace": {}}))
    fails_with(400, create(scope={"workspace": {}}, limits={"amount": 1}))
    fails_with(400, create(scope={"workspace": {}}, limits={"period": "BUDGET_PERIOD_DAILY", "amount": -1}))
    fails_with(400, create(scope={"workspace": {}}, limits={"period": "BUDGET_PERIOD_DAILY", "token_limit": 0.5}))
    past = datetime.now(timezone.utc) - timedelta(days=1)
    fails_with(400, create(scope={"workspace": {}}, rate_limit=rate_limit, expires_at=past))
    fails_with(501, create(match={"cel": 'provider == "openai"'}, rate_limit=rate_limit))
    unknown = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    fails_with(404, lambda: budgets.get(budget_id=unknown))
    fails_with(404, lambda: budgets.update(budget_id=unknown, is_active=True))
    fails_with(404, lambda: budgets.delete(budget_id=unknown))
    fails_with(404, lambda: budgets.get_consumption(budget_id=unknown))
    fails_with(404, lambda: budgets.reset_consumption(budget_id=unknown, reset_budget_consumption_request={}))
    stranger = Orq(api_key="not-a-key", server_url=os.environ["BURSAR_URL"]).budgets
    fails_with(401, stranger.list)


async def works_asynchronously(budgets, made):
    page = await budgets.list_async(query=RUN)
    assert len(page.data) == len(made), page
    answer = await budgets.check_async(identity_external_id=CUSTOMER)
    assert answer.requests.limit == 2, answer


def fails_with(status, call):
    """The message of the error that the call must end with."""
    try:
        answer = call()
    except models.APIError as error:
        assert error.status_code == status, error
        return error.body
    raise AssertionError(f"expected {status}, got {answer}")


if __name__ == "__main__":
    main()
