"""The SDK's own client for the control plane, and what the data plane takes over from it.

Importing this costs nothing of `openai`: it comes with the first call of `control`, `wire` or `list_models`.
"""

from __future__ import annotations

import asyncio
import gc
import re
import ssl
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from runner import __version__
from runner.api.account import Account, account_from
from runner.api.route import proxy_for, tls_context
from runner.api.wire import Wire
from runner.errors import AccessRefused, RunnerError

if TYPE_CHECKING:
    import httpx2
    import openai

__all__ = ["Account", "ModelInfo", "Wire", "account_from", "control", "list_models", "wire"]

# The SDK makes no client without some key; this one is taken off every request again.
_NO_KEY = "there-is-no-key"
# What a server may quote back of a key: OpenAI's 401 repeats its beginning and its end.
_KEY_LIKE = re.compile(r"\b(?:sk|sess|key)-[\w*.\-]+|\bBearer +\S+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that the account may ask. `shutdown_date` is the provider's text, None if it says nothing."""

    id: str
    shutdown_date: str | None = None


def control(account: Account) -> openai.AsyncOpenAI:
    """The SDK's client for models, files and batches: no retries of its own, no redirects.

    Use it as `async with control(account) as client`. Where the account has no key, none is sent.
    """
    return _client(account, tls_context(account.base_url))


def wire(account: Account) -> Wire:
    """What the data plane needs, from the SDK client's public properties, so that both planes say the same.

    Source: openai-python 3, `auth_headers`, `default_headers`, `default_query`, `base_url`, `user_agent`.
    """
    # This client never connects, so it needs no certificates.
    client = _client(account, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    merged: dict[str, tuple[str, object]] = {}
    for name, text in [*client.auth_headers.items(), *client.default_headers.items()]:
        merged[name.lower()] = (name, text)
    headers = {
        name: text
        for name, text in merged.values()
        # In x-stainless-* the SDK describes its own HTTP client, which is not the one that sends.
        if isinstance(text, str) and not name.lower().startswith("x-stainless-") and _NO_KEY not in text
    }
    headers["User-Agent"] = f"{client.user_agent} runner/{__version__}"
    return Wire(
        str(client.base_url).rstrip("/"),
        headers=MappingProxyType(headers),
        query=MappingProxyType({name: str(text) for name, text in client.default_query.items()}),
        deployments=account.api_version is not None,
    )


def signing(account: Account, carrier: httpx2.AsyncBaseTransport) -> openai.AsyncOpenAI:
    """The SDK's client for calls that it makes and signs, and that `carrier` carries."""
    return _client(account, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), carrier)


def _client(
    account: Account, tls: ssl.SSLContext, carrier: httpx2.AsyncBaseTransport | None = None
) -> openai.AsyncOpenAI:
    _import_sdk()
    import openai

    timeout = openai.Timeout(600.0, connect=10.0)
    http_client = openai.DefaultAsyncHttpxClient(
        verify=tls,
        proxy=proxy_for(account.base_url) if carrier is None else None,
        transport=carrier,
        trust_env=False,
        follow_redirects=False,
        timeout=timeout,
        event_hooks={"request": [_without_no_key]},
    )
    headers: dict[str, object] = dict(account.headers)
    own = {name.lower() for name in headers}
    # What is absent is left out on purpose: the SDK would look for it in the environment once more.
    if account.organization is None and "openai-organization" not in own:
        headers["OpenAI-Organization"] = openai.omit
    if account.project is None and "openai-project" not in own:
        headers["OpenAI-Project"] = openai.omit
    default_headers = cast("dict[str, str]", headers)
    if account.api_version is not None:
        return openai.AsyncAzureOpenAI(
            base_url=account.base_url,
            api_version=account.api_version,
            api_key=None if account.ad_token or account.credential else account.api_key or _NO_KEY,
            azure_ad_token=None if account.credential else account.ad_token,
            azure_ad_token_provider=account.credential,
            default_headers=default_headers,
            http_client=http_client,
            timeout=timeout,
            max_retries=0,
        )
    return openai.AsyncOpenAI(
        base_url=account.base_url,
        api_key=account.credential or account.ad_token or account.api_key or _NO_KEY,
        organization=account.organization,
        project=account.project,
        default_headers=default_headers,
        http_client=http_client,
        timeout=timeout,
        max_retries=0,
    )


def _import_sdk() -> None:
    """Import the SDK while the garbage collector rests: of its thousands of types none is garbage."""
    if "openai" in sys.modules or not gc.isenabled():
        return
    gc.disable()
    try:
        import openai  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()


async def _without_no_key(request: httpx2.Request) -> None:
    for name in ("Authorization", "api-key"):
        if _NO_KEY in request.headers.get(name, ""):
            del request.headers[name]


async def list_models(
    account: Account, *, attempts: int = 3, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> list[ModelInfo]:
    """The models that the account may ask. Safe to repeat, so moments of trouble are tried `attempts` times.

    Raises AccessRefused where the key or a permission is refused, RunnerError for whatever else goes wrong.
    """
    import openai
    from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

    passing = (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError)
    patient = AsyncRetrying(
        retry=retry_if_exception_type(passing),
        stop=stop_after_attempt(attempts),
        wait=wait_random_exponential(multiplier=0.5, max=8.0),
        sleep=sleep,
        reraise=True,
    )
    try:
        async with control(account) as client:
            return await patient(_list_models_once, client)
    # A body that is not JSON reaches us as a bare ValueError, not as an error of the SDK.
    except (openai.OpenAIError, ValueError) as error:
        raise in_our_words(error, account) from None


async def _list_models_once(client: openai.AsyncOpenAI) -> list[ModelInfo]:
    return [ModelInfo(model.id, model.shutdown_date) async for model in client.models.list()]


def in_our_words(error: Exception, account: Account) -> RunnerError:
    """An error of the SDK as one of ours, without what the server may have quoted of a key."""
    import openai

    where = account.address.origin
    if isinstance(error, openai.APITimeoutError):
        return RunnerError(f"{where} did not answer in time. Try again; if it lasts, look at the network.")
    if isinstance(error, openai.APIConnectionError):
        return RunnerError(
            f"{where} cannot be reached ({type(error.__cause__ or error).__name__}). Is the server "
            "running, the address right? Behind a proxy set HTTPS_PROXY; for a certificate authority of your "
            "own set SSL_CERT_FILE."
        )
    if isinstance(error, openai.AuthenticationError):
        return AccessRefused(
            f"{where} refuses the API key (401). Check that it is whole, active, and meant for it."
        )
    if isinstance(error, openai.APIStatusError):
        said = _short(
            without_keys(error.message.removeprefix(f"Error code: {error.status_code} - "), account)
        )
        if isinstance(error, openai.PermissionDeniedError):
            return AccessRefused(
                f"{where} refuses permission (403): {said}. Check what the key and project may do."
            )
        return RunnerError(f"{where} answered {error.status_code}: {said}.")
    if isinstance(error, ValueError):
        return RunnerError(f"{where} answered with something that is not JSON. Is the base URL an API's?")
    return RunnerError(f"Asking {where} failed ({type(error).__name__}).")


def without_keys(text: str, account: Account) -> str:
    """A text without the account's credentials, and without what looks like some."""
    for secret in (account.api_key, account.ad_token, *account.headers.values()):
        if secret:
            text = text.replace(secret, "[hidden]")
    return _KEY_LIKE.sub("[hidden]", text)


def _short(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)[:300].rstrip(". ")
