"""Base URLs: taken apart, checked, and told apart as loopback, private or public.

Nothing here asks the network: a name is judged by its form, an address by its range.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import SplitResult, urlsplit

from runner.errors import BadConfiguration

_DEFAULT_PORTS = {"http": 80, "https": 443}
_PRIVATE_SUFFIXES = (".local", ".internal", ".localdomain", ".lan", ".home", ".home.arpa")
# Where clouds hand credentials to whoever can make a machine ask; none of them ever serves a model.
_METADATA_HOSTS = frozenset({"metadata.google.internal", "metadata.goog", "fd00:ec2::254", "100.100.100.200"})
_AZURE_SUFFIXES = (".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com")


class Reach(StrEnum):
    """How far away a server is: on this machine, on a private network, or on the internet."""

    LOOPBACK = "loopback"
    PRIVATE = "private"
    PUBLIC = "public"


@dataclass(frozen=True, slots=True)
class Address:
    """A base URL that can be asked: `url` has no trailing slash, `host` is lower case, `port` never None."""

    url: str
    scheme: str
    host: str
    port: int
    reach: Reach

    @property
    def origin(self) -> str:
        """The origin, such as https://api.openai.com: lower case, without a default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"

    @property
    def is_openai(self) -> bool:
        """Whether this is OpenAI's own API, in any of its regions."""
        return self.host == "api.openai.com" or self.host.endswith(".api.openai.com")

    @property
    def is_azure(self) -> bool:
        """Whether this is one of Azure's own resources."""
        return self.host.endswith(_AZURE_SUFFIXES)


def parse(url: str) -> Address:
    """Takes a base URL apart, or says why it cannot be used.

    Raises BadConfiguration for anything but plain http and https, for user names in the URL, and for
    link-local and cloud metadata addresses. No message repeats a user name, a password or a query.
    """
    if any(c.isspace() or not c.isprintable() or c == "\\" for c in url):
        raise BadConfiguration(
            "The base URL holds a space, a backslash or a control character. Write it anew."
        )
    try:
        parts = urlsplit(url)
        port = parts.port
        host = _ascii_host(parts.hostname or "")
    except ValueError as error:  # UnicodeError is one
        raise BadConfiguration(
            "The base URL cannot be read: its host or port is malformed. Write it like https://host:port/v1."
        ) from error
    scheme = parts.scheme.lower()
    _check_form(parts, scheme, host)
    reach = _reach(host)
    if port is None:
        port = _DEFAULT_PORTS[scheme]
    address = Address(url="", scheme=scheme, host=host, port=port, reach=reach)
    return Address(f"{address.origin}{parts.path.rstrip('/')}", scheme, host, port, reach)


def _ascii_host(host: str) -> str:
    # IDNA folds look-alike digits and dots too, so that what is judged below is what will be dialled.
    folded = (host if host.isascii() else host.encode("idna").decode("ascii")).rstrip(".").lower()
    if any(char.isspace() for char in folded):
        raise ValueError("a sign in the host's name folds to a space")
    return folded


def _check_form(parts: SplitResult, scheme: str, host: str) -> None:
    if scheme not in _DEFAULT_PORTS:
        shown = f"{scheme}:" if scheme else "no scheme"
        raise BadConfiguration(
            f"The base URL has {shown}, where http:// or https:// is needed. Write it like https://host/v1."
        )
    if not host:
        raise BadConfiguration("The base URL names no host. Write it like https://host/v1.")
    if parts.username is not None or parts.password is not None:
        raise BadConfiguration(
            f"The base URL for {host} holds a user name or password. Take it out of the URL; "
            "a key belongs in OPENAI_API_KEY, other credentials in OPENAI_CUSTOM_HEADERS."
        )
    if parts.query or parts.fragment:
        raise BadConfiguration(
            f"The base URL for {host} goes on with a query (?...) or a fragment (#...). Take it off; "
            "Azure's api-version belongs in OPENAI_API_VERSION."
        )


def _reach(host: str) -> Reach:
    address = _numeric(host)
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:
        address = mapped
    if host in _METADATA_HOSTS or (
        address is not None and (address.is_link_local or str(address) in _METADATA_HOSTS)
    ):
        raise BadConfiguration(
            f"The base URL points to {host}, a link-local address where clouds keep credentials and no model "
            "is served. Name the server by its own address."
        )
    if address is not None:
        if address.is_loopback or address.is_unspecified:
            return Reach.LOOPBACK
        return Reach.PUBLIC if address.is_global else Reach.PRIVATE
    if host == "localhost" or host.endswith(".localhost"):
        return Reach.LOOPBACK
    # A name without a dot is a container's or a neighbour's: no public name has none.
    if "." not in host or host.endswith(_PRIVATE_SUFFIXES):
        return Reach.PRIVATE
    return Reach.PUBLIC


def _numeric(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        # 2852039166, 0xA9FEA9FE and 0251.0376.0251.0376 all dial 169.254.169.254.
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None
