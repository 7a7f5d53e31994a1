"""The Files API: uploads and batch results, kept on disk while the simulator lives."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from runner.simulator.chance import Chance
from runner.simulator.faults import LISTED, PROCESSED, Fault
from runner.simulator.refusal import Refusal, invalid_value

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
MAX_BATCH_BYTES = 200 * 1024 * 1024
_MONTH = 30 * 86_400


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file and the object by which the API shows it. `visible_at` and `processed_at` are of the injected
    clock: when it comes into the lists, and when it is said to be processed."""

    id: str
    path: Path
    size: int
    created_at: int
    filename: str
    purpose: str
    expires_at: int | None
    digest: bytes
    visible_at: float
    processed_at: float

    def shown(self, clock: float) -> dict[str, Any]:
        """The file object of the API."""
        return {
            "object": "file",
            "id": self.id,
            "purpose": self.purpose,
            "filename": self.filename,
            "bytes": self.size,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "status": "processed" if clock >= self.processed_at else "uploaded",
            "status_details": None,
        }


class Files:
    """All files of one simulator, in a temporary folder of its own.

    `meet` says which fault of the script a thing meets, by its digest, how often it has come, and its kind.
    """

    def __init__(
        self,
        *,
        seed: int,
        wall: Callable[[], float],
        clock: Callable[[], float],
        meet: Callable[[bytes, int, str], Fault | None],
    ) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files: dict[str, StoredFile] = {}
        self._comings: Counter[bytes] = Counter()
        self._made = 0
        self._seed = seed
        self._wall = wall
        self._clock = clock
        self._meet = meet

    def close(self) -> None:
        """Deletes the folder and all that is in it."""
        if self._folder is not None:
            self._folder.cleanup()

    def clear(self) -> None:
        """Deletes all files."""
        for file_id in list(self._files):
            self.delete(file_id)
        self._comings.clear()

    def open_new(self) -> IO[bytes]:
        """A new empty file to write to; `keep` it once it is written and closed."""
        self._made += 1
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="runner-simulator-")
        return (Path(self._folder.name) / f"{self._made}.jsonl").open("wb")

    def keep(self, path: Path, *, filename: str, purpose: str, lifetime: int | None = None) -> StoredFile:
        """Takes a written file in; `lifetime` in seconds, by default 30 days for batches' files."""
        now, clock = int(self._wall()), self._clock()
        if lifetime is None and purpose.startswith("batch"):
            lifetime = _MONTH
        name = Chance(self._seed, path.name.encode()).hex("file", 24)
        digest = self.digest(path)
        self._comings[digest] += 1
        lag = self._meet(digest, self._comings[digest], LISTED)
        delay = self._meet(digest, self._comings[digest], PROCESSED) if purpose != "batch_output" else None
        stored = StoredFile(
            id=f"file-{name}",
            path=path,
            size=path.stat().st_size,
            created_at=now,
            filename=filename,
            purpose=purpose,
            expires_at=None if lifetime is None else now + lifetime,
            digest=digest,
            visible_at=clock if lag is None else clock + lag.figure,
            processed_at=clock if delay is None else clock + delay.figure,
        )
        self._files[stored.id] = stored
        return stored

    def digest(self, path: Path) -> bytes:
        """SHA-256 of a file's bytes."""
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()

    def check_upload(self, path: Path, *, filename: str, purpose: str) -> None:
        """Refuses an upload as the API does, and deletes it."""
        try:
            _check_upload(path, filename, purpose)
        except Refusal:
            path.unlink()
            raise

    def get(self, file_id: str) -> StoredFile:
        """The file of this id, or the API's 404."""
        stored = self._files.get(file_id)
        if stored is None:
            raise Refusal(404, f"No such File object: {file_id}", param="id")
        return stored

    def find(self, file_id: str) -> StoredFile | None:
        """The file of this id, if there is one."""
        return self._files.get(file_id)

    def delete(self, file_id: str) -> dict[str, object]:
        """Deletes a file; the API's answer to that."""
        self.get(file_id).path.unlink(missing_ok=True)
        del self._files[file_id]
        return {"object": "file", "id": file_id, "deleted": True}

    def listed(self, query: dict[str, str], *, overlap: bool = False) -> dict[str, Any]:
        """A page of files: `after`, `limit`, `order`, `purpose` as in the API."""
        clock = self._clock()
        found = [
            stored
            for stored in self._files.values()
            if clock >= stored.visible_at and query.get("purpose") in (None, "", stored.purpose)
        ]
        if query.get("order", "desc") != "asc":
            found.reverse()
        return page(
            [stored.shown(clock) for stored in found], query, default=10_000, most=10_000, overlap=overlap
        )


def page(
    objects: list[dict[str, Any]], query: dict[str, str], *, default: int, most: int, overlap: bool = False
) -> dict[str, Any]:
    """One page of a list in the API's form: what follows `after`, at most `limit` of it; one that overlaps begins
    with `after` itself."""
    text = query.get("limit", str(default))
    if not text.isdigit() or not 1 <= int(text) <= most:
        raise Refusal(
            400,
            f"Invalid 'limit': expected an integer from 1 to {most}, but got '{text}' instead.",
            param="limit",
            code="invalid_value",
        )
    start = 0
    if after := query.get("after"):
        start = next((n + 1 for n, shown in enumerate(objects) if shown["id"] == after), len(objects))
    end = start + int(text)
    part = objects[start - 1 if overlap and start else start : end]
    return {
        "object": "list",
        "data": part,
        "first_id": part[0]["id"] if part else None,
        "last_id": part[-1]["id"] if part else None,
        "has_more": end < len(objects),
    }


def _check_upload(path: Path, filename: str, purpose: str) -> None:
    if purpose not in PURPOSES:
        raise invalid_value("purpose", purpose, PURPOSES)
    size = path.stat().st_size
    if size == 0:
        raise Refusal(400, "File is empty.", param="file", code="empty_file")
    if purpose != "batch":
        return
    if size > MAX_BATCH_BYTES:
        raise Refusal(
            413,
            f"The file is {size} bytes long; the maximum for the Batch API is {MAX_BATCH_BYTES} bytes.",
            param="file",
            code="file_too_large",
        )
    with path.open("rb") as stream:
        first = stream.readline()
    try:
        orjson.loads(first)
        sound = filename.endswith(".jsonl")
    except orjson.JSONDecodeError:
        sound = False
    if not sound:
        raise Refusal(400, "Invalid file format for Batch API. Must be .jsonl", param="file")
