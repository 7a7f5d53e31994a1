"""Each row's own part of what came back for many rows at once.

A row of a packed answer is given a body that holds its vector alone, and its share of usage and cost, as if it had
been asked alone: the rest of the export knows nothing of packs.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import msgspec

from runner import vectors
from runner.endpoints import embeddings
from runner.errors import StoreUnusable
from runner.store.answers import SharedBody, checksum
from runner.store.rows import Settled
from runner.store.runs import Run, line_of

OPEN_AT_ONCE = 128
"""How many packed answers are open at once: rows that follow one another lie in few, those of an edited or deduped
input in many."""


class Packs:
    """The packed answers of a run, the last few of them open. `open_body` opens the body of an answer."""

    def __init__(self, open_body: Callable[[int], SharedBody], run: Run) -> None:
        self._open_body = open_body
        self._run = run
        self._open: OrderedDict[int, _Pack] = OrderedDict()
        self._sound: set[int] = set()

    def own(self, row: Settled) -> Settled:
        """An answered row with what is its own of the answer. StoreUnusable if the stored body is damaged."""
        if row.items == 1:
            if not isinstance(row.body, bytes) or checksum(row.body) != row.checksum:
                raise self._damaged(row)
            return row
        if row.answer_id is None or row.item is None or not 0 <= row.item < (row.items or 0):
            raise self._damaged(row)
        pack = self._open.get(row.answer_id)
        if pack is None:
            pack = self._open[row.answer_id] = self._opened(row)
            if len(self._open) > OPEN_AT_ONCE:
                self._open.popitem(last=False)[1].close()
        else:
            self._open.move_to_end(row.answer_id)
        return pack.own(row, row.item)

    def _opened(self, row: Settled) -> _Pack:
        assert row.answer_id is not None
        body = self._open_body(row.answer_id)
        try:
            self._check(row, body)
            return _Pack(body, row)
        except BaseException:
            body.close()
            raise

    def _check(self, row: Settled, body: SharedBody) -> None:
        if row.answer_id in self._sound:
            return
        if body.checksum() != row.checksum:
            raise self._damaged(row)
        self._sound.add(row.answer_id or 0)

    def _damaged(self, row: Settled) -> StoreUnusable:
        return StoreUnusable(
            f"The stored answer of line {line_of(row.id)} of run {self._run.name} is damaged. Nothing was "
            "written. Restore a copy of the store; `runner doctor` checks the whole of it."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._open:
            self._open.popitem()[1].close()


class _Pack:
    """One packed answer: where the vector of each item lies in its body, and each item's share."""

    def __init__(self, body: SharedBody, row: Settled) -> None:
        self._body = body
        start = body.part(0, vectors.HEADER_BYTES)
        self._is_kept = vectors.is_kept(start)
        weights: Sequence[int]
        if self._is_kept:
            self._layout = vectors.layout(start)
            self._header = vectors.npy_header(1, self._layout.dims)
            end = self._layout.end
            weights = vectors.read_trailer(body.part(end, body.size - end)).weights
        else:
            raw = body.part(0, body.size)
            places = embeddings.places(raw)
            self._starts = array("Q", [start for start, _ in places])
            self._lengths = array("Q", [length for _, length in places])
            # What came without a usable vector is asked again, and no row shows its share.
            unusable = frozenset(embeddings.unusable(raw))
            weights = [int(item not in unusable) for item in range(row.items or 0)]
        self._weights = weights
        self._shared: dict[int, array[int]] = {}

    def own(self, row: Settled, item: int) -> Settled:
        """The row with a body that holds the vector of this item alone, and its share of each count. ValueError if
        there is no such item."""
        return msgspec.structs.replace(
            row,
            body=self._part(item),
            input_tokens=self._share(row.input_tokens, item),
            cached_input_tokens=self._share(row.cached_input_tokens, item),
            cache_write_tokens=self._share(row.cache_write_tokens, item),
            output_tokens=self._share(row.output_tokens, item),
            reasoning_tokens=self._share(row.reasoning_tokens, item),
            total_tokens=self._share(row.total_tokens, item),
            cost=self._share(row.cost, item),
        )

    def _part(self, item: int) -> bytes:
        if self._is_kept:
            size = self._layout.row_bytes
            vector = self._body.part(self._layout.offset(item), size)
            if len(vector) != size:
                raise ValueError("a packed answer is cut short")
            return self._header + vector + vectors.TRAILER_OF_ONE
        if item >= len(self._starts):
            raise ValueError(f"there is no vector {item} among the {len(self._starts)} of a packed answer")
        text = self._body.part(self._starts[item], self._lengths[item])
        return b'{"data":[{"index":0,"embedding":%b}]}' % text

    def _share(self, total: int | None, item: int) -> int | None:
        """The item's share; what is unknown for all is so for each."""
        if not total:
            return total
        if total not in self._shared:
            self._shared[total] = array("q", vectors.shares(total, self._weights))
        return self._shared[total][item]

    def close(self) -> None:
        self._body.close()
