"""A job: the value that a job file stands for, checked and frozen."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeAlias

from runner import record
from runner.job.deadline import Deadline, parse_deadline

Acceptance: TypeAlias = Literal["fail", "accept"]
Mode: TypeAlias = Literal["online", "batch", "auto"]


class FrozenObject(dict[str, Any]):
    """A JSON object that nothing can change; it is a dict, so that encoders take it as it is."""

    def _refuse(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise TypeError("a job never changes; make a copy")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __copy__(self) -> FrozenObject:
        return self

    def __deepcopy__(self, _memo: object) -> FrozenObject:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenObject, (dict(self),)


def freeze(value: Any) -> Any:
    """A JSON value that cannot change: objects as FrozenObject, lists as tuples, all the way down."""
    if isinstance(value, Mapping):
        return FrozenObject({key: freeze(part) for key, part in value.items()})
    return tuple(map(freeze, value)) if isinstance(value, (list, tuple)) else value


def _thawed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _thawed(part) for key, part in value.items()}
    return list(map(_thawed, value)) if isinstance(value, tuple) else value


@dataclass(frozen=True, slots=True)
class Limits:
    """Ceilings that the user sets; None is learned from the API."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a row is tried in all, and the longest pause between two tries, in seconds."""

    attempts: int = 6
    max_wait: float = 600.0


@dataclass(frozen=True, slots=True)
class Batch:
    """The first pause between two polls, and the first wait when the account's queue is full, in seconds."""

    poll: float = 30.0
    queue_wait: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to ask, of which model, and how to handle it.

    `path` is the job file's real path; it, `endpoint` and `model` are None where the input speaks the Batch
    API's own format. `input` is an absolute path or "-"; it and `output` are None where the file leaves them
    to the command line. `endpoint` is chat, responses or embeddings. `keep` None repeats all fields. `budget`
    is in US dollars.
    """

    name: str
    path: Path | None
    endpoint: str | None
    model: str | None
    input: str | None
    output: Path | None
    request: Mapping[str, Any]
    key: str | None = None
    keep: tuple[str, ...] | None = None
    output_field: str = "result"
    schema: Mapping[str, Any] | None = None
    schema_name: str | None = None
    on_length: Acceptance = "fail"
    on_content_filter: Acceptance = "fail"
    on_refusal: Acceptance = "fail"
    mode: Mode = "online"
    deadline: Deadline | None = None
    batch: Batch = Batch()
    limits: Limits = Limits()
    retry: Retry = Retry()
    budget: Decimal | None = None
    dedupe: bool = False

    @property
    def accepts(self) -> frozenset[str] | None:
        """The finish reasons that count as success; None where every one does, for answers are passed on."""
        if self.endpoint is None:
            return None
        choices = {
            "length": self.on_length,
            "content_filter": self.on_content_filter,
            "refusal": self.on_refusal,
        }
        accepted = {reason for reason, choice in choices.items() if choice == "accept"}
        return frozenset(accepted | {"stop", "tool_calls"})

    def meaning(self) -> dict[str, Any]:
        """The fields that make an answer what it is, as JSON values: a change of one starts a new run.

        The order of the request's and the schema's own fields belongs to it, for it shows in the bytes sent.
        """
        return {
            "endpoint": self.endpoint,
            "model": self.model,
            "request": _thawed(self.request),
            "schema": _thawed(self.schema),
            "schema_name": self.schema_name,
            "key": self.key,
            "dedupe": self.dedupe,
        }

    def meaning_digest(self) -> str:
        """SHA-256 of the meaning, in hexadecimal."""
        return hashlib.sha256(record.dumps(self.meaning())).hexdigest()

    def frozen(self) -> dict[str, Any]:
        """The whole job as JSON values, for the store; `thaw` gives the same job again."""
        return {
            "name": self.name,
            "path": None if self.path is None else str(self.path),
            "input": self.input,
            "output": None if self.output is None else str(self.output),
            **self.meaning(),
            "keep": None if self.keep is None else list(self.keep),
            "output_field": self.output_field,
            "on_length": self.on_length,
            "on_content_filter": self.on_content_filter,
            "on_refusal": self.on_refusal,
            "mode": self.mode,
            "deadline": None if self.deadline is None else self.deadline.text,
            "batch": asdict(self.batch),
            "limits": asdict(self.limits),
            "retry": asdict(self.retry),
            "budget": None if self.budget is None else str(self.budget),
        }

    @classmethod
    def thaw(cls, frozen: Mapping[str, Any]) -> Job:
        """The job that `frozen` came from."""
        fields = dict(frozen)
        for name, make in (
            ("path", Path),
            ("output", Path),
            ("deadline", parse_deadline),
            ("budget", Decimal),
        ):
            if fields[name] is not None:
                fields[name] = make(fields[name])
        fields["keep"] = None if fields["keep"] is None else tuple(fields["keep"])
        fields["request"] = freeze(fields["request"])
        fields["schema"] = freeze(fields["schema"])
        fields["batch"] = Batch(**fields["batch"])
        fields["limits"] = Limits(**fields["limits"])
        fields["retry"] = Retry(**fields["retry"])
        return cls(**fields)


def requests_job(input: str) -> Job:  # noqa: A002 - the job's own word
    """The job of a file in the Batch API's own format, or of "-": every line says itself what it asks.

    Its answers are passed on as they came, so that every finish reason counts as success.
    """
    return Job(
        name="requests",
        path=None,
        endpoint=None,
        model=None,
        input=input if input == "-" else os.path.abspath(input),  # noqa: PTH100 - links stay as they are
        output=None,
        request=FrozenObject(),
        key="custom_id",
        on_length="accept",
        on_content_filter="accept",
        on_refusal="accept",
    )
