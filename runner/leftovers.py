"""The files that runs have left at the provider: which of them nothing needs any more, and their deletion.

    input     uploaded by us: its name says so          needed while a batch of it, or its shard here, is out
    output    written by a batch whose metadata says    needed until a store has taken them in: what another store
    error     that it is ours                           has taken in, this one cannot know

Whatever is not surely ours, or not surely of no use, is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import anyio

from runner import loop
from runner.api.account import Account
from runner.api.batches import BatchApi
from runner.errors import AccessRefused, BadConfiguration, NotFinished, RunnerError
from runner.provider import provider_of
from runner.remote import FileSeen, Refused, RemoteBatch, Unclear, Why
from runner.store import remotes
from runner.store.database import Store
from runner.store.locks import lock_folder
from runner.store.place import path_of
from runner.store.remotes import NOTHING_KNOWN, Known
from runner.submission import TOOL, shard_of

_Object = TypeVar("_Object", FileSeen, RemoteBatch)

AT_ONCE = 8
"""Deletions under way at once."""


class Leftover(NamedTuple):
    """A file at the provider that nothing needs. `kind` is input, output or error; `size` is in bytes, None where the
    server does not say; `age` in seconds; `why` says why nothing needs it."""

    id: str
    name: str
    kind: str
    size: int | None
    age: float
    batch: str | None
    why: str


class Found(NamedTuple):
    """What was found: the leftovers, the oldest first; how many other files of ours stay, by the reason; and the
    local files of lines that belong to no row, with their sizes in bytes."""

    leftovers: list[Leftover]
    stay: dict[str, int]
    unmatched: list[tuple[Path, int]]


@dataclass(frozen=True, slots=True)
class Sweep:
    """Where to look, and what may go: files older than so many seconds; with `foreign`, also those of ended batches
    that this store knows nothing of."""

    account: Account
    store_url: str
    older_than: float
    foreign: bool = False


def find_leftovers(sweep: Sweep, *, now: float) -> Found:
    """Look through the account's files and batches; `now` is in seconds since 1970. Changes nothing. AccessRefused,
    NotFinished or BadConfiguration where they cannot be listed."""
    return loop.run(lambda: _find(sweep, now))


def delete(account: Account, files: Sequence[Leftover]) -> dict[str, RunnerError]:
    """Delete files at the provider; those that are still there, by their ids, each with the reason."""
    return loop.run(lambda: _delete(account, files))


async def _find(sweep: Sweep, now: float) -> Found:
    async with _api(sweep.account) as api:
        # Files first, then batches, then the store: what comes to need a file meanwhile is seen by the next look.
        files = {one.id: one for one in [_seen(one) async for one in api.files()]}
        batches = [_seen(one) async for one in api.batches()]
    known = _known(sweep.store_url)
    sort = _Sorting(files, batches, known, sweep, now)
    return sort.found(_unmatched(sweep.store_url))


class _Sorting:
    """Tells, of each file of ours, whether anything needs it."""

    def __init__(
        self, files: dict[str, FileSeen], batches: list[RemoteBatch], known: Known, sweep: Sweep, now: float
    ) -> None:
        self._files = files
        self._batches = batches
        self._known = known
        self._sweep = sweep
        self._now = now
        self._leftovers: list[Leftover] = []
        self._stay: dict[str, int] = {}
        self._users: dict[str, list[RemoteBatch]] = {}
        for one in batches:
            if one.input_file_id is not None:
                self._users.setdefault(one.input_file_id, []).append(one)

    def found(self, unmatched: list[tuple[Path, int]]) -> Found:
        for file in self._files.values():
            shard = shard_of(file.name) if file.purpose == "batch" else None
            if shard is not None:
                users = self._users.get(file.id, [])
                self._sort(file, "input", users[0].id if users else None, self._input(file, shard, users))
        for batch in self._batches:
            if not self._is_ours(batch):
                continue
            named = (("output", batch.output_file_id), ("error", batch.error_file_id))
            for kind, file_id in named:
                written = None if file_id is None else self._files.get(file_id)
                if written is not None:
                    self._sort(written, kind, batch.id, self._results(batch))
        self._leftovers.sort(key=lambda one: (-one.age, one.id))
        return Found(self._leftovers, dict(sorted(self._stay.items())), unmatched)

    def _is_ours(self, batch: RemoteBatch) -> bool:
        return batch.metadata.get("tool") == TOOL or batch.id in self._known.ends

    def _input(self, file: FileSeen, shard: str, users: list[RemoteBatch]) -> tuple[bool, str]:
        """Whether an input file can go, and why, or why not."""
        if shard in self._known.shards or file.id in self._known.files:
            return False, "a batch of this store is out"
        if not users:
            return True, "no batch was made of it"
        for one in users:
            can_go, why = self._results(one)
            if not can_go:
                return False, why
        return self._results(users[0])

    def _results(self, batch: RemoteBatch) -> tuple[bool, str]:
        """Whether what belongs to a batch can go, and why, or why not."""
        if not batch.has_ended:
            return False, "its batch has not ended"
        if not self._is_ours(batch):
            return False, "its batch is not one of runner's"
        if self._known.has_taken_in(batch.id):
            return True, "its results are in the store"
        if batch.id in self._known.ends:
            return False, "its results are not in this store yet"
        if batch.output_file_id is None and batch.error_file_id is None and not batch.completed:
            return True, f"its batch has {batch.status}, and did nothing"
        if self._sweep.foreign:
            return True, "its batch is of no run in this store"
        return False, "its batch is of no run in this store (--foreign)"

    def _sort(self, file: FileSeen, kind: str, batch: str | None, told: tuple[bool, str]) -> None:
        can_go, why = told
        age = self._now - file.created_at
        if can_go and not file.created_at:
            can_go, why = False, "its age is not known"
        if can_go and age < self._sweep.older_than:
            can_go, why = False, "it is not old enough (--older-than)"
        if can_go:
            self._leftovers.append(Leftover(file.id, file.name, kind, file.size, age, batch, why))
        else:
            self._stay[why] = self._stay.get(why, 0) + 1


async def _delete(account: Account, files: Sequence[Leftover]) -> dict[str, RunnerError]:
    still_there: dict[str, RunnerError] = {}
    turns = anyio.Semaphore(AT_ONCE)

    async def one(api: BatchApi, file: Leftover) -> None:
        async with turns:
            answer = await api.delete_file(file.id)
        if isinstance(answer, (Refused, Unclear)):
            still_there[file.id] = _error(answer, f"File {file.id} could not be deleted")

    async with _api(account) as api, anyio.create_task_group() as group:
        for file in files:
            group.start_soon(one, api, file)
    return still_there


def _seen(one: _Object | Refused | Unclear) -> _Object:
    """What a list gave; raises where it was cut."""
    if isinstance(one, (Refused, Unclear)):
        raise _error(one, "What is at the provider could not be listed to its end, and nothing was deleted")
    return one


def _error(answer: Refused | Unclear, what: str) -> RunnerError:
    message = f"{what}: {answer.message.rstrip('.')}."
    if isinstance(answer, Unclear) or answer.why is Why.NOT_NOW:
        return NotFinished(f"{message} Run the same command again later.")
    if answer.why is Why.NO_ACCESS:
        return AccessRefused(f"{message} Check the key and its permissions for files and batches.")
    return BadConfiguration(f"{message} This server cannot be tidied up from here.")


def _known(store_url: str) -> Known:
    if not path_of(store_url).exists():
        return NOTHING_KNOWN
    with Store.read_only(store_url) as store, store.read() as connection:
        return remotes.known(connection)


def _unmatched(store_url: str) -> list[tuple[Path, int]]:
    folder = lock_folder(path_of(store_url)) / "unmatched"
    paths: Iterable[Path] = sorted(folder.iterdir()) if folder.is_dir() else ()
    return [(path, path.stat().st_size) for path in paths if path.is_file()]


def _api(account: Account) -> BatchApi:
    provider = provider_of(account.provider, account.address.is_azure, account.api_version is not None)
    return BatchApi(account, provider)
