"""Whose Batch API the simulator speaks: what differs between OpenAI's and Azure's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Profile:
    """What differs between providers.

    `no_file` is how a batch shows that it has no such file; `counts_early` whether it counts its requests before
    they run. A provider that `fails_fast` refuses at creation, with a 400, a batch that its queue cannot take. Where
    it names `deployments`, requests name those instead of models, by any name that their owner gave them.
    `codes` are its own words for the errors of validation, `lifetimes` the seconds that a file may be kept.
    """

    name: str
    endpoints: tuple[str, ...]
    no_file: str | None
    max_lines: int
    expires: bool
    fails_fast: bool
    counts_early: bool
    empty_error_file: bool
    line_ids: bool
    lifetimes: tuple[int, int]
    deployments: bool = False
    codes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def endpoint(self, url: object) -> str:
        """The endpoint under the name that it has at OpenAI; an empty text if there is none."""
        text = str(url)
        full = text if text.startswith("/v1/") or self.name != "azure" else f"/v1{text}"
        return full if full in self.endpoints else ""

    def path(self, path: str) -> str:
        """A request's path under the name that it has at OpenAI."""
        if self.name != "azure" or not path.startswith("/openai/"):
            return path
        rest = path.removeprefix("/openai")
        if rest.startswith("/deployments/"):
            rest = "/" + rest.split("/", 3)[3] if rest.count("/") >= 3 else rest
        return rest if rest.startswith("/v1/") else f"/v1{rest}"


_OPENAI = Profile(
    name="openai",
    endpoints=("/v1/responses", "/v1/chat/completions", "/v1/embeddings"),
    no_file=None,
    max_lines=50_000,
    expires=True,
    fails_fast=False,
    counts_early=True,
    empty_error_file=False,
    line_ids=True,
    lifetimes=(3_600, 2_592_000),
)
_AZURE = Profile(
    name="azure",
    endpoints=("/v1/responses", "/v1/chat/completions"),
    no_file="",
    max_lines=100_000,
    expires=False,
    fails_fast=True,
    counts_early=False,
    empty_error_file=True,
    line_ids=False,
    lifetimes=(1_209_600, 2_592_000),
    deployments=True,
    codes=MappingProxyType({"invalid_url": "url_mismatch", "mismatched_model": "model_mismatch"}),
)
PROFILES: Mapping[str, Profile] = MappingProxyType({profile.name: profile for profile in (_OPENAI, _AZURE)})


def find_profile(name: str) -> Profile:
    """The profile of this name. Raises ValueError, naming those that there are."""
    profile = PROFILES.get(name)
    if profile is None:
        raise ValueError(f"The simulator has no profile {name!r}; there are {' and '.join(PROFILES)}.")
    return profile
