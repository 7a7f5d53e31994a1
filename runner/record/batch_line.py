"""One line of a Batch API's input file, as it is written."""

from __future__ import annotations


def batch_line(line_id: str, url: str, body: bytes) -> bytes:
    """The line, with its newline, that asks `body` at `url`: {"custom_id", "method", "url", "body"}.

    `body` is JSON text and stays as it is; `line_id` and `url` are plain ASCII, without quotes. A line break in the
    body can only be white space, and would end the line: it becomes a space.
    """
    if b"\n" in body or b"\r" in body:
        body = body.replace(b"\r", b" ").replace(b"\n", b" ")
    head = f'{{"custom_id":"{line_id}","method":"POST","url":"{url}","body":'
    return b"%b%b}\n" % (head.encode(), body)
