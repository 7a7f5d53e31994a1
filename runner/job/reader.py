"""From a job file's text to a job, or to all that is wrong with it at once."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

from runner.errors import BadJob
from runner.job.deadline import Deadline, parse_deadline
from runner.job.fields import Fields, kind
from runner.job.value import Acceptance, Batch, Job, Limits, Mode, Retry, freeze
from runner.job.yaml_reader import MAX_BYTES, Fault, Node, NotYaml, compose
from runner.structured import BadSchema, Checker, with_schema
from runner.template import TemplateFault, compile_request, field_path

ENDPOINTS = ("chat", "responses", "embeddings")
ACCEPTANCES = ("fail", "accept")
MODES = ("online", "batch", "auto")
FIELDS = (
    *("name", "endpoint", "model", "input", "output", "key", "keep", "output_field", "request", "schema"),
    *(
        "on_length",
        "on_content_filter",
        "on_refusal",
        "mode",
        "deadline",
        "batch",
        "limits",
        "retry",
        "budget",
    ),
    "dedupe",
)
_NAME = re.compile(r"[a-z0-9-]+\Z")
_LONGEST_DEADLINE = "30d"


def read_job(path: Path) -> Job:
    """Read a job file. Raises BadJob with every fault, one a line: FILE:LINE: field: what is wrong."""
    try:
        root, faults = compose(_text_of(path))
    except NotYaml as error:
        raise _bad_job(path, [error.fault]) from None
    reading = _Reading(root, Path(os.path.realpath(path)), faults)
    job = reading.job()
    if faults or job is None:
        raise _bad_job(path, faults)
    return job


def _bad_job(path: Path, faults: list[Fault]) -> BadJob:
    lines = [
        f"{path}:{fault.line}: {fault.field}: {fault.message}"
        if fault.field
        else f"{path}:{fault.line}: {fault.message}"
        for fault in sorted(faults, key=lambda fault: fault.line)
    ]
    return BadJob("\n".join(lines))


def _text_of(path: Path) -> str:
    try:
        data = _bounded(path)
    except (OSError, ValueError) as error:
        raise BadJob(f"{path}: the job file cannot be read: {_why(error)}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadJob(f"{path}:{line}: is not UTF-8; save the file as UTF-8") from None


def _bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError("it is larger than 1 MiB")
    return data


def _why(error: Exception) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)


class _Reading:
    """One job file, on its way to a job."""

    def __init__(self, root: Node, path: Path, faults: list[Fault]) -> None:
        self._path = path
        self._faults = faults
        self._fields = Fields(root, "", FIELDS, faults)

    def job(self) -> Job | None:
        """The job; None, or a meaningless one, if there are faults."""
        fields = self._fields
        name = self._name()
        endpoint = fields.choice("endpoint", ENDPOINTS, None)
        model = fields.text("model", required=True)
        request = self._request()
        schema, schema_name = self._schema(name or "answer")
        if schema is not None and endpoint is not None and request is not None:
            self._try_schema(endpoint, request, schema)
        keep, output_field = fields.texts("keep"), fields.text("output_field") or "result"
        self._check_output_field(output_field, keep)
        job_input, output = self._input(), self._output()
        handling = self._handling()
        if self._faults or name is None:
            return None
        return Job(
            name=name,
            path=self._path,
            endpoint=endpoint,
            model=model,
            input=job_input,
            output=output,
            key=fields.text("key"),
            keep=keep,
            output_field=output_field,
            request=freeze(request),
            schema=freeze(schema),
            schema_name=schema_name,
            **handling,
        )

    def _handling(self) -> dict[str, Any]:
        """The fields that say how a run is handled, and change no answer."""
        fields = self._fields
        batch = fields.section("batch", ("poll", "queue_wait"))
        limits = fields.section("limits", ("requests_per_minute", "tokens_per_minute", "concurrency"))
        retry = fields.section("retry", ("attempts", "max_wait"))
        return {
            "on_length": self._acceptance("on_length"),
            "on_content_filter": self._acceptance("on_content_filter"),
            "on_refusal": self._acceptance("on_refusal"),
            "mode": cast("Mode", fields.choice("mode", MODES, "online")),
            "deadline": self._deadline(),
            "batch": Batch(
                poll=batch.duration("poll", Batch().poll, low="10ms", high="1h"),
                queue_wait=batch.duration("queue_wait", Batch().queue_wait, low="10ms", high="1d"),
            ),
            "limits": Limits(
                limits.whole("requests_per_minute", 1, 10**7),
                limits.whole("tokens_per_minute", 1, 10**12),
                limits.whole("concurrency", 1, 10**4),
            ),
            "retry": Retry(
                attempts=retry.whole("attempts", 1, 100) or Retry().attempts,
                max_wait=retry.duration("max_wait", Retry().max_wait, low="10ms", high="1d"),
            ),
            "budget": fields.money("budget"),
            "dedupe": fields.boolean("dedupe", default=False),
        }

    def _acceptance(self, name: str) -> Acceptance:
        return cast("Acceptance", self._fields.choice(name, ACCEPTANCES, "fail"))

    def _name(self) -> str | None:
        name = self._fields.text("name", required=True)
        if name is not None and not _NAME.match(name):
            self._fields.add("name", f"may hold a-z, 0-9 and - only, not {name!r}")
        return name

    def _request(self) -> dict[str, Any] | None:
        node = self._fields.node("request", required=True)
        if node is None:
            return None
        if not isinstance(node.value, dict) or not node.value:
            self._fields.add("request", f"must be the fields of the request's body, not {kind(node)}")
            return None
        for name, banned, hint in (
            ("model", None, "the job's own model goes into every request; leave this one out"),
            ("stream", True, "answers are never streamed; leave it out"),
            ("background", True, "batch mode is for answers that may take long; leave it out"),
        ):
            found = node.value.get(name)
            if found is not None and (banned is None or found.value is banned):
                self._faults.append(Fault(found.line, field_path("request", name), hint))
        request: dict[str, Any] = node.plain()
        try:
            compile_request(request)
        except TemplateFault as error:
            nodes = dict(_strings(node, "request"))
            for fault in error.faults:
                at = nodes.get(fault.field, node)
                line = at.line if at.content_line is None else at.content_line + fault.line - 1
                self._faults.append(Fault(line, fault.field, fault.message))
        return request

    def _schema(self, job_name: str) -> tuple[dict[str, Any] | None, str | None]:
        """The JSON Schema and its name: that of its file, or the job's where it stands in the job file."""
        node = self._fields.node("schema")
        if node is None:
            return None, None
        schema: Any
        if isinstance(node.value, dict):
            schema, name, where = node.plain(), job_name, ""
        else:
            path = self._absolute("schema")
            if path is None:
                return None, None
            name, where = Path(path).stem, f"{path}: "
            try:
                schema = json.loads(_bounded(Path(path)).decode("utf-8-sig"), parse_constant=_no_constant)
            except (OSError, ValueError, RecursionError) as error:
                self._fields.add("schema", f"{where}cannot be read as JSON: {_why(error)}")
                return None, None
        try:
            Checker(schema)
        except BadSchema as error:
            self._fields.add("schema", f"{where}is no JSON Schema that can be used: {error}")
            return None, None
        return schema, name

    def _try_schema(self, endpoint: str, request: Mapping[str, Any], schema: dict[str, Any]) -> None:
        try:
            with_schema(endpoint, dict(request), schema, "answer")
        except BadSchema as error:
            self._fields.add("schema", error.reason if error.path == "schema" else str(error))

    def _check_output_field(self, output_field: str, keep: tuple[str, ...] | None) -> None:
        if output_field == "error":
            self._fields.add("output_field", "'error' is where failed rows say why; choose another name")
        elif keep is not None and output_field in keep:
            name = "output_field" if self._fields.node("output_field") else "keep"
            self._fields.add(
                name, f"{output_field!r} is kept from the input; our part needs a name of its own"
            )
        if keep is not None and "error" in keep:
            self._fields.add("keep", "'error' is where failed rows say why; it cannot be kept from the input")

    def _input(self) -> str | None:
        return "-" if self._fields.text("input") == "-" else self._absolute("input")

    def _output(self) -> Path | None:
        path = self._absolute("output")
        return None if path is None else Path(path)

    def _absolute(self, name: str) -> str | None:
        """A path of the job file, which is relative to the file's folder, as an absolute one."""
        text = self._fields.text(name)
        if text is None:
            return None
        if "\0" in text or "://" in text or text == "-":
            self._fields.add(name, "must be the path of a file on this machine")
            return None
        return os.path.normpath(self._path.parent / text)

    def _deadline(self) -> Deadline | None:
        node = self._fields.node("deadline")
        if node is None:
            return None
        if node.text is None:
            self._fields.add(
                "deadline", f"must be a duration or a time of day with its zone, not {kind(node)}"
            )
            return None
        deadline = self._fields.parsed("deadline", node.text, parse_deadline)
        if deadline is not None and deadline.seconds is not None:
            self._fields.duration("deadline", 1.0, low="10ms", high=_LONGEST_DEADLINE)
        return deadline


def _strings(node: Node, path: str) -> Iterator[tuple[str, Node]]:
    """Every value below a node by its path."""
    yield path, node
    if isinstance(node.value, dict):
        for key, part in node.value.items():
            yield from _strings(part, field_path(path, key))
    elif isinstance(node.value, list):
        for at, part in enumerate(node.value):
            yield from _strings(part, field_path(path, at))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
