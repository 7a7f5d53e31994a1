"""One step of a batch's submission: what the protocol says next, done with the store and the Batch API.

The protocol (`runner.submission`) is pure; this performs it. Each record is in the store before the next step is
taken, and nothing is asked of the server twice. Whoever drives it takes one step after another, until the
record has ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from runner.errors import AccessRefused, MoneyRefused, RunnerError, StoreUnusable
from runner.remote import Answer, Created, Deleted, FileSeen, FilesSeen, Page, Refused, Unclear, Why
from runner.submission import SOMEBODYS_TURN, Do, Stage, Step, Submission
from runner.submission import Protocol as SubmissionProtocol

_UNDER_WAY = (Stage.UPLOADING, Stage.SENDING)
"""The stages whose record says that a request may be under way."""


class BytesGone(Exception):
    """The shard's exact bytes cannot be had any more, and its batch was surely not created: plan its rows anew."""


class Stepped(NamedTuple):
    """What one step came to. Nothing is due before `until`, in seconds since 1970; None if it has ended, or goes
    on at once. `refused` is set where the server refused this step's upload or create, and did nothing; `trouble` is
    what an answer says that settled nothing."""

    submission: Submission
    until: float | None = None
    refused: Refused | None = None
    trouble: str = ""


class SubmissionApi(Protocol):
    """What a submission asks of the server: each is asked once, and raises nothing for what servers do."""

    async def upload(self, path: Path, name: str) -> FileSeen | Refused | Unclear:
        """Upload a batch's input file under that name."""
        ...

    async def find_files(self, name: str, size: int) -> FilesSeen | Refused | Unclear:
        """The files that bear the name, newest first; those of that size in bytes with their SHA-256."""
        ...

    async def create(
        self, file_id: str, endpoint: str, metadata: Mapping[str, str]
    ) -> Created | Refused | Unclear:
        """Create a batch of an uploaded file."""
        ...

    async def list_page(self, after: str | None) -> Page | Refused | Unclear:
        """A page of the account's batches, newest first, after the batch of that id."""
        ...

    async def delete_file(self, file_id: str) -> Deleted | Refused | Unclear:
        """Delete a file."""
        ...


