"""The feed: each ready task once, in input order, made into the very call that ingest hashed."""

import hashlib
import json
from typing import Any

import pytest
from packed_answers import EMBEDDING, embedding_job
from scene import PRICES, Scene, chat_body, request_line, request_lines, settlement

from runner.dispatch.feed import Feed, Nothing
from runner.dispatch.pack import Most
from runner.model import Call, Signal, TaskState, Usage
from runner.pricing import Prices
from runner.question import Questions, worst_case
from runner.store.clock import now
from runner.store.database import Store
from runner.tokens import Estimates

EMBEDDING_PRICES = Prices.parse(
    b'{"as_of": "2026-11-01", "models": {"e5": {"input": "1", "output": "0"}}}', "test prices"
)


def drained(feed: Feed) -> list[Call]:
    found = []
    while isinstance(call := feed.next(), Call):
        found.append(call)
        assert len(found) < 10_000
    return found


def test_every_task_comes_once_in_input_order(store: Store) -> None:
    scene = Scene(store, request_lines(700))

    calls = drained(scene.feed())
    assert [call.asked[0].key for call in calls] == [f"r{n}" for n in range(700)]
    assert [call.asked[0].line for call in calls] == list(range(1, 701))


def test_a_call_is_what_the_row_asks(store: Store) -> None:
    line = request_line("a", "hi", max_completion_tokens=7, n=2)
    [call] = drained(Scene(store, [line]).feed())
    [(hash_,)] = Scene(store, [line]).query("SELECT DISTINCT hash FROM row")

    assert hashlib.sha256(b"chat\n" + call.body).digest() == hash_
    assert (call.endpoint, call.model, call.asked[0].attempts, call.id) == ("chat", "m", 0, 0)
    assert (call.demand.max_output, call.demand.choices) == (7, 2)
    assert call.worst_case is not None
    assert call.worst_case >= 2 * 7 * 2 * 10**6


def test_what_is_handed_out_is_not_handed_out_again_before_the_store_knows(store: Store) -> None:
    scene = Scene(store, request_lines(3))
    feed = scene.feed()
    first = feed.next()
    assert isinstance(first, Call)
    assert [call.asked[0].key for call in drained(feed)] == ["r1", "r2"]
    assert isinstance(feed.next(), Nothing)


def test_a_task_put_back_comes_again_with_its_attempts(store: Store) -> None:
    scene = Scene(store, request_lines(2))
    feed = scene.feed()
    first = feed.next()
    assert isinstance(first, Call)
    [number] = scene.claim(first.task_id)
    feed.settled(first, Signal())
    scene.settle(settlement(number, first.task_id, TaskState.READY, due_at=now(), attempts=2))

    assert [(call.asked[0].key, call.asked[0].attempts) for call in drained(feed)] == [("r1", 0), ("r0", 2)]


def test_a_refused_call_goes_first_and_is_handed_out_once(store: Store) -> None:
    scene = Scene(store, request_lines(3))
    feed = scene.feed()
    first = feed.next()
    assert isinstance(first, Call)
    [number] = scene.claim(first.task_id)
    scene.settle(settlement(number, first.task_id, TaskState.READY, due_at=now()))
    second = feed.next()
    assert isinstance(second, Call)
    feed.settled(first, Signal(refused_for_speed=True))

    assert [call.asked[0].key for call in (second, *drained(feed))] == ["r1", "r0", "r2"]


def test_nothing_says_how_long(store: Store) -> None:
    scene = Scene(store, request_lines(1))
    feed = scene.feed()
    [call] = drained(feed)
    [number] = scene.claim(call.task_id)
    feed.settled(call, Signal())
    assert feed.next() == Nothing(None)

    scene.settle(settlement(number, call.task_id, TaskState.READY, due_at=now() + 30_000_000))
    nothing = feed.next()
    assert isinstance(nothing, Nothing)
    assert nothing.due_in == pytest.approx(30.0, abs=2.0)


def test_an_empty_run_has_nothing_to_ask(store: Store) -> None:
    assert Scene(store, []).feed().next() == Nothing(None)
    assert Scene(store, [b"bad"]).feed().next() == Nothing(None)


