"""The control plane: models, files, batches and the ledger, and the faults that their requests meet."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from runner.simulator import failures, transfers, wire
from runner.simulator.admission import Window
from runner.simulator.batch import ENDPOINTS
from runner.simulator.batches import Batches, no_batch, too_many_batches
from runner.simulator.calls import INVALID_KEY, Calls
from runner.simulator.faults import CANCEL, CREATE, DOWNLOAD, LIST, UPLOAD, Fault
from runner.simulator.files import Files
from runner.simulator.profiles import find_profile
from runner.simulator.refusal import Refusal

STANDING_HEADERS = {
    "content-type": "application/json",
    "openai-organization": "org-sim",
    "openai-version": "2020-10-01",
}
_MINUTE = 60
_BEYOND_STATUS = ("cut", "short", "long", "stall", "gzip")

Handler = Callable[[web.BaseRequest, str], Awaitable[web.StreamResponse]]
Step = Callable[[], Awaitable[dict[str, Any]]]
Listing = Callable[..., dict[str, Any]]


class Control:
    """Answers everything that is not a model call. `clock` runs with the event loop's time."""

    def __init__(self, calls: Calls, *, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._calls = calls
        self._clock = clock
        self._wall = wall
        self.profile = find_profile(calls.settings.profile)
        self._files = Files(seed=calls.settings.seed, wall=wall, clock=clock, meet=calls.meet)
        self._batches = Batches(calls, self._files, profile=self.profile, clock=clock, wall=wall)
        self._minute = Window(calls.settings.uploads_per_minute, _MINUTE, clock)
        self._comings: Counter[bytes] = Counter()
        self._late: set[asyncio.Task[None]] = set()
        self._requests = 0
        self._routes = self._listed_routes()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers a request, be it with a refusal."""
        self._requests += 1
        try:
            return await self._handle(request, self.profile.path(request.path))
        except Refusal as refusal:
            return self._json(refusal.body, status=refusal.status, headers=dict(refusal.headers))

    async def stop(self) -> None:
        """Ends all batches, and forgets them with all that was still to come."""
        for task in self._late:
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)
        await self._batches.stop()

    def close(self) -> None:
        """Deletes all files."""
        self._files.close()

    def _listed_routes(self) -> dict[tuple[str, str], Handler]:
        return {
            ("GET", "/v1/models"): self._list_models,
            ("GET", "/v1/models/*"): self._get_model,
            ("POST", "/v1/files"): self._upload,
            ("GET", "/v1/files"): self._list_files,
            ("GET", "/v1/files/*"): self._get_file,
            ("DELETE", "/v1/files/*"): self._delete_file,
            ("GET", "/v1/files/*/content"): self._download,
            ("POST", "/v1/batches"): self._create_batch,
            ("GET", "/v1/batches"): self._list_batches,
            ("GET", "/v1/batches/*"): self._get_batch,
            ("POST", "/v1/batches/*/cancel"): self._cancel_batch,
            ("POST", "/sim/batches/*"): self._force_batch,
            ("GET", "/sim/ledger"): self._show_ledger,
            ("POST", "/sim/reset"): self._forget,
            ("GET", "/sim/loop"): self._loop,
        }

    async def _handle(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        parts = path.rstrip("/").split("/")
        name = parts[3] if len(parts) > 3 else ""
        pattern = "/".join([*parts[:3], "*", *parts[4:]]) if name else "/".join(parts)
        handler = self._routes.get((request.method, pattern))
        if handler is None:
            raise self._no_route(request, path, pattern)
        if path.startswith("/v1/") and key_of(request) == INVALID_KEY:
            raise failures.refusal("401", "", wall=self._wall())
        return await handler(request, name)

    def _no_route(self, request: web.BaseRequest, path: str, pattern: str) -> Refusal:
        known = path in ENDPOINTS or any(route == pattern for _, route in self._routes)
        if known:
            return Refusal(405, f"Not allowed to {request.method} on {path}.", code="method_not_supported")
        return Refusal(404, f"Invalid URL ({request.method} {path})")

    def _met(self, digest: bytes, kind: str) -> Fault | None:
        """The fault that a request of this kind about this thing meets, by how often it has come."""
        name = digest + kind.encode()
        self._comings[name] += 1
        return self._calls.meet(digest, self._comings[name], kind)

    async def _list_models(self, _request: web.BaseRequest, _name: str) -> web.StreamResponse:
        catalogue = self._calls.catalogue
        return self._json({"object": "list", "data": [catalogue.describe(name) for name in catalogue.names]})

    async def _get_model(self, _request: web.BaseRequest, name: str) -> web.StreamResponse:
        return self._json(self._calls.catalogue.describe(name))

    async def _upload(self, request: web.BaseRequest, _name: str) -> web.StreamResponse:
        if not self._minute.admit():
            raise failures.refusal("429", "files", wall=self._wall())
        upload = await transfers.receive(request, self._files, self.profile.lifetimes)
        digest = self._files.digest(upload.path)

        async def keep() -> dict[str, Any]:
            stored = self._files.keep(
                upload.path, filename=upload.filename, purpose=upload.purpose, lifetime=upload.lifetime
            )
            shown = stored.shown(self._clock())
            self._calls.ledger.upload(shown, stored.digest.hex())
            return shown

        fault = self._met(digest, UPLOAD)
        if fault is not None and not fault.executed:
            upload.path.unlink()
        return await self._step(request, fault, keep)

    async def _list_files(self, request: web.BaseRequest, _name: str) -> web.StreamResponse:
        return await self._list(request, self._files.listed)

    async def _get_file(self, _request: web.BaseRequest, name: str) -> web.StreamResponse:
        return self._json(self._files.get(name).shown(self._clock()))

    async def _delete_file(self, _request: web.BaseRequest, name: str) -> web.StreamResponse:
        deleted = self._files.delete(name)
        self._calls.ledger.delete_upload(name)
        return self._json(deleted)

    async def _download(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        stored = self._files.get(name)
        fault = self._met(stored.digest, DOWNLOAD)
        if fault is not None and fault.manner == "404":
            raise Refusal(404, f"No such File object: {name}", param="id")
        if fault is not None and fault.manner not in _BEYOND_STATUS:
            return await self._failed(request, fault, None)
        return await transfers.send(request, stored.path, fault, self._request_id())

    async def _create_batch(self, request: web.BaseRequest, _name: str) -> web.StreamResponse:
        body = _parsed(await request.read())
        fault = self._met(self._batches.digest(body), CREATE)
        if fault is not None and fault.manner == "late":
            task = asyncio.get_running_loop().create_task(self._create_late(body, fault.figure))
            self._late.add(task)
            task.add_done_callback(self._late.discard)
            return wire.reset(request)
        return await self._step(request, fault, lambda: self._batches.create(body))

    async def _create_late(self, body: object, seconds: float) -> None:
        """Makes a batch long after its client was cut off; nobody hears of a refusal."""
        await asyncio.sleep(seconds)
        with contextlib.suppress(Refusal):
            await self._batches.create(body)

    async def _list_batches(self, request: web.BaseRequest, _name: str) -> web.StreamResponse:
        return await self._list(request, self._batches.listed)

    async def _get_batch(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        batch, fault = self._batches.poll(name)
        if batch.outage_until is not None and self._clock() < batch.outage_until:
            raise failures.refusal("500", "", wall=self._wall())
        if fault is None:
            return self._json(batch.view(self._clock()))
        if fault.executed:
            return self._json(batch.disfigured(fault.manner, self._clock()))
        if fault.manner == "404":
            raise no_batch(name)
        return await self._failed(request, fault, None)

    async def _cancel_batch(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        async def cancel() -> dict[str, Any]:
            return self._batches.cancel(name)

        return await self._step(request, self._met(name.encode(), CANCEL), cancel)

    async def _force_batch(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        return self._json(self._batches.force(name, _parsed(await request.read())))

    async def _show_ledger(self, _request: web.BaseRequest, _name: str) -> web.StreamResponse:
        return self._json(self._calls.ledger.snapshot())

    async def _forget(self, _request: web.BaseRequest, _name: str) -> web.StreamResponse:
        await self.stop()
        self._files.clear()
        self._comings.clear()
        self._minute = Window(self._calls.settings.uploads_per_minute, _MINUTE, self._clock)
        self._calls.reset()
        return self._json({"reset": True})

    async def _loop(self, _request: web.BaseRequest, _name: str) -> web.StreamResponse:
        return web.Response(status=302, headers={"location": "/sim/loop"})

    async def _list(self, request: web.BaseRequest, listed: Listing) -> web.StreamResponse:
        fault = self._met(request.path.encode(), LIST)
        query = dict(request.query)
        if fault is None or fault.manner == "overlap":
            return self._json(listed(query, overlap=fault is not None))
        if fault.manner == "empty":
            return self._json(
                {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
            )
        if fault.manner == "none":
            raise Refusal(404, f"Invalid URL ({request.method} {request.path})")
        return await self._failed(request, fault, None)

    async def _step(self, request: web.BaseRequest, fault: Fault | None, step: Step) -> web.StreamResponse:
        """Takes a step, or fails to, and answers it in the way of the fault."""
        if fault is None:
            return self._json(await step())
        shown = await step() if fault.executed else None
        return await self._failed(request, fault, shown)

    async def _failed(
        self, request: web.BaseRequest, fault: Fault, shown: dict[str, Any] | None
    ) -> web.StreamResponse:
        """The answer of a fault; `shown` is the sound one, where the step was taken."""
        manner = fault.manner.partition("-")[0]
        if manner in ("reset", "lost"):
            return wire.reset(request)
        if manner == "hang":
            await asyncio.Event().wait()
        if manner == "html":
            status, page = failures.page("html")
            return web.Response(
                body=page, status=status, headers={"content-type": "text/html; charset=utf-8"}
            )
        if manner == "truncated":
            body = orjson.dumps(shown)
            framing = f"content-length: {len(body)}"
            return wire.cut(request, STANDING_HEADERS, framing=framing, part=body[: len(body) // 2])
        raise self._refusal(fault, manner)

    def _refusal(self, fault: Fault, manner: str) -> Refusal:
        if fault.name == "create-429":
            return too_many_batches(self._calls.settings.batches_per_hour)
        if fault.name == "create-tokens":
            return self._batches.queue_full()
        return failures.refusal(manner, fault.meets, wall=self._wall())

    def _json(
        self, body: object, *, status: int = 200, headers: dict[str, str] | None = None
    ) -> web.Response:
        every = {**STANDING_HEADERS, **self._request_id(), **(headers or {})}
        return web.Response(body=orjson.dumps(body), status=status, headers=every)

    def _request_id(self) -> dict[str, str]:
        return {"x-request-id": f"req_control_{self._requests}"}


def key_of(request: web.BaseRequest) -> str:
    """The API key that a request brings, by either header."""
    given = request.headers.get("authorization")
    return given.removeprefix("Bearer ") if given else request.headers.get("api-key", "")


def _parsed(raw: bytes) -> object:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
