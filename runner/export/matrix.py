"""Vectors as one .npy file: a row of 32-bit floats for each line of the input, and a file of keys beside it.

Row i of the matrix is line i of the keys, and both are the i-th line of the input that is not blank. A line without
a vector has a row of NaN, and its error stands beside its key.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from runner import record, vectors
from runner.endpoints import BY_URL, BadAnswer, embeddings
from runner.errors import OutputUnwritable, UsageError
from runner.export.drawing import custom_id, is_record, one_line
from runner.export.ownership import is_matrix
from runner.files import AtomicFile
from runner.job import Job
from runner.store import rows
from runner.store.database import Store
from runner.store.rows import Settled
from runner.store.runs import Run, line_of

_ADVICE = "Name a .jsonl with -o: an output can be drawn again at no cost."


class _Asked(msgspec.Struct):
    input: Any = None


class _Request(msgspec.Struct):
    url: str
    body: _Asked


_REQUEST = msgspec.json.Decoder(_Request)


def refuse_matrix(job: Job, output: Path) -> None:
    """UsageError if a .npy is asked of a job that embeds nothing."""
    if is_matrix(output) and job.endpoint not in (None, "embeddings"):
        raise UsageError(
            f"{output}: a .npy holds vectors, and this job asks the endpoint {job.endpoint}. Nothing was sent. Name a "
            ".jsonl with -o."
        )


def refuse_other_rows(store: Store, run: Run, job: Job, output: Path) -> None:
    """UsageError if a .npy is asked of requests that do not each give one vector."""
    if not is_matrix(output) or job.endpoint is not None:
        return
    with store.read() as connection:
        for line, text in rows.good_records(connection, run.id):
            why = _not_one_vector(text)
            if why:
                raise UsageError(
                    f"{output}: a .npy has one vector for each line, and line {line} {why}. Nothing was sent. Name a "
                    ".jsonl with -o."
                )


def _not_one_vector(request: bytes) -> str:
    try:
        found = _REQUEST.decode(request)
        url, given = found.url, found.body.input
    except (msgspec.MsgspecError, ValueError, RecursionError):
        # The decoder refuses a little that JSON allows.
        values = record.parse(request)
        url, body = str(values["url"]), values["body"]
        given = body.get("input") if isinstance(body, Mapping) else None
    if BY_URL[url].name != "embeddings":
        return f"asks {url}"
    # A list of numbers is one text in tokens.
    if isinstance(given, list) and len(given) > 1 and not isinstance(given[0], int):
        return f"asks for {len(given)} vectors"
    return ""


class Matrix:
    """Writes the rows of a run, in input order, as a matrix and its keys.

    Raises OutputUnwritable where the rows' answers do not make a matrix.
    """

    def __init__(self, run: Run, job: Job, output: AtomicFile, keys: AtomicFile) -> None:
        self._run = run
        self._job = job
        self._output = output
        self._keys = keys
        self._vector_bytes = 0
        self._first_line = 0
        self._rows = 0
        named = msgspec.defstruct("Keyed", [("key", msgspec.Raw)], rename={"key": job.key or "key"})
        self._keyed: msgspec.json.Decoder[Any] = msgspec.json.Decoder(named)

    def ok(self, row: Settled, *, reused: bool) -> None:
        assert row.body is not None
        line = line_of(row.id)
        try:
            vector = embeddings.single(row.body)
        except BadAnswer as fault:
            raise OutputUnwritable(f"{self._output.path}: line {line}: {fault}. {_ADVICE}") from fault
        if not self._vector_bytes:
            self._begin(len(vector), line)
        if len(vector) != self._vector_bytes:
            raise OutputUnwritable(
                f"{self._output.path}: the vector of line {line} has {len(vector) // 4} dimensions, that of line "
                f"{self._first_line} has {self._vector_bytes // 4}, so they make no matrix. {_ADVICE}"
            )
        self._output.write(vector)
        self._write_key(row, b"")

    def failed(self, row: Settled, error: Mapping[str, Any], line: bytes) -> None:
        # Until the first vector has told how wide the matrix is, the rows of NaN before it are only counted.
        if self._vector_bytes:
            self._output.write(self._nan)
        self._write_key(row, b',"error":' + record.dumps(error))

    def finish(self) -> None:
        if not self._vector_bytes:
            self._begin(0, 0)

    def _begin(self, vector_bytes: int, line: int) -> None:
        self._vector_bytes, self._first_line = vector_bytes, line
        self._nan = vectors.NAN * (vector_bytes // 4)
        self._output.write(vectors.npy_header(self._run.rows_in, vector_bytes // 4))
        for _ in range(self._rows):
            self._output.write(self._nan)

    def _write_key(self, row: Settled, more: bytes) -> None:
        self._rows += 1
        self._keys.write(b'{"key":%b,"line":%d%b}\n' % (self._key(row), line_of(row.id), more))

    def _key(self, row: Settled) -> bytes:
        """The row's key as its line has it; null where the line has none, its number where nothing else is one."""
        if self._job.endpoint is None:
            return custom_id(row.record, whole=row.row_fault is None)
        if self._job.key is None:
            return b"%d" % line_of(row.id)
        if row.row_fault is None:
            try:
                return one_line(bytes(self._keyed.decode(row.record).key))
            except (msgspec.DecodeError, ValueError):
                pass  # the decoder refuses a little that JSON allows
        found = b"null"
        if row.row_fault is None or is_record(row.record):
            for key, value in record.members(row.record):
                if record.key_name(key) == self._job.key:
                    found = one_line(value)
        return found
