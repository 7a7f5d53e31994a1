"""Files on their way in and out: reading an upload, and sending a download, also in odd ways."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path

from aiohttp import BodyPartReader, web

from runner.simulator import wire
from runner.simulator.faults import Fault
from runner.simulator.files import Files
from runner.simulator.refusal import Refusal, invalid_value, missing

_CHUNK = 256 * 1024
_PROMISED = 1_000


class Upload:
    """An upload as it came: where its bytes lie now, and the fields beside them."""

    def __init__(self, path: Path, *, filename: str, purpose: str, lifetime: int | None) -> None:
        self.path = path
        self.filename = filename
        self.purpose = purpose
        self.lifetime = lifetime


async def receive(request: web.BaseRequest, files: Files, lifetimes: tuple[int, int]) -> Upload:
    """Reads an upload to its end, or refuses it as the API does. It is not kept yet."""
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
            with files.open_new() as target:
                while chunk := await part.read_chunk(_CHUNK):
                    target.write(chunk)
            path = Path(target.name)
        elif part.name:
            fields[part.name] = await part.text()
    if path is None:
        raise missing("file")
    try:
        purpose = _given(fields, "purpose")
        lifetime = _lifetime(fields, lifetimes)
    except Refusal:
        path.unlink()
        raise
    files.check_upload(path, filename=filename, purpose=purpose)
    return Upload(path, filename=filename, purpose=purpose, lifetime=lifetime)


async def send(
    request: web.BaseRequest, path: Path, fault: Fault | None, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Sends a file, in the way of its fault if it has one that lets bytes go out."""
    headers = {"content-type": "application/octet-stream", **headers}
    if fault is None:
        return web.FileResponse(path, headers=headers)
    data, part = _read(path, fault.figure)
    if fault.manner == "cut":
        return wire.cut(request, headers, framing=f"content-length: {len(data)}", part=part)
    if fault.manner == "long":
        return wire.cut(request, headers, framing=f"content-length: {len(data) + _PROMISED}", part=data)
    if fault.manner == "stall":
        await wire.stall(request, headers, length=len(data), part=part)
    if fault.manner == "gzip":
        return web.Response(
            body=gzip.compress(data, mtime=0), headers={**headers, "content-encoding": "gzip"}
        )
    return web.Response(body=part, headers=headers)


def _read(path: Path, share: float) -> tuple[bytes, bytes]:
    """A file's bytes, and such a share of them."""
    data = path.read_bytes()
    return data, data[: int(len(data) * share)]


def _given(fields: Mapping[str, str], name: str) -> str:
    if name not in fields:
        raise missing(name)
    return fields[name]


def _lifetime(fields: Mapping[str, str], bounds: tuple[int, int]) -> int | None:
    seconds = fields.get("expires_after[seconds]")
    if seconds is None:
        return None
    if not seconds.isdigit() or not bounds[0] <= int(seconds) <= bounds[1]:
        raise invalid_value("expires_after.seconds", seconds, (f"{bounds[0]} to {bounds[1]}",))
    return int(seconds)
