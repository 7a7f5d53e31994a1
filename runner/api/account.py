"""Whom to ask, and as whom: the account, made from options and the variables of OpenAI's own SDK."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from runner.api.origin import Address, Reach, parse
from runner.api.wire import check_header_values
from runner.errors import AccessRefused, BadConfiguration

_OPENAI_URL = "https://api.openai.com/v1"
# The run fills in where its simulator listens; until then nothing can be reached there.
_SIMULATOR_URL = "http://127.0.0.1:0/v1"
_CREDENTIALS = frozenset({"authorization", "api-key"})


@dataclass(frozen=True, slots=True)
class Account:
    """All that the network needs to know: where to ask, and with which credentials.

    `api_key` and `ad_token` are never shown by repr. `headers` are the user's own, sent with every call.
    `credential` gives a key or token that is good for the next call, where none is good for a whole run. The
    server of one that `is_inside` runs in this process, and ends with it.
    """

    provider: str
    base_url: str
    api_key: str | None = field(default=None, repr=False)
    organization: str | None = None
    project: str | None = None
    api_version: str | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    ad_token: str | None = field(default=None, repr=False)
    credential: Callable[[], Awaitable[str]] | None = field(default=None, repr=False)
    is_inside: bool = False

    @property
    def address(self) -> Address:
        """The base URL, taken apart."""
        return parse(self.base_url)

    @property
    def origin(self) -> str:
        """scheme://host[:port], lower case, default port dropped; `sim` for the simulator."""
        return "sim" if self.provider == "sim" else self.address.origin

    @property
    def known_prices(self) -> bool:
        """Whether the shipped prices hold here: at OpenAI, at Azure and at the simulator."""
        return self.provider == "sim" or self.address.is_openai or self.address.is_azure

    @property
    def needs_key(self) -> bool:
        """Whether nothing can be asked here without a key: at OpenAI and at Azure."""
        return self.provider != "sim" and (self.address.is_openai or self.address.is_azure)

    @property
    def has_key(self) -> bool:
        """Whether any credential goes out with a call, be it by the user's own header."""
        given = self.api_key or self.ad_token or self.credential
        return bool(given) or any(n.lower() in _CREDENTIALS for n in self.headers)


def account_from(
    environ: Mapping[str, str],
    *,
    provider: str | None,
    base_url: str | None,
    insecure_http: bool,
    demand_key: bool = True,
) -> tuple[Account, list[str]]:
    """The account that options and environment name, and warnings to show once.

    Reads the variables of OpenAI's own SDK. `demand_key=False` is for commands that call no API.
    Raises AccessRefused where a key is needed and none is set, BadConfiguration for a base URL, key or header
    that cannot be used. No message holds a credential.
    """
    settings = {name: text.strip() for name, text in environ.items() if text.strip()}
    if provider is None:
        provider, warnings = _guessed_provider(settings, base_url)
    else:
        warnings = []
    if provider == "sim":
        account = _simulator(base_url)
    elif provider == "azure":
        account = _azure(settings, base_url)
    elif provider == "openai":
        account = _openai(settings, base_url)
    else:
        raise BadConfiguration(f"There is no provider {provider!r}. There are openai, azure and sim.")
    if demand_key and account.needs_key and not account.has_key:
        name = (
            "AZURE_OPENAI_API_KEY or AZURE_OPENAI_AD_TOKEN" if account.address.is_azure else "OPENAI_API_KEY"
        )
        raise AccessRefused(
            f"There is no API key for {account.origin}. Set {name}; or go without one: --provider sim "
            "answers from the built-in simulator, --base-url asks a local server, such as http://localhost:8000/v1."
        )
    check_header_values(_credentials(account) | dict(account.headers))
    return account, warnings + _plain_http(account, insecure_http=insecure_http)


