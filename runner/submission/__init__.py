"""How one shard of a run is submitted to the Batch API, and never twice: one step at a time, all of it pure.

`Protocol.next_step` says what to do next with a `Submission`: keep a record, ask the server one thing, wait, or
nothing more. `Protocol.after` says what the server's answer makes of it. Whoever drives it keeps each record in
the store before it takes the next step, under the series' epoch, and calls `recover` on every record that
another process wrote. Nothing but the record is remembered.

    PLANNED ──keep──▶ UPLOADING ──▶ UPLOADED ──keep──▶ SENDING ───────▶ SUBMITTED
       ▲               │    ▲         ▲  ▲                │ │               ▲
       │         unclear    none      │  └────not now─────┘ unclear         │
       │               ▼    │         │                     ▼               │
       │              SEEKING ──found─┘                  UNKNOWN ───found───┤
       │                                                    │ not for Q     │
       │                                                    ▼               │
       └───────────────not for Q/2─────── FENCED ◀─────── FENCING           │
                                             └─────────────found────────────┘

    state      kept                         does                      the answer leads to
    PLANNED    by the plan, or after an     keeps UPLOADING, one      UPLOADING
               attempt came to nothing      attempt more
    UPLOADING  before the upload's bytes    POST /files, without      an id: UPLOADED · unclear: SEEKING
               leave                        retries                   not now: the same later · no: REFUSED
    SEEKING    an upload's fate is unknown  GET /files, by name       the same bytes: UPLOADED, the newest
                                            and bytes                 none: UPLOADING (a twin is mere litter)
    UPLOADED   with the file's id           keeps SENDING             SENDING
    SENDING    with t_send, in the same     POST /batches with        an id: SUBMITTED · unclear: UNKNOWN
               transaction, right before    metadata, without         not now: UPLOADED, later
               the bytes leave              retries; if t_send is     the file is gone: PLANNED
                                            old, keeps a new one      no: REFUSED
    UNKNOWN    a create's fate is unknown;  GET /batches, all pages,  found: SUBMITTED
               with the time, `since`       every Q/3                 not in two whole lists, one begun at
                                                                      since + Q or later: FENCING
                                                                      this server cannot list them: HELD
    FENCING    not seen for Q               DELETE /files/ID          gone, or not to be deleted: FENCED
    FENCED     with the time, `since`       GET /batches, all pages,  found: SUBMITTED
                                            at since + Q/2            not found: PLANNED
    SUBMITTED  with the batch's id          nothing                   (`again`, if the batch itself failed)
    REFUSED    with the server's words      nothing
    HELD       with what is not known       nothing

Found by another process, SENDING is UNKNOWN since now, UPLOADING is SEEKING, and all others stay what they are.

Not now is a rate limit, a full queue, a key that is refused, an account without money: the server surely did
nothing, and will do it later. For the last two somebody must do something first, so that the driver stops the
run; the record says no wait for them, for who starts it again has done that. Whatever else is asked than a
POST, the same answers mean: ask again later.

HELD is an end: nobody but a person can tell whether the batch is there, and to create another on a guess may
cost twice. The driver holds the shard's tasks then; `runner retry` asks them again, in another shard.

Q must exceed list lag + late arrival + clock jumps: then no shard is submitted twice. `since` is not t_send but
the moment after which this sender cannot send any more: when its answer was given up, or when another process
took over. So neither a stall between t_send and the bytes nor a clock that was wrong before can shorten Q. A
sender that sleeps, is replaced, and wakes after that, is stopped by the fence: its file is gone. The look after
it finds what came just before it, if list lag + clock jumps are below Q/2.

What no protocol can give: a sender that wakes after Q at a server that deletes no files, or gives equal bytes
one file id for ever. `audit` finds what came of it.
"""

from __future__ import annotations

from runner.remote import (
    Answer,
    Created,
    Deleted,
    FileSeen,
    FilesSeen,
    Listed,
    Page,
    Refused,
    Why,
)
from runner.submission.record import (
    FILE_PREFIX,
    TOOL,
    UNSENT,
    Do,
    Look,
    Stage,
    Step,
    Submission,
    mark_of,
    shard_of,
)

