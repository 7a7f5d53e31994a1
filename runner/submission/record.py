"""What the store keeps of one submission, and where it stands."""

from __future__ import annotations

import hashlib
import re
from enum import Enum, StrEnum
from typing import Any, NamedTuple

import orjson

from runner.remote import Listed


class Stage(StrEnum):
    """Where a submission stands; drawn at the top of `runner.submission`."""

    PLANNED = "planned"
    UPLOADING = "uploading"
    SEEKING = "seeking"
    UPLOADED = "uploaded"
    SENDING = "sending"
    UNKNOWN = "unknown"
    FENCING = "fencing"
    FENCED = "fenced"
    SUBMITTED = "submitted"
    REFUSED = "refused"
    HELD = "held"


UNSENT = (Stage.PLANNED, Stage.UPLOADING, Stage.SEEKING, Stage.UPLOADED, Stage.REFUSED)
"""Where a submission stands as long as nothing of it can be in the account's queue."""


class Do(Enum):
    """What the driver does next. Those from UPLOAD on ask the server, once, without any retry."""

    KEEP = "commit the record, under this process's epoch"
    WAIT = "nothing before `until`"
    END = "nothing more"
    UPLOAD = "POST /files under the record's file name"
    FIND_FILE = "GET /files: those of the record's file name, with the SHA-256 of their bytes"
    CREATE = "POST /batches with the record's file id and metadata"
    LIST = "GET /batches: one page, after the look's cursor"
    DELETE_FILE = "DELETE /files/ID"


TOOL = "runner"
"""What our batches and files say of who made them."""

FILE_PREFIX = "runner_"

_FILE_NAME = re.compile(FILE_PREFIX + r"([a-z0-9]+_[0-9a-f]{8})_[0-9]+_[0-9a-f]{16}\.jsonl")


def shard_of(filename: str) -> str | None:
    """The shard whose input file bears this name; None for a name that is not of ours."""
    found = _FILE_NAME.fullmatch(filename)
    return None if found is None else found[1]


def mark_of(meaning: str, input_sha256: str | None) -> str:
    """What tells a server's batches of one job over one input from all others: 32 hex digits of the SHA-256 over the
    job's meaning and the input's bytes, both given as digests; empty where the input has none."""
    if input_sha256 is None:
        return ""
    return hashlib.sha256(f"{meaning} {input_sha256}".encode()).hexdigest()[:32]


class Look(NamedTuple):
    """A list that is being read, page by page; in memory only: who dies begins again."""

    began: float
    after: str | None = None
    found: tuple[Listed, ...] = ()
    nameless: bool = False


class Submission(NamedTuple):
    """What the store keeps of one shard. Times are the local clock's, but for `first_file_at`, the server's. `mark`
    is that of its job and input (`mark_of`), empty where they have none; `series` says, in hex, where job and input
    lie and whose account it is."""

    shard: str
    sha256: str
    stage: Stage = Stage.PLANNED
    attempt: int = 0
    file_id: str | None = None
    files: tuple[str, ...] = ()
    first_file_at: float | None = None
    t_send: float = 0.0
    since: float = 0.0
    due: float = 0.0
    tries: int = 0
    clean_lists: int = 0
    batch_id: str | None = None
    extras: tuple[str, ...] = ()
    words: str = ""
    run: str = ""
    look: Look | None = None
    mark: str = ""
    series: str = ""

    @property
    def filename(self) -> str:
        return f"{FILE_PREFIX}{self.shard}_{self.attempt}_{self.sha256[:16]}.jsonl"

    @property
    def metadata(self) -> dict[str, str]:
        return {
            "tool": TOOL,
            "run": self.run,
            "shard": self.shard,
            "attempt": str(self.attempt),
            "sha256": self.sha256,
            **({"mark": self.mark} if self.mark else {}),
            **({"series": self.series} if self.series else {}),
        }

    def to_json(self) -> str:
        """The record as JSON text; a list that is being read is left out."""
        return orjson.dumps({**self._asdict(), "look": None}).decode()

    @classmethod
    def from_json(cls, text: str) -> Submission:
        fields: dict[str, Any] = orjson.loads(text)
        for name in ("files", "extras"):
            fields[name] = tuple(fields[name])
        return cls(**{**fields, "stage": Stage(fields["stage"])})


class Step(NamedTuple):
    """What to do, with the record as it then is; `until` is for a wait."""

    do: Do
    submission: Submission
    until: float = 0.0