class Submitting:
    """Takes the steps of submissions. `keep` is done when the record is on disk, under this process's epoch;
    `bytes_of` gives the file with the shard's exact bytes, None where they cannot be had; `clock` tells the
    seconds since 1970.
    """

    def __init__(
        self,
        protocol: SubmissionProtocol,
        api: SubmissionApi,
        keep: Callable[[int, Submission], Awaitable[object]],
        *,
        bytes_of: Callable[[Submission], Awaitable[Path | None]],
        clock: Callable[[], float],
    ) -> None:
        self._protocol = protocol
        self._api = api
        self._keep = keep
        self._bytes_of = bytes_of
        self._clock = clock
        self._known: set[int] = set()

    async def step(self, batch_id: int, sub: Submission, endpoint: str) -> Stepped:
        """Do what is due now: keep a record, or ask the server one thing and keep what it led to.

        `endpoint` is the url that a create names ("/v1/responses"). A record that was not brought to where it
        stands by a whole step of this object is taken for one that another process left. Raises BytesGone;
        AccessRefused or MoneyRefused, once the record is kept, where the account is refused; StoreUnusable where
        the shard's file cannot be read; and whatever `keep` raises. After any of them the record in the store is
        the one to go on with.
        """
        now = self._clock()
        # Whoever is cut off within a step, or cannot keep what it led to, does not know any more what is under way.
        left_by_another = sub.stage in _UNDER_WAY and batch_id not in self._known
        self._known.discard(batch_id)
        if left_by_another:
            recovered = self._protocol.recover(sub, now)
            await self._keep(batch_id, recovered)
            return self._stepped(batch_id, recovered)
        step = self._protocol.next_step(sub, now)
        if step.do in (Do.WAIT, Do.END):
            return self._stepped(batch_id, step.submission)
        if step.do is Do.KEEP:
            await self._keep(batch_id, step.submission)
            return self._stepped(batch_id, step.submission)
        answer = await self._ask(step, endpoint)
        led_to = self._protocol.after(step.submission, answer, self._clock())
        if led_to.look is None:
            await self._keep(batch_id, led_to)
        if isinstance(answer, Refused):
            if (error := _stop_for(step, answer)) is not None:
                raise error
            if step.do in (Do.UPLOAD, Do.CREATE):
                return self._stepped(batch_id, led_to, answer)
        return self._stepped(batch_id, led_to, trouble=answer)

    def _stepped(
        self, batch_id: int, sub: Submission, refused: Refused | None = None, trouble: Answer | None = None
    ) -> Stepped:
        if sub.stage in _UNDER_WAY:
            self._known.add(batch_id)
        following = self._protocol.next_step(sub, self._clock())
        said = refused or trouble
        return Stepped(
            sub,
            following.until if following.do is Do.WAIT else None,
            refused,
            said.message if isinstance(said, (Refused, Unclear)) else "",
        )

    async def _ask(self, step: Step, endpoint: str) -> Answer:
        sub = step.submission
        if step.do is Do.CREATE:
            # Nothing may be awaited between the step, which saw that t_send is new, and this.
            return await self._api.create(_known_file(sub), endpoint, sub.metadata)
        if step.do is Do.LIST:
            assert sub.look is not None
            return await self._api.list_page(sub.look.after)
        if step.do is Do.DELETE_FILE:
            return await self._api.delete_file(_known_file(sub))
        path = await self._bytes_of(sub)
        if path is None:
            raise BytesGone
        try:
            if step.do is Do.FIND_FILE:
                return await self._api.find_files(sub.filename, path.stat().st_size)
            return await self._api.upload(path, sub.filename)
        except OSError as error:
            raise StoreUnusable(
                f"The input file of a batch, {path}, cannot be read: {error.strerror or error}. No batch of it was "
                "created. See to the folder, then run the same command again: it writes the file anew if need be."
            ) from error


def _known_file(sub: Submission) -> str:
    assert sub.file_id is not None
    return sub.file_id


def _stop_for(step: Step, refused: Refused) -> RunnerError | None:
    """The error that ends the run, if the refusal is one of the account."""
    if refused.why not in SOMEBODYS_TURN:
        return None
    said = (refused.message or refused.why.value).rstrip(".")
    told = f"The Batch API refused {_asked(step)}: {said}. {_standing(step.submission)}"
    if refused.why is Why.NO_MONEY:
        return MoneyRefused(f"{told} Top up or raise the limit, then run the same command again.")
    return AccessRefused(f"{told} {_access_advice(refused.code)}, then run the same command again.")


def _access_advice(code: str) -> str:
    match code:
        case "tls_error":
            return "Check the base URL, and the certificates (SSL_CERT_FILE)"
        case "proxy_authentication":
            return "Check HTTPS_PROXY and its password"
        case _:
            return "Check the key (OPENAI_API_KEY) and its permissions for files and batches"


def _asked(step: Step) -> str:
    sub = step.submission
    match step.do:
        case Do.UPLOAD:
            return f"the upload of {sub.filename}"
        case Do.CREATE:
            return f"to create the batch of {sub.filename} (file {sub.file_id})"
        case Do.FIND_FILE:
            return f"to list the files, among which {sub.filename} may be"
        case Do.DELETE_FILE:
            return f"to delete the file {sub.file_id}"
        case _:
            return f"to list the batches, among which that of {sub.filename} (file {sub.file_id}) may be"


def _standing(sub: Submission) -> str:
    if sub.stage in (Stage.UPLOADING, Stage.SEEKING, Stage.SENDING):
        return "No batch of it was created, and what is answered is kept."
    return "What is answered is kept; until it is known whether that batch was created, no other is in its place."
