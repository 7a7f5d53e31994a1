"""What batches gave: fetched, settled line by line, and what no line tells of settled as well.

A file that cannot be had at the moment is fetched again later. What is fetched lies beside the store until it is
settled, and what belongs to no row stays there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import anyio
import orjson

from runner.api.batches import BatchApi, Downloaded
from runner.dispatch.batch_wiring import TakenIn
from runner.dispatch.collecting import Collecting, Collection, forced_tool_of
from runner.errors import AccessRefused, StoreUnusable
from runner.job import Job
from runner.model import Call, Reply, Signal
from runner.provider import failure_kind
from runner.remote import Failure, Refused, RemoteBatch, Why
from runner.settle import Settler
from runner.store import batches, tasks
from runner.store.batches import Kept, Member
from runner.store.database import Store
from runner.store.faults import unwritable
from runner.store.tasks import Settlement
from runner.store.writer import GroupWriter

TRIES = 3
"""How often a file that is not there is asked for: a server may not have it yet."""

PAUSE = 0.5
CHUNK_LINES = 1_000


class Intake:
    """Takes in what batches gave. `settler_of` has the settler for the lines of a batch, `told` hears what each line
    means for those that follow, `tell` what the user should know."""

    def __init__(
        self,
        store: Store,
        writer: GroupWriter,
        api: BatchApi,
        job: Job,
        *,
        fetched: Path,
        unmatched: Path,
        settler_of: Callable[[Kept], Settler],
        told: Callable[[Signal], None],
        tell: Callable[[Kept, str, str], None],
    ) -> None:
        self._store = store
        self._writer = writer
        self._api = api
        self._fetched = fetched
        self._unmatched = unmatched
        self._settler_of = settler_of
        self._told = told
        self._added_base64 = job.endpoint == "embeddings"
        self._tell = tell
        self._forced_tool = forced_tool_of(job)
        self._one_at_a_time = anyio.Lock()

    async def take_in(self, kept: Kept, remote: RemoteBatch) -> TakenIn:
        """Fetch and settle what an ended batch gave."""
        async with self._one_at_a_time:
            output, error = self._path(kept, "output"), self._path(kept, "error")
            try:
                got_output = await self._fetch(kept, remote.output_file_id, output)
                got_error = await self._fetch(kept, remote.error_file_id, error)
                if "later" in (got_output, got_error):
                    return TakenIn(waits=True)
                found = await self._collecting(kept).read(
                    output if got_output == "here" else None, error if got_error == "here" else None
                )
            finally:
                for path in (output, error):
                    path.unlink(missing_ok=True)
            self._tell_oddities(kept, found)
            told = found.settled + found.before
            # As many answers for nobody as rows without one: asked again, they would be paid and lost again.
            astray = remote.status == "completed" and not told and found.unknown >= found.left
            return TakenIn(told, found.left, output_gone=got_output == "gone" or astray)

    async def settle_left(self, kept: Kept, fault: str) -> None:
        """Settle what no line tells of."""
        async with self._one_at_a_time:
            await self._collecting(kept).settle_left(fault)

    async def fail_lines(self, kept: Kept, failures: Sequence[Failure]) -> None:
        """Fail the lines for which the server refused the batch, each with the server's words."""
        final = [
            one
            for one in failures
            if failure_kind(one.code, one.message) in ("line", "model", "file", "other")
        ]
        of_line = {one.line: one for one in final if one.line is not None}
        of_all = next((one for one in final if one.line is None), None)
        collecting, settle = self._collecting(kept), self._settle(kept)
        async with self._one_at_a_time:
            for members in self._members(kept):
                faults = [of_line.get(one.call_id - kept.first_call + 1, of_all) for one in members]
                calls = collecting.calls_of(members)
                ended = [
                    (call, _refusal(fault))
                    for call, fault in zip(calls, faults, strict=True)
                    if fault is not None
                ]
                if ended:
                    _, on_disk = settle(ended)
                    await on_disk

    def _members(self, kept: Kept) -> list[list[Member]]:
        pages: list[list[Member]] = []
        after = 0
        while True:
            with self._store.read() as connection:
                page = batches.left(connection, kept.id, after_call=after, limit=CHUNK_LINES)
            if not page:
                return pages
            pages.append(page)
            after = page[-1].call_id

    def _collecting(self, kept: Kept) -> Collecting:
        return Collecting(
            self._store,
            kept,
            settle=self._settle(kept),
            forced_tool=self._forced_tool,
            folder=self._unmatched,
            added_base64=self._added_base64,
        )

    def _settle(
        self, kept: Kept
    ) -> Callable[[Sequence[tuple[Call, Reply]]], tuple[Sequence[Settlement], Awaitable[object]]]:
        settler = self._settler_of(kept)

        def settle(ended: Sequence[tuple[Call, Reply]]) -> tuple[Sequence[Settlement], Awaitable[object]]:
            signals, settlements = settler.settle(ended)
            for signal in signals:
                self._told(signal)
            size = sum(len(reply.body) for _, reply in ended)
            return settlements, self._writer.submit(tasks.settle, settlements, size=size)

        return settle

    async def _fetch(self, kept: Kept, file_id: str | None, path: Path) -> str:
        """Fetch a file: "here", "none" where there is none, "gone" where there is none any more, or "later"."""
        if file_id is None:
            return "none"
        for last in range(TRIES):
            try:
                found = await self._api.download(file_id, path)
            except OSError as error:
                raise unwritable(error, path) from error
            if isinstance(found, Downloaded):
                return "here"
            if isinstance(found, Refused):
                if found.why is Why.NO_ACCESS:
                    raise AccessRefused(
                        f"The key may not fetch file {file_id}: {found.message}. The answers in it are paid and wait "
                        "there. Use the key and project that made the batch, then run the same command again."
                    )
                if found.why is Why.FILE_GONE:
                    if last == TRIES - 1:
                        return "gone"
                    await anyio.sleep(PAUSE)
                    continue
            self._tell(
                kept, "unfetched", f"its results cannot be fetched now: {found.message}; it is tried again"
            )
            return "later"
        return "later"

    def _path(self, kept: Kept, name: str) -> Path:
        try:
            self._fetched.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnusable(
                f"{self._fetched} cannot be made: {error.strerror}. The results of batches are fetched there."
            ) from error
        return self._fetched / f"{kept.id}_{name}.jsonl"

    def _tell_oddities(self, kept: Kept, found: Collection) -> None:
        if found.unmatched is None:
            return
        odd = [(found.unknown, "for no row of it"), (found.unreadable, "not readable")]
        odd += [(found.conflicts, "with a second, different answer")]
        words = ", ".join(f"{count:,} {what}" for count, what in odd if count)
        self._tell(kept, "unmatched", f"its results have lines {words}; these are kept in {found.unmatched}")


def _refusal(failure: Failure) -> Reply:
    """What the server says of a line, as the reply that would say so online."""
    error = {
        "message": failure.message,
        "type": "invalid_request_error",
        "param": failure.param,
        "code": failure.code,
    }
    return Reply(400, body=orjson.dumps({"error": error}))
