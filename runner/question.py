"""From a line of input to the question it asks: endpoint, model, and the exact bytes of the request body.

Ingest asks for the question's hash, dispatch for its body: the same line and the same job always give the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from runner import record
from runner.endpoints import BY_URL, ENDPOINTS, Endpoint, forced_tool
from runner.errors import LineFault
from runner.job import Job
from runner.model import Demand
from runner.pricing import Prices
from runner.record import RecordFault
from runner.structured import with_schema
from runner.template import RowFault, compile_request
from runner.tokens import upper_bound

ERROR_FIELD = "error"
"""Where a failed row's error goes, beside the output field."""


class Question(msgspec.Struct, frozen=True, gc=False):
    """What one row asks. `body` are the bytes to send, `request` the same parsed; `key` is None where the line
    number identifies the row."""

    key: str | None
    endpoint: Endpoint
    model: str
    body: bytes
    request: Mapping[str, Any]

    @property
    def hash(self) -> bytes:
        """SHA-256 of endpoint and body: the part of a task's key that does not count repeats."""
        return hashlib.sha256(b"%b\n%b" % (self.endpoint.name.encode(), self.body)).digest()

    @property
    def forced_tool(self) -> bool:
        return forced_tool(self.request)


class Unaskable(ValueError):
    """A line that cannot be asked: every fault found in it, as (code, message), and its key if it has one."""

    def __init__(self, faults: list[tuple[str, str]], key: str | None = None) -> None:
        super().__init__("; ".join(message for _, message in faults))
        self.faults = faults
        self.key = key

    def at(self, line: int) -> list[LineFault]:
        return [LineFault(line, code, message, self.key) for code, message in self.faults]


class Questions:
    """How the lines of one job become questions."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._of_requests = job.endpoint is None
        if job.endpoint is not None:
            self._endpoint = ENDPOINTS[job.endpoint]
            self._template = compile_request(job.request)
            self._taken = {job.output_field, ERROR_FIELD} if job.keep is None else set()
            self._clashing = set(job.keep or ()) & {job.output_field, ERROR_FIELD}

    @property
    def can_pack(self) -> bool:
        """Whether several questions may share one request. The bodies of a requests file go as they are."""
        return not self._of_requests and self._endpoint.name == "embeddings"

    @property
    def only(self) -> tuple[str, str] | None:
        """The endpoint and the model that every question is for; None where each line names its own."""
        return (
            None if self._of_requests or self._job.model is None else (self._endpoint.name, self._job.model)
        )

    def ask(self, line: bytes, *, checked: bool = False) -> Question:
        """The question of a line. Unaskable with every fault found in it; `checked` says that ingest has found
        none, so that the request is not looked through again."""
        try:
            return self._ask_request(line, checked) if self._of_requests else self._ask_record(line)
        except RecordFault as fault:
            raise Unaskable([(one.code, one.message) for one in fault.faults]) from fault

    @property
    def text_alone(self) -> Callable[[bytes], object] | None:
        """What reads the input that a line asks to embed, where questions differ in nothing else; None where they
        may. For lines that ingest has found no fault in; it raises Unaskable as `ask` does."""
        render = self._template.only("input") if self.can_pack and self._job.schema is None else None
        if render is None:
            return None

        def read(line: bytes) -> object:
            try:
                return render(record.parse(line))
            except RecordFault as fault:
                raise Unaskable([(one.code, one.message) for one in fault.faults]) from fault
            except RowFault as fault:
                raise Unaskable([(fault.code, str(fault))]) from fault

        return read

    def _ask_request(self, line: bytes, checked: bool) -> Question:
        if checked:
            key, url, body = record.parse_checked_request(line)
            request = record.parse(body)
        else:
            key, url, body, request = record.read_request(line)
        endpoint = BY_URL.get(url)
        if endpoint is None:
            known = ", ".join(sorted({one.url for one in ENDPOINTS.values()}))
            message = f"url {url!r} is not one that runner can ask; it knows {known}"
            raise Unaskable([("unknown_url", message)], key)
        if not checked and (faults := endpoint.check(request)):
            raise Unaskable(faults, key)
        return Question(key, endpoint, str(request["model"]), body, request)

    def _ask_record(self, line: bytes) -> Question:
        job = self._job
        values = record.parse(line)
        key: str | None = None
        faults: list[tuple[str, str]] = []
        if job.key is not None:
            try:
                key = record.key_text(values[job.key])
            except KeyError:
                faults.append(("missing_key", f"the key field {job.key!r} is missing"))
            except RecordFault as fault:
                faults.append(("bad_key", f"the key field {job.key!r}: {fault}"))
        for field in self._taken:
            if field in values:
                text = (
                    f"the input has a field {field!r} already, where the output puts its own: name another "
                    "output_field, or list in keep the fields to repeat"
                )
                faults.append(("field_taken", text))
        try:
            request = self._template.render(values)
        except RowFault as fault:
            faults.append((fault.code, str(fault)))
            raise Unaskable(faults, key) from fault
        if faults:
            raise Unaskable(faults, key)
        assert job.model is not None
        request = {"model": job.model, **request}
        if job.schema is not None:
            request = with_schema(self._endpoint.name, request, dict(job.schema), job.schema_name or job.name)
        wrong = self._endpoint.check(request)
        if wrong:
            raise Unaskable(wrong, key)
        return Question(key, self._endpoint, job.model, record.dumps(request), request)


def worst_case(
    question: Question, demand: Demand, prices: Prices, *, batch: bool = False, size: int | None = None
) -> int | None:
    """The dearest that a question can come to, online or in a batch, in pico-dollars; None where nothing bounds
    it. `size` are the bytes of all bodies where a call carries more questions like it."""
    if demand.unbounded is not None or not len(prices):
        return None
    tier = question.request.get("service_tier")
    return prices.worst_case(
        question.model,
        # A token is at least one byte: the body's length bounds its input.
        input_tokens=upper_bound(len(question.body) if size is None else size),
        max_output=demand.max_output,
        choices=demand.choices,
        tier=tier if isinstance(tier, str) else None,
        batch=batch,
    )
