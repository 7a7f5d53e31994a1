"""The two files that a batch writes: what was answered, and what went wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from runner.simulator import responses
from runner.simulator.batch import Batch
from runner.simulator.batch_lines import unanswered
from runner.simulator.calls import Calls
from runner.simulator.chance import Chance
from runner.simulator.faults import ERRORS, OUTPUT, RESULT, Fault
from runner.simulator.files import Files
from runner.simulator.line_faults import COUNTED, draw
from runner.simulator.profiles import Profile

_NOT_RUN = {
    "batch_cancelled": "This request was not executed because the batch was cancelled.",
    "batch_expired": "This request could not be executed before the completion window expired.",
}


class Results:
    """The output and the error file of one batch while its lines are answered."""

    def __init__(
        self, batch: Batch, calls: Calls, files: Files, *, profile: Profile, clock: Callable[[], float]
    ) -> None:
        self._batch = batch
        self._calls = calls
        self._files = files
        self._profile = profile
        self._clock = clock
        self._output = files.open_new()
        self._errors = files.open_new()

    def close(self) -> None:
        """No more lines come."""
        self._output.close()
        self._errors.close()

    def answer(self, request: dict[str, Any]) -> None:
        """Answers a line, books it, and writes what comes of it."""
        batch = self._batch
        result = self._calls.batched(batch.endpoint_name, request["body"], batch_id=batch.id)
        counted = result.fault is not None and result.fault.name in COUNTED
        batch.counts["completed" if result.status == 200 or counted else "failed"] += 1
        for fine, line in draw(self._line_id(request), request["custom_id"], result):
            (self._output if fine else self._errors).write(line)
        if result.tokens is not None:
            batch.used.input += result.tokens.input
            batch.used.output += result.tokens.output
            batch.used.cached += result.tokens.cached

    def leave(self, request: dict[str, Any], code: str) -> None:
        """Writes that a line was not run: "batch_cancelled" or "batch_expired"."""
        self._errors.write(unanswered(self._line_id(request), request["custom_id"], code, _NOT_RUN[code]))

    def keep(self) -> None:
        """Takes the closed files in, and shows their ids, the counts and the usage in the batch."""
        batch = self._batch
        shape = self._met(RESULT)
        for stream, word, kind in ((self._output, "output", OUTPUT), (self._errors, "error", ERRORS)):
            fault = self._met(kind)
            batch.shown[f"{word}_file_id"] = self._kept(stream, word, fault, shape)
        usage = responses.usage(batch.used)
        del usage["input_tokens_details"]["cache_write_tokens"]
        batch.shown["usage"] = usage
        if shape is not None and shape.name == "result-counts":
            batch.counts.update(completed=batch.counts["total"], failed=0)
        if shape is not None and shape.name == "result-no-usage":
            batch.shown["usage"] = None

    def _met(self, kind: str) -> Fault | None:
        return self._calls.meet(self._batch.digest, self._batch.coming, kind)

    def _line_id(self, request: dict[str, Any]) -> str | None:
        if not self._profile.line_ids:
            return None
        chance = Chance(self._calls.settings.seed, self._batch.id.encode())
        return f"batch_req_{chance.hex(request['custom_id'], 32)}"

    def _kept(self, stream: IO[bytes], word: str, fault: Fault | None, shape: Fault | None) -> str | None:
        """The id by which the batch shows a result file; none where there is nothing in it."""
        path, manner = Path(stream.name), fault.manner if fault is not None else ""
        if path.stat().st_size == 0:
            shown_empty = self._profile.empty_error_file and word == "error" and not self._batch.expired
            if not shown_empty and manner != "empty":
                path.unlink()
                return self._profile.no_file
        elif shape is not None:
            _reshape(path, shape.name)
        name = f"{self._batch.id}_{word}.jsonl"
        lifetime = self._batch.lifetime
        stored = self._files.keep(path, filename=name, purpose="batch_output", lifetime=lifetime)
        if manner == "404":
            self._files.delete(stored.id)
        elif manner == "late" and fault is not None:
            self._batch.late[f"{word}_file_id"] = self._clock() + fault.figure
        return {"null": None, "blank": ""}.get(manner, stored.id)


def _reshape(path: Path, name: str) -> None:
    data = path.read_bytes()
    if name == "result-no-newline":
        data = data[:-1]
    elif name == "result-crlf":
        data = data.replace(b"\n", b"\r\n")
    elif name == "result-blank-lines":
        data = data.replace(b"\n", b"\n\n")
    elif name == "result-bom":
        data = b"\xef\xbb\xbf" + data
    path.write_bytes(data)
