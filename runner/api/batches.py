"""The Batch API over the SDK's client: files and batches, each answer in the words of `runner.remote`.

Nothing here raises for what a server or a network does. What a server does once for each asking (an upload, a
create, a cancel) is asked exactly once; what is safe to repeat is asked a few times before it is Unclear.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self, cast

from runner.api.account import Account
from runner.api.batch_reading import (
    batch_of,
    file_of,
    read_batch,
    read_created,
    read_deleted,
    read_file,
    read_items,
    read_newest,
    read_page,
)
from runner.api.client import control
from runner.api.download import SLOWEST, Downloaded, Fetch, Sink, part_of, put_in_place
from runner.api.inquiry import Inquiry
from runner.model import Reply
from runner.provider import OPENAI, Provider
from runner.remote import (
    Created,
    Deleted,
    FileSeen,
    FilesSeen,
    Page,
    Refused,
    RemoteBatch,
    Unclear,
    Why,
)

if TYPE_CHECKING:
    import httpx2
    from aiolimiter import AsyncLimiter

__all__ = ["BatchApi", "Downloaded"]

PATIENCE = 60.0
"""Seconds for a request in all; transfers have more, by their size."""
ATTEMPTS = 3
BATCHES_A_PAGE = 100
FILES_A_PAGE = 10_000


class BatchApi:
    """The account's files and batches; use it as `async with`.

    `patience` is the time for one request, in seconds. Credentials that cannot be had raise what their source
    raises; so does the disk (OSError).
    """

    def __init__(
        self,
        account: Account,
        provider: Provider = OPENAI,
        *,
        patience: float = PATIENCE,
        attempts: int = ATTEMPTS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.provider = provider
        self._account = account
        self._origin = account.address.origin
        self._make_inquiry = partial(
            Inquiry, account, patience=patience, attempts=attempts, sleep=sleep, now=now
        )

    async def __aenter__(self) -> Self:
        self._client = control(self._account)
        await self._client.__aenter__()
        self._creates = _at_most(self.provider.creates_per_hour, 3600.0)
        self._uploads = _at_most(self.provider.uploads_per_minute, 60.0)
        self._inquiry = self._make_inquiry()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    # --- what is asked exactly once -------------------------------------------------------------------

    async def upload(self, path: Path, name: str) -> FileSeen | Refused | Unclear:
        """Upload a file under this name, streamed from disk; one POST. OSError if it cannot be read."""
        import openai

        life = self.provider.file_expiry
        asked = f"the upload of {name}"
        size = await asyncio.to_thread(_size, path)
        seconds = self._inquiry.patience + size / SLOWEST
        await self._uploads.acquire()
        with _opened(path) as file:
            reply = await self._inquiry.once(
                lambda: self._client.files.with_raw_response.create(
                    file=(name, file),
                    purpose="batch",
                    expires_after=openai.omit if life is None else {"anchor": "created_at", "seconds": life},
                    timeout=self._inquiry.timeout,
                ),
                seconds,
            )
        return self._inquiry.read(reply, asked, read_file, operation="upload")

    async def create(
        self, file_id: str, endpoint: str, metadata: Mapping[str, str]
    ) -> Created | Refused | Unclear:
        """Make a batch of an uploaded file; one POST. `endpoint` is the url that its lines name.

        It goes out at once or not at all: where the hour has had its batches, it is refused for now.
        """
        asked = "the create of a batch"
        if not self._creates.has_capacity():
            wait = self._creates.time_period / self._creates.max_rate
            most = self.provider.creates_per_hour
            return Refused(Why.NOT_NOW, f"{self._origin} takes {most:,} batches an hour", wait)
        await self._creates.acquire()
        reply = await self._inquiry.once(
            lambda: self._client.batches.with_raw_response.create(
                completion_window="24h",
                endpoint=cast("Any", endpoint),
                input_file_id=file_id,
                metadata=dict(metadata),
                timeout=self._inquiry.timeout,
            )
        )
        return self._inquiry.read(reply, asked, lambda body: read_created(body, file_id), operation="create")

    async def cancel(self, batch_id: str) -> RemoteBatch | Refused | Unclear:
        """Let a batch end; one POST. One that has ended already is given back as it is."""
        asked = f"the cancel of {batch_id}"
        reply = await self._inquiry.once(
            lambda: self._client.batches.with_raw_response.cancel(batch_id, timeout=self._inquiry.timeout)
        )
        if reply.status == 409:
            return await self.retrieve(batch_id)
        return self._inquiry.read(reply, asked, lambda body: read_batch(body, batch_id))

    # --- what is safe to repeat -----------------------------------------------------------------------

    async def retrieve(self, batch_id: str) -> RemoteBatch | Refused | Unclear:
        """Look at a batch."""
        return await self._inquiry.until_clear(
            lambda: self._client.batches.with_raw_response.retrieve(batch_id, timeout=self._inquiry.timeout),
            f"a look at {batch_id}",
            lambda body: read_batch(body, batch_id),
        )

    async def list_page(self, after: str | None = None) -> Page | Refused | Unclear:
        """The account's batches after that id, newest first, a hundred at most."""
        return await self._inquiry.until_clear(
            lambda: self._list_batches(after),
            "the list of batches",
            lambda body: read_page(body, after, limit=BATCHES_A_PAGE),
            operation="list",
        )

    async def newest(self) -> list[RemoteBatch] | Refused | Unclear:
        """The account's newest batches, a hundred at most, newest first."""
        return await self._inquiry.until_clear(
            lambda: self._list_batches(None),
            "the list of batches",
            lambda body: read_newest(body, limit=BATCHES_A_PAGE),
            operation="list",
        )

    async def delete_file(self, file_id: str) -> Deleted | Refused | Unclear:
        """Delete a file. One that is not there is deleted."""
        asked = f"the deletion of {file_id}"
        got = await self._inquiry.until_clear(
            lambda: self._client.files.with_raw_response.delete(file_id, timeout=self._inquiry.timeout),
            asked,
            read_deleted,
        )
        return Deleted() if isinstance(got, Refused) and got.why is Why.FILE_GONE else got

    async def find_files(self, name: str, size: int | None) -> FilesSeen | Refused | Unclear:
        """All files that bear the name, newest first, those of that size with the SHA-256 of their bytes.

        Where the server does not hand their bytes out, `sha256` is None.
        """
        found: list[FileSeen] = []
        async for file in self.files(purpose="batch"):
            if not isinstance(file, FileSeen):
                return file
            if file.name != name:
                continue
            seen = file
            if size is None or file.size in (None, size):
                hashed = await self._fetch(file.id, Sink(), file.size)
                if isinstance(hashed, Unclear):
                    return hashed
                if isinstance(hashed, Refused) and hashed.why is Why.FILE_GONE:
                    continue
                if isinstance(hashed, Downloaded):
                    seen = file._replace(sha256=hashed.sha256, size=hashed.size)
            found.append(seen)
        return FilesSeen(tuple(sorted(found, key=lambda file: file.created_at, reverse=True)))

    async def download(self, file_id: str, to: Path) -> Downloaded | Refused | Unclear:
        """Bring a file to disk, whole and synced, or leave `to` as it is. OSError for trouble of the disk."""
        told = await self._inquiry.until_clear(
            lambda: self._client.files.with_raw_response.retrieve(file_id, timeout=self._inquiry.timeout),
            f"a look at {file_id}",
            read_file,
        )
        with part_of(to) as part:
            got = await self._fetch(file_id, Sink(part), told.size if isinstance(told, FileSeen) else None)
            if isinstance(got, Downloaded):
                await asyncio.to_thread(put_in_place, part, to)
        return got

    async def files(self, purpose: str | None = None) -> AsyncIterator[FileSeen | Refused | Unclear]:
        """Every file of the account, newest first; a Refused or Unclear comes last, where the list was cut.

        `created_at` is 0.0 where the server does not say.
        """
        async for one in self._pages(lambda after: self._list_files(purpose, after), "files", FILES_A_PAGE):
            file = one if isinstance(one, (Refused, Unclear)) else file_of(one)
            if file is not None:
                yield file

    async def batches(self) -> AsyncIterator[RemoteBatch | Refused | Unclear]:
        """Every batch of the account, newest first; a Refused or Unclear comes last, where the list was cut."""
        async for one in self._pages(self._list_batches, "batches", BATCHES_A_PAGE):
            batch = one if isinstance(one, (Refused, Unclear)) else batch_of(one)
            if batch is not None:
                yield batch

    # --- how it is asked ------------------------------------------------------------------------------

    async def _list_files(self, purpose: str | None, after: str | None) -> Any:
        import openai

        return await self._client.files.with_raw_response.list(
            purpose=purpose or openai.omit,
            after=after or openai.omit,
            limit=FILES_A_PAGE,
            order="desc",
            timeout=self._inquiry.timeout,
        )

    async def _list_batches(self, after: str | None) -> Any:
        import openai

        return await self._client.batches.with_raw_response.list(
            after=after or openai.omit, limit=BATCHES_A_PAGE, timeout=self._inquiry.timeout
        )

    async def _pages(
        self, ask: Callable[[str | None], Awaitable[Any]], what: str, limit: int
    ) -> AsyncIterator[Mapping[str, Any] | Refused | Unclear]:
        after: str | None = None
        seen: set[str] = set()
        more = True
        while more:
            page = await self._inquiry.until_clear(
                lambda after=after: ask(after),  # type: ignore[misc]
                f"the list of {what}",
                lambda body, after=after: read_items(body, after, limit=limit),  # type: ignore[misc]
                operation="list",
            )
            if isinstance(page, (Refused, Unclear)):
                yield page
                return
            items, more = page
            fresh = [one for one in items if one["id"] not in seen]
            for one in fresh:
                yield one
            seen.update(one["id"] for one in fresh)
            more = more and bool(fresh)
            after = items[-1]["id"] if items else None

    async def _fetch(self, file_id: str, sink: Sink, told: int | None) -> Downloaded | Refused | Unclear:
        asked = f"the download of {file_id}"

        @asynccontextmanager
        async def content(headers: dict[str, str]) -> AsyncIterator[httpx2.Response]:
            await self._inquiry.pace()
            files = self._client.files.with_streaming_response
            async with files.content(file_id, extra_headers=headers, timeout=self._inquiry.timeout) as answer:
                yield answer.http_response

        def refused(reply: Reply) -> Refused | Unclear:
            return self._inquiry.read(reply, asked, lambda _: None)

        fetch = Fetch(content, sink, told=told, refused=refused, patience=self._inquiry.patience)
        return await fetch.run(sleep=self._inquiry.sleep)


def _at_most(count: int, seconds: float) -> AsyncLimiter:
    """A limiter that lets no more than `count` through in any stretch of so many seconds.

    A bucket lets its whole content through at once, and what runs in besides: a tenth and nine tenths here.
    """
    from aiolimiter import AsyncLimiter

    return AsyncLimiter(count / 10, seconds / 9)


def _size(path: Path) -> int:
    return path.stat().st_size


def _opened(path: Path) -> BinaryIO:
    return path.open("rb")