__all__ = [
    "FILE_PREFIX",
    "HORIZON",
    "NOT_NOW",
    "QUARANTINE",
    "SOMEBODYS_TURN",
    "TOOL",
    "UNSENT",
    "Do",
    "Look",
    "Protocol",
    "Stage",
    "Step",
    "Submission",
    "audit",
    "mark_of",
    "shard_of",
]

QUARANTINE = 600.0
"""Seconds for which a create of unknown fate is looked for before it may be repeated."""
SEND_WITHIN = 10.0
"""Seconds for which a t_send is good: who comes to send later than that keeps a new one first."""
HORIZON = 600.0
"""Seconds before the first file's own `created_at` to which batches are listed. Both are the server's times."""
LONGEST_PAUSE = 24 * 3600.0
MOST_UPLOADS = 6
"""How often a file is uploaded of which the server says that it is not there."""
MOST_BROKEN_LISTS = 5
"""How often a list may break off at a page that the server refuses for good, until nobody trusts it to list."""

NOT_NOW = frozenset({Why.NOT_NOW, Why.QUEUE_FULL, Why.NO_ACCESS, Why.NO_MONEY})
"""The refusals after which the same may be asked again."""
SOMEBODYS_TURN = frozenset({Why.NO_ACCESS, Why.NO_MONEY})
"""Those of them that no waiting mends: somebody must do something first."""

_ENDS = (Stage.SUBMITTED, Stage.REFUSED, Stage.HELD)


