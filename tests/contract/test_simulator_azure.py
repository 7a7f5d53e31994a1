"""The simulator with Azure's ways: empty ids, empty error files, batches that never expire, 400s at once."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from simulated_batches import TERMINAL, create, line, lines_of, simulated, until

from runner.simulator import Settings, Simulator
from runner.simulator.profiles import find_profile

CHAT = {"model": "sim-a", "messages": [{"role": "user", "content": "hello"}]}


def test_a_batch_has_empty_ids_and_an_empty_error_file() -> None:
    with simulated(profile="azure") as (_, client):
        batch = create(client, [line(number) for number in range(20)])
        assert (batch.output_file_id, batch.error_file_id) == ("", "")
        assert batch.request_counts.completed is None
        done, _ = until(client, batch, TERMINAL)
        assert done.status == "completed"
        assert client.files.content(done.error_file_id).read() == b""
        answers = lines_of(client, done.output_file_id)
        assert len(answers) == 20
        assert not any("id" in answer for answer in answers)


def test_a_batch_of_failures_has_an_empty_output_id() -> None:
    with simulated("500=1@first", profile="azure") as (_, client):
        done, _ = until(client, create(client, [line(0)]), TERMINAL)
        assert done.output_file_id == ""
        assert len(lines_of(client, done.error_file_id)) == 1


def test_batches_do_not_expire() -> None:
    with simulated("batch-expired=1", profile="azure") as (simulator, client):
        done, _ = until(client, create(client, [line(number) for number in range(20)]), TERMINAL)
        assert (done.status, done.request_counts.completed) == ("completed", 20)
        assert simulator.ledger()["faults"] == {}


def test_a_full_queue_is_refused_at_once() -> None:
    with simulated(profile="azure", batch_time=0, enqueued_tokens=50) as (simulator, client):
        with pytest.raises(openai.BadRequestError, match="Enqueued token limit") as refused:
            create(client, [line(number) for number in range(20)])
        assert refused.value.code == "token_limit_exceeded"
        assert (client.batches.list().data, simulator.ledger()["batches"]) == ([], [])
        assert until(client, create(client, [line(0)]), TERMINAL)[0].status == "completed"


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ({**line(1), "url": "/v1/chat/completions"}, "url_mismatch"),
        (line(1, model="sim-b"), "model_mismatch"),
    ],
)
def test_errors_have_other_names(bad: dict[str, Any], code: str) -> None:
    with simulated(profile="azure") as (_, client):
        done, _ = until(client, create(client, [line(0), bad]), TERMINAL)
        assert (done.status, done.errors.data[0].code, done.errors.data[0].line) == ("failed", code, 2)


def test_the_azure_client_finds_its_way() -> None:
    text = json.dumps({"custom_id": "1", "method": "POST", "url": "/chat/completions", "body": CHAT}) + "\n"
    with Simulator(Settings(profile="azure", batch_time=0)) as simulator:
        root = simulator.url.removesuffix("/v1")
        azure = openai.AzureOpenAI(azure_endpoint=root, api_key="x", api_version="2024-10-21", max_retries=0)
        plain = openai.OpenAI(base_url=f"{root}/openai/v1", api_key="x", max_retries=0)
        with azure, plain:
            assert azure.chat.completions.create(**CHAT).choices
            for client in (azure, plain):
                file_id = client.files.create(file=("in.jsonl", text.encode()), purpose="batch").id
                batch = client.batches.create(
                    input_file_id=file_id, endpoint="/chat/completions", completion_window="24h"
                )
                assert until(client, batch, TERMINAL)[0].status == "completed"
            with pytest.raises(openai.BadRequestError, match=r"/v1/responses', and '/v1/chat/completions"):
                plain.batches.create(
                    input_file_id=file_id, endpoint="/v1/embeddings", completion_window="24h"
                )
            short = {"anchor": "created_at", "seconds": 3600}
            with pytest.raises(openai.BadRequestError, match="1209600"):
                plain.files.create(file=("in.jsonl", b"{}\n"), purpose="batch", expires_after=short)


def test_an_unknown_profile_is_named() -> None:
    with pytest.raises(ValueError, match="no profile 'aws'; there are openai and azure"):
        Simulator(Settings(profile="aws"))
    assert find_profile("openai").no_file is None
