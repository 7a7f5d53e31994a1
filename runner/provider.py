"""What a provider's Batch API takes, and in which words its batches fail.

Sources: OpenAI's batch guide and SDK for OPENAI; Azure's pages on batch deployments and their limits for AZURE.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from runner.errors import AccessRefused, MoneyRefused, RunnerError
from runner.remote import RemoteBatch

_LONGEST = 4000
"""How much of a message is read."""

FailureKind = Literal["queue_full", "money", "no_access", "moment", "line", "model", "file", "other"]


def _urls(**urls: str) -> Mapping[str, str]:
    return MappingProxyType(urls)


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider's Batch API.

    `most_inputs` counts the texts of an embeddings batch. `endpoints` has the url that lines and create name, by
    the endpoint's name in a job file; what is missing takes no batches. `expires` says that a batch ends after
    its 24 hours. `file_expiry` is the life, in seconds, that an upload must ask for, None where it need not;
    `shortest_poll` the pause between two looks, in seconds, below which the provider asks not to go. Where it does
    not keep its batches, they end with the process that made them: those of an earlier one are gone.
    """

    name: str
    most_requests: int = 50_000
    most_bytes: int = 200_000_000
    most_inputs: int = 50_000
    endpoints: Mapping[str, str] = field(
        default_factory=lambda: _urls(
            chat="/v1/chat/completions", responses="/v1/responses", embeddings="/v1/embeddings"
        )
    )
    expires: bool = True
    file_expiry: int | None = None
    shortest_poll: float = 0.0
    deletes_files: bool = True
    keeps_batches: bool = True
    creates_per_hour: int = 2_000
    uploads_per_minute: int = 1_000


OPENAI = Provider("openai")
"""OpenAI, and whoever speaks like it."""

SIM = Provider("sim")
"""A simulator that is a server of its own."""

SIM_INSIDE = replace(SIM, keeps_batches=False)
"""The simulator inside the run, which ends with it."""

AZURE = Provider(
    "azure",
    most_requests=100_000,
    endpoints=_urls(chat="/v1/chat/completions", responses="/v1/responses"),
    expires=False,
    shortest_poll=60.0,
)
"""Azure's v1 surface. Batches need a deployment of their own kind, whose name is the model."""

AZURE_DATED = replace(AZURE, endpoints=_urls(chat="/chat/completions", responses="/responses"))
"""Azure with an api-version."""


def provider_of(
    account_provider: str, is_azure: bool, has_api_version: bool, *, is_inside: bool = False
) -> Provider:
    """The Batch API behind an account: its provider by name, whether its address is Azure's, whether it names an
    api-version, and whether its server runs inside this process."""
    if account_provider == "sim":
        return SIM_INSIDE if is_inside else SIM
    if account_provider == "azure" or is_azure:
        return AZURE_DATED if has_api_version else AZURE
    return OPENAI


_CODES: Mapping[FailureKind, frozenset[str]] = MappingProxyType(
    {
        "queue_full": frozenset({"token_limit_exceeded"}),
        "money": frozenset(
            {
                "insufficient_quota",
                "credit_balance_exhausted",
                "organization_spend_limit_exceeded",
                "project_spend_limit_exceeded",
                "organization_usage_limit_exceeded",
                "billing_hard_limit_reached",
                "billing_not_active",
            }
        ),
        "no_access": frozenset(
            {
                "invalid_api_key",
                "insufficient_permissions",
                "missing_scope",
                "permission_denied",
                "unauthorized",
                "access_denied",
                "account_deactivated",
                "input_no_permissions",
            }
        ),
        "moment": frozenset(
            {
                "server_error",
                "internal_error",
                "internal_server_error",
                "internalservererror",
                "service_unavailable",
                "serviceunavailable",
                "server_overloaded",
                "rate_limit_exceeded",
                "timeout",
            }
        ),
        "line": frozenset(
            {
                "invalid_json_line",
                "missing_required_parameter",
                "duplicate_custom_id",
                "invalid_url",
                "url_mismatch",
                "invalid_method",
                "streaming_unsupported",
                "invalid_request",
            }
        ),
        "model": frozenset(
            {"model_not_found", "deploymentnotfound", "mismatched_model", "model_mismatch", "invalid_model"}
        ),
        "file": frozenset(
            {
                "empty_file",
                "too_many_tasks",
                "input_modified",
                "invalid_file_format",
                "file_not_found",
                "file_too_large",
            }
        ),
    }
)


def failure_kind(code: str, message: str = "") -> FailureKind:
    """What a code means with which a batch failed, or a create was refused, by OpenAI's names and Azure's.

    `line` is a fault of one line, `file` one of the whole file, `moment` one of the server's own, which no row can
    help. The message tells a file that cannot be found, which both providers call an invalid_request, from a line, and
    a full queue where the code does not say so.
    """
    word = code.lower()
    kind: FailureKind = next((kind for kind, codes in _CODES.items() if word in codes), "other")
    if kind not in ("line", "other"):
        return kind
    said = message[:_LONGEST].lower()
    if "enqueued" in said and "limit" in said:
        return "queue_full"
    return "file" if names_no_file(message) else kind


def account_fault(batch: RemoteBatch) -> RunnerError | None:
    """What ends the run where a batch failed for the account's sake, for which no row can be blamed."""
    for one in batch.failures if batch.status == "failed" else ():
        told = f"Batch {batch.id} failed: {one.message} ({one.code}). Nothing of it was executed."
        kind = failure_kind(one.code, one.message)
        if kind == "money":
            return MoneyRefused(
                f"{told} Top up the account or raise its limit, then run the same command again."
            )
        if kind == "no_access":
            return AccessRefused(
                f"{told} Check the key (OPENAI_API_KEY) and its permissions, then run the same command again."
            )
    return None


def why_failed(batch: RemoteBatch) -> str:
    """What to say of a batch that failed as a whole; nothing of one that did not, or found no room in the queue."""
    if batch.status != "failed":
        return ""
    if not batch.failures:
        return "failed; its server gives no reason"
    first, more = batch.failures[0], len(batch.failures) - 1
    if failure_kind(first.code, first.message) == "queue_full":
        return ""
    line = "" if first.line is None else f", line {first.line:,} of its file"
    others = f", and {more:,} more" if more else ""
    return f"failed: {first.message[:_LONGEST].rstrip('.')} ({first.code}{line}{others})"


def names_no_file(message: str) -> bool:
    """Whether a message says that the input file is not there."""
    said = message[:_LONGEST].lower()
    return any(
        words in said
        for words in ("cannot find file", "no such file", "could not find file", "file not found")
    )
