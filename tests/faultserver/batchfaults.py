"""What goes wrong with files and batches, by name.

    plain                     nothing
    create-lost-executed      a create is done, and its answer is lost
    create-lost               a create is lost before it is done
    create-late:SECONDS       a create's connection is reset, and the batch comes to be so much later
    upload-reset, upload-lost an upload is done, or not, and answered by a reset
    list-lag:SECONDS          the list of batches does not show those that are younger
    queue-full:N              N batches fail with token_limit_exceeded
    queue-full-400:N          N creates are refused with it
    failed-validation[:CODE]  a batch fails with an error (invalid_request) at its second line
    expired:SHARE             a batch expires when that share of its lines is done
    cancelled-partial[:SHARE] a batch is cancelled by somebody else, at that share (0.4)
    stuck[:STATE]             a batch never leaves a state (in_progress) unless it is cancelled
    no-files                  a batch is completed without having done anything, both file ids null
    error-lines               three of ten lines of a batch are not done: 500, 429 and status_code 0
    missing-row               a line of a batch is not done and in neither file; the counts do not tell
    b1:NUMBER                 a batch meets one of the 144 cases of B1, see faultserver/matrix.py
    unicode                   answers hold U+2028, U+2029 and U+0085, as they are
    doubled-row               an answer stands twice in the output, another also as an error in the error file
    unknown-row               the output has lines for ids that nobody asked for, null and a number among them
    shuffled                  both files are in another order than the input
    empty-ids                 file ids are "" instead of null
    empty-error-file          a batch without errors has an error file all the same, of no bytes
    flapping                  of a batch's first eight looks every second one says the opposite of the truth
    odd-word                  batches at work have a status that nobody has heard of
    counts-down               the counts fall at every second look
    not-found-once            a poll gets 404
    trouble:SECONDS           polls and lists get 500, from the first one on, for so long
    cut-download              a download ends after a third of its bytes

Several are joined by `+`. Those of one request or one batch ("a") hit the first; `NAME*3` hits three. Where
several hit a batch, each has a batch of its own, in the order named. The rest holds for all.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from . import behaviour as does
from . import courses
from .batch import Batch
from .behaviour import Behaviour
from .courses import PLAIN, Course, Failure
from .matrix import b1
from .work import Edit, Results

View = Callable[[dict[str, Any], Batch], None]

SEPARATORS = "\u2028 \u2029 \u0085"
ODD_WORD = "reticulating"
FLAPS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFaults:
    """All that goes wrong with files and batches.

    `fates` are what the first requests of an operation meet, `courses` those of the first batches. `edits`
    change the files of every batch, `views` what is shown of it. `list_lag` and `trouble` are seconds.
    """

    fates: Mapping[str, tuple[Behaviour, ...]] = field(default_factory=dict)
    courses: tuple[Course, ...] = ()
    edits: tuple[Edit, ...] = ()
    views: tuple[View, ...] = ()
    list_lag: float = 0.0
    trouble: float = 0.0
    empty_error_file: bool = False

    def course(self, number: int) -> Course:
        """The course of the batch of that number, from 1."""
        return self.courses[number - 1] if number <= len(self.courses) else PLAIN

    def with_fate(self, operation: str, fate: Behaviour) -> BatchFaults:
        """The same, a further request of this operation meeting this fate."""
        fates = {**self.fates, operation: (*self.fates.get(operation, ()), fate)}
        return replace(self, fates=fates)

    def with_course(self, course: Course) -> BatchFaults:
        """The same, a further batch taking this course."""
        return replace(self, courses=(*self.courses, course))

    def with_edit(self, edit: Edit) -> BatchFaults:
        """The same, the files being changed in this way too."""
        return replace(self, edits=(*self.edits, edit))

    def with_view(self, view: View) -> BatchFaults:
        """The same, batches being shown in this way too."""
        return replace(self, views=(*self.views, view))


def named_batches(name: str, seed: int = 0) -> BatchFaults:
    """The faults of that name, as listed above; ValueError where there is none."""
    faults = BatchFaults()
    for part in name.split("+"):
        single, star, times = part.partition("*")
        if star and not times.isdigit():
            raise ValueError(f"batches {part!r}: {times!r} is no number of times")
        word, colon, value = single.partition(":")
        makers = _with_value(value) if colon else _without_value(seed)
        if word not in makers:
            known = ", ".join(
                sorted(_without_value(seed)) + [f"{one}:..." for one in sorted(_with_value(""))]
            )
            raise ValueError(f"no batches {single!r}; there are {known}")
        try:
            for _ in range(int(times or 1)):
                faults = makers[word](faults)
        except ValueError as unfit:
            raise ValueError(f"batches {single!r}: {unfit}") from unfit
    return faults


Maker = Callable[[BatchFaults], BatchFaults]


def _without_value(seed: int) -> Mapping[str, Maker]:
    return {
        "plain": lambda faults: faults,
        "create-lost-executed": lambda faults: faults.with_fate("batches.create", does.lost()),
        "create-lost": lambda faults: faults.with_fate("batches.create", does.reset()),
        "upload-reset": lambda faults: faults.with_fate("files.create", does.lost()),
        "upload-lost": lambda faults: faults.with_fate("files.create", does.reset()),
        "failed-validation": lambda faults: faults.with_course(invalid("invalid_request")),
        "cancelled-partial": lambda faults: faults.with_course(courses.cancelled(0.4)),
        "stuck": lambda faults: faults.with_course(courses.stuck("in_progress")),
        "no-files": lambda faults: faults.with_course(courses.no_files()),
        "error-lines": lambda faults: faults.with_course(courses.error_lines()),
        "missing-row": lambda faults: faults.with_course(courses.missing_row()),
        "unicode": lambda faults: faults.with_edit(separated),
        "doubled-row": lambda faults: faults.with_edit(doubled),
        "unknown-row": lambda faults: faults.with_edit(unknown),
        "shuffled": lambda faults: faults.with_edit(shuffled(seed)),
        "empty-ids": lambda faults: faults.with_view(empty_ids),
        "empty-error-file": lambda faults: replace(faults, empty_error_file=True),
        "flapping": lambda faults: faults.with_view(flapping),
        "odd-word": lambda faults: faults.with_view(odd_word),
        "counts-down": lambda faults: faults.with_view(counts_down),
        "not-found-once": lambda faults: faults.with_fate("batches.retrieve", not_found()),
        "cut-download": lambda faults: faults.with_fate("files.content", does.cut_to_share(1 / 3)),
    }


def _with_value(value: str) -> Mapping[str, Maker]:
    return {
        "create-late": lambda faults: faults.with_fate("batches.create", does.late(float(value))),
        "list-lag": lambda faults: replace(faults, list_lag=float(value)),
        "queue-full": lambda faults: repeated(int(value), lambda one: one.with_course(full()), faults),
        "queue-full-400": lambda faults: repeated(
            int(value), lambda one: one.with_fate("batches.create", full_at_once()), faults
        ),
        "failed-validation": lambda faults: faults.with_course(invalid(value)),
        "expired": lambda faults: faults.with_course(courses.expired(share(value))),
        "cancelled-partial": lambda faults: faults.with_course(courses.cancelled(share(value))),
        "stuck": lambda faults: faults.with_course(courses.stuck(value)),
        "trouble": lambda faults: replace(faults, trouble=float(value)),
        "b1": lambda faults: faults.with_course(b1(int(value)).course),
    }


def share(text: str) -> float:
    """A share from 0 to 1."""
    found = float(text)
    if not 0 <= found <= 1:
        raise ValueError(f"share {text}")
    return found


def repeated(times: int, maker: Maker, faults: BatchFaults) -> BatchFaults:
    """The faults with the same one added so many times."""
    for _ in range(times):
        faults = maker(faults)
    return faults


def full() -> Course:
    """A batch that fails for want of room in the queue."""
    return courses.refused(courses.queue_is_full())


def full_at_once() -> Behaviour:
    """A create that is refused for want of room in the queue. Not executed."""
    failure = courses.queue_is_full()
    return does.error(400, failure.code, failure.message)


def invalid(code: str) -> Course:
    """A batch that fails for what stands in its second line."""
    return courses.refused(Failure(code=code, message="This line is not valid.", param="body", line=2))


def not_found() -> Behaviour:
    """404 for a batch that is there. Not executed."""
    return does.error(404, None, "No batch found with this id.")


def separated(results: Results) -> None:
    """Put what some take for line ends into the answers."""
    words = f"answer{SEPARATORS}to ".encode()
    results.output[:] = [line.replace(b"answer to ", words) for line in results.output]


def doubled(results: Results) -> None:
    """The first answer twice, with another text; the second also as an error."""
    if results.output:
        results.output.append(results.output[0].replace(b"answer to ", b"another answer to "))
    if len(results.output) > 2:
        line = orjson.loads(results.output[1])
        body = orjson.loads(does.error_body("Trouble.", kind="server_error", code="server_error"))
        line["response"] |= {"status_code": 500, "body": body}
        results.error.append(orjson.dumps(line))


def unknown(results: Results) -> None:
    """Answers that nobody asked for, before and after the others."""
    if results.output:
        line = orjson.loads(results.output[0])
        odd = [orjson.dumps(line | {"custom_id": ident}) for ident in ("nobody-asked", None, 17)]
        results.output[:] = [odd[0], *results.output, *odd[1:]]


def shuffled(seed: int) -> Edit:
    """Both files in an order of their own."""

    def edit(results: Results) -> None:
        random_ = random.Random(seed)
        random_.shuffle(results.output)
        random_.shuffle(results.error)

    return edit


def empty_ids(shown: dict[str, Any], batch: Batch) -> None:
    """An empty string where there is no file."""
    for name in ("output_file_id", "error_file_id"):
        shown[name] = shown[name] or ""


def flapping(shown: dict[str, Any], batch: Batch) -> None:
    """Ended where it is at work, and at work where it has ended, at every second look; then the truth."""
    if batch.looks > FLAPS or batch.looks % 2:
        return
    shown["status"] = "in_progress" if batch.over else "completed"
    shown["output_file_id"] = shown["error_file_id"] = None


def odd_word(shown: dict[str, Any], batch: Batch) -> None:
    """Another word for being at work."""
    if shown["status"] in {"in_progress", "finalizing"}:
        shown["status"] = ODD_WORD


def counts_down(shown: dict[str, Any], batch: Batch) -> None:
    """Half the counts, at every second look."""
    if batch.looks % 2 == 0:
        counts = shown["request_counts"]
        shown["request_counts"] = counts | {name: counts[name] // 2 for name in ("completed", "failed")}
