"""Refusals that end a start: what its user reads of them, and the exit code that says so."""

from __future__ import annotations

from datetime import UTC, datetime

from runner.errors import AccessRefused, MoneyRefused, Paused, RunnerError
from runner.model import Finding, Kind, Reply

LONGEST_NAMED = 31 * 86_400.0


def stop_for(finding: Finding, reply: Reply, *, max_wait: float, now: datetime) -> RunnerError | None:
    """The error that ends the start, if the refusal is one of the account; None if waiting helps.

    A wait that the server asks for and that is longer than `max_wait` seconds is not waited for.
    """
    if finding.kind is Kind.NO_MONEY:
        return MoneyRefused(_told(finding, reply, "Top up or raise the limit, then run"))
    if finding.kind is Kind.NO_ACCESS:
        return AccessRefused(_told(finding, reply, _access_advice(finding)))
    if finding.wait is not None and finding.wait > max_wait:
        until = datetime.fromtimestamp(now.timestamp() + min(finding.wait, LONGEST_NAMED), tz=UTC)
        return Paused(
            _told(
                finding, reply, f"The server asks to wait until {until:%Y-%m-%d %H:%M} UTC: after that, run"
            )
        )
    return None


def in_short(finding: Finding) -> str:
    """Status and code, as in `HTTP 429 rate_limit_exceeded`; where no answer came, what happened instead."""
    if finding.status is None and finding.message:
        return finding.message
    return _named(finding)


def _named(finding: Finding) -> str:
    status = f"HTTP {finding.status} " if finding.status else ""
    return f"{status}{finding.code or finding.kind.value}"


def _told(finding: Finding, reply: Reply, advice: str) -> str:
    request = f", request {reply.request_id}" if reply.request_id else ""
    said = f": {finding.message}" if finding.message else ""
    return (
        f"The provider refused with {_named(finding)}{request}{said} "
        f"What is answered is kept. {advice} the same command again."
    )


def _access_advice(finding: Finding) -> str:
    match finding.code:
        case "tls_error":
            return "Check the base URL, and the certificates (SSL_CERT_FILE), then run"
        case "proxy_authentication":
            return "Check HTTPS_PROXY and its password, then run"
        case _:
            return "Check the key (OPENAI_API_KEY) and its permissions, then run"
