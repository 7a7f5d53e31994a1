"""Lists in pages, as the API cuts them: `after` an id, at most `limit` items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import orjson

from .own import Own, Refused


def asked(query: str) -> dict[str, str]:
    """The parameters of a query, the last of equal names."""
    return {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}


def page(
    idents: list[str],
    show: Callable[[str], dict[str, Any]],
    wanted: dict[str, str],
    *,
    default: int,
    most: int,
) -> Own:
    """One page of a list of ids, which are in the order asked for; only the ids of the page are shown."""
    given = wanted.get("limit", str(default))
    if not (given.isascii() and given.isdigit() and 1 <= int(given) <= most):
        message = f"Invalid 'limit': expected an integer from 1 to {most}, got {given}."
        raise Refused(400, message, param="limit", code="invalid_value")
    start = 0
    if "after" in wanted:
        if wanted["after"] not in idents:
            raise Refused(400, f"No such object: {wanted['after']}", param="after", code="invalid_value")
        start = idents.index(wanted["after"]) + 1
    page_idents = idents[start : start + int(given)]
    body = {
        "object": "list",
        "data": [show(ident) for ident in page_idents],
        "first_id": page_idents[0] if page_idents else None,
        "last_id": page_idents[-1] if page_idents else None,
        "has_more": start + len(page_idents) < len(idents),
    }
    return Own(200, orjson.dumps(body), charged=False, usage={})
