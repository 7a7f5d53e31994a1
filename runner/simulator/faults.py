"""Faults that the simulator can meet calls, files and batches with, and the text that asks for them.

`NAME=RATE` pairs with commas between them; a rate is a share of all that the fault can meet, from 0 to 1:

    429=0.05,500=0.02,lost=0.01@first,400=0.1@always,batch-expired:0.4=1@first

Each call is judged by itself: by the seed, its body, and how often that body has come. `@first` meets only
the first coming of a body, so that asking again helps; `@always` chooses bodies, and meets each coming of
them. Uploads, creations and downloads are judged likewise by the file's content, polls by the batch, lists
by their number. The fate of a batch is judged by its file; it comes first if one of its requests does.
Some names take a figure after a colon: `create-late:3=1` comes three seconds late.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from runner.simulator.chance import Chance

ERROR, ANSWER, WIRE = "error", "answer", "wire"
UPLOAD, CREATE, CANCEL, POLL = "uploads", "creations", "cancellations", "polls"
LIST, LISTED, PROCESSED, DOWNLOAD = "lists", "listed objects", "uploaded files", "downloads"
FATE, LINE, OUTPUT, ERRORS, RESULT = "batches", "lines", "output files", "error files", "result files"
_CALLS = "calls"


@dataclass(frozen=True, slots=True)
class Fault:
    """One way for a call, or for a step of the Batch API, to go wrong.

    `form` says where it lives: an ERROR is a status with the API's error body, an ANSWER an odd body under a
    200, the WIRE everything that is not a proper HTTP answer of this API; all others are kinds of what happens
    to files and batches. `executed` calls have cost money, and `executed` steps have been taken. `figure` is
    what the name takes after a colon, in `unit`s (seconds, or a share from 0 to 1).
    """

    name: str
    form: str
    executed: bool
    meaning: str
    figure: float = 0.0
    unit: str = ""

    @property
    def meets(self) -> str:
        """What it meets, in the plural; what meets the same is chosen between."""
        return _CALLS if self.form in (ERROR, ANSWER, WIRE) else self.form

    @property
    def manner(self) -> str:
        """Its name without the word for what it meets."""
        return self.name.partition("-")[2]


def _table(*rows: Fault) -> Mapping[str, Fault]:
    return MappingProxyType({row.name: row for row in rows})


FAULTS = _table(
    Fault("400", ERROR, False, "invalid request"),
    Fault("401", ERROR, False, "invalid API key"),
    Fault("403", ERROR, False, "country not supported"),
    Fault("404", ERROR, False, "model not found"),
    Fault("408", ERROR, False, "request timeout"),
    Fault("409", ERROR, False, "conflict"),
    Fault("413", ERROR, False, "request too large"),
    Fault("422", ERROR, False, "unprocessable"),
    Fault("429", ERROR, False, "rate limit, with retry-after and retry-after-ms"),
    Fault("429-date", ERROR, False, "rate limit, with Retry-After as an HTTP date"),
    Fault("slow_down", ERROR, False, "429: the rate rose too fast"),
    Fault("resource_unavailable", ERROR, False, "429: no capacity for flex"),
    Fault("money", ERROR, False, "429 insufficient_quota"),
    Fault("insufficient_quota", ERROR, False, "429: the same by its own name"),
    Fault("credit_balance_exhausted", ERROR, False, "429: no credit left"),
    Fault("organization_spend_limit_exceeded", ERROR, False, "429: the organization's spending limit"),
    Fault("project_spend_limit_exceeded", ERROR, False, "429: the project's spending limit"),
    Fault("organization_usage_limit_exceeded", ERROR, False, "429: the organization's usage limit"),
    Fault("billing_hard_limit_reached", ERROR, False, "429: the billing hard limit"),
    Fault("500", ERROR, False, "server error"),
    Fault("503", ERROR, False, "service unavailable"),
    Fault("overloaded", ERROR, False, "503 server_is_overloaded"),
    Fault("504", ERROR, True, "gateway timeout, after the call was executed"),
    Fault("529", ERROR, False, "overloaded, as other providers say it"),
    Fault("no-choices", ANSWER, True, "200 whose list of choices is empty"),
    Fault("null-choices", ANSWER, True, "200 whose choices are null"),
    Fault("no-usage", ANSWER, True, "200 without usage"),
    Fault("bad-usage", ANSWER, True, "200 with negative usage"),
    Fault("length", ANSWER, True, "answer cut at the token limit"),
    Fault("content_filter", ANSWER, True, "answer stopped by the content filter"),
    Fault("refusal", ANSWER, True, "the model refuses"),
    Fault("incomplete", ANSWER, True, "all tokens spent, and no text"),
    Fault("failed-200", ANSWER, True, "200 whose body says that it failed"),
    Fault("error-200", ANSWER, False, "200 with an error body"),
    Fault("502-html", WIRE, False, "bad gateway, with a page of HTML"),
    Fault("503-html", WIRE, False, "service unavailable, with a page of HTML"),
    Fault("524-html", WIRE, True, "a proxy's timeout, with a page of HTML, after the call was executed"),
    Fault("html", WIRE, False, "200 with a page of HTML"),
    Fault("empty", WIRE, True, "200 with an empty body"),
    Fault("204", WIRE, True, "204, no body"),
    Fault("wrong-type", WIRE, True, "the right answer, labelled text/html"),
    Fault("gzip-garbage", WIRE, True, "body that is said to be gzip and is not"),
    Fault("redirect", WIRE, False, "302 to a place that leads to itself"),
    Fault("reset", WIRE, False, "connection reset before the call was executed"),
    Fault("lost", WIRE, True, "connection reset after the call was executed"),
    Fault("truncated", WIRE, True, "the connection ends before Content-Length is reached"),
    Fault("chunk-cut", WIRE, True, "the connection ends within a chunked body"),
    Fault("slow", WIRE, True, "the answer comes 30 seconds late"),
    Fault("hang", WIRE, True, "executed, and never answered"),
)

BATCH_FAULTS = _table(
    Fault("upload-reset", UPLOAD, False, "connection reset, nothing kept"),
    Fault("upload-lost", UPLOAD, True, "kept, then the connection is reset"),
    Fault("upload-500", UPLOAD, False, "server error, nothing kept"),
    Fault("upload-500-kept", UPLOAD, True, "server error, though the file is kept"),
    Fault("upload-429", UPLOAD, False, "too many uploads"),
    Fault("upload-hang", UPLOAD, True, "kept, and never answered"),
    Fault("file-late", PROCESSED, True, "an upload is processed only so much later", 2.0, "seconds"),
    Fault("create-reset", CREATE, False, "connection reset, no batch made"),
    Fault("create-lost", CREATE, True, "batch made, then the connection is reset"),
    Fault("create-late", CREATE, False, "connection reset; the batch is made so much later", 2.0, "seconds"),
    Fault("create-500", CREATE, False, "server error, no batch made"),
    Fault("create-500-made", CREATE, True, "server error, though the batch is made"),
    Fault("create-html", CREATE, True, "batch made, answered by a gateway's page of HTML"),
    Fault("create-truncated", CREATE, True, "batch made, half of the answer comes"),
    Fault("create-hang", CREATE, True, "batch made, never answered"),
    Fault("create-429", CREATE, False, "too many batches an hour"),
    Fault("create-tokens", CREATE, False, "400 token_limit_exceeded: the queue is full"),
    Fault("create-money", CREATE, False, "429 insufficient_quota"),
    Fault("cancel-reset", CANCEL, False, "connection reset, nothing cancelled"),
    Fault("cancel-lost", CANCEL, True, "cancelled, then the connection is reset"),
    Fault("cancel-500", CANCEL, False, "server error, nothing cancelled"),
    Fault("list-lag", LISTED, True, "a file or batch is in the lists only so much later", 2.0, "seconds"),
    Fault("list-500", LIST, False, "server error"),
    Fault("list-429", LIST, False, "rate limit"),
    Fault("list-reset", LIST, False, "connection reset"),
    Fault("list-none", LIST, False, "404: this server has no lists"),
    Fault("list-empty", LIST, True, "a list with nothing in it"),
    Fault("list-overlap", LIST, True, "a page begins with what the page before ended with"),
    Fault("poll-404", POLL, False, "no such batch"),
    Fault("poll-429", POLL, False, "rate limit"),
    Fault("poll-500", POLL, False, "server error"),
    Fault("poll-outage", POLL, False, "server errors for so long, once a batch", 60.0, "seconds"),
    Fault("poll-reset", POLL, False, "connection reset"),
    Fault("poll-html", POLL, False, "200 with a page of HTML"),
    Fault("poll-hang", POLL, False, "never answered"),
    Fault("poll-flap", POLL, True, "the state before the present one"),
    Fault("poll-unknown", POLL, True, "a state that nobody knows"),
    Fault("poll-counts-down", POLL, True, "request_counts smaller than before"),
    Fault("poll-counts-null", POLL, True, "no request_counts"),
    Fault("batch-expired", FATE, True, "expires when such a share is done", 0.4, "share"),
    Fault("batch-cancelled", FATE, True, "somebody cancels it when such a share is done", 0.4, "share"),
    Fault("batch-invalid", FATE, False, "failed: its last line is said to be no JSON"),
    Fault("batch-unseen", FATE, False, "failed: cannot find the file, which is there"),
    Fault("batch-tokens", FATE, False, "failed: token_limit_exceeded"),
    Fault("batch-money", FATE, False, "failed: billing_hard_limit_reached"),
    Fault("batch-slow-validating", FATE, True, "so long in validating", 3600.0, "seconds"),
    Fault("batch-slow-in_progress", FATE, True, "so long in in_progress", 3600.0, "seconds"),
    Fault("batch-slow-finalizing", FATE, True, "so long in finalizing", 3600.0, "seconds"),
    Fault("batch-slow-cancelling", FATE, True, "so long in cancelling", 3600.0, "seconds"),
    Fault("line-0", LINE, False, "status_code 0, empty body, no error; counted as completed"),
    Fault("line-429", LINE, False, "rate limit, in the error file"),
    Fault("line-500", LINE, False, "server error, in the error file"),
    Fault("line-500-output", LINE, False, "server error, in the output file"),
    Fault("line-error", LINE, False, "no response, but an error object"),
    Fault("line-missing", LINE, False, "not run, and in neither file; counted as completed"),
    Fault("line-lost", LINE, True, "run, and in neither file; counted as completed"),
    Fault("line-doubled", LINE, True, "twice in the output file"),
    Fault("line-conflict", LINE, True, "twice in the output file, with different answers"),
    Fault("line-both", LINE, True, "in the output file, and as a server error in the error file"),
    Fault("line-stranger", LINE, True, "followed by a line whose custom_id nobody sent"),
    Fault("line-null-id", LINE, True, "custom_id null"),
    Fault("line-number-id", LINE, True, "custom_id a number"),
    Fault("line-no-id", LINE, True, "without the line's own id"),
    Fault("line-u2028", LINE, True, "U+2028, U+2029 and U+0085 raw in the answer's text"),
    Fault("line-utf8", LINE, True, "bytes that are no UTF-8"),
    Fault("line-cut", LINE, True, "only half of the line"),
    Fault("output-null", OUTPUT, True, "output_file_id null"),
    Fault("output-blank", OUTPUT, True, "output_file_id an empty string"),
    Fault("output-404", OUTPUT, True, "the output file is gone"),
    Fault("output-late", OUTPUT, True, "output_file_id null for so long after the end", 2.0, "seconds"),
    Fault("errors-null", ERRORS, True, "error_file_id null"),
    Fault("errors-blank", ERRORS, True, "error_file_id an empty string"),
    Fault("errors-404", ERRORS, True, "the error file is gone"),
    Fault("errors-empty", ERRORS, True, "an error file with nothing in it, where there are no errors"),
    Fault("result-no-newline", RESULT, True, "the last line does not end"),
    Fault("result-crlf", RESULT, True, "lines end with CR LF"),
    Fault("result-blank-lines", RESULT, True, "blank lines between the lines"),
    Fault("result-bom", RESULT, True, "files begin with a byte order mark"),
    Fault("result-counts", RESULT, True, "request_counts say that all is completed"),
    Fault("result-no-usage", RESULT, True, "the batch has no usage"),
    Fault("download-cut", DOWNLOAD, True, "the connection ends after such a share", 1 / 3, "share"),
    Fault("download-short", DOWNLOAD, True, "such a share, as if it were all", 1 / 3, "share"),
    Fault("download-long", DOWNLOAD, True, "Content-Length says more than there is"),
    Fault("download-stall", DOWNLOAD, True, "such a share, and then nothing", 1 / 3, "share"),
    Fault("download-gzip", DOWNLOAD, True, "compressed"),
    Fault("download-reset", DOWNLOAD, False, "connection reset"),
    Fault("download-404", DOWNLOAD, False, "no such file"),
    Fault("download-403", DOWNLOAD, False, "not allowed"),
    Fault("download-500", DOWNLOAD, False, "server error"),
)
_NAMES: Mapping[str, Fault] = MappingProxyType({**FAULTS, **BATCH_FAULTS})

_SCOPES = ("always", "first", "each")


class BadFaults(ValueError):
    """The text of `--faults` cannot be read; the message says where and lists the known names."""


class Script:
    """Which call, file or batch meets which fault; the same for the same seed."""

    def __init__(self, text: str | None, *, seed: int) -> None:
        self._seed = seed
        self._rows = _parse(text or "")

    def choose(self, digest: bytes, coming: int, meets: str = _CALLS) -> Fault | None:
        """The fault for the `coming`-th time (from 1) that what has this digest comes: for calls, that the body
        passes the limits."""
        if not self.has(meets):
            return None
        chance = Chance(self._seed, digest)
        word = "" if meets == _CALLS else f" {meets}"
        for scope in _SCOPES:
            rows = self._rows.get((meets, scope))
            if rows is None or (scope == "first" and coming != 1):
                continue
            left = chance.unit(f"fault {scope} {coming if scope == 'each' else ''}{word}")
            for fault, rate in rows:
                if left < rate:
                    return fault
                left -= rate
        return None

    def has(self, meets: str) -> bool:
        """Whether anything of this kind can meet a fault."""
        return any((meets, scope) in self._rows for scope in _SCOPES)


def _parse(text: str) -> dict[tuple[str, str], list[tuple[Fault, float]]]:
    rows: dict[tuple[str, str], list[tuple[Fault, float]]] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, rest = part.partition("=")
        number, at, scope = rest.partition("@")
        scope = scope.strip() if at else "each"
        fault = _named(part, name)
        if not equals:
            raise _bad(part, f"it gives no rate; write {fault.name}=0.05, say, for one in twenty.")
        rate = _number(part, number)
        if not 0 <= rate <= 1:
            raise _bad(part, "a rate goes from 0 to 1.")
        if scope not in _SCOPES:
            raise _bad(part, f"after @ comes first or always, not {scope!r}.")
        rows.setdefault((fault.meets, scope), []).append((fault, rate))
    for (meets, scope), listed in rows.items():
        if sum(rate for _, rate in listed) > 1 + 1e-9:
            whose = f"all {meets}" if scope == "each" else f"@{scope}"
            raise _bad(text, f"the rates of {whose} add up to more than 1.")
    return rows


def _named(part: str, text: str) -> Fault:
    name, colon, figure = (piece.strip() for piece in text.partition(":"))
    fault = _NAMES.get(name)
    if fault is None:
        near = difflib.get_close_matches(name, _NAMES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise _bad(part, f"there is no fault named {name!r}.{hint}")
    if not colon:
        return fault
    if not fault.unit:
        raise _bad(part, f"{name} takes no figure.")
    value = _number(part, figure)
    if not (0 <= value <= 1 if fault.unit == "share" else 0 <= value < 1e9):
        raise _bad(part, "a share goes from 0 to 1." if fault.unit == "share" else "seconds are 0 or more.")
    return replace(fault, figure=value)


def _number(part: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _bad(part, f"{text.strip()!r} is not a number.") from None


def _bad(part: str, reason: str) -> BadFaults:
    return BadFaults(
        f"--faults: cannot read {part!r}: {reason} The form is NAME=RATE[@first|@always], with commas "
        f"between; the names are {', '.join(_NAMES)}."
    )
