"""/v1/files: what was uploaded, and what batches have written."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from .ledger import Arrival, Ledger
from .multipart import read_form
from .own import Own, Refused, missing
from .paging import asked, page

UPLOADED = frozenset({"assistants", "batch", "fine-tune", "vision", "user_data", "evals"})
MAX_BATCH_BYTES = 200_000_000
MAX_BYTES = 512 * 1024 * 1024
SHORTEST_LIFE, LONGEST_LIFE = 3_600, 2_592_000

BINARY = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class File:
    """One file with its bytes. Times are Unix seconds."""

    ident: str
    filename: str
    purpose: str
    content: bytes
    created_at: int
    expires_at: int | None

    def shown(self) -> dict[str, Any]:
        """The file object of the API."""
        return {
            "id": self.ident,
            "object": "file",
            "bytes": len(self.content),
            "created_at": self.created_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "expires_at": self.expires_at,
            "status_details": None,
        }

    @property
    def sha(self) -> str:
        """The SHA-256 of the bytes in hex."""
        return hashlib.sha256(self.content).hexdigest()


class Files:
    """All files of a server, in the order in which they came to be."""

    def __init__(self, ledger: Ledger, server: str) -> None:
        self._ledger = ledger
        self._server = server
        self._files: dict[str, File] = {}
        self._count = 0

    def find(self, ident: str) -> File | None:
        """The file of that id, or None where there is none any more."""
        return self._files.get(ident)

    def add(self, filename: str, purpose: str, content: bytes, *, life: int | None) -> File:
        """Keep a file under a new id, for so many seconds."""
        self._count += 1
        now = int(time.time())
        expires = None if life is None else now + life
        file = File(f"file-{self._server}{self._count:06x}", filename, purpose, content, now, expires)
        self._files[file.ident] = file
        return file

    def create(self, arrival: Arrival) -> Own:
        """POST /v1/files."""
        form = read_form(arrival.headers.get("content-type", ""), arrival.body)
        purpose = form.fields.get("purpose")
        if purpose is None:
            raise missing("purpose")
        if form.filename is None:
            raise missing("file")
        if purpose not in UPLOADED:
            raise Refused(400, f"'{purpose}' is not one of {sorted(UPLOADED)} - 'purpose'", param="purpose")
        if len(form.content) > (MAX_BATCH_BYTES if purpose == "batch" else MAX_BYTES):
            raise Refused(400, "File is too large.", param="file", code="file_too_large")
        if purpose == "batch" and not (form.filename.endswith(".jsonl") and begins_as_json(form.content)):
            raise Refused(400, "Invalid file format for Batch API. Must be .jsonl")
        life = life_of(form.fields) or (LONGEST_LIFE if purpose == "batch" else None)
        file = self.add(form.filename, purpose, form.content, life=life)
        self._ledger.note(
            "uploaded",
            file=file.ident,
            filename=file.filename,
            purpose=purpose,
            bytes=len(file.content),
            sha=file.sha,
        )
        return whole(file.shown())

    def retrieve(self, ident: str) -> Own:
        """GET /v1/files/{id}."""
        return whole(self._known(ident).shown())

    def content(self, ident: str) -> Own:
        """GET /v1/files/{id}/content."""
        file = self._known(ident)
        self._ledger.note("downloaded", file=ident, bytes=len(file.content))
        return Own(200, file.content, charged=False, usage={}, kind=BINARY)

    def delete(self, ident: str) -> Own:
        """DELETE /v1/files/{id}."""
        del self._files[self._known(ident).ident]
        self._ledger.note("deleted", file=ident)
        return whole({"id": ident, "object": "file", "deleted": True})

    def listed(self, arrival: Arrival) -> Own:
        """GET /v1/files: newest first unless asked otherwise."""
        wanted = asked(arrival.query)
        order = wanted.get("order", "desc")
        if order not in {"asc", "desc"}:
            raise Refused(400, f"Invalid 'order': {order}.", param="order", code="invalid_value")
        found = [one.ident for one in self._files.values() if wanted.get("purpose") in {None, one.purpose}]
        idents = found if order == "asc" else found[::-1]
        return page(idents, lambda ident: self._files[ident].shown(), wanted, default=10_000, most=10_000)

    def _known(self, ident: str) -> File:
        file = self._files.get(ident)
        if file is None:
            raise Refused(404, f"No such File object: {ident}", param="id")
        return file


def whole(shown: Mapping[str, Any]) -> Own:
    """An object of the API as an answer that costs nothing."""
    return Own(200, orjson.dumps(shown), charged=False, usage={})


def begins_as_json(content: bytes) -> bool:
    """Whether the first line is JSON, which is all that an upload is looked at for."""
    try:
        orjson.loads(content.partition(b"\n")[0])
    except orjson.JSONDecodeError:
        return False
    return True


def life_of(fields: Mapping[str, str]) -> int | None:
    """The seconds that a form gives its file to live, or None where it does not say."""
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise Refused(400, "Invalid 'expires_after[anchor]'.", param="expires_after[anchor]")
    if not (seconds and seconds.isdigit() and SHORTEST_LIFE <= int(seconds) <= LONGEST_LIFE):
        message = f"'expires_after[seconds]' must be from {SHORTEST_LIFE} to {LONGEST_LIFE}."
        raise Refused(400, message, param="expires_after[seconds]", code="invalid_value")
    return int(seconds)
