"""A file of the provider's, brought here whole: streamed, checked, taken up again where it was cut."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

import orjson

from runner.model import Reply
from runner.remote import Refused, Unclear

if TYPE_CHECKING:
    import httpx2

RESTARTS = 5
SLOWEST = 100_000
"""Bytes a second below which a transfer is given up, after its first minute."""
LONGEST = 3_600.0
"""Seconds for one try at a file of unknown size."""
WORTH_A_TRY = 8 * 2**20
"""Bytes of progress that earn a download all its restarts again."""
_SHORT_FILE = 65_536
_RANGE = re.compile(r"bytes (\d+)-\d+/")


class Downloaded(NamedTuple):
    """A whole file, its size in bytes."""

    size: int
    sha256: str


class Content(Protocol):
    """Asks for a file's content with these further headers."""

    def __call__(self, headers: dict[str, str]) -> AbstractAsyncContextManager[httpx2.Response]: ...


class Sink:
    """Where the bytes go: to a file, or nowhere but into their hash. Keeps one line in memory."""

    def __init__(self, file: BinaryIO | None = None) -> None:
        self._file = file
        self.size = 0
        self.begin()

    def begin(self) -> None:
        """Forget all, and begin again."""
        if self._file is not None and self.size:
            self._file.seek(0)
            self._file.truncate()
        self.size = 0
        self._sha = hashlib.sha256()
        self._last = b""
        self._first = b""

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if self._file is not None:
            self._file.write(chunk)
        self._sha.update(chunk)
        if len(self._first) < _SHORT_FILE:
            self._first += chunk[: _SHORT_FILE - len(self._first)]
        end = chunk.rfind(b"\n") + 1
        self._last = chunk[end:] if end else self._last + chunk
        self.size += len(chunk)

    @property
    def downloaded(self) -> Downloaded:
        return Downloaded(self.size, self._sha.hexdigest())

    @property
    def ends_well(self) -> bool:
        """Whether the last line has its end, or is whole without it."""
        return not self._last.strip() or _json(self._last) is not None

    @property
    def is_error(self) -> bool:
        """Whether this is no file at all but an error's body, given with a 200."""
        found = _json(self._first) if 0 < self.size <= _SHORT_FILE else None
        return isinstance(found, dict) and "error" in found and "custom_id" not in found


class Fetch:
    """One file on its way. `told` is the size that its server names, `refused` says what a reply that is no 2xx
    means."""

    def __init__(
        self,
        content: Content,
        sink: Sink,
        *,
        told: int | None,
        refused: Callable[[Reply], Refused | Unclear],
        patience: float,
    ) -> None:
        self._content = content
        self._sink = sink
        self._told = told
        self._refused = refused
        self._seconds = patience + (LONGEST if told is None else told / SLOWEST)
        self._left = RESTARTS + 1
        self._high_water = 0
        self._goes_on = False
        self._encoded = False
        self._framed = False
        self._etag = ""
        self._seen_sha = ""

    async def run(self, *, sleep: Callable[[float], Awaitable[None]]) -> Downloaded | Refused | Unclear:
        """Fetch it, in as many tries as it takes and there are. OSErrors of the disk pass through."""
        from tenacity import AsyncRetrying, retry_if_result, wait_random_exponential

        patient = AsyncRetrying(
            retry=retry_if_result(lambda got: isinstance(got, Unclear)),
            stop=lambda _: self._left <= 0,
            wait=wait_random_exponential(multiplier=0.5, max=20.0),
            sleep=sleep,
            retry_error_callback=lambda state: state.outcome and state.outcome.result(),
        )
        got: Downloaded | Refused | Unclear = await patient(self._try)
        return got

    async def _try(self) -> Downloaded | Refused | Unclear:
        import openai

        from runner.api.exchange import BROKEN, as_reply, broken

        offset = self._sink.size if self._goes_on else 0
        try:
            async with (
                asyncio.timeout(self._seconds),
                self._content(self._headers(offset)) as response,
            ):
                fault = self._begin(response, offset)
                if fault is None:
                    async for chunk in response.aiter_bytes():
                        self._sink.write(chunk)
        except openai.APIStatusError as error:
            self._goes_on = self._goes_on and error.status_code != 416
            self._left -= 1
            return (
                self._unclear("no such part")
                if error.status_code == 416
                else self._refused(as_reply(error.response))
            )
        except BROKEN as error:
            self._cut()
            return self._unclear(broken(error, self._seconds).detail)
        if fault is None:
            fault = self._doubt()
            if fault is None:
                return self._sink.downloaded
        self._left -= 1
        return self._unclear(fault)

    def _headers(self, offset: int) -> dict[str, str]:
        # Parts can be asked for only of what is not compressed.
        headers = {"Accept-Encoding": "identity" if self._encoded or offset else "gzip, deflate"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if self._etag:
                headers["If-Range"] = self._etag
        return headers

    def _begin(self, response: httpx2.Response, offset: int) -> str | None:
        """Make ready for a body; what is wrong with its head, if anything is."""
        headers = response.headers
        self._encoded = headers.get("content-encoding", "identity").lower() not in ("", "identity")
        self._framed = "content-length" in headers or "transfer-encoding" in headers
        etag = headers.get("etag", "")
        self._etag = "" if etag.startswith("W/") else etag
        if headers.get("content-type", "").lower().startswith("text/html"):
            return "an HTML page instead of the file"
        if response.status_code == 206:
            found = _RANGE.match(headers.get("content-range", ""))
            if offset and not self._encoded and found is not None and int(found[1]) == offset:
                return None
            self._goes_on = False
            return "another part than the one asked for"
        self._sink.begin()
        return None

    def _cut(self) -> None:
        self._goes_on = self._sink.size > 0 and not self._encoded
        if self._goes_on and self._sink.size >= self._high_water + WORTH_A_TRY:
            self._high_water = self._sink.size
            self._left = RESTARTS
        else:
            self._left -= 1

    def _doubt(self) -> str | None:
        """Why what came may not be the whole file."""
        sink, told = self._sink, self._told
        size, sha = sink.downloaded
        short = told is not None and size < told
        fault = None
        if sink.is_error:
            fault = "an error instead of the file"
        elif told is not None and size != told:
            fault = f"{size:,} bytes instead of {told:,}"
        elif not sink.ends_well:
            fault = "a last line without its end"
        # What comes twice alike, and as long as was said, is what the server has.
        if fault and self._framed and sha == self._seen_sha and not short and not sink.is_error:
            fault = None
        self._seen_sha = sha
        self._goes_on = short and size > 0 and not self._encoded and not sink.is_error
        return fault

    def _unclear(self, fault: str) -> Unclear:
        whole = "" if self._told is None else f" of {self._told:,}"
        return Unclear(f"the file came not whole ({fault}), {self._sink.size:,} bytes{whole} so far")


@contextmanager
def part_of(to: Path) -> Iterator[BinaryIO]:
    """A file beside `to`, readable by its owner alone, for bytes that are not all there; gone at the end."""
    part = to.with_name(to.name + ".part")
    try:
        with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "r+b", 2**20) as file:
            yield file
    finally:
        part.unlink(missing_ok=True)


def put_in_place(file: BinaryIO, to: Path) -> None:
    """Give a whole part its own name, once its bytes are on disk."""
    file.flush()
    os.fsync(file.fileno())
    to.with_name(to.name + ".part").replace(to)
    folder = os.open(to.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _json(text: bytes) -> object:
    try:
        return orjson.loads(text.decode("utf-8", "replace"))
    except orjson.JSONDecodeError:
        return None
