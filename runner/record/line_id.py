"""The id of a line of a batch: a task's key as text. Never the user's own, which may be long or not ASCII.

`base64url(hash) "." occurrence`: 43 characters without padding, then a number. The Batch API takes 64 at the most.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode

# The last of 43 characters carries 4 bits: only 16 of the alphabet can stand there.
_FORM = re.compile(r"([A-Za-z0-9_-]{42}[AEIMQUYcgkosw048])\.(0|[1-9][0-9]{0,17})")


def line_id(hash_: bytes, occurrence: int) -> str:
    """The `custom_id` of the line that asks the task of this key."""
    return f"{urlsafe_b64encode(hash_)[:-1].decode()}.{occurrence}"


def key_of(line_id: str) -> tuple[bytes, int] | None:
    """The key, hash and occurrence, of the task whose line bears this id; None for an id that is not ours."""
    found = _FORM.fullmatch(line_id)
    if found is None:
        return None
    return urlsafe_b64decode(found[1] + "="), int(found[2])