def _guessed_provider(settings: Mapping[str, str], base_url: str | None) -> tuple[str, list[str]]:
    url = base_url or settings.get("OPENAI_BASE_URL")
    if url is not None:
        return ("azure" if parse(url).is_azure else "openai"), []
    if "AZURE_OPENAI_ENDPOINT" not in settings:
        return "openai", []
    if "OPENAI_API_KEY" not in settings:
        return "azure", []
    return "openai", [
        "Both OPENAI_API_KEY and AZURE_OPENAI_ENDPOINT are set: asking OpenAI. --provider azure asks Azure."
    ]


def _simulator(base_url: str | None) -> Account:
    address = parse(base_url or _SIMULATOR_URL)
    if address.reach is Reach.PUBLIC:
        raise BadConfiguration(
            f"--provider sim cannot ask {address.origin}: a simulator runs on this machine or a "
            "private network. Leave --base-url out, or choose another provider."
        )
    return Account("sim", address.url)


def _openai(settings: Mapping[str, str], base_url: str | None) -> Account:
    address = parse(base_url or settings.get("OPENAI_BASE_URL") or _OPENAI_URL)
    key = settings.get("OPENAI_API_KEY")
    if address.is_azure:
        key = settings.get("AZURE_OPENAI_AD_TOKEN") or settings.get("AZURE_OPENAI_API_KEY") or key
    return Account(
        "openai",
        address.url,
        api_key=key,
        organization=settings.get("OPENAI_ORG_ID"),
        project=settings.get("OPENAI_PROJECT_ID"),
        headers=_custom_headers(settings),
    )


def _azure(settings: Mapping[str, str], base_url: str | None) -> Account:
    endpoint = base_url or settings.get("AZURE_OPENAI_ENDPOINT") or settings.get("OPENAI_BASE_URL")
    if endpoint is None:
        raise BadConfiguration(
            "Azure's resource is not named. Set AZURE_OPENAI_ENDPOINT to https://RESOURCE.openai.azure.com, "
            "or give it as --base-url."
        )
    url = parse(endpoint).url
    version = settings.get("OPENAI_API_VERSION")
    if url.endswith("/openai/v1"):
        version = None
    elif version is None:
        url = url.removesuffix("/openai") + "/openai/v1"
    else:
        url = url.removesuffix("/openai") + "/openai"
    token = settings.get("AZURE_OPENAI_AD_TOKEN")
    return Account(
        "azure",
        url,
        api_key=None if token else settings.get("AZURE_OPENAI_API_KEY"),
        api_version=version,
        headers=_custom_headers(settings),
        ad_token=token,
    )


def _custom_headers(settings: Mapping[str, str]) -> Mapping[str, str]:
    headers: dict[str, str] = {}
    for number, line in enumerate(settings.get("OPENAI_CUSTOM_HEADERS", "").split("\n"), start=1):
        if not line.strip():
            continue
        name, colon, text = line.partition(":")
        if not colon:
            raise BadConfiguration(
                f"Line {number} of OPENAI_CUSTOM_HEADERS has no colon. Write one `Name: value` a line."
            )
        headers[name.strip()] = text.strip()
    return MappingProxyType(headers)


def _credentials(account: Account) -> dict[str, str]:
    named = {
        "OPENAI_API_KEY or AZURE_OPENAI_API_KEY": account.api_key,
        "AZURE_OPENAI_AD_TOKEN": account.ad_token,
    }
    named |= {"OPENAI_ORG_ID": account.organization, "OPENAI_PROJECT_ID": account.project}
    return {name: text for name, text in named.items() if text is not None}


def _plain_http(account: Account, *, insecure_http: bool) -> list[str]:
    address = account.address
    if address.scheme == "https" or address.reach is Reach.LOOPBACK:
        return []
    if address.reach is Reach.PUBLIC and not insecure_http:
        raise BadConfiguration(
            f"{address.origin} is plain http on a public address: key and data would travel readable. "
            "Use https://, or --insecure-http if you mean it."
        )
    return [f"{address.origin} is plain http: key and data travel readable over the network."]
