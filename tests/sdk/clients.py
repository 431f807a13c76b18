"""Drives the public clients `openai` and `anthropic`, as they come, through Envoy.

ENVOY_URL names Envoy, UPSTREAM_URL the provider behind it. PAYING is an identity with budget left, TIGHT one whose budget
has room for one request at a time. The budget of SPENT_TODAY is spent until tomorrow, that of SPENT for good. The last
line of the output is JSON: how many answers there were of each kind, and what the replies said of their usage, by model.
Ends with status 0 when every answer was as it should be.
"""

import asyncio
import json
import os

import anthropic
import openai

ENVOY = os.environ["ENVOY_URL"]
PAYING = os.environ["PAYING"]
TIGHT = os.environ["TIGHT"]
SPENT_TODAY = os.environ["SPENT_TODAY"]
SPENT = os.environ["SPENT"]
GO_ON = os.environ["UPSTREAM_URL"] + "/go-on"
CHAT = {"model": "gpt-4o-mini", "max_tokens": 100, "messages": [{"role": "user", "content": "Say a word."}]}
MESSAGE = CHAT | {"model": "claude-sonnet-4-5", "max_tokens": 50}
GZIP = {"x-sample": "gzip"}
CONCURRENT = 8


def main():
    said = Said()
    openai_answers(openai_of(openai.OpenAI, PAYING), said)
    anthropic_answers(anthropic_of(anthropic.Anthropic, PAYING), said)
    asyncio.run(both_answer_many_at_once(said))
    waited = asyncio.run(openai_waits_for_what_is_in_flight(said))
    refused = []
    for identity in [SPENT_TODAY, SPENT]:
        refused += openai_is_refused(openai_of(openai.OpenAI, identity))
        refused += anthropic_is_refused(anthropic_of(anthropic.Anthropic, identity))
    refused += asyncio.run(both_are_refused_asynchronously())
    told = {"answered": said.replies, "refused": len(refused), "waited": waited, "models": said.models}
    print(json.dumps(told))


class Said:
    """What the replies said of their usage."""

    def __init__(self):
        self.replies = 0
        self.models = {}

    def openai(self, usage):
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage
        self.add(CHAT["model"], usage.prompt_tokens, usage.completion_tokens)

    def anthropic(self, usage):
        self.add(MESSAGE["model"], usage.input_tokens, usage.output_tokens)

    def add(self, model, input_tokens, output_tokens):
        self.replies += 1
        counts = self.models.setdefault(model, {"input_tokens": 0, "output_tokens": 0})
        counts["input_tokens"] += input_tokens
        counts["output_tokens"] += output_tokens


def openai_of(kind, identity, **options):
    headers = {"x-orq-identity-id": identity, "x-bursar-provider": "openai"}
    return kind(base_url=f"{ENVOY}/v1", api_key="sk-of-the-provider", default_headers=headers, **options)


def anthropic_of(kind, identity):
    headers = {"x-orq-identity-id": identity, "x-bursar-provider": "anthropic"}
    return kind(base_url=ENVOY, api_key="sk-of-the-provider", default_headers=headers)


def openai_answers(client, said):
    for headers in [{}, GZIP]:
        said.openai(client.chat.completions.create(**CHAT, extra_headers=headers).usage)
        # Whoever asks for the usage of a stream by itself, and whoever does not.
        for asking in [{}, {"stream_options": {"include_usage": True}}]:
            chunks = list(client.chat.completions.create(**CHAT, **asking, stream=True, extra_headers=headers))
            assert "word" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]), chunks
            assert chunks[-1].choices == [], chunks[-1]
            said.openai(chunks[-1].usage)
    with client.chat.completions.stream(**CHAT) as stream:
        said.openai(stream.get_final_completion().usage)


def anthropic_answers(client, said):
    for headers in [{}, GZIP]:
        message = client.messages.create(**MESSAGE, extra_headers=headers)
        assert message.content[0].text.startswith("word"), message
        said.anthropic(message.usage)
        with client.messages.stream(**MESSAGE, extra_headers=headers) as stream:
            said.anthropic(stream.get_final_message().usage)