def test_what_an_earlier_run_paid_for_is_not_asked(store: Store) -> None:
    scene = Scene(store, request_lines(2))
    scene.answer(chat_body())
    scene.new_run([*request_lines(2), request_line("new", "new")])

    assert [call.asked[0].key for call in drained(scene.feed())] == ["r1", "new"]


def test_another_run_of_the_series_is_not_fed(store: Store) -> None:
    scene = Scene(store, request_lines(2))
    scene.expand()
    first = scene.run
    scene.new_run([request_line("x", "y")])
    scene.expand()
    scene.run = first

    assert [call.asked[0].key for call in drained(scene.feed())] == ["r0", "r1"]


def feed_with_failures(scene: Scene, failed: set[int]) -> Feed:
    return Feed(
        scene.store,
        scene.run.id,
        Questions(scene.job),
        PRICES,
        more=lambda: False,
        has_failed=failed.__contains__,
        estimates=Estimates(),
        most=Most,
    )


def test_a_prober_is_a_row_that_has_not_failed(store: Store) -> None:
    scene = Scene(store, request_lines(4))
    scene.expand()
    ids = [call.task_id for call in scene.calls()]
    feed = feed_with_failures(scene, {ids[0], ids[1]})

    prober = feed.next(to_probe=True)
    assert isinstance(prober, Call)
    assert prober.asked[0].key == "r2"
    assert [call.asked[0].key for call in drained(feed)] == ["r0", "r1", "r3"]


def test_where_all_have_failed_one_of_them_probes(store: Store) -> None:
    scene = Scene(store, request_lines(2))
    scene.expand()
    feed = feed_with_failures(scene, {call.task_id for call in scene.calls()})

    prober = feed.next(to_probe=True)
    assert isinstance(prober, Call)
    assert prober.asked[0].key == "r0"
    assert [call.asked[0].key for call in drained(feed)] == ["r1"]


