"""The simulator's model calls, as the official SDK sees them."""

from __future__ import annotations

import array
import base64
import json
import math
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest

from runner.simulator import Settings, Simulator
from runner.simulator.ledger import body_digest
from runner.simulator.models import Catalogue
from runner.simulator.refusal import Refusal

TICKET = "I was charged twice for one invoice. Please send the money back. It is urgent."
SCHEMA = {
    "type": "object",
    "properties": {
        "category": {"type": "string", "enum": ["delivery", "invoice", "login"]},
        "urgency": {"type": "integer", "minimum": 1, "maximum": 5},
        "summary": {"type": "string", "maxLength": 60},
    },
    "required": ["category", "urgency", "summary"],
    "additionalProperties": False,
}
TOOL = {"name": "file_ticket", "parameters": SCHEMA, "strict": True}


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator(Settings(seed=7)) as running:
        yield running


@pytest.fixture(scope="module")
def client(simulator: Simulator) -> Iterator[Any]:
    with openai.OpenAI(api_key="sk-any", base_url=simulator.url, max_retries=0) as sdk:
        yield sdk


def chat(client: Any, text: str = TICKET, **more: Any) -> Any:
    messages = [
        {"role": "system", "content": "Answer shortly: delivery, login."},
        {"role": "user", "content": text},
    ]
    return client.chat.completions.create(model="gpt-6-luna", messages=messages, **more)


def test_chat_answers_from_the_users_text_and_says_that_it_is_simulated(client: Any) -> None:
    answer = chat(client)
    message = answer.choices[0].message
    assert message.content.startswith("[simulated] I was charged twice for one invoice.")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "gpt-6-luna"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0


def test_chat_is_cut_at_the_token_limit_and_gives_as_many_choices_as_asked(client: Any) -> None:
    answer = chat(client, max_completion_tokens=5, n=3)
    assert [choice.finish_reason for choice in answer.choices] == ["length"] * 3
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage.completion_tokens == 15


def test_chat_gives_structured_output(client: Any) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "ticket", "schema": SCHEMA, "strict": True}}
    answer = json.loads(chat(client, response_format=form).choices[0].message.content)
    # The system message names the other two categories; what counts is what the user says.
    assert answer["category"] == "invoice"
    assert answer["urgency"] in range(1, 6)
    free = chat(client, "Give me json", response_format={"type": "json_object"})
    assert json.loads(free.choices[0].message.content)["simulated"] is True


def test_chat_calls_the_tool_that_it_is_forced_to(client: Any) -> None:
    tools = [{"type": "function", "function": TOOL}]
    forced = {"type": "function", "function": {"name": "file_ticket"}}
    named = chat(client, tools=tools, tool_choice=forced).choices[0]
    assert named.message.content is None
    call = named.message.tool_calls[0]
    assert call.function.name == "file_ticket"
    assert json.loads(call.function.arguments)["category"] == "invoice"
    assert chat(client, tools=tools, tool_choice="required").choices[0].finish_reason == "tool_calls"
    assert chat(client, tools=tools).choices[0].message.tool_calls is None


def test_responses_answer_in_full_shape(client: Any) -> None:
    answer = client.responses.create(model="gpt-6-luna", instructions="Shortly.", input=TICKET, store=False)
    assert answer.output_text.startswith("[simulated] I was charged twice")
    assert answer.status == "completed"
    assert answer.store is False
    assert answer.usage is not None
    assert answer.usage.input_tokens_details.cached_tokens == 0
    cut = client.responses.create(
        model="gpt-6-luna", input=[{"role": "user", "content": TICKET}], max_output_tokens=4
    )
    assert cut.status == "incomplete"
    assert cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"
    assert len(cut.output_text) == 16


