"""HTTP: which path leads where, and how an answer goes out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
from aiohttp import BodyPartReader, web

from runner.simulator import chat, embeddings, failures, responses, wire
from runner.simulator.batches import Batches
from runner.simulator.calls import INVALID_KEY, Calls
from runner.simulator.files import Files
from runner.simulator.ledger import Ledger
from runner.simulator.refusal import Refusal, invalid_value, missing
from runner.simulator.settings import Settings

MAX_BODY = 64 * 1024 * 1024
_ENDPOINTS = {module.PATH: module.NAME for module in (chat, responses, embeddings)}
_STANDING_HEADERS = {
    "content-type": "application/json",
    "openai-organization": "org-sim",
    "openai-version": "2020-10-01",
}

Handler = Callable[[web.BaseRequest, str], Awaitable[web.StreamResponse]]


class Server:
    """The simulator on the running event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._calls = Calls(settings, clock=time.monotonic, wall=time.time)
        self._files = Files(seed=settings.seed, wall=time.time)
        self._batches = Batches(self._calls, self._files, wall=time.time)
        self._requests = 0
        self._web: web.Server | None = None
        self._listener: asyncio.Server | None = None
        self._routes = self._control_routes()

    @property
    def ledger(self) -> Ledger:
        """The book of all calls."""
        return self._calls.ledger

    async def listen(self) -> int:
        """Opens the port and says which one it is."""
        self._web = web.Server(
            self._handle,
            request_factory=_request,
            handler_cancellation=True,
            access_log=None,
        )
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            self._web, self.settings.host, self.settings.port, backlog=2048
        )
        return int(self._listener.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Closes the port and all connections, ends the batches, deletes the files."""
        if self._listener is not None:
            self._listener.close()
        await self._batches.stop()
        if self._web is not None:
            await self._web.shutdown(0.1)
        if self._listener is not None:
            await self._listener.wait_closed()
        self._files.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        endpoint = _ENDPOINTS.get(path)
        if endpoint is not None and request.method == "POST":
            return await self._call(request, endpoint)
        self._requests += 1
        try:
            return await self._control(request, path)
        except Refusal as refusal:
            return self._json(refusal.body, status=refusal.status, headers=dict(refusal.headers))

    async def _call(self, request: web.BaseRequest, endpoint: str) -> web.StreamResponse:
        result = self._calls.online(endpoint, await request.read(), key=_key(request))
        if self.settings.latency:
            await asyncio.sleep(self.settings.latency)
        headers = {**_STANDING_HEADERS, **result.headers}
        headers["x-request-id"] = result.request_id
        headers["openai-processing-ms"] = str(int(self.settings.latency * 1000) + 1)
        result.headers = headers
        if result.fault is not None:
            return await wire.send(request, result)
        return web.Response(body=result.body, status=result.status, headers=headers)

    # The control plane: everything that is not a model call.

    def _control_routes(self) -> dict[tuple[str, str], Handler]:
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
            ("GET", "/sim/ledger"): self._show_ledger,
            ("POST", "/sim/reset"): self._forget,
            ("GET", "/sim/loop"): self._loop,
        }

    async def _control(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        parts = path.rstrip("/").split("/")
        name = parts[3] if len(parts) > 3 else ""
        pattern = "/".join([*parts[:3], "*", *parts[4:]]) if name else "/".join(parts)
        handler = self._routes.get((request.method, pattern))
        if handler is None:
            raise self._no_route(request, path, pattern)
        if path.startswith("/v1/") and _key(request) == INVALID_KEY:
            raise failures.refusal("401", "", wall=time.time())
        return await handler(request, name)

    def _no_route(self, request: web.BaseRequest, path: str, pattern: str) -> Refusal:
        known = path in _ENDPOINTS or any(route == pattern for _, route in self._routes)
        if known:
            return Refusal(405, f"Not allowed to {request.method} on {path}.", code="method_not_supported")
        return Refusal(404, f"Invalid URL ({request.method} {path})")

    async def _list_models(self, _request: web.BaseRequest, _name: str) -> web.StreamResponse:
        catalogue = self._calls.catalogue
        return self._json({"object": "list", "data": [catalogue.describe(name) for name in catalogue.names]})

    async def _get_model(self, _request: web.BaseRequest, name: str) -> web.StreamResponse:
        return self._json(self._calls.catalogue.describe(name))

    async def _upload(self, request: web.BaseRequest, _name: str) -> web.StreamResponse:
        if not request.content_type.startswith("multipart/"):
            raise missing("file")
        fields: dict[str, str] = {}
        path: Path | None = None
        filename = ""
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader):
                continue
            if part.name == "file":
                filename = part.filename or ""
                with self._files.open_new() as target:
                    while chunk := await part.read_chunk(256 * 1024):
                        target.write(chunk)
                path = Path(target.name)
            elif part.name:
                fields[part.name] = await part.text()
        if path is None:
            raise missing("file")
        if "purpose" not in fields:
            path.unlink()
            raise missing("purpose")
        stored = self._files.upload(
            path, filename=filename, purpose=fields["purpose"], lifetime=_lifetime(fields)
        )
        self.ledger.count("files_uploaded")
        return self._json(stored.shown())

    async def _list_files(self, request: web.BaseRequest, _name: str) -> web.StreamResponse:
        return self._json(self._files.listed(dict(request.query)))

    async def _get_file(self, _request: web.BaseRequest, name: str) -> web.StreamResponse:
        return self._json(self._files.get(name).shown())

    async def _delete_file(self, _request: web.BaseRequest, name: str) -> web.StreamResponse:
        return self._json(self._files.delete(name))

    async def _download(self, _request: web.BaseRequest, name: str) -> web.StreamResponse:
        stored = self._files.get(name)
        headers = {"content-type": "application/octet-stream", **self._request_id()}
        return web.FileResponse(stored.path, headers=headers)

    async def _create_batch(self, request: web.BaseRequest, _name: str) -> web.StreamResponse:
        try:
            body = orjson.loads(await request.read())
        except orjson.JSONDecodeError:
            body = None
        return self._json(self._batches.create(body))

    async def _list_batches(self, request: web.BaseRequest, _name: str) -> web.StreamResponse:
        return self._json(self._batches.listed(dict(request.query)))

    async def _get_batch(self, _request: web.BaseRequest, name: str) -> web.StreamResponse:
        return self._json(self._batches.get(name))

    async def _cancel_batch(self, _request: web.BaseRequest, name: str) -> web.StreamResponse:
        return self._json(self._batches.cancel(name))

    async def _show_ledger(self, _request: web.BaseRequest, _name: str) -> web.StreamResponse:
        return self._json(self.ledger.snapshot())

    async def _forget(self, _request: web.BaseRequest, _name: str) -> web.StreamResponse:
        await self._batches.stop()
        self._files.clear()
        self._calls.reset()
        return self._json({"reset": True})

    async def _loop(self, _request: web.BaseRequest, _name: str) -> web.StreamResponse:
        return web.Response(status=302, headers={"location": "/sim/loop"})

    def _json(
        self, body: object, *, status: int = 200, headers: dict[str, str] | None = None
    ) -> web.Response:
        every = {**_STANDING_HEADERS, **self._request_id(), **(headers or {})}
        return web.Response(body=orjson.dumps(body), status=status, headers=every)

    def _request_id(self) -> dict[str, str]:
        return {"x-request-id": f"req_control_{self._requests}"}


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    """A request as aiohttp makes it, but of the size that large embeddings calls need."""
    return web.BaseRequest(
        message, payload, protocol, writer, task, asyncio.get_running_loop(), client_max_size=MAX_BODY
    )


def _key(request: web.BaseRequest) -> str:
    given = request.headers.get("authorization")
    return given.removeprefix("Bearer ") if given else request.headers.get("api-key", "")


def _lifetime(fields: dict[str, str]) -> int | None:
    seconds = fields.get("expires_after[seconds]")
    if seconds is None:
        return None
    if not seconds.isdigit():
        raise invalid_value("expires_after.seconds", seconds, ("3600 to 2592000",))
    return int(seconds)
