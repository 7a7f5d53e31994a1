"""What a call takes along: base URL, headers and query, checked once, so that sending needs no thought."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import quote, urlencode

from runner.api.origin import parse
from runner.errors import BadConfiguration

# Whoever sets one of these by hand changes where one message ends and the next begins.
_FRAMING = frozenset(
    {"connection", "content-encoding", "content-length", "expect", "host", "transfer-encoding"}
)
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_UNSENDABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]")
_PATH = re.compile(r"(?:/[a-z0-9_\-]+)+")
_BY_DEPLOYMENT = frozenset({"/chat/completions", "/completions", "/embeddings"})


def check_header_values(named: Mapping[str, str]) -> None:
    """Raises BadConfiguration for a value that no header can carry, by its name and never by its text."""
    for name, text in named.items():
        found = _UNSENDABLE.search(text)
        if found is not None:
            raise BadConfiguration(
                f"{name} cannot be sent in a header: character {found.start() + 1} of its value is a line "
                "break, a control character or no Latin-1 letter. Set it again."
            )


@dataclass(frozen=True, slots=True)
class Wire:
    """What the data plane needs for a call: base URL, headers with the credentials, query, paths.

    Raises BadConfiguration for headers that cannot be sent. repr shows no header.
    """

    base_url: str
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    query: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    deployments: bool = False

    def __post_init__(self) -> None:
        parse(self.base_url)
        check_header_values(self.headers)
        for name in self.headers:
            if not _HEADER_NAME.fullmatch(name):
                raise BadConfiguration(f"{name!r} is no name for a header. Correct OPENAI_CUSTOM_HEADERS.")
            if name.lower() in _FRAMING:
                raise BadConfiguration(
                    f"The header {name} belongs to the connection and cannot be set. "
                    "Take it out of OPENAI_CUSTOM_HEADERS."
                )

    def path_for(self, endpoint_path: str, model: str | None) -> str:
        """The path below the base URL for an endpoint such as /chat/completions or /v1/chat/completions.

        Azure's dated surface asks chat, completions and embeddings by deployment, which is the body's model.
        """
        path = endpoint_path.removeprefix("/v1") if endpoint_path.startswith("/v1/") else endpoint_path
        if not _PATH.fullmatch(path):
            raise ValueError(f"{endpoint_path!r} is not the path of an endpoint")
        if self.deployments and path in _BY_DEPLOYMENT:
            if not model:
                raise ValueError(f"{path} needs a model here: Azure asks it by deployment")
            # A name of dots alone would climb the path.
            name = quote(model, safe="") if model.strip(".") else model.replace(".", "%2E")
            return f"/deployments/{name}{path}"
        return path

    def url(self, endpoint_path: str, model: str | None) -> str:
        """The whole URL of a call."""
        query = f"?{urlencode(self.query)}" if self.query else ""
        return f"{self.base_url.rstrip('/')}{self.path_for(endpoint_path, model)}{query}"