def test_responses_give_structured_output_and_forced_calls(client: Any) -> None:
    answer = client.responses.create(
        model="gpt-6-luna",
        input=TICKET,
        text={"format": {"type": "json_schema", "name": "ticket", "schema": SCHEMA, "strict": True}},
    )
    assert json.loads(answer.output_text)["category"] == "invoice"
    called = client.responses.create(
        model="gpt-6-luna",
        input=TICKET,
        tools=[{"type": "function", **TOOL}],
        tool_choice={"type": "function", "name": "file_ticket"},
    )
    item = called.output[0]
    assert item.type == "function_call"
    assert json.loads(item.arguments)["category"] == "invoice"


def test_embeddings_of_like_texts_lie_near_each_other(client: Any) -> None:
    texts = ["the invoice was charged twice", "the invoices were charged twice", "a purple submarine"]
    answer = client.embeddings.create(model="text-embedding-3-small", input=texts)
    one, like, other = (item.embedding for item in answer.data)
    assert len(one) == 1536
    assert math.isclose(sum(x * x for x in one), 1, abs_tol=1e-5)
    assert sum(map(float.__mul__, one, like)) > 0.5 > sum(map(float.__mul__, one, other)) + 0.3
    assert [item.index for item in answer.data] == [0, 1, 2]
    assert answer.usage.prompt_tokens == sum(-(-len(text) // 4) for text in texts)


def test_embeddings_are_the_same_as_numbers_and_as_base64(client: Any) -> None:
    both = []
    for form in ("float", "base64"):
        answer = client.embeddings.create(
            model="text-embedding-3-large", input="hello world", encoding_format=form, dimensions=256
        )
        both.append(answer.data[0].embedding)
    packed = array.array("f", base64.b64decode(both[1]))
    assert len(packed) == 256
    assert all(math.isclose(x, y, abs_tol=1e-7) for x, y in zip(both[0], packed, strict=True))
    large = client.embeddings.create(model="text-embedding-3-large", input=[[1, 2, 3], [4]])
    assert [len(item.embedding) for item in large.data] == [3072, 3072]
    assert large.usage.total_tokens == 4


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "param"),
    [
        ("/chat/completions", {"messages": []}, 400, "missing_required_parameter", "model"),
        ("/chat/completions", {"model": "gpt-9", "messages": []}, 404, "model_not_found", None),
        ("/chat/completions", {"model": "gpt-3.5-turbo", "messages": []}, 404, "model_not_found", None),
        ("/chat/completions", {"model": "sim-a"}, 400, "missing_required_parameter", "messages"),
        ("/chat/completions", {"model": "sim-a", "messages": "x"}, 400, "invalid_type", "messages"),
        ("/chat/completions", {"model": "sim-a", "messages": []}, 400, "empty_array", "messages"),
        (
            "/chat/completions",
            {"model": "sim-a", "messages": [{"role": "boss", "content": "x"}]},
            400,
            "invalid_value",
            "messages[0].role",
        ),
        (
            "/chat/completions",
            {"model": "gpt-6-luna", "messages": [{"role": "user", "content": "x"}], "max_tokens": 9},
            400,
            "unsupported_parameter",
            "max_tokens",
        ),
        (
            "/chat/completions",
            {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x" * 520_000}]},
            400,
            "context_length_exceeded",
            "messages",
        ),
        (
            "/chat/completions",
            {
                "model": "gpt-6-luna",
                "messages": [{"role": "user", "content": "x"}],
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {
                        "name": "a",
                        "strict": True,
                        "schema": {"type": "object", "properties": {}},
                    },
                },
            },
            400,
            "invalid_json_schema",
            "response_format.json_schema",
        ),
        ("/responses", {"model": "gpt-6-luna"}, 400, "missing_required_parameter", "input"),
        (
            "/responses",
            {"model": "gpt-6-luna", "input": "x", "max_output_tokens": 0},
            400,
            "integer_below_min_value",
            "max_output_tokens",
        ),
        ("/responses", {"model": "text-embedding-3-small", "input": "x"}, 400, "unsupported_model", "model"),
        ("/embeddings", {"model": "text-embedding-3-small"}, 400, "missing_required_parameter", "input"),
        (
            "/embeddings",
            {"model": "text-embedding-3-small", "input": ["a", ""]},
            400,
            "invalid_value",
            "input",
        ),
        ("/embeddings", {"model": "text-embedding-3-small", "input": []}, 400, "invalid_value", "input"),
        (
            "/embeddings",
            {"model": "text-embedding-3-small", "input": ["a"] * 2049},
            400,
            "array_above_max_length",
            "input",
        ),
        (
            "/embeddings",
            {"model": "text-embedding-3-small", "input": "a" * 32_769},
            400,
            "context_length_exceeded",
            "input",
        ),
        (
            "/embeddings",
            {"model": "text-embedding-3-small", "input": ["a" * 32_000] * 38},
            400,
            "max_tokens_per_request",
            None,
        ),
    ],
)
def test_what_the_api_would_refuse_is_refused_in_its_words(
    client: Any, path: str, body: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        client.post(path, body=body, cast_to=object)
    assert refused.value.status_code == status
    assert (refused.value.code, refused.value.param) == (code, param)
    assert refused.value.type
    assert str(refused.value.request_id).startswith("req_")


def test_the_largest_inputs_that_the_api_takes_are_taken(client: Any) -> None:
    body = {"model": "text-embedding-3-small", "input": ["ab"] * 2048, "encoding_format": "base64"}
    answer: Any = client.post("/embeddings", body=body, cast_to=object)
    assert len(answer["data"]) == 2048


def test_a_body_that_is_not_json_and_a_wrong_key_are_refused(simulator: Simulator) -> None:
    with openai.OpenAI(api_key="sk-invalid", base_url=simulator.url, max_retries=0) as sdk:
        with pytest.raises(openai.AuthenticationError) as refused:
            chat(sdk)
        assert refused.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            sdk.models.list()
    with openai.OpenAI(api_key="sk-any", base_url=simulator.url, max_retries=0) as sdk:
        with pytest.raises(openai.BadRequestError, match="400"):
            sdk.post("/chat/completions", content=b"{nonsense", cast_to=object)
        with pytest.raises(openai.NotFoundError):
            sdk.get("/nowhere", cast_to=object)


def test_models_are_listed_with_their_shutdown_dates(client: Any) -> None:
    models = {model.id: model for model in client.models.list()}
    assert "gpt-6-luna" in models
    assert "gpt-3.5-turbo" not in models
    assert models["gpt-4o-mini"].shutdown_date == "2027-01-14"
    assert client.models.retrieve("gpt-6-luna").owned_by == "system"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


def test_the_same_seed_gives_the_same_answers_byte_by_byte() -> None:
    body: Any = {"model": "gpt-6-luna", "messages": [{"role": "user", "content": TICKET}]}
    seen = []
    for seed in (1, 1, 2):
        with (
            Simulator(Settings(seed=seed)) as running,
            openai.OpenAI(api_key="x", base_url=running.url, max_retries=0) as sdk,
        ):
            first, again = (sdk.chat.completions.with_raw_response.create(**body) for _ in range(2))
            assert first.content == again.content
            assert first.headers["x-request-id"] != again.headers["x-request-id"]
            seen.append((first.content, first.headers["x-request-id"], again.headers["x-request-id"]))
    assert seen[0] == seen[1]
    assert seen[0][0] != seen[2][0]


def test_the_ledger_knows_what_was_executed_and_what_it_would_have_cost() -> None:
    with (
        Simulator(Settings()) as running,
        openai.OpenAI(api_key="x", base_url=running.url, max_retries=0) as sdk,
    ):
        body = {"model": "gpt-6-luna", "messages": [{"role": "user", "content": TICKET}]}
        answers: list[Any] = [sdk.post("/chat/completions", body=body, cast_to=object) for _ in range(2)]
        with pytest.raises(openai.NotFoundError):
            sdk.post("/chat/completions", body={**body, "model": "gpt-9"}, cast_to=object)
        vectors = {"model": "text-embedding-3-small", "input": ["one", "two", "one"]}
        sdk.post("/embeddings", body=vectors, cast_to=object)
        book = running.ledger()
        assert book["arrived"] == 4
        assert book["executed"] == 3
        assert book["refused"] == {"model_not_found": 1}
        assert book["endpoints"]["chat"] == {"arrived": 3, "executed": 2}
        assert book["executions"] == {body_digest(body).hex(): 2, body_digest(vectors).hex(): 1}
        assert book["inputs"]["executed"] == 3
        assert list(book["inputs"]["repeated"].values()) == [2]
        usage = answers[0]["usage"]
        assert book["tokens"]["gpt-6-luna"]["input"] == 2 * usage["prompt_tokens"]
        assert book["tokens"]["gpt-6-luna"]["output"] == 2 * usage["completion_tokens"]
        price = (Decimal("0.10") * usage["prompt_tokens"] + Decimal("0.50") * usage["completion_tokens"]) * 2
        assert Decimal(book["cost_usd"]) == (price + Decimal("0.02") * 3) / 1_000_000
        assert sdk.get(running.url[:-3] + "/sim/ledger", cast_to=object) == book
        sdk.post(running.url[:-3] + "/sim/reset", cast_to=object)
        assert running.ledger()["arrived"] == 0


def test_a_long_beginning_seen_before_counts_as_cached(client: Any) -> None:
    first = client.responses.create(model="gpt-6-luna", instructions="Be kind. " * 500, input="One")
    again = client.responses.create(model="gpt-6-luna", instructions="Be kind. " * 500, input="Two")
    assert first.usage is not None
    assert again.usage is not None
    assert first.usage.input_tokens_details.cached_tokens == 0
    assert first.usage.input_tokens_details.cache_write_tokens == 1024
    assert again.usage.input_tokens_details.cached_tokens == 1024


PRICES = {
    "as_of": "2026-11-01",
    "models": {
        "gpt-a": {
            "input": "2",
            "cached_input": "0.5",
            "output": "8",
            "long_context": {"above": 1000, "input": "4", "output": "12"},
            "batch": {"input": "1", "output": "4"},
            "aliases": ["gpt-a-latest"],
        },
        "gpt-old": {"input": "1", "shutdown_date": "2026-10-01"},
    },
}


def test_prices_come_from_the_price_file(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    path.write_text(json.dumps(PRICES))
    catalogue = Catalogue(path)
    assert catalogue.names == ("gpt-a",)
    assert catalogue.find("gpt-a-latest").base == "gpt-a"
    assert catalogue.find("ft:gpt-a:me::1").base == "gpt-a"
    assert catalogue.find("gpt-a-2026-01-02").name == "gpt-a-2026-01-02"
    with pytest.raises(Refusal, match="deprecated"):
        catalogue.find("gpt-old")
    assert [catalogue.is_long("gpt-a", tokens) for tokens in (1000, 1001)] == [False, True]

    def price(tier: str, *, long: bool) -> list[str] | None:
        rates = catalogue.price("gpt-a", tier, long=long)
        return None if rates is None else [str(rates[kind]) for kind in ("input", "cached_input", "output")]

    assert price("default", long=False) == ["2", "0.5", "8"]
    assert price("default", long=True) == ["4", "1.0", "12"]
    assert price("batch", long=False) == ["1", "0.5", "4"]
    assert price("batch", long=True) == ["2", "1.0", "6"]
    assert price("flex", long=False) is None
    assert catalogue.price("sim-a", "default", long=False) is None


def test_without_a_price_file_some_names_are_known_and_no_price_is(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "nowhere.json")
    assert "gpt-6-luna" in catalogue.names
    assert catalogue.price("gpt-6-luna", "default", long=False) is None
