"""The endpoints that a row can be asked at, one file each: what a body asks for, and what an answer says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from runner.endpoints import chat, embeddings, responses
from runner.endpoints.answer import BadAnswer
from runner.endpoints.tools import forced_tool
from runner.model import Answer, Demand

__all__ = ["BY_URL", "ENDPOINTS", "BadAnswer", "Endpoint", "Reader", "forced_tool", "with_tier"]


class Reader(Protocol):
    """Reads the body of a 200; raises BadAnswer where it has not the shape of an answer."""

    def __call__(self, body: bytes, *, forced_tool: bool = False) -> Answer: ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint of the API.

    `path` follows the base URL. `check` lists what a request body would surely be refused for, as (code,
    message); `demand` takes a body and its length in bytes; `read` takes the body of a 200.
    """

    name: str
    path: str
    check: Callable[[Mapping[str, object]], list[tuple[str, str]]]
    demand: Callable[[Mapping[str, object], int], Demand]
    read: Reader

    @property
    def url(self) -> str:
        """The url that a line of a Batch API file names."""
        return f"/v1{self.path}"


ENDPOINTS: Mapping[str, Endpoint] = MappingProxyType(
    {
        one.name: one
        for one in (
            Endpoint("chat", "/chat/completions", chat.check, chat.demand, chat.read),
            Endpoint("responses", "/responses", responses.check, responses.demand, responses.read),
            Endpoint("embeddings", "/embeddings", embeddings.check, embeddings.demand, embeddings.read),
        )
    }
)
"""Every endpoint by its name in a job file."""

BY_URL: Mapping[str, Endpoint] = MappingProxyType(
    # Files for older Azure API versions leave the /v1 out.
    {url: one for one in ENDPOINTS.values() for url in (one.url, one.path)}
)
"""Every endpoint by the url that a line of a Batch API file names."""


def with_tier(body: bytes, tier: str | None) -> bytes:
    """A request's body that asks for a service tier, which it does not do itself; as it is where `tier` is None."""
    return body if tier is None else b'{"service_tier":"%b",%b' % (tier.encode(), body[1:])
