"""Hearing of batches by webhook: a hint alone, kept once in the store; what is true, the batch itself says."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from runner.api.account import Account
from runner.api.batches import BatchApi
from runner.api.webhooks import Delivery, Signatures, WebhookServer
from runner.errors import RunnerError, UsageError
from runner.provider import Provider, provider_of
from runner.remote import Refused, RemoteBatch, Unclear
from runner.stop import Stop
from runner.store import batches, series, webhooks
from runner.store.batches import Kept
from runner.store.database import Store
from runner.store.identity import Identity
from runner.store.locks import SeriesLock

LOOK_SECONDS = 60.0
"""How long a look at a batch may take; the run that waits for it looks by itself anyway."""

Emit = Callable[[dict[str, Any]], None]
Retrieve = Callable[[str], Awaitable[RemoteBatch | Refused | Unclear]]


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen, for whose deliveries. `secret` is the one that the webhook was made with."""

    account: Account
    store_url: str
    host: str
    port: int
    secret: str = field(repr=False)


def listen(what: Listen, *, stop: Stop, emit: Emit) -> None:
    """Take deliveries until asked to stop. UsageError if the port cannot be had."""
    asyncio.run(_listen(what, stop, emit))


async def _listen(what: Listen, stop: Stop, emit: Emit) -> None:
    stopped = asyncio.Event()
    signatures = Signatures(what.account, what.secret)
    try:
        with Store.open(what.store_url) as store, stop.listening(lambda _: stopped.set()):
            async with BatchApi(what.account, _provider(what.account)) as api:
                hints = Hints(store, what.account, api.retrieve, emit)
                server = WebhookServer(signatures, hints.take, Refusals(emit))
                try:
                    port = await _open(server, what)
                    emit({"event": "listening", "host": what.host, "port": port})
                    await stopped.wait()
                finally:
                    await server.close()
                    await hints.close()
    finally:
        await signatures.close()


class Hints:
    """Keeps each delivery about a batch once, and looks at the batch once the sender has been answered."""

    def __init__(self, store: Store, account: Account, retrieve: Retrieve, emit: Emit) -> None:
        self._store = store
        self._account = account
        self._retrieve = retrieve
        self._emit = emit
        self._looks: set[asyncio.Task[None]] = set()

    async def take(self, delivery: Delivery) -> None:
        """Keep a delivery: it is on disk when this returns. StoreUnusable if that cannot be."""
        batch_id = delivery.subject if delivery.type.startswith("batch.") else None
        if batch_id is None:
            self._emit({"event": "other", "type": delivery.type, "subject": delivery.subject})
            return
        if not await asyncio.to_thread(self._note, delivery, batch_id):
            self._emit({"event": "repeated", "type": delivery.type, "batch": batch_id})
            return
        look = asyncio.get_running_loop().create_task(self._look(delivery.type, batch_id))
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)

    async def settled(self) -> None:
        """Wait until nothing is being looked at."""
        while self._looks:
            await asyncio.wait(self._looks)

    async def close(self) -> None:
        """Break off what is still being looked at: it is kept, and whoever waits for the batch looks anyway."""
        for look in self._looks:
            look.cancel()
        await self.settled()

    def _note(self, delivery: Delivery, batch_id: str) -> bool:
        with self._store.write() as connection:
            return webhooks.note(connection, [(delivery.webhook_id, batch_id, delivery.type)])[0]

    async def _look(self, kind: str, batch_id: str) -> None:
        try:
            ours = await asyncio.to_thread(self._find, batch_id)
        except RunnerError as error:
            self._emit({"event": "warning", "message": f"Batch {batch_id} could not be looked up: {error}"})
            return
        told = {"type": kind, "batch": batch_id}
        if ours is None:
            self._emit({"event": "unknown", **told})
            return
        seen = await self._see(ours, batch_id)
        told |= {"run": ours.kept.run_name, "job": ours.identity.job_name}
        self._emit({"event": "told", **told, **_shown(seen), "next": _next(ours, seen)})

    async def _see(self, ours: Ours, batch_id: str) -> RemoteBatch | str:
        """The batch itself, or why it was not seen."""
        if not self._is_of_this_account(ours.identity):
            where = f"{ours.identity.provider} at {ours.identity.origin}"
            return f"it is of another account ({where}) than this process listens for"
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                seen = await self._retrieve(batch_id)
        except TimeoutError:
            return f"the server said nothing for {LOOK_SECONDS:g} seconds"
        except RunnerError as error:
            return f"it could not be looked at ({error})"
        if isinstance(seen, RemoteBatch):
            return seen
        return f"it could not be looked at ({seen.message or 'no answer'})"

    def _find(self, batch_id: str) -> Ours | None:
        with self._store.read() as connection:
            kept = batches.find_remote(connection, batch_id)
            if kept is None:
                return None
            identity = series.identity_of(connection, kept.series_id)
        waits = SeriesLock(self._store.path, identity.digest).holder() is not None
        return Ours(kept, identity, waits)

    def _is_of_this_account(self, identity: Identity) -> bool:
        ours = self._account
        return (identity.provider, identity.origin, identity.organization, identity.project) == (
            ours.provider,
            ours.origin,
            ours.organization or "",
            ours.project or "",
        )


class Ours(NamedTuple):
    """A batch that the store knows; `waits` says whether a process runs its series now."""

    kept: Kept
    identity: Identity
    waits: bool


class Refusals:
    """Says what was refused, ever more rarely: the first, the second, the fourth, the eighth ..."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._count = 0

    def __call__(self, status: int, why: str) -> None:
        self._count += 1
        # A stranger who sends a million must not fill the disk of whoever keeps what we print.
        if status == 503 or self._count & (self._count - 1) == 0:
            self._emit({"event": "refused", "status": status, "why": why, "times": self._count})


async def _open(server: WebhookServer, what: Listen) -> int:
    try:
        return await server.open(what.host, what.port)
    except OSError as error:
        # asyncio's own text names the address once more; of a name that is not found it is all there is.
        known = error.errno is not None and error.errno > 0
        why = os.strerror(error.errno) if known and error.errno is not None else str(error.strerror or error)
        raise UsageError(
            f"Port {what.port} of {what.host} cannot be listened on: {why}. Name another with --port (0 is any free "
            "one), or another address of this machine with --host."
        ) from error


def _provider(account: Account) -> Provider:
    return provider_of(account.provider, account.address.is_azure, account.api_version is not None)


def _shown(seen: RemoteBatch | str) -> dict[str, Any]:
    if isinstance(seen, str):
        return {"state": None, "why": seen}
    return {"state": seen.status, "lines": seen.total, "completed": seen.completed, "failed": seen.failed}


def _next(ours: Ours, seen: RemoteBatch | str) -> str:
    run = ours.kept.run_name
    if ours.kept.ended_at is not None:
        return f"Nothing: it has ended here already ({ours.kept.result})."
    if isinstance(seen, RemoteBatch) and not seen.has_ended:
        return "Nothing: it is not at its end."
    if ours.waits:
        return "Nothing: the process that waits for it has been told."
    if isinstance(seen, str):
        return f"`runner resume {run}` looks again."
    if seen.status == "completed":
        return f"`runner resume {run}` collects it."
    return f"`runner resume {run}` collects what it did, and asks the rest again."
