"""/v1/batches: batches made, passing through their states, cancelled and listed."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

from .batch import Batch
from .batchfaults import BatchFaults
from .courses import no_such_file
from .files import LONGEST_LIFE, SHORTEST_LIFE, File, Files, whole
from .inputs import Reader
from .ledger import PAID, Arrival, Ledger
from .own import Own, Refused, missing
from .paging import asked, page
from .work import Origin, Work

VALIDATING, WORKING, FINALIZING = 0.2, 0.6, 0.2
MAX_PAIRS, MAX_NAME, MAX_VALUE = 16, 64, 512
SLICE = 500
DEFAULT_TIME = 0.3


class CancelWanted(Exception):
    """A client wants the batch to end."""


class Batches:
    """All batches of a server. A batch that nothing hinders takes `seconds` from its create to its end.

    `spawn` runs a coroutine for as long as the server runs.
    """

    def __init__(
        self, files: Files, ledger: Ledger, server: str, *, seconds: float, spawn: Callable[[Any], None]
    ) -> None:
        self._files = files
        self._ledger = ledger
        self._server = server
        self._seconds = seconds
        self._spawn = spawn
        self._batches: dict[str, Batch] = {}

    def create(self, arrival: Arrival, faults: BatchFaults) -> Own:
        """POST /v1/batches. What is wrong with the input file is found later, by the batch itself."""
        request = checked(arrival.parsed)
        number = len(self._batches) + 1
        batch = Batch(f"batch_{self._server}{number:06x}", number, request, faults.course(number))
        file = self._files.find(request["input_file_id"])
        self._batches[batch.ident] = batch
        self._ledger.note(
            "created",
            batch=batch.ident,
            n=arrival.n,
            input_file_id=request["input_file_id"],
            input_sha=None if file is None else file.sha,
            endpoint=request["endpoint"],
            metadata=request.get("metadata"),
        )
        self._spawn(self._live(batch, file, arrival.n, faults))
        return whole(batch.shown())

    def retrieve(self, ident: str, faults: BatchFaults) -> Own:
        """GET /v1/batches/{id}."""
        return whole(look_at(self._known(ident), faults))

    def listed(self, arrival: Arrival, faults: BatchFaults) -> Own:
        """GET /v1/batches: newest first, without those that are too young for a list that lags."""
        youngest = time.monotonic() - faults.list_lag
        idents = [one.ident for one in reversed(self._batches.values()) if one.made <= youngest]
        wanted = asked(arrival.query)
        return page(idents, lambda ident: look_at(self._batches[ident], faults), wanted, default=20, most=100)

    def cancel(self, ident: str, faults: BatchFaults) -> Own:
        """POST /v1/batches/{id}/cancel."""
        batch = self._known(ident)
        if batch.over and batch.status != "cancelled":
            raise Refused(409, f"Cannot cancel a batch with status '{batch.status}'.")
        self._ledger.note("cancelled", batch=ident)
        if not batch.over and batch.status != "cancelling":
            batch.enter("cancelling")
            batch.cancel_wanted.set()
        return whole(look_at(batch, faults))

    def _known(self, ident: str) -> Batch:
        batch = self._batches.get(ident)
        if batch is None:
            raise Refused(404, f"No batch found with id '{ident}'.", param="id")
        return batch

    async def _live(self, batch: Batch, file: File | None, n: int, faults: BatchFaults) -> None:
        """Take a batch from its create to its end."""
        course = batch.course
        work = Work([], course, Origin(batch.ident, n, batch.request["endpoint"]), self._ledger)
        try:
            await self._stay(batch, VALIDATING)
            found = self._validated(batch, file, n)
            if found is None:
                self._end(batch, work, "failed")
                return
            work = found
            batch.enter("in_progress")
            await self._work(batch, work)
            end = course.end
            if end == "cancelled":
                batch.enter("cancelling")
            else:
                batch.enter("finalizing")
            await self._stay(batch, FINALIZING)
        except CancelWanted:
            end = "cancelled"
            if course.stays == "cancelling":
                return
            await asyncio.sleep(self._seconds * FINALIZING)
            work.give_up()
        self._write(batch, work, faults)
        batch.failures = course.failures
        self._end(batch, work, end)

    async def _stay(self, batch: Batch, share: float) -> None:
        """Let this share of a batch's time pass, or all time where its course holds it here."""
        seconds = None if batch.status == batch.course.stays else self._seconds * share
        try:
            async with asyncio.timeout(seconds):
                await batch.cancel_wanted.wait()
        except TimeoutError:
            return
        raise CancelWanted

    def _validated(self, batch: Batch, file: File | None, n: int) -> Work | None:
        """The batch's work, or None where the batch fails, its failures being noted on it."""
        course = batch.course
        if file is None or self._files.find(file.ident) is None:
            batch.failures = (no_such_file(batch.request["input_file_id"]),)
            return None
        reader = Reader(batch.request["endpoint"])
        reader.read(file.content)
        batch.model = reader.model
        batch.failures = tuple(reader.failures) if course.runs else course.failures
        if batch.failures:
            return None
        batch.total = len(reader.lines)
        origin = Origin(batch.ident, n, batch.request["endpoint"])
        return Work(reader.lines, course, origin, self._ledger)

    async def _work(self, batch: Batch, work: Work) -> None:
        count = max(1, min(SLICE, math.ceil(work.total / 5)))
        while work.left:
            work.do(count)
            batch.completed, batch.failed = work.completed, work.failed
            await self._stay(batch, WORKING * count / work.total)

    def _write(self, batch: Batch, work: Work, faults: BatchFaults) -> None:
        """Write the two files, each only where it has a line, or where empty ones are wanted too."""
        output, error = work.files(faults.edits)
        life = (batch.request.get("output_expires_after") or {}).get("seconds", LONGEST_LIFE)
        if output:
            name = f"{batch.ident}_output.jsonl"
            batch.output = self._files.add(name, "batch_output", output, life=life)
        if error or faults.empty_error_file:
            name = f"{batch.ident}_error.jsonl"
            batch.error = self._files.add(name, "batch_output", error, life=life)
        batch.usage.update(work.usage)

    def _end(self, batch: Batch, work: Work, status: str) -> None:
        batch.completed, batch.failed = work.completed, work.failed
        batch.enter(status)
        done = work.fates["done"]
        self._ledger.note("ended", batch=batch.ident, status=status, lines=work.total, done=done)


