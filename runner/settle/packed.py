"""The answer to a packed call: one body, a vector for each of its texts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set

from runner import vectors
from runner.endpoints import BadAnswer, embeddings
from runner.model import Answer, Asked, Call, Finding

_ABOUT_BASE64 = re.compile(r"encoding_format|base64", re.IGNORECASE)


class PackReader:
    """Reads the body of a packed call's 200, as `classify` asks for it.

    After `read`, `kept` is the form in which the body is to be stored, None to store it as it came; `bad` are
    the places of the texts that got no usable vector.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self.kept: bytes | None = None
        self.bad: frozenset[int] = frozenset()

    def read(self, body: bytes, *, forced_tool: bool = False) -> Answer:
        """What the body says of all texts alike. BadAnswer where it has not one item for each of them."""
        asked = self._call.asked
        self.kept = vectors.keep(body, len(asked), [one.weight for one in asked])
        if self.kept is not None:
            # No vector is drawn: that would cost more than all else that is read here.
            return embeddings.read_alike(self.kept)
        found = embeddings.count(body)
        if found != len(asked):
            raise BadAnswer("wrong_count", f"the body holds {found} vectors for {len(asked)} texts")
        self.bad = frozenset(embeddings.unusable(body))
        if len(self.bad) == len(asked):
            raise BadAnswer("bad_vector", "the body holds no usable vector")
        return embeddings.read(body, index=next(item for item in range(len(asked)) if item not in self.bad))


def refuses_base64(call: Call, finding: Finding) -> bool:
    """Whether the server refuses vectors as base64, which was our asking and not the row's."""
    return call.added_base64 and _ABOUT_BASE64.search(finding.message) is not None


def spans(asked: Sequence[Asked], *, besides: Set[int]) -> Iterator[tuple[int, int]]:
    """The places of the tasks of a packed call `besides` those named, as their first and how many follow it: those
    that are numbered one after another, and have failed as often, are one span."""
    count = 0
    for place, one in enumerate(asked):
        before = asked[place - 1]
        goes_on = count and one.task_id == before.task_id + 1 and one.attempts == before.attempts
        if count and not (goes_on and place not in besides):
            yield place - count, count
            count = 0
        count += place not in besides
    if count:
        yield len(asked) - count, count
