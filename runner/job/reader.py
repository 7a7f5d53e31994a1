"""From a job file's text to a job, or to all that is wrong with it at once."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
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
            "mode": cast(Mode, fields.choice("mode", MODES, "online")),
            "deadline": self._deadline(),
            "batch": Batch(
                poll=batch.duration("poll", Batch.poll, low="10ms", high="1h"),
                queue_wait=batch.duration("queue_wait", Batch.queue_wait, low="10ms", high="1d"),
            ),
            "limits": Limits(
                limits.whole("requests_per_minute", 1, 10**7),
                limits.whole("tokens_per_minute", 1, 10**12),
                limits.whole("concurrency", 1, 10**4),
            ),
            "retry": Retry(
                attempts=retry.whole("attempts", 1, 100) or Retry.attempts,
                max_wait=retry.duration("max_wait", Retry.max_wait, low="10ms", high="1d"),
            ),
            "budget": fields.money("budget"),
            "dedupe": fields.boolean("dedupe", default=False),
        }
