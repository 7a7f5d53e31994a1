"""Accounts, base URLs and the SDK's client: who is asked, with what, and what is never shown."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.api.account import Account, account_from
from runner.api.client import ModelInfo, control, in_our_words, list_models, wire
from runner.api.origin import Reach, parse
from runner.api.route import proxy_for, proxy_name, tls_context
from runner.errors import AccessRefused, BadConfiguration, RunnerError

KEY = "sk-canary-5b20aa1e"


def made(environ: dict[str, str] | None = None, **options: object) -> Account:
    return made_with_warnings(environ, **options)[0]


def made_with_warnings(
    environ: dict[str, str] | None = None,
    *,
    provider: str | None = None,
    base_url: str | None = None,
    insecure_http: bool = False,
    demand_key: bool = True,
) -> tuple[Account, list[str]]:
    return account_from(
        environ if environ is not None else {"OPENAI_API_KEY": KEY},
        provider=provider,
        base_url=base_url,
        insecure_http=insecure_http,
        demand_key=demand_key,
    )


@asynccontextmanager
async def answering(*answers: tuple[int, bytes], headers: str = "", seen: list[bytes]) -> AsyncIterator[str]:
    left = list(answers)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        status, body = left.pop(0) if len(left) > 1 else left[0]
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close\r\n{headers}"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()


async def at_once(_: float) -> None:
    """A pause that takes no time."""


# --- origins


@pytest.mark.parametrize(
    ("url", "origin", "reach"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com", Reach.PUBLIC),
        ("HTTPS://API.OpenAI.com:443/v1/", "https://api.openai.com", Reach.PUBLIC),
        ("http://localhost:11434/v1", "http://localhost:11434", Reach.LOOPBACK),
        ("http://LOCALHOST:80", "http://localhost", Reach.LOOPBACK),
        ("http://127.8.8.8/v1", "http://127.8.8.8", Reach.LOOPBACK),
        ("http://[::1]:8000/v1", "http://[::1]:8000", Reach.LOOPBACK),
        ("http://0.0.0.0:8000/v1", "http://0.0.0.0:8000", Reach.LOOPBACK),
        ("http://2130706433/v1", "http://2130706433", Reach.LOOPBACK),
        ("http://192.168.1.20:8000/v1", "http://192.168.1.20:8000", Reach.PRIVATE),
        ("http://[fd12::7]/v1", "http://[fd12::7]", Reach.PRIVATE),
        ("http://vllm:8000/v1", "http://vllm:8000", Reach.PRIVATE),
        ("http://host.docker.internal:11434/v1", "http://host.docker.internal:11434", Reach.PRIVATE),
        ("http://llm.team.svc.cluster.local/v1", "http://llm.team.svc.cluster.local", Reach.PRIVATE),
        ("http://8.8.8.8/v1", "http://8.8.8.8", Reach.PUBLIC),
        ("http://134744072/v1", "http://134744072", Reach.PUBLIC),
        ("http://example.com./v1", "http://example.com", Reach.PUBLIC),
        ("http://localhost.example.com/v1", "http://localhost.example.com", Reach.PUBLIC),
        ("http://[::ffff:8.8.8.8]/v1", "http://[::ffff:8.8.8.8]", Reach.PUBLIC),
    ],
)
def test_an_origin_and_how_far_away_it_is(url: str, origin: str, reach: Reach) -> None:
    address = parse(url)
    assert (address.origin, address.reach) == (origin, reach)
    assert address.url.startswith(origin)
    assert not address.url.endswith("/")


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "https://169.254.170.2",
        "http://2852039166/",
        "http://0xA9FEA9FE/",
        "http://0251.0376.0251.0376/",
        "http://[::ffff:169.254.169.254]/",
        "http://[fe80::1]/",
        "http://[fd00:ec2::254]/",
        "http://metadata.google.internal/v1",
        "http://１６９.254.169.254/",
    ],
)
def test_addresses_where_clouds_keep_credentials_are_refused(url: str) -> None:
    with pytest.raises(BadConfiguration, match="link-local"):
        parse(url)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://host/v1",
        "api.openai.com/v1",
        "localhost:8000/v1",
        "",
        "https://",
        "https:///v1",
        "https://host:port/v1",
        "https://host:99999/v1",
        "https://[::1/v1",
        "https://ho st/v1",
        "https://host/v1\r\nX: y",
        "https://good.com\\@evil.com/v1",
        f"https://me:{KEY}@host/v1",
        f"https://{KEY}@host/v1",
        f"https://host/v1?key={KEY}",
        f"https://host/v1#{KEY}",
    ],
)
def test_a_base_url_of_another_form_is_refused_without_showing_secrets(url: str) -> None:
    with pytest.raises(BadConfiguration) as caught:
        parse(url)
    assert KEY not in str(caught.value)


@given(st.text(max_size=40), st.sampled_from(["", "http://", "https://", "//"]))
def test_any_text_is_an_address_or_a_bad_configuration(text: str, scheme: str) -> None:
    try:
        address = parse(scheme + text)
    except BadConfiguration:
        return
    assert address.origin.isascii()
    assert address.host
    assert parse(address.url) == address


# --- accounts


def test_the_default_is_openai_with_the_key_from_the_environment() -> None:
    account, warnings = made_with_warnings(
        {"OPENAI_API_KEY": f" {KEY}\n", "OPENAI_ORG_ID": "org-1", "OPENAI_PROJECT_ID": "proj_1"}
    )
    assert (account.provider, account.base_url, account.origin) == (
        "openai",
        "https://api.openai.com/v1",
        "https://api.openai.com",
    )
    assert (account.api_key, account.organization, account.project) == (KEY, "org-1", "proj_1")
    assert account.known_prices
    assert account.needs_key
    assert warnings == []


@pytest.mark.parametrize(
    ("environ", "options", "named"),
    [
        ({}, {}, "OPENAI_API_KEY"),
        ({"OPENAI_API_KEY": "  "}, {}, "OPENAI_API_KEY"),
        ({}, {"base_url": "https://eu.api.openai.com/v1"}, "OPENAI_API_KEY"),
        ({"AZURE_OPENAI_ENDPOINT": "https://r.openai.azure.com"}, {}, "AZURE_OPENAI_API_KEY"),
        ({}, {"base_url": "https://r.services.ai.azure.com"}, "AZURE_OPENAI_AD_TOKEN"),
    ],
)
def test_a_missing_key_names_both_ways_on(
    environ: dict[str, str], options: dict[str, str], named: str
) -> None:
    with pytest.raises(AccessRefused) as caught:
        made(environ, **options)
    assert caught.value.exit_code == 77
    for way in (named, "--provider sim", "--base-url"):
        assert way in str(caught.value)
    assert made(environ, demand_key=False, **options).origin.startswith("https://")


@pytest.mark.parametrize(
    ("environ", "options"),
    [
        ({}, {"base_url": "http://localhost:8000/v1"}),
        ({"OPENAI_BASE_URL": "http://10.0.0.5:8000/v1"}, {}),
        ({}, {"provider": "sim"}),
        ({"OPENAI_CUSTOM_HEADERS": "Authorization: Bearer other"}, {}),
        ({}, {"base_url": "https://api.openai.com.example.org/v1"}),
        ({}, {"base_url": "https://notapi.openai.com/v1"}),
    ],
)
def test_no_key_is_demanded_elsewhere(environ: dict[str, str], options: dict[str, str]) -> None:
    account = made(environ, **options)
    assert account.has_key or not account.needs_key


@pytest.mark.parametrize(
    ("url", "known"),
    [
        ("https://api.openai.com/v1", True),
        ("https://us.api.openai.com/v1", True),
        ("https://res.openai.azure.com/openai/v1", True),
        ("https://res.cognitiveservices.azure.com", True),
        ("https://evilapi.openai.com/v1", False),
        ("https://openai.azure.com.example.org/v1", False),
        ("http://localhost:8000/v1", False),
    ],
)
def test_prices_are_known_at_openai_and_azure_alone(url: str, known: bool) -> None:
    assert made(base_url=url, provider="openai").known_prices is known


def test_the_simulator_is_one_origin_wherever_it_listens_and_gets_no_key() -> None:
    environ = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "https://api.openai.com/v1", "OPENAI_ORG_ID": "org"}
    account = made(environ, provider="sim")
    assert (account.origin, account.known_prices, account.needs_key) == ("sim", True, False)
    assert (account.api_key, account.organization, dict(account.headers)) == (None, None, {})
    assert made(environ, provider="sim", base_url="http://127.0.0.1:9999/v1").origin == "sim"
    with pytest.raises(BadConfiguration, match="--provider sim"):
        made(environ, provider="sim", base_url="https://api.openai.com/v1")


def test_an_option_wins_over_the_environment() -> None:
    environ = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "https://one.example/v1"}
    assert made(environ).origin == "https://one.example"
    assert made(environ, base_url="https://two.example/v1").origin == "https://two.example"


@pytest.mark.parametrize(
    ("environ", "base_url", "version"),
    [
        ({}, "https://r.openai.azure.com/openai/v1", None),
        ({"OPENAI_API_VERSION": "2025-03-01"}, "https://r.openai.azure.com/openai", "2025-03-01"),
    ],
)
@pytest.mark.parametrize("ending", ["", "/", "/openai", "/openai/"])
def test_azure_is_asked_by_its_v1_surface_unless_a_version_is_named(
    environ: dict[str, str], base_url: str, version: str | None, ending: str
) -> None:
    endpoint = f"https://r.openai.azure.com{ending}"
    account = made({"AZURE_OPENAI_ENDPOINT": endpoint, "AZURE_OPENAI_API_KEY": KEY, **environ})
    assert (account.provider, account.base_url) == ("azure", base_url)
    assert (account.api_version, account.api_key) == (version, KEY)


def test_azures_token_wins_over_its_key_and_openais_key_stays_at_home() -> None:
    environ = {"OPENAI_API_KEY": KEY, "AZURE_OPENAI_API_KEY": "az-key", "AZURE_OPENAI_AD_TOKEN": "az-token"}
    url = "https://r.openai.azure.com/openai/v1"
    account = made(environ, base_url=url)
    assert (account.provider, account.api_key, account.ad_token) == ("azure", None, "az-token")
    assert made(environ, base_url=url, provider="openai").api_key == "az-token"


def test_openai_and_azure_both_set_asks_openai_and_says_so() -> None:
    environ = {"OPENAI_API_KEY": KEY, "AZURE_OPENAI_ENDPOINT": "https://r.openai.azure.com"}
    account, warnings = made_with_warnings(environ)
    assert account.provider == "openai"
    assert "--provider azure" in warnings[0]
    with pytest.raises(BadConfiguration, match="AZURE_OPENAI_ENDPOINT"):
        made({}, provider="azure")
    with pytest.raises(BadConfiguration, match="no provider 'gemini'"):
        made({}, provider="gemini")


@pytest.mark.parametrize(
    ("url", "insecure", "warned"),
    [
        ("http://localhost:8000/v1", False, 0),
        ("http://192.168.0.9:8000/v1", False, 1),
        ("http://vllm:8000/v1", False, 1),
        ("http://llm.example.com/v1", True, 1),
        ("https://llm.example.com/v1", False, 0),
    ],
)
def test_plain_http_warns_once_off_this_machine(url: str, insecure: bool, warned: int) -> None:
    assert len(made_with_warnings(base_url=url, insecure_http=insecure)[1]) == warned


def test_plain_http_to_a_public_address_needs_to_be_meant() -> None:
    with pytest.raises(BadConfiguration, match="--insecure-http") as caught:
        made(base_url="http://llm.example.com/v1")
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    "environ",
    [
        {"OPENAI_API_KEY": f"{KEY}\nsecond"},
        {"OPENAI_API_KEY": f"{KEY}…"},
        {"OPENAI_API_KEY": KEY, "OPENAI_ORG_ID": f"org\r{KEY}"},
        {"OPENAI_API_KEY": KEY, "OPENAI_CUSTOM_HEADERS": f"no colon {KEY}"},
        {"OPENAI_API_KEY": KEY, "OPENAI_CUSTOM_HEADERS": f"X-A: ключ{KEY}"},
        {"AZURE_OPENAI_ENDPOINT": "https://r.openai.azure.com", "AZURE_OPENAI_AD_TOKEN": f"{KEY}\x00"},
    ],
)
def test_what_no_header_can_carry_is_refused_unshown(environ: dict[str, str]) -> None:
    with pytest.raises(BadConfiguration) as caught:
        made(environ)
    assert KEY not in str(caught.value)


def test_the_key_is_in_no_repr() -> None:
    environ = {"OPENAI_API_KEY": KEY, "OPENAI_CUSTOM_HEADERS": f"X-Secret: {KEY}"}
    for account in (
        made(environ),
        made(
            {**environ, "AZURE_OPENAI_API_KEY": KEY, "AZURE_OPENAI_ENDPOINT": "https://a.example"},
            provider="azure",
        ),
        made({"AZURE_OPENAI_AD_TOKEN": KEY, "AZURE_OPENAI_ENDPOINT": "https://a.example"}, provider="azure"),
    ):
        assert KEY in wire(account).headers["X-Secret" if account.headers else "Authorization"]
        assert KEY not in repr(account) + str(account) + repr(wire(account)) + str(wire(account))


# --- the wire


def test_the_wire_says_what_the_sdk_says() -> None:
    account = made(
        {
            "OPENAI_API_KEY": KEY,
            "OPENAI_ORG_ID": "org-1",
            "OPENAI_PROJECT_ID": "proj_1",
            "OPENAI_CUSTOM_HEADERS": "X-Team: blue\n\nX-Cost: 7 : 8 \n",
        }
    )
    made_wire = wire(account)
    assert made_wire.headers["Authorization"] == f"Bearer {KEY}"
    assert made_wire.headers["OpenAI-Organization"] == "org-1"
    assert made_wire.headers["OpenAI-Project"] == "proj_1"
    assert (made_wire.headers["X-Team"], made_wire.headers["X-Cost"]) == ("blue", "7 : 8")
    assert "OpenAI/Python" in made_wire.headers["User-Agent"]
    assert made_wire.headers["User-Agent"].endswith("runner/0.1.0")
    assert not [name for name in made_wire.headers if name.lower().startswith("x-stainless")]
    for path in ("/chat/completions", "/v1/chat/completions"):
        assert made_wire.url(path, "m") == "https://api.openai.com/v1/chat/completions"


def test_without_a_key_none_goes_out_whatever_the_process_environment_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, KEY)
    for name in ("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN", "OPENAI_BASE_URL"):
        monkeypatch.setenv(name, KEY)
    local = made({}, base_url="http://localhost:8000/v1")
    gateway = made({"OPENAI_API_VERSION": "1"}, base_url="https://gateway.example", provider="azure")
    for account in (local, gateway):
        names = {name.lower() for name in wire(account).headers}
        assert not names & {"authorization", "api-key", "openai-organization", "openai-project"}
        assert KEY not in str(dict(wire(account).headers))


def test_a_custom_authorization_replaces_the_key() -> None:
    account = made({"OPENAI_API_KEY": KEY, "OPENAI_CUSTOM_HEADERS": "authorization: Basic abc"})
    sent = {n.lower(): text for n, text in wire(account).headers.items()}
    assert sent["authorization"] == "Basic abc"
    assert KEY not in str(sent)


@pytest.mark.parametrize(
    ("path", "model", "url"),
    [
        ("/chat/completions", "gpt", "/openai/deployments/gpt/chat/completions"),
        ("/v1/embeddings", "a/b c", "/openai/deployments/a%2Fb%20c/embeddings"),
        ("/embeddings", "..", "/openai/deployments/%2E%2E/embeddings"),
        ("/responses", "gpt", "/openai/responses"),
    ],
)
def test_azures_dated_surface_asks_by_deployment(path: str, model: str, url: str) -> None:
    environ = {"AZURE_OPENAI_ENDPOINT": "https://r.openai.azure.com", "OPENAI_API_VERSION": "2025-03-01"}
    by_key = wire(made({**environ, "AZURE_OPENAI_API_KEY": KEY}))
    assert by_key.url(path, model) == f"https://r.openai.azure.com{url}?api-version=2025-03-01"
    assert by_key.headers["api-key"] == KEY
    assert "Authorization" not in by_key.headers
    by_token = wire(made({**environ, "AZURE_OPENAI_AD_TOKEN": "tok"}))
    assert by_token.headers["Authorization"] == "Bearer tok"
    assert "api-key" not in by_token.headers
    with pytest.raises(ValueError, match="needs a model"):
        by_key.url("/chat/completions", None)


def test_azures_v1_surface_is_plain_openai() -> None:
    environ = {"AZURE_OPENAI_ENDPOINT": "https://r.openai.azure.com", "AZURE_OPENAI_API_KEY": KEY}
    made_wire = wire(made(environ))
    assert made_wire.url("/chat/completions", "m") == "https://r.openai.azure.com/openai/v1/chat/completions"
    assert made_wire.headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "header", ["Content-Length: 5", "Host: other", "Transfer-Encoding: chunked", "X A: 1"]
)
def test_a_custom_header_cannot_break_the_message(header: str) -> None:
    with pytest.raises(BadConfiguration, match="OPENAI_CUSTOM_HEADERS"):
        wire(made({"OPENAI_API_KEY": KEY, "OPENAI_CUSTOM_HEADERS": header}))


# --- proxies


def test_a_proxy_comes_from_the_environment_but_never_for_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert proxy_for("https://api.openai.com/v1") is None
    monkeypatch.setenv("HTTPS_PROXY", "proxy.corp:3128")
    monkeypatch.setenv("HTTP_PROXY", f"http://me:{KEY}@proxy.corp:3129")
    monkeypatch.setenv("NO_PROXY", "internal.example")
    assert proxy_for("https://api.openai.com/v1") == "http://proxy.corp:3128"
    assert proxy_for("http://10.1.2.3/v1") == f"http://me:{KEY}@proxy.corp:3129"
    assert proxy_name(f"http://me:{KEY}@proxy.corp:3129") == "proxy.corp:3129"
    assert proxy_for("https://llm.internal.example/v1") is None
    assert proxy_for("http://localhost:8000/v1") is None
    monkeypatch.setenv("HTTPS_PROXY", f"socks5://me:{KEY}@proxy.corp")
    with pytest.raises(BadConfiguration, match="HTTPS_PROXY") as caught:
        proxy_for("https://api.openai.com/v1")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("url", ["https://api.openai.com/v1", "http://localhost:8000/v1"])
@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_certificates_are_always_checked(monkeypatch: pytest.MonkeyPatch, url: str, platform: str) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    monkeypatch.setattr("runner.api.route.sys.platform", platform)
    context = tls_context(url)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    if url.startswith("http:"):
        assert context.cert_store_stats()["x509_ca"] == 0


# --- the control plane

MODELS = json.dumps(
    {
        "object": "list",
        "data": [
            {"id": "a", "object": "model", "created": 1, "owned_by": "x", "shutdown_date": "2027-01-31"},
            {"id": "b", "object": "model", "created": 1, "owned_by": "x"},
        ],
    }
).encode()


def models_from(
    *answers: tuple[int, bytes], environ: dict[str, str] | None = None, headers: str = ""
) -> tuple[list[ModelInfo], list[bytes]]:
    seen: list[bytes] = []

    async def main() -> list[ModelInfo]:
        async with answering(*answers, headers=headers, seen=seen) as url:
            account = made(environ, base_url=url)
            try:
                return await list_models(account, sleep=at_once)
            finally:
                seen.append(b"")

    return asyncio.run(main()), seen[:-1]


def test_models_are_listed_with_their_last_day() -> None:
    models, seen = models_from((200, MODELS))
    assert models == [ModelInfo("a", "2027-01-31"), ModelInfo("b", None)]
    assert seen[0].startswith(b"GET /v1/models HTTP/1.1")
    assert f"authorization: bearer {KEY}".encode() in seen[0].lower()


def test_a_moment_of_trouble_is_tried_again() -> None:
    models, seen = models_from((500, b"{}"), (429, b"{}"), (200, MODELS))
    assert [m.id for m in models] == ["a", "b"]
    assert len(seen) == 3


def test_no_key_means_no_authorization_on_the_control_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ADMIN_KEY", KEY)
    _, seen = models_from((200, MODELS), environ={})
    assert b"authorization" not in seen[0].lower()
    assert KEY.encode() not in seen[0]


@pytest.mark.parametrize(
    ("status", "message", "kind", "said"),
    [
        (401, f"Incorrect API key provided: {KEY}.", AccessRefused, "refuses the API key"),
        (403, f"Project of {KEY} lacks models.read, Bearer abc.def", AccessRefused, "lacks models.read"),
        (404, "There is nothing here\x1b[2J", RunnerError, "404: There is nothing here"),
        (302, "elsewhere", RunnerError, "302"),
    ],
)
def test_a_refusal_is_said_in_our_words_without_the_key(
    status: int, message: str, kind: type[RunnerError], said: str
) -> None:
    body = json.dumps({"error": {"message": message, "type": "x", "code": None}}).encode()
    with pytest.raises(kind) as caught:
        models_from((status, body), headers="Location: http://127.0.0.1:1/other\r\n")
    assert said in str(caught.value)
    for secret in (KEY, KEY[:9], "abc.def", "\x1b"):
        assert secret not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(("status", "calls"), [(401, 1), (404, 1), (500, 3)])
def test_only_what_may_pass_is_repeated(status: int, calls: int) -> None:
    seen: list[bytes] = []

    async def main() -> None:
        async with answering((status, b"{}"), seen=seen) as url:
            await list_models(made(base_url=url), sleep=at_once)

    with pytest.raises(RunnerError):
        asyncio.run(main())
    assert len(seen) == calls


def test_what_is_no_json_and_what_cannot_be_reached_are_said_plainly() -> None:
    with pytest.raises(RunnerError, match="not JSON"):
        models_from((200, b"<html>"))

    async def unreachable() -> None:
        async with answering((200, MODELS), seen=[]) as url:
            pass
        await list_models(made(base_url=url), sleep=at_once)

    with pytest.raises(RunnerError, match="cannot be reached"):
        asyncio.run(unreachable())


def test_every_error_of_the_sdk_becomes_one_of_ours() -> None:
    account = made(base_url="http://localhost:8000/v1")

    def below(kind: type[Exception]) -> set[type[Exception]]:
        return {kind}.union(*(below(child) for child in kind.__subclasses__()))

    for kind in below(openai.OpenAIError):
        error = kind.__new__(kind)
        error.message, error.status_code, error.body = f"no, {KEY}", 418, None
        ours = in_our_words(error, account)
        assert isinstance(ours, RunnerError)
        assert KEY not in str(ours)
        refused = issubclass(kind, openai.AuthenticationError | openai.PermissionDeniedError)
        assert isinstance(ours, AccessRefused) == refused


def test_the_sdk_retries_nothing_by_itself_and_follows_no_redirect() -> None:
    async def main() -> None:
        async with control(made()) as client:
            assert client.max_retries == 0
            assert str(client.base_url) == "https://api.openai.com/v1/"

    asyncio.run(main())


def test_an_account_costs_no_heavy_import() -> None:
    code = (
        "import sys; from runner.api.client import account_from; "
        "account_from({}, provider='sim', base_url=None, insecure_http=False); "
        "print([m for m in ('openai', 'aiohttp', 'httpx2', 'tenacity', 'truststore') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
