"""What the Batch API's server says: to an upload, a create, a list, a look at a batch or a file.

Whatever it is asked, it did surely nothing (`Refused`), or nobody knows (`Unclear`), or it answered with one of
the others. Times are the server's, in seconds since 1970. Empty ids, which Azure sends, are None here.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from runner.model import Usage

ENDED = frozenset({"failed", "completed", "expired", "cancelled"})
"""The states of a batch that it does not leave again."""


class Why(Enum):
    """Why a server that surely did nothing said no."""

    NOT_NOW = "later: a rate limit"
    QUEUE_FULL = "later: the account's queue of batches has no room (token_limit_exceeded)"
    FILE_GONE = "there is no such file or batch"
    CANNOT = "this server does not know the operation (404, 405 or 501 on the route)"
    NO_ACCESS = "the key or a permission is refused (401, 403)"
    NO_MONEY = "the account has no money, or has met its spending limit"
    FINAL = "asking again gives the same"


class Refused(NamedTuple):
    """The API's own error: surely not executed. `wait` is in seconds, where the server names a time."""

    why: Why
    message: str = ""
    wait: float = 0.0
    status: int | None = None
    code: str = ""


class Unclear(NamedTuple):
    """No answer, or none that says whether it was executed (resets, timeouts, 5xx, 408, 409, foreign bodies)."""

    message: str = ""


class FileSeen(NamedTuple):
    """A file at the server. `sha256` is that of its bytes, None where they were not read; `size` is in bytes."""

    id: str
    created_at: float
    sha256: str | None = None
    name: str = ""
    size: int | None = None
    purpose: str = ""


class FilesSeen(NamedTuple):
    """All files that bear the name, newest first."""

    files: tuple[FileSeen, ...]


class Created(NamedTuple):
    """The server's answer to a create: the batch's id."""

    batch_id: str


class Listed(NamedTuple):
    """A batch as a list shows it. `shard` and `attempt` come from its metadata; None is what was left out."""

    id: str
    created_at: float
    failed: bool
    file_id: str | None
    shard: str | None
    attempt: int | None


class Page(NamedTuple):
    """One page of the account's batches, newest first."""

    batches: tuple[Listed, ...]
    has_more: bool


class Deleted(NamedTuple):
    """The file is gone, now or since before."""


class Failure(NamedTuple):
    """One of the errors of a batch that failed. `line` counts the input file's lines from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class RemoteBatch(NamedTuple):
    """A batch as the server shows it. `status` is its word, known or not; the counts are what it claims."""

    id: str
    status: str
    endpoint: str | None = None
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: float | None = None
    expires_at: float | None = None
    failures: tuple[Failure, ...] = ()
    total: int | None = None
    completed: int | None = None
    failed: int | None = None
    usage: Usage | None = None
    model: str | None = None
    metadata: Mapping[str, str] = MappingProxyType({})

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED


Answer = Refused | Unclear | FileSeen | FilesSeen | Created | Page | Deleted | RemoteBatch
