"""What the providers' Batch APIs take, and what the words mean with which they fail."""

from __future__ import annotations

import pytest

from runner import classify
from runner.endpoints import ENDPOINTS
from runner.errors import AccessRefused, MoneyRefused
from runner.provider import (
    AZURE,
    AZURE_DATED,
    OPENAI,
    SIM,
    SIM_INSIDE,
    account_fault,
    failure_kind,
    provider_of,
    why_failed,
)
from runner.remote import Failure, RemoteBatch


@pytest.mark.parametrize(
    ("provider", "is_azure", "has_api_version", "found"),
    [
        ("openai", False, False, OPENAI),
        ("openai", True, False, AZURE),
        ("azure", True, False, AZURE),
        ("azure", False, True, AZURE_DATED),
        ("sim", False, False, SIM),
        ("sim", True, True, SIM),
    ],
)
def test_the_batch_api_behind_an_account(
    provider: str, is_azure: bool, has_api_version: bool, found: object
) -> None:
    assert provider_of(provider, is_azure, has_api_version) is found


def test_every_endpoint_that_takes_batches_is_one_that_rows_can_be_asked_at() -> None:
    assert OPENAI.endpoints == SIM.endpoints == {name: one.url for name, one in ENDPOINTS.items()}
    assert AZURE.endpoints == {name: ENDPOINTS[name].url for name in ("chat", "responses")}
    assert AZURE_DATED.endpoints == {name: ENDPOINTS[name].path for name in ("chat", "responses")}


def test_only_the_simulator_inside_the_run_loses_its_batches_with_it() -> None:
    assert provider_of("sim", False, False, is_inside=True) is SIM_INSIDE
    assert provider_of("openai", False, False, is_inside=True) is OPENAI
    assert [one.keeps_batches for one in (SIM_INSIDE, SIM, OPENAI, AZURE, AZURE_DATED)] == [
        False,
        *[True] * 4,
    ]


def test_azure_takes_its_time() -> None:
    assert (AZURE.expires, AZURE.shortest_poll, AZURE.file_expiry) == (False, 60.0, None)
    assert (OPENAI.expires, OPENAI.most_requests, OPENAI.most_bytes) == (True, 50_000, 200_000_000)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("token_limit_exceeded", "queue_full"),
        ("billing_hard_limit_reached", "money"),
        ("insufficient_quota", "money"),
        ("invalid_api_key", "no_access"),
        ("input_no_permissions", "no_access"),
        ("invalid_json_line", "line"),
        ("missing_required_parameter", "line"),
        ("duplicate_custom_id", "line"),
        ("invalid_url", "line"),
        ("url_mismatch", "line"),
        ("streaming_unsupported", "line"),
        ("invalid_request", "line"),
        ("model_not_found", "model"),
        ("DeploymentNotFound", "model"),
        ("mismatched_model", "model"),
        ("model_mismatch", "model"),
        ("empty_file", "file"),
        ("too_many_tasks", "file"),
        ("input_modified", "file"),
        ("never_heard_of", "other"),
        ("", "other"),
    ],
)
def test_what_a_code_means(code: str, kind: str) -> None:
    assert failure_kind(code) == kind


def test_a_message_tells_what_its_code_does_not() -> None:
    missing = "Cannot find file file-abc123, or organization org-x does not have access to it."
    full = (
        "Enqueued token limit reached for gpt-6-luna in organization org-x. Limit: 2,000,000 enqueued tokens."
    )
    assert failure_kind("invalid_request", missing) == "file"
    assert failure_kind("", full) == failure_kind("invalid_request", full) == "queue_full"
    assert failure_kind("model_not_found", missing) == "model"


def test_money_has_the_same_names_here_as_online() -> None:
    assert {failure_kind(code) for code in classify._MONEY} == {"money"}


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        ("failed", "insufficient_quota", MoneyRefused),
        ("failed", "invalid_api_key", AccessRefused),
        ("failed", "invalid_json_line", None),
        ("failed", "token_limit_exceeded", None),
        ("completed", "insufficient_quota", None),
    ],
)
def test_only_a_batch_that_failed_for_the_accounts_sake_ends_the_run(
    status: str, code: str, error: type[Exception] | None
) -> None:
    batch = RemoteBatch("batch_1", status, failures=(Failure(code, "It cannot be."),))
    found = account_fault(batch)
    assert type(found) is (error or type(None))
    if found is not None:
        assert "Batch batch_1 failed: It cannot be." in str(found)
        assert "run the same command again" in str(found)


@pytest.mark.parametrize(
    ("failures", "said"),
    [
        ((), "failed; its server gives no reason"),
        (
            (Failure("invalid_url", "Not a url.", line=2), Failure("invalid_url", "Nor this.", line=3)),
            "failed: Not a url (invalid_url, line 2 of its file, and 1 more)",
        ),
        ((Failure("token_limit_exceeded", "Enqueued token limit reached."),), ""),
    ],
)
def test_why_a_batch_failed_is_said_in_the_servers_words(failures: tuple[Failure, ...], said: str) -> None:
    assert why_failed(RemoteBatch("batch_1", "failed", failures=failures)) == said


def test_a_batch_that_did_not_fail_has_no_reason() -> None:
    assert why_failed(RemoteBatch("batch_1", "expired", failures=(Failure("batch_expired", "late"),))) == ""
