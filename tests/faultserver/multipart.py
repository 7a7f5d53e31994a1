"""multipart/form-data by hand: the bytes of an upload to its fields and its file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote

from .own import Refused
from .wire import Malformed, parse_headers

BOUNDARY = re.compile(r'boundary=(?:"([^"]+)"|([^\s;]+))', re.IGNORECASE)
PARAMETER = re.compile(r';\s*(name|filename)="((?:[^"\\]|\\.)*)"')
ENCODED_NAME = re.compile(r";\s*filename\*=utf-8''([^\s;]+)", re.IGNORECASE)


class Form(NamedTuple):
    """The fields of a form as text, and its one file."""

    fields: Mapping[str, str]
    filename: str | None
    content: bytes


def read_form(content_type: str, body: bytes) -> Form:
    """The form in a body; Refused where the body is no form."""
    boundary = BOUNDARY.search(content_type)
    if boundary is None or not content_type.lower().startswith("multipart/form-data"):
        raise Refused(400, "Content-Type must be multipart/form-data with a boundary.")
    mark = b"--" + (boundary[1] or boundary[2]).encode("latin-1")
    if not body.startswith(mark):
        raise Refused(400, "The body does not begin with its boundary.")
    fields: dict[str, str] = {}
    filename, content = None, b""
    start = len(mark)
    while body[start : start + 2] == b"\r\n":
        end = body.find(b"\r\n" + mark, start)
        head_end = body.find(b"\r\n\r\n", start)
        if end < 0 or not start <= head_end < end:
            raise Refused(400, "A part of the form has no end.")
        name, file = part_names(body[start + 2 : head_end])
        value = body[head_end + 4 : end]
        if name == "file":
            filename, content = file, value
        else:
            fields[name] = value.decode()
        start = end + 2 + len(mark)
    if body[start : start + 2] != b"--":
        raise Refused(400, "The form is not closed.")
    return Form(fields, filename, content)


def part_names(head: bytes) -> tuple[str, str | None]:
    """The name of a part of a form, and its file's name where it has one."""
    try:
        disposition = parse_headers(head.decode().split("\r\n")).get("content-disposition", "")
    except Malformed as malformed:
        raise Refused(400, f"A part of the form is malformed: {malformed}") from malformed
    found = dict(PARAMETER.findall(disposition))
    encoded = ENCODED_NAME.search(disposition)
    if encoded is not None:
        found["filename"] = unquote(encoded[1])
    if "name" not in found:
        raise Refused(400, "A part of the form has no name.")
    return found["name"], found.get("filename")
