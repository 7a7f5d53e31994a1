"""What one input file of the Batch API, a shard, may hold, counted line by line as it fills. No I/O.

Source of the bounds: the API's guide to batches: 50,000 requests, 200 MB and one model a file, and 50,000 embedding
inputs over all its lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from runner import record

PREFIX_BYTES = 4_096
"""A prompt cache keeps what 1,024 tokens or more of the prompt's beginning come to: four bytes a token."""

_FIRST_MESSAGES = 64
_BEFORE_THE_MESSAGES = ("prompt_cache_key", "tools", "functions", "response_format", "text", "instructions")


class Bound(StrEnum):
    """What a shard has no more room of."""

    REQUESTS = "requests"
    BYTES = "bytes"
    INPUTS = "inputs"
    TOKENS = "tokens"
    COST = "cost"
    DISK = "disk"


class Bounds(NamedTuple):
    """The most that a shard may hold. `bytes` counts the whole file, each line with its newline; `inputs` are texts
    to embed; `tokens` are those of its prompts, `cost` is its worst case in pico-dollars, and `disk` the bytes that may
    lie here until they are uploaded, None without a bound."""

    requests: int = 50_000
    bytes: int = 200_000_000
    inputs: int = 50_000
    tokens: int | None = None
    cost: int | None = None
    disk: int | None = None


class Filling:
    """A shard as it fills. `cost` is None as soon as one of its lines has no known worst case."""

    __slots__ = ("bounds", "cost", "inputs", "requests", "size", "tokens")

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.requests = self.size = self.inputs = self.tokens = 0
        self.cost: int | None = 0

    def take(self, size: int, *, inputs: int, tokens: int, cost: int | None) -> Bound | None:
        """Add a line of so many bytes, its newline included, or say which bound it would pass."""
        most_requests, most_bytes, most_inputs, most_tokens, most_cost, most_disk = self.bounds
        if self.requests >= most_requests:
            return Bound.REQUESTS
        if self.size + size > most_bytes:
            return Bound.BYTES
        if most_disk is not None and self.size + size > most_disk:
            return Bound.DISK
        if self.inputs + inputs > most_inputs:
            return Bound.INPUTS
        if most_tokens is not None and self.tokens + tokens > most_tokens:
            return Bound.TOKENS
        whole = None if cost is None or self.cost is None else self.cost + cost
        # What has no bound of its own cannot be held below one.
        if most_cost is not None and (whole is None or whole > most_cost):
            return Bound.COST
        self.requests += 1
        self.size += size
        self.inputs += inputs
        self.tokens += tokens
        self.cost = whole
        return None


def never_fits(bounds: Bounds, size: int, inputs: int) -> tuple[str, str] | None:
    """Why a line has room in no shard at all, as (code, message): by its bytes, newline included, or its inputs."""
    if size > bounds.bytes:
        text = (
            f"its line of a batch's file has {size:,} bytes, and the whole file may have {bounds.bytes:,}: make the "
            "request shorter, or ask it with --mode online"
        )
        return "line_too_large", text
    if inputs > bounds.inputs:
        text = (
            f"it embeds {inputs:,} texts at once, and a whole batch may embed {bounds.inputs:,}: put them on several "
            "lines"
        )
        return "too_many_inputs", text
    return None


def inputs_of(request: Mapping[str, object]) -> int:
    """How many texts a request for embeddings counts for; one list of tokens is one text."""
    given = request.get("input")
    if isinstance(given, (list, tuple)) and given and not isinstance(given[0], int):
        return len(given)
    return 1


def prompt_prefix(request: Mapping[str, object]) -> int | None:
    """What is equal where prompts begin alike for so long that a prompt cache can serve them; None for short ones.

    A prompt begins with its tools and schema, then come the instructions and messages; the user may keep caches
    apart by a key.
    """
    parts = [request.get(name) for name in _BEFORE_THE_MESSAGES]
    said = request.get("messages", request.get("input"))
    if isinstance(said, (list, tuple)):
        said = said[:_FIRST_MESSAGES]
    elif isinstance(said, str):
        said = said[:PREFIX_BYTES]
    text = record.dumps([*parts, said])
    if len(text) < PREFIX_BYTES:
        return None
    return hash(text[:PREFIX_BYTES])


def grouped(prefixes: Sequence[int | None]) -> list[int] | None:
    """The order in which lines of equal prefixes are neighbours, each group where its first line was.

    None where the order can stay: at most one prefix is shared, or those that are do not mix.
    """
    shared = {prefix for prefix, count in Counter(prefixes).items() if prefix is not None and count > 1}
    if len(shared) < 2:
        return None
    first: dict[int, int] = {}
    places = []
    last, stretches = None, 0
    for place, prefix in enumerate(prefixes):
        if prefix is None or prefix not in shared:
            places.append(place)
            continue
        places.append(first.setdefault(prefix, place))
        stretches += prefix != last
        last = prefix
    return sorted(range(len(places)), key=places.__getitem__) if stretches > len(shared) else None