async def both_answer_many_at_once(said):
    chats = openai_of(openai.AsyncOpenAI, PAYING)
    messages = anthropic_of(anthropic.AsyncAnthropic, PAYING)

    async def chat():
        async for chunk in await chats.chat.completions.create(**CHAT, stream=True):
            last = chunk
        said.openai(last.usage)

    async def message():
        async with messages.messages.stream(**MESSAGE) as stream:
            said.anthropic((await stream.get_final_message()).usage)

    await asyncio.gather(*(call() for call in [chat, message] for _ in range(CONCURRENT)))


async def openai_waits_for_what_is_in_flight(said):
    """How often a call was told to wait, before it went through by itself."""
    statuses = []

    async def look(response):
        statuses.append(response.status_code)
        if response.status_code == 429:
            # The call that is in the way goes on only now.
            await response.aread()
            assert response.json()["error"]["code"] == "budget_in_flight", response.text
            await openai.DefaultAsyncHttpxClient().post(GO_ON)
            async for chunk in first:
                last = chunk
            said.openai(last.usage)

    first = await openai_of(openai.AsyncOpenAI, TIGHT).chat.completions.create(
        **CHAT, stream=True, extra_headers={"x-sample": "wait"}
    )
    watched = openai.DefaultAsyncHttpxClient(event_hooks={"response": [look]})
    second = openai_of(openai.AsyncOpenAI, TIGHT, http_client=watched)
    said.openai((await second.chat.completions.create(**CHAT)).usage)
    assert statuses == [429, 200], statuses
    return statuses.count(429)


def openai_is_refused(client):
    for stream in [False, True]:
        try:
            client.chat.completions.create(**CHAT, stream=stream)
        except openai.RateLimitError as error:
            assert (error.code, error.type, error.param) == ("cost_budget_exceeded", "rate_limit_error", None), error.body
            tells_which_budget(error, error.body)
            assert error.request_id == error.response.headers["x-request-id"], error.request_id
            yield error
        else:
            raise AssertionError("openai was not refused")


def anthropic_is_refused(client):
    calls = [lambda: client.messages.create(**MESSAGE), lambda: client.messages.stream(**MESSAGE).__enter__()]
    for call in calls:
        try:
            call()
        except anthropic.RateLimitError as error:
            assert error.body["type"] == "error", error.body
            inner = error.body["error"]
            assert (inner["type"], inner["code"]) == ("rate_limit_error", "cost_budget_exceeded"), inner
            tells_which_budget(error, inner)
            yield error
        else:
            raise AssertionError("anthropic was not refused")


async def both_are_refused_asynchronously():
    chats = openai_of(openai.AsyncOpenAI, SPENT)
    messages = anthropic_of(anthropic.AsyncAnthropic, SPENT)
    calls = [chats.chat.completions.create(**CHAT, stream=True), messages.messages.create(**MESSAGE)]
    errors = await asyncio.gather(*calls, return_exceptions=True)
    kinds = [type(error) for error in errors]
    assert kinds == [openai.RateLimitError, anthropic.RateLimitError], errors
    return errors


def tells_which_budget(error, body):
    assert error.status_code == 429, error
    assert body["scope_kind"] == "IDENTITY", body
    assert (body["dimension"], body["limit"], body["remaining"]) == ("cost", 1, 0), body
    assert body["message"].endswith(".") and body["message"] in str(error), error
    headers = error.response.headers
    assert headers["x-ratelimit-remaining-cost"] == "0", headers
    if body["scope_target_id"] == SPENT_TODAY:
        assert 0 < body["reset_seconds"] <= 24 * 3600, body
        assert headers["retry-after"] == str(body["reset_seconds"]), headers
    else:
        assert body["scope_target_id"] == SPENT, body
        assert body["reset_seconds"] == 0 and "retry-after" not in headers, (body, headers)


if __name__ == "__main__":
    main()