def test_large_rows_are_taken_few_at_a_time_and_all_in_the_end(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.dispatch.feed.STOCK_BYTES", 2500)
    scene = Scene(store, [request_line(f"r{n}", "x" * 1000 + str(n)) for n in range(20)])
    feed = scene.feed()
    most = 0
    for _ in range(20):
        call = feed.next()
        assert isinstance(call, Call)
        scene.claim(call.task_id)
        feed.settled(call, Signal())
        most = max(most, len(feed._stock))

    assert most <= 2
    assert isinstance(feed.next(), Nothing)


TEXTS = [f"text {n}" for n in range(10)]


def packing_feed(store: Store, texts: list[Any] | None = None, **fields: Any) -> Feed:
    records = [json.dumps({"t": text}).encode() for text in (TEXTS if texts is None else texts)]
    scene = Scene(store, records, job=embedding_job(**fields))
    return scene.feed(EMBEDDING_PRICES)


def inputs_of(calls: list[Call]) -> list[Any]:
    return [json.loads(call.body)["input"] for call in calls]


def test_texts_of_a_job_share_a_call_in_input_order(store: Store) -> None:
    [call] = drained(packing_feed(store))
    body = json.loads(call.body)
    assert body == {"model": "e5", "input": TEXTS, "encoding_format": "base64"}
    assert [one.line for one in call.asked] == list(range(1, 11))
    assert call.demand.input_tokens >= 10
    assert call.worst_case is not None
    assert call.added_base64


def test_a_call_carries_no_more_than_2048_texts(store: Store) -> None:
    calls = drained(packing_feed(store, [str(n) for n in range(5000)]))
    assert [len(call.asked) for call in calls] == [2048, 2048, 904]
    assert [text for texts in inputs_of(calls) for text in texts] == [str(n) for n in range(5000)]


def test_a_call_carries_no_more_than_300000_tokens(store: Store) -> None:
    calls = drained(packing_feed(store, ["word " * 20_000] * 33))
    assert len(calls) > 1
    assert all(call.demand.input_tokens <= 300_000 for call in calls)
    assert sum(len(call.asked) for call in calls) == 33


def test_rows_of_another_kind_wait_for_a_call_of_their_own(store: Store) -> None:
    texts: list[Any] = ["a", [1, 2], "b", [3], "c"]
    calls = drained(packing_feed(store, texts))
    assert inputs_of(calls) == [["a", "b", "c"], [[1, 2], [3]]]


def test_a_requests_file_goes_as_it_is(store: Store) -> None:
    body = {"model": "e5", "input": "a"}
    lines = [
        json.dumps({"custom_id": f"r{n}", "method": "POST", "url": "/v1/embeddings", "body": body}).encode()
        for n in range(3)
    ]
    calls = drained(Scene(store, lines).feed())
    assert [json.loads(call.body) for call in calls] == [body] * 3


def test_a_refused_pack_comes_again_in_halves_before_the_rest(store: Store) -> None:
    feed = packing_feed(store)
    whole = feed.next()
    assert isinstance(whole, Call)
    feed.settled(whole, Signal(split=True))

    assert inputs_of(drained(feed)) == [TEXTS[:5], TEXTS[5:]]


def test_where_both_halves_are_answered_the_whole_was_too_large(store: Store) -> None:
    feed = packing_feed(store, [str(n) for n in range(5000)])
    whole = feed.next()
    assert isinstance(whole, Call)
    feed.settled(whole, Signal(split=True))
    for _ in range(2):
        half = feed.next()
        assert isinstance(half, Call)
        feed.settled(half, Signal(healthy=True))
        feed.answered(half)

    assert [len(call.asked) for call in drained(feed)] == [1024, 1024, 1024, 1024, 904]


def test_where_one_half_is_refused_too_the_size_says_nothing(store: Store) -> None:
    feed = packing_feed(store, [str(n) for n in range(2)])
    whole = feed.next()
    assert isinstance(whole, Call)
    feed.settled(whole, Signal(split=True))
    first, second = feed.next(), feed.next()
    assert isinstance(first, Call)
    assert isinstance(second, Call)
    feed.settled(first, Signal(healthy=True))
    feed.settled(second, Signal(healthy=True))
    feed.answered(second)

    assert feed._texts.most == 2048


def test_a_server_that_refuses_base64_is_asked_without(store: Store) -> None:
    scene = Scene(store, [b'{"t": "a"}', b'{"t": "b"}'], job=embedding_job())
    feed = scene.feed(EMBEDDING_PRICES)
    call = feed.next()
    assert isinstance(call, Call)
    [number] = scene.claim(call.asked[0].task_id)
    scene.settle(settlement(number, call.asked[0].task_id, TaskState.READY, due_at=now(), attempts=0))
    feed.settled(call, Signal(healthy=True, refuses_base64=True))

    [again] = drained(feed)
    assert json.loads(again.body) == {"model": "e5", "input": ["b", "a"]}


def test_a_text_that_has_failed_goes_with_fewer_others(store: Store) -> None:
    scene = Scene(store, [b'{"t": "%d"}' % n for n in range(300)], job=embedding_job())
    scene.expand()
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE task SET attempts = 1, due_at = due_at - 1 WHERE row_id % 300 = 1")
    calls = drained(scene.feed(EMBEDDING_PRICES))
    assert sorted(len(call.asked) for call in calls) == [44, 256]


def test_long_records_make_no_more_rows_into_tasks_than_a_pack_needs(store: Store) -> None:
    scene = Scene(store, [b'{"t": "%s %d"}' % (b"x" * 10_000, n) for n in range(6_000)], job=embedding_job())
    feed = scene.feed(EMBEDDING_PRICES)
    assert isinstance(feed.next(), Call)
    [(tasks,)] = scene.query("SELECT count(*) FROM task")
    assert tasks < 6_000


def test_rows_handed_out_do_not_hide_those_behind_them(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.dispatch.feed.STOCK_BYTES", 2_500)
    scene = Scene(store, [request_line(f"r{n}", "x" * 1_000 + str(n)) for n in range(20)])
    assert len(drained(scene.feed())) == 20


def test_a_pack_that_misses_again_and_again_comes_in_parts(store: Store) -> None:
    feed = packing_feed(store, ["word " * 40] * 100)
    sizes = []
    for _ in range(5):
        call = feed.next()
        assert isinstance(call, Call)
        sizes.append(len(call.asked))
        feed.settled(call, Signal(hold=True, refused_for_speed=True, missed=True))
    assert sizes[:3] == [100, 100, 100]
    assert sizes[3] <= 100 // 8
    texts = [
        text for given in inputs_of(drained(feed)) for text in (given if isinstance(given, list) else [given])
    ]
    assert len(texts) == 100


LONG_CONTEXT = Prices.parse(
    b'{"as_of": "2026-11-01", "models": {"e5": {"input": "1", "output": "0",'
    b' "long_context": {"above": 300, "input": "2", "output": "0"}}}}',
    "test prices",
)


def worst_of_each(texts: list[Any], prices: Prices) -> list[int]:
    questions = Questions(embedding_job())
    found = []
    for text in texts:
        question = questions.ask(json.dumps({"t": text}).encode())
        worst = worst_case(question, question.endpoint.demand(question.request, len(question.body)), prices)
        assert worst is not None
        found.append(worst)
    return found


def test_a_pack_reserves_what_its_texts_would_alone(store: Store) -> None:
    texts = ["", "Grüße", "\ud800 half", 'a "quote"', "x" * 5_000]
    [call] = drained(packing_feed(store, texts))
    assert call.worst_case == sum(worst_of_each(texts, EMBEDDING_PRICES))


def test_a_pack_reserves_the_price_of_a_long_context_where_it_is_one_and_its_texts_are_not(
    store: Store,
) -> None:
    texts = ["word " * 20] * 10
    alone = worst_of_each(texts, LONG_CONTEXT)
    scene = Scene(store, [json.dumps({"t": text}).encode() for text in texts], job=embedding_job())
    [call] = drained(scene.feed(LONG_CONTEXT))
    usage = Usage(call.demand.input_tokens + 300, 0, 0, 0, 0, call.demand.input_tokens + 300)
    cost = LONG_CONTEXT.cost("e5", None, usage)
    assert cost is not None
    assert call.worst_case == 2 * sum(alone) >= cost


ODD_TEXTS: list[Any] = ["a", [1, 2], "", "Grüße", "\ud800", "x" * 9_000, [3], 'a "quote"', "\x00\u2028"]


def test_packs_are_the_same_whether_or_not_a_text_can_be_read_alone(store: Store) -> None:
    user = {"user": "{{ t | length }}"}
    alone = drained(packing_feed(store, ODD_TEXTS))
    constant = drained(packing_feed(store, ODD_TEXTS, request=EMBEDDING | {"user": "u"}))
    whole = drained(packing_feed(store, ODD_TEXTS, request=EMBEDDING | {"user": "{{ 'u' }}"}))
    apart = drained(packing_feed(store, ODD_TEXTS, request=EMBEDDING | user))

    assert (
        inputs_of(alone)
        == inputs_of(whole)
        == [[one for one in ODD_TEXTS if isinstance(one, str)], [[1, 2], [3]]]
    )
    assert [(one.body, one.worst_case, one.demand) for one in constant] == [
        (one.body, one.worst_case, one.demand) for one in whole
    ]
    assert [one.weight for call in alone for one in call.asked] == [
        one.weight for call in whole for one in call.asked
    ]
    # Each length of theirs is another user, so that only those of one length go together.
    assert {len(call.asked) for call in apart} == {1, 2}


def test_rows_are_made_into_tasks_only_where_none_is_ready_and_never_asked_for_in_vain_twice(
    store: Store,
) -> None:
    scene = Scene(store, [b'{"t": "%d"}' % n for n in range(9_000)], job=embedding_job())
    asked: list[bool] = []

    def more() -> bool:
        asked.append(scene.more())
        return asked[-1]

    feed = scene.feed(EMBEDDING_PRICES, more=more)
    seen = []
    for _ in range(3):
        assert isinstance(feed.next(), Call)
        seen.append(len(asked))
    # Of 2,000 rows, then as many again, then twice as many.
    assert seen == [2, 3, 3]
    assert [len(call.asked) for call in drained(feed)] == [2_048, 808]
    assert asked == [True] * 4 + [False]
    assert feed.next() == feed.next()
    assert asked == [True] * 4 + [False]
