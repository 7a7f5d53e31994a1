"""Many texts in one embeddings request: which questions go together, and how the request then reads.

A question can be packed where its input is one text, or one list of tokens, and nothing but the input differs
from the others. Source of the caps: the API's reference of embeddings, 2,048 inputs and 300,000 tokens a request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

from runner import record
from runner.model import Asked, Call, Demand, Split

MOST_TEXTS = 2_048
MOST_TOKENS = 300_000

SHRINK = 8
"""Each failure of a text makes the next pack it is in so many times smaller, until it goes alone."""

PATIENCE, MOST_PATIENCE = 4, 256
"""So many packs are answered before larger ones are tried; each try in vain doubles it."""

IN_VAIN = 3
"""So many packs in a row, none answered in between, and their size may be why."""


class Part(NamedTuple):
    """What one question brings to a packed request: `kind` is equal where questions may go together."""

    kind: bytes
    text: str | list[int]


class Portion:
    """How much one pack may hold, in texts or in tokens, as far as the answers tell.

    Not every server says that a pack is too large for it: some are slow until a gateway gives up, or refuse for
    speed what is larger than a slice of theirs. A pack larger than all that were answered is taken back at its
    first miss; another one at the third in a row with none of its size answered in between.
    """

    def __init__(self, most: int) -> None:
        self.most = self._most = most
        self._proved = 0
        self._misses = self._missed = 0
        self._answers = 0
        self._patience = PATIENCE

    def answered(self, size: int) -> None:
        """A pack of this size was answered."""
        self._proved = max(self._proved, size)
        if 2 * size > self._missed:
            self._misses = self._missed = 0
        self._answers += 2 * size >= self.most
        if self._answers >= self._patience and self.most < self._most:
            self.most = min(self._most, 2 * self.most)
            self._answers = 0

    def missed(self, size: int) -> None:
        """A pack of this size came to nothing, and its size may or may not be why."""
        if size > self.most:
            # It was on its way when another came to nothing.
            return
        self._missed = min(size, self._missed or size)
        self._misses += 1
        if self._proved and 4 * size > 5 * self._proved:
            self.too_large(size, max(self._proved, size // SHRINK))
        elif self._misses >= IN_VAIN:
            # An outage looks like this too: what is tried later is tried no more seldom for it.
            self._keep_to(size // SHRINK)

    def too_large(self, size: int, instead: int) -> None:
        """A pack of this size is more than the server takes: so much is tried instead."""
        self._keep_to(min(size, instead))
        self._patience = min(MOST_PATIENCE, 2 * self._patience)

    def _keep_to(self, most: int) -> None:
        self.most = max(1, min(self.most, most))
        self._proved = min(self._proved, self.most)
        self._answers = 0


def part(request: Mapping[str, Any]) -> Part | None:
    """How a request can be packed, None if it goes alone: `{"model": "m", "input": "a text"}` can."""
    text: Any = request.get("input")
    form = _form(text)
    if form is None:
        return None
    rest = {name: request[name] for name in sorted(request) if name != "input"}
    return Part(form + record.dumps(rest), text)


def joins(text: object, first: Part) -> TypeGuard[str | list[int]]:
    """Whether a request can be packed with another one from which only its input may differ."""
    form = _form(text)
    return form is not None and first.kind.startswith(form)


def weight(text: str | list[int]) -> int:
    """An input's part of the whole request, in bytes of text, or in tokens."""
    if isinstance(text, str):
        # JSON may hold half a surrogate pair, which strict UTF-8 refuses.
        return len(text.encode("utf-8", "surrogatepass"))
    return len(text)


def _form(text: object) -> bytes | None:
    if isinstance(text, str):
        return b"text"
    if isinstance(text, (list, tuple)) and text and all(type(one) is int for one in text):
        return b"tokens"
    return None


def most_texts(attempts: int, cap: int = MOST_TEXTS) -> int:
    """How many texts may share a request with one that has failed so many times before."""
    return max(1, min(cap, MOST_TEXTS // SHRINK**attempts if attempts < 8 else 1))


def body(request: Mapping[str, Any], texts: Sequence[object], *, base64: bool) -> bytes:
    """The bytes of a request for all these texts, like the one given in all else."""
    packed = {**request, "input": texts[0] if len(texts) == 1 else list(texts)}
    if base64 and "encoding_format" not in packed:
        packed["encoding_format"] = "base64"
    return record.dumps(packed)


def halves(call: Call, *, refused: bool = True) -> tuple[Call, Call]:
    """A packed call as two, each with half of the texts. Where the whole was refused, its halves know it."""
    request = record.parse(call.body)
    texts = request["input"]
    assert isinstance(texts, list)
    middle = len(call.asked) // 2
    split = Split(len(call.asked)) if refused else None
    first, second = (
        _some_of(call, request, call.asked[part_], texts[part_], split)
        for part_ in (slice(None, middle), slice(middle, None))
    )
    return first, second


def _some_of(
    call: Call, request: Mapping[str, Any], asked: tuple[Asked, ...], texts: list[object], split: Split | None
) -> Call:
    share = sum(one.weight for one in asked) / max(1, sum(one.weight for one in call.asked))
    tokens = max(1, round(call.demand.input_tokens * share))
    text = body(request, texts, base64=False)
    worst = call.worst_case
    return Call(
        asked=asked,
        endpoint=call.endpoint,
        model=call.model,
        body=text,
        forced_tool=False,
        demand=Demand(tokens, 0),
        # The whole was bounded by a token for each byte, and more: so is its part by its part of the bytes.
        worst_case=None if worst is None else min(worst, -(-worst * len(text) // len(call.body))),
        split_from=split,
        added_base64=call.added_base64,
    )