class Protocol:
    """The steps of one submission. `quarantine` is Q, in seconds."""

    def __init__(self, quarantine: float = QUARANTINE) -> None:
        self.quarantine = quarantine

    def recover(self, sub: Submission, now: float) -> Submission:
        """What a record means that another process left: what it had under way is of unknown fate."""
        if sub.stage is Stage.UPLOADING:
            return sub._replace(stage=Stage.SEEKING, due=now)
        if sub.stage is Stage.SENDING:
            return self.unknown(sub, now)
        return sub

    def again(self, sub: Submission) -> Submission:
        """After a submitted batch failed without executing anything: a new attempt, with a file of its own."""
        return sub._replace(stage=Stage.PLANNED, batch_id=None)

    def next_step(self, sub: Submission, now: float) -> Step:
        """What to do next. The record in the step is the one to go on with."""
        stage = sub.stage
        if stage is Stage.SENDING:
            return self.send(sub, now)
        if stage in _ENDS:
            return Step(Do.END, sub)
        if now < sub.due <= now + LONGEST_PAUSE:  # a later one was set before the clock went back
            return Step(Do.WAIT, sub, sub.due)
        if stage is Stage.UPLOADED:
            return self.uploaded(sub, now)
        if stage is Stage.PLANNED:
            fresh = sub._replace(stage=Stage.UPLOADING, attempt=sub.attempt + 1, file_id=None, tries=0)
            return Step(Do.KEEP, fresh)
        if stage is Stage.UPLOADING:
            return Step(Do.UPLOAD, sub)
        if stage is Stage.SEEKING:
            return Step(Do.FIND_FILE, sub)
        if stage is Stage.FENCING:
            return Step(Do.DELETE_FILE, sub)
        return self.look(sub, now)

    def uploaded(self, sub: Submission, now: float) -> Step:
        return Step(Do.KEEP, sub._replace(stage=Stage.SENDING, t_send=now))

    def send(self, sub: Submission, now: float) -> Step:
        if 0 <= now - sub.t_send <= SEND_WITHIN:
            return Step(Do.CREATE, sub)
        # It slept: keeping the new t_send also tells a process that was replaced meanwhile.
        return Step(Do.KEEP, sub._replace(t_send=now))

    def look(self, sub: Submission, now: float) -> Step:
        if sub.look is not None:
            return Step(Do.LIST, sub)
        if now < sub.since:  # the clock went back: the count begins again, which only makes it longer
            return Step(Do.KEEP, sub._replace(since=now))
        return Step(Do.LIST, sub._replace(look=Look(now)))

    def after(self, sub: Submission, answer: Answer, now: float) -> Submission:
        """What the answer makes of the record. It is to be kept, unless a list goes on (`look`)."""
        stage = sub.stage
        if stage is Stage.UPLOADING:
            return self.after_upload(sub, answer, now)
        if stage is Stage.SENDING:
            return self.after_create(sub, answer, now)
        if stage is Stage.SEEKING:
            return self.after_seeking(sub, answer, now)
        if stage is Stage.FENCING:
            return self.after_delete(sub, answer, now)
        return self.after_list(sub, answer, now)

    def after_upload(self, sub: Submission, answer: Answer, now: float) -> Submission:
        if isinstance(answer, FileSeen):
            return self._with_file(sub, answer)
        if isinstance(answer, Refused):
            if answer.why in NOT_NOW:
                return self._later(sub, now, answer)
            return sub._replace(stage=Stage.REFUSED, words=answer.message)
        return self._later(sub._replace(stage=Stage.SEEKING), now, answer)

    def after_seeking(self, sub: Submission, answer: Answer, now: float) -> Submission:
        if isinstance(answer, FilesSeen):
            for file in answer.files:
                if self.is_our_file(file, sub):
                    return self._with_file(sub, file)
        elif not (isinstance(answer, Refused) and answer.why in (Why.CANNOT, Why.FINAL)):
            return self._later(sub, now, answer)
        return sub._replace(stage=Stage.UPLOADING)

    def after_create(self, sub: Submission, answer: Answer, now: float) -> Submission:
        if isinstance(answer, Created):
            return sub._replace(stage=Stage.SUBMITTED, batch_id=answer.batch_id)
        if not isinstance(answer, Refused):
            return self.unknown(sub, now)
        if answer.why in NOT_NOW:
            return self._later(sub._replace(stage=Stage.UPLOADED), now, answer)
        if answer.why is Why.FILE_GONE and sub.attempt < MOST_UPLOADS:
            return self._later(sub._replace(stage=Stage.PLANNED, tries=sub.attempt), now, answer)
        return sub._replace(stage=Stage.REFUSED, words=answer.message)

    def unknown(self, sub: Submission, now: float) -> Submission:
        """A create of unknown fate, of which no byte can leave any more after `now`."""
        return sub._replace(stage=Stage.UNKNOWN, since=now, due=now, tries=0, clean_lists=0)

    def after_list(self, sub: Submission, answer: Answer, now: float) -> Submission:
        look = sub.look
        assert look is not None
        if not isinstance(answer, Page):
            if self.cannot_list(sub, answer):
                return self._held(sub, "this server cannot list batches")
            return self._later(sub._replace(look=None), now, answer)
        found, nameless = look.found, look.nameless
        horizon = self.horizon(sub)
        for listed in answer.batches:
            ours = self.is_ours(listed, sub)
            if ours is None:
                nameless = nameless or listed.created_at >= horizon
            elif ours:
                found = (*found, listed)
        if answer.has_more and answer.batches and answer.batches[-1].created_at >= horizon:
            return sub._replace(look=Look(look.began, answer.batches[-1].id, found, nameless))
        return self._listed(sub._replace(look=None), Look(look.began, None, found, nameless), now)

    def cannot_list(self, sub: Submission, answer: Answer) -> bool:
        """Whether the answer says that no list will ever be had."""
        if not isinstance(answer, Refused):
            return False
        # The page after a cursor may be refused for the cursor's sake: a list from the beginning has none.
        at_the_beginning = sub.look is not None and sub.look.after is None
        in_vain = at_the_beginning or sub.tries >= MOST_BROKEN_LISTS
        return answer.why is Why.CANNOT or (answer.why is Why.FINAL and in_vain)

    def horizon(self, sub: Submission) -> float:
        """The server's time before which no batch can be ours: none is older than its file."""
        return (sub.first_file_at or 0.0) - HORIZON

    def is_our_file(self, file: FileSeen, sub: Submission) -> bool:
        return file.sha256 == sub.sha256

    def is_ours(self, listed: Listed, sub: Submission) -> bool | None:
        """Whether a listed batch is one of this shard's, of whichever attempt; None where nothing tells.

        A failed one counts for the attempt under way alone: those before it are known to have come to nothing.
        """
        if listed.shard is not None:  # where a server gives equal bytes one file id, this alone tells
            return listed.shard == sub.shard and (not listed.failed or listed.attempt in (sub.attempt, None))
        if listed.file_id is not None:
            return listed.file_id in sub.files and (not listed.failed or listed.file_id == sub.file_id)
        return None

    def _listed(self, sub: Submission, look: Look, now: float) -> Submission:
        """After a whole list."""
        if look.found:
            alive = [one for one in look.found if not one.failed] or list(look.found)
            oldest = min(alive, key=lambda one: one.created_at)
            extras = tuple(sorted({one.id for one in alive} - {oldest.id}))
            return sub._replace(stage=Stage.SUBMITTED, batch_id=oldest.id, extras=extras)
        if look.nameless:
            return self._held(sub, "this server lists batches without saying whose they are")
        sub = sub._replace(clean_lists=sub.clean_lists + 1, tries=0)
        fenced = sub.stage is Stage.FENCED
        quiet_at = sub.since + (self.quarantine / 2 if fenced else self.quarantine)
        # What counts is when the list began: a batch that shows up on a page already read is missed.
        if look.began >= quiet_at and (fenced or sub.clean_lists >= 2):
            return sub._replace(stage=Stage.PLANNED) if fenced else self.not_found(sub)
        pause = min(LONGEST_PAUSE, self.quarantine / 3)
        return sub._replace(due=min(now + pause, quiet_at) if quiet_at > now else now + pause / 10)

    def not_found(self, sub: Submission) -> Submission:
        return sub._replace(stage=Stage.FENCING, tries=0)

    def after_delete(self, sub: Submission, answer: Answer, now: float) -> Submission:
        never = isinstance(answer, Refused) and answer.why not in NOT_NOW
        if not (never or isinstance(answer, Deleted)):
            return self._later(sub, now, answer)
        due = now + min(LONGEST_PAUSE, self.quarantine / 2)
        return sub._replace(stage=Stage.FENCED, since=now, due=due, tries=0, clean_lists=0)

    def _with_file(self, sub: Submission, file: FileSeen) -> Submission:
        first = file.created_at if sub.first_file_at is None else sub.first_file_at
        files = sub.files if file.id in sub.files else (*sub.files, file.id)
        return sub._replace(stage=Stage.UPLOADED, file_id=file.id, files=files, first_file_at=first, tries=0)

    def _later(self, sub: Submission, now: float, answer: Answer) -> Submission:
        if isinstance(answer, Refused) and answer.why in SOMEBODYS_TURN:
            return sub._replace(due=now)
        named = answer.wait if isinstance(answer, Refused) else 0.0
        pause = min(LONGEST_PAUSE, max(named, 2.0 ** min(sub.tries, 11)))
        return sub._replace(due=now + pause, tries=sub.tries + 1)

    def _held(self, sub: Submission, reason: str) -> Submission:
        words = f"whether the batch of file {sub.file_id} was created is not known, and {reason}"
        return sub._replace(stage=Stage.HELD, look=None, words=words)


def audit(submissions: list[Submission], listed: list[Listed]) -> list[Listed]:
    """The batches alive in a whole list that carry a shard of these and are not the one it is submitted as."""
    by_shard = {sub.shard: sub for sub in submissions}
    by_file = {file: sub for sub in submissions for file in sub.files}
    extra = []
    for one in listed:
        sub = by_shard.get(one.shard) if one.shard is not None else by_file.get(one.file_id or "")
        if sub is not None and not one.failed and one.id != sub.batch_id:
            extra.append(one)
    return extra
