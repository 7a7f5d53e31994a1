"""The way of one model call: it arrives, is read, meets the limits and the script, is answered and booked."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from runner.simulator import chat, embeddings, failures, responses
from runner.simulator.bill import Tokens
from runner.simulator.buckets import ModelLimits
from runner.simulator.chance import Chance
from runner.simulator.faults import ERROR, LINE, WIRE, Fault, Script
from runner.simulator.ledger import Ledger, Visits, body_digest
from runner.simulator.models import Catalogue, Model
from runner.simulator.profiles import find_profile
from runner.simulator.question import Body, Question
from runner.simulator.refusal import Refusal
from runner.simulator.settings import Settings
from runner.simulator.vectors import Vectors

INVALID_KEY = "sk-invalid"
_CACHED_TOKENS = 1_024
_REMEMBERED_PROMPTS = 10_000
_READERS: Mapping[str, Callable[[Body, Model], Question]] = {
    chat.NAME: chat.read,
    responses.NAME: responses.read,
    embeddings.NAME: embeddings.read,
}


@dataclass(slots=True)
class Result:
    """What a call comes to: an HTTP answer, and the fault that the wire, or the line of a batch, is to add to
    it, if any."""

    status: int
    body: bytes
    headers: dict[str, str]
    request_id: str
    fault: Fault | None = None
    tokens: Tokens | None = None


class Calls:
    """Answers model calls, whether they come by HTTP or as lines of a batch."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self.settings = settings
        self.catalogue = Catalogue(deployments=find_profile(settings.profile).deployments)
        self.ledger = Ledger(self.catalogue)
        self._clock = clock
        self._wall = wall
        self.script = Script(settings.faults, seed=settings.seed)
        self._vectors = Vectors()
        self._limits: dict[str, ModelLimits] = {}
        self._prompts: OrderedDict[bytes, None] = OrderedDict()

    def reset(self) -> None:
        """Forgets all calls, fills all buckets."""
        self.ledger.clear()
        self._limits.clear()
        self._prompts.clear()

    def online(self, endpoint: str, raw: bytes, *, key: str) -> Result:
        """Answers an HTTP call with this body and API key."""
        try:
            body = _parse(raw)
        except Refusal as refusal:
            digest = hashlib.sha256(raw).digest()
            visits = self.ledger.arrive(endpoint, digest)
            return self._refused(refusal, Chance(self.settings.seed, digest), visits, None)
        digest = body_digest(body)
        chance = Chance(self.settings.seed, digest)
        visits = self.ledger.arrive(endpoint, digest)
        limits: ModelLimits | None = None
        try:
            if key == INVALID_KEY:
                raise failures.refusal("401", "", wall=self._wall())
            model = self.catalogue.find(body.get("model"))
            limits = self._limits_of(model.name)
            try:
                question = _READERS[endpoint](body, model)
            except Refusal:
                limits.punish()
                raise
            limits.admit(question.charge, self._clock())
            return self._admitted(endpoint, question, chance, digest, visits=visits, limits=limits)
        except Refusal as refusal:
            return self._refused(refusal, chance, visits, limits)

    def batched(self, endpoint: str, body: Body, *, batch_id: str) -> Result:
        """Answers a line of a batch: no limits, the batch price, no faults of the wire, but those of lines.

        The status is 0 where the line's fault keeps it from being run.
        """
        digest = body_digest(body)
        chance = Chance(self.settings.seed, digest)
        visits = self.ledger.arrive(endpoint, digest)
        fault = self.script.choose(digest, visits.arrived, LINE)
        if fault is not None and not fault.executed:
            self.ledger.fault(fault.name)
            return Result(0, b"", {}, _request_id(chance, visits), fault=fault)
        try:
            question = _READERS[endpoint](body, self.catalogue.find(body.get("model")))
            result = self._admitted(
                endpoint, question, chance, digest, visits=visits, limits=None, batch_id=batch_id
            )
        except Refusal as refusal:
            return self._refused(refusal, chance, visits, None)
        if fault is not None:
            self.ledger.fault(fault.name)
            result.fault = fault
        return result

    def meet(self, digest: bytes, coming: int, meets: str) -> Fault | None:
        """The fault that a step of the Batch API meets (`Script.choose`), booked."""
        fault = self.script.choose(digest, coming, meets)
        if fault is not None:
            self.ledger.fault(fault.name)
        return fault

    def count_input(self, endpoint: str, body: Body) -> int:
        """The input tokens of a line; 0 where it would be refused."""
        try:
            return _READERS[endpoint](body, self.catalogue.find(body.get("model"))).input_tokens
        except Refusal:
            return 0

    def _admitted(
        self,
        endpoint: str,
        question: Question,
        chance: Chance,
        digest: bytes,
        *,
        visits: Visits,
        limits: ModelLimits | None,
        batch_id: str | None = None,
    ) -> Result:
        visits.admitted += 1
        batched = batch_id is not None
        fault = self.script.choose(digest, visits.admitted)
        if fault is not None and batched and fault.form == WIRE:
            fault = None
        if fault is not None:
            self.ledger.fault(fault.name)
        tokens = self._read_tokens(question)
        answer: dict[str, Any] = {}
        if fault is None or fault.executed or fault.form != ERROR:
            answer = self._answer(endpoint, question, chance, tokens)
        if fault is None or fault.executed:
            self.ledger.execute(
                endpoint,
                digest,
                tokens,
                base=question.model.base,
                tier="batch" if batched else question.tier,
                inputs=question.input_digests,
                batch_id=batch_id,
            )
        if fault is not None and fault.form == ERROR:
            raise failures.refusal(fault.name, question.model.name, wall=self._wall())
        on_wire = fault is not None and fault.form == WIRE
        if fault is not None and not on_wire:
            answer = failures.disfigured(fault.name, answer)
        headers = limits.headers(self._clock()) if limits is not None else {}
        request_id = _request_id(chance, visits)
        return Result(
            200, orjson.dumps(answer), headers, request_id, fault=fault if on_wire else None, tokens=tokens
        )

    def _refused(
        self, refusal: Refusal, chance: Chance, visits: Visits, limits: ModelLimits | None
    ) -> Result:
        self.ledger.refuse(refusal.word)
        headers = limits.headers(self._clock()) if limits is not None else {}
        headers.update(refusal.headers)
        return Result(refusal.status, orjson.dumps(refusal.body), headers, _request_id(chance, visits))

    def _answer(self, endpoint: str, question: Question, chance: Chance, tokens: Tokens) -> dict[str, Any]:
        if endpoint == embeddings.NAME:
            return embeddings.answer(question, self._vectors, tokens)
        if endpoint == chat.NAME:
            return chat.answer(question, chance, tokens)
        return responses.answer(question, chance, tokens)

    def _limits_of(self, model: str) -> ModelLimits:
        limits = self._limits.get(model)
        if limits is None:
            limits = self._limits[model] = ModelLimits(
                model,
                rpm=self.settings.rpm,
                tpm=self.settings.tpm,
                now=self._clock(),
                sliced=self.settings.slices,
            )
        return limits

    def _read_tokens(self, question: Question) -> Tokens:
        """The tokens of the prompt; its first 1,024 are cached if they have been seen, and written if not."""
        tokens = Tokens(question.input_tokens)
        if len(question.beginning) < _CACHED_TOKENS * 4:
            return tokens
        beginning = hashlib.sha256(question.model.name.encode() + b"\0" + question.beginning).digest()
        if beginning in self._prompts:
            self._prompts.move_to_end(beginning)
            tokens.cached = _CACHED_TOKENS
            return tokens
        self._prompts[beginning] = None
        if len(self._prompts) > _REMEMBERED_PROMPTS:
            self._prompts.popitem(last=False)
        tokens.cache_write = _CACHED_TOKENS if question.model.cache_writes_cost else 0
        return tokens


def _parse(raw: bytes) -> Body:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise Refusal(
            400,
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using "
            "your HTTP library correctly. The OpenAI API expects a JSON payload, but what was sent was not "
            "valid JSON.)",
        )
    return body


def _request_id(chance: Chance, visits: Visits) -> str:
    return f"req_{chance.hex(f'request {visits.arrived}', 32)}"
