"""The head of a request, built once for each path: what stands before the length of the body."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import quote

from runner.api.origin import Address, parse
from runner.api.proxy import Proxy
from runner.api.wire import Wire

_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
# What the transport decides itself: it unpacks gzip and deflate, and nothing else.
_OURS = MappingProxyType({"accept-encoding": "gzip, deflate", "content-type": "application/json"})


def head_for(wire: Wire, proxy: Proxy | None, path: str, model: str | None, *, method: str = "POST") -> bytes:
    """The head of a call to an endpoint, up to the value of Content-Length.

    Raises ValueError for a path that is no endpoint's.
    """
    address = parse(wire.base_url)
    target = wire.url(path, model)[len(wire.base_url.rstrip("/")) :]
    headers = {name: text for name, text in wire.headers.items() if name.lower() not in _OURS}
    base_path = address.url.removeprefix(address.origin)
    target = quote(base_path + target, safe=_PRINTABLE)
    return head(address, proxy, target, headers | dict(_OURS), method=method)


def head(
    address: Address, proxy: Proxy | None, target: str, headers: Mapping[str, str], *, method: str
) -> bytes:
    """The head of a request for `target`, a path and query in ASCII, up to the value of Content-Length.

    Through a proxy without a tunnel the whole URL is asked for, and the proxy's password goes along.
    """
    lines = [f"Host: {address.origin.partition('://')[2]}"]
    lines += [f"{name}: {text}" for name, text in headers.items()]
    if proxy is not None and address.scheme == "http":
        target = address.origin + target
        if proxy.authorization is not None:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
    return "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "Content-Length: "]).encode("latin-1")