def look_at(batch: Batch, faults: BatchFaults) -> dict[str, Any]:
    """What a client is shown of a batch that it asks for."""
    batch.looks += 1
    if batch.over:
        batch.late_looks += 1
    shown = batch.shown()
    for view in faults.views:
        view(shown, batch)
    return shown


def checked(request: Any) -> dict[str, Any]:
    """The body of a create; Refused for what the API refuses at once."""
    if not isinstance(request, dict):
        raise Refused(400, "We could not parse the JSON body of your request.")
    for name in ("input_file_id", "endpoint", "completion_window"):
        if name not in request:
            raise missing(name)
        if not isinstance(request[name], str):
            raise unfit(name, "expected a string", code="invalid_type")
    if request["endpoint"] not in PAID:
        raise unfit("endpoint", f"'{request['endpoint']}' is not supported")
    if request["completion_window"] != "24h":
        raise unfit("completion_window", "only '24h' is supported")
    check_metadata(request.get("metadata"))
    life = request.get("output_expires_after")
    if life is not None:
        seconds = life.get("seconds") if isinstance(life, dict) else None
        if not isinstance(seconds, int) or not SHORTEST_LIFE <= seconds <= LONGEST_LIFE:
            raise unfit("output_expires_after", f"seconds from {SHORTEST_LIFE} to {LONGEST_LIFE}")
        if life.get("anchor") != "created_at":
            raise unfit("output_expires_after", "the anchor is 'created_at'")
    return request


def check_metadata(metadata: object) -> None:
    """Refused unless these are at most 16 pairs of short strings."""
    if metadata is None:
        return
    if not isinstance(metadata, dict):
        raise unfit("metadata", "expected an object", code="invalid_type")
    if len(metadata) > MAX_PAIRS:
        raise unfit("metadata", f"at most {MAX_PAIRS} pairs", code="object_above_max_properties")
    for name, value in metadata.items():
        if not isinstance(value, str):
            raise unfit(f"metadata.{name}", "expected a string", code="invalid_type")
        if len(name) > MAX_NAME or len(value) > MAX_VALUE:
            raise unfit(f"metadata.{name}", "too long", code="string_above_max_length")


def unfit(param: str, why: str, *, code: str = "invalid_value") -> Refused:
    """The refusal of a field for its value."""
    return Refused(400, f"Invalid '{param}': {why}.", param=param, code=code)
