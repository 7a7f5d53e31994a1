"""The operations of the Batch API by the SDK's names for them, such as `batches.create`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

PATH = re.compile(r"/v1/(files|batches)(?:/([^/]+)(?:/(content|cancel))?)?")

WORDS: Mapping[tuple[str, str, bool, str | None], str] = {
    ("POST", "files", False, None): "files.create",
    ("GET", "files", False, None): "files.list",
    ("GET", "files", True, None): "files.retrieve",
    ("GET", "files", True, "content"): "files.content",
    ("DELETE", "files", True, None): "files.delete",
    ("POST", "batches", False, None): "batches.create",
    ("GET", "batches", False, None): "batches.list",
    ("GET", "batches", True, None): "batches.retrieve",
    ("POST", "batches", True, "cancel"): "batches.cancel",
}

OPERATIONS = frozenset(WORDS.values())


class Operation(NamedTuple):
    """What a request wants of the Batch API, and the id that it names, or an empty one."""

    name: str
    ident: str


def operation_of(method: str, path: str) -> Operation | None:
    """The operation that a request asks for, or None where it asks for none of the Batch API."""
    found = PATH.fullmatch(path)
    if found is None:
        return None
    kind, ident, rest = found.groups()
    name = WORDS.get((method, kind, ident is not None, rest))
    return None if name is None else Operation(name, ident or "")
