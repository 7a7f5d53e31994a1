"""How connections leave this machine: which certificates are trusted, and through which proxy.

Both are the machine's own settings (its certificate store, SSL_CERT_FILE, HTTPS_PROXY, NO_PROXY), read here
by the standard library once for both planes, so that the SDK's client and the transport cannot disagree.
"""

from __future__ import annotations

import ssl
import sys
from pathlib import Path
from urllib.parse import urlsplit

from runner.api.origin import Reach, parse
from runner.errors import BadConfiguration


def tls_context(base_url: str) -> ssl.SSLContext:
    """The certificates to trust for a base URL: the system's store, or the file that SSL_CERT_FILE names.

    For plain http it trusts nothing, and costs nothing.
    """
    if parse(base_url).scheme == "http":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    paths = ssl.get_default_verify_paths()
    if paths.cafile is not None and paths.cafile != paths.openssl_cafile:
        return ssl.create_default_context(cafile=paths.cafile)
    # truststore reads the whole store again for every connection: 20 ms each on Linux, where OpenSSL reads
    # the very same store once. So it serves where OpenSSL knows no store: macOS, Windows, relocated builds.
    if sys.platform == "linux":
        context = ssl.create_default_context()
        hashed = paths.capath is not None and any(Path(paths.capath).glob("*.0"))
        if hashed or context.cert_store_stats()["x509_ca"]:
            return context
    import truststore

    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def proxy_for(base_url: str) -> str | None:
    """The proxy that HTTPS_PROXY, HTTP_PROXY or ALL_PROXY name for a base URL, unless NO_PROXY excepts it.

    A server on this machine is never asked through a proxy. Raises BadConfiguration for a proxy that is not
    an HTTP one. The URL may hold a password: never print it; `proxy_name` is for that.
    """
    address = parse(base_url)
    if address.reach is Reach.LOOPBACK:
        return None
    from urllib.request import getproxies, proxy_bypass

    settings = getproxies()
    proxy = settings.get(address.scheme) or settings.get("all")
    host = f"[{address.host}]" if ":" in address.host else address.host
    if not proxy or proxy_bypass(f"{host}:{address.port}"):
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    try:
        parts = urlsplit(proxy)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        name = f"{address.scheme.upper()}_PROXY"
        raise BadConfiguration(
            f"The proxy set for {address.origin} ({name} or ALL_PROXY) is not an http:// or https:// URL. "
            f"Correct it, unset it, or except {address.host} by NO_PROXY."
        )
    return proxy


def proxy_name(proxy: str) -> str:
    """A proxy as host:port, without its user name and password."""
    parts = urlsplit(proxy)
    return f"{parts.hostname}:{parts.port}" if parts.port else f"{parts.hostname}"
