"""The two ways an API in perfect health can speak: an answer of its own, and a refusal of the request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .behaviour import error_body


class Own(NamedTuple):
    """The API's own answer to one request. `charged` says that work was done, `usage` its tokens.

    `kind` is the body's content type.
    """

    status: int
    body: bytes
    charged: bool
    usage: Mapping[str, int]
    kind: str = "application/json"


class Refused(Exception):
    """The API refuses a request for what is in it."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(message, kind="invalid_request_error", code=code, param=param)


def missing(param: str) -> Refused:
    """The refusal of a body that lacks a field."""
    message = f"Missing required parameter: '{param}'."
    return Refused(400, message, param=param, code="missing_required_parameter")


def spent(read: int, wrote: int) -> dict[str, int]:
    """Usage as the ledger adds it up."""
    return {"input": read, "output": wrote, "total": read + wrote}
