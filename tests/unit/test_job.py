"""The job file: every field, every fault, and the value that comes of it."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from textwrap import dedent
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import BadJob
from runner.job import (
    Batch,
    Deadline,
    Job,
    Limits,
    Retry,
    parse_deadline,
    parse_duration,
    parse_money,
    parse_size,
    read_job,
    requests_job,
)
from runner.job.value import freeze
from runner.job.yaml_reader import NotYaml, compose

SCHEMA = '{"type": "object", "properties": {"label": {"type": "string"}}, "required": ["label"]}'
SMALL = """\
name: small
endpoint: responses
model: gpt-6-luna
request: {input: "{{ text }}"}
"""
FULL = """\
name: classify-tickets             # [a-z0-9-]
endpoint: responses
model: gpt-6-luna
input: ../data/tickets.jsonl
output: ../out/tickets.jsonl
key: id
keep: [id, subject]
output_field: answer
request:
  instructions: Classify the ticket.
  input: "{{ subject }}\\n\\n{{ body }}"
  max_output_tokens: 60
  temperature: 0.7
  logit_bias: {50256: -100}
  store: false
schema: schemas/ticket.json
on_length: accept
on_content_filter: fail
on_refusal: accept
mode: auto
deadline: 06:00 Europe/Berlin
batch: {poll: 10s, queue_wait: 5m}
limits: {requests_per_minute: 6000, tokens_per_minute: 2000000, concurrency: 200}
retry: {attempts: 4, max_wait: 90}
budget: 5.00
dedupe: true
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "jobs" / "schemas").mkdir(parents=True)
    (tmp_path / "jobs" / "schemas" / "ticket.json").write_text(SCHEMA)
    return tmp_path / "jobs"


def written(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(dedent(text), encoding="utf-8")
    return path


def faults(folder: Path, text: str) -> list[str]:
    """The lines of a BadJob's message, each without the file's name."""
    path = written(folder, text)
    with pytest.raises(BadJob) as caught:
        read_job(path)
    lines = str(caught.value).split("\n")
    assert all(line.startswith(f"{path}:") for line in lines)
    return [line.removeprefix(f"{path}:") for line in lines]


def with_line(line: str) -> str:
    """The small job with one more line, its fifth; it stands for the field if the small job has it too."""
    name = line.split(":")[0]
    kept = [one for one in SMALL.split("\n") if one and one.split(":")[0] != name]
    return "\n".join([*kept, line, ""])


def test_every_field_of_a_full_job(folder: Path) -> None:
    path = written(folder, FULL)
    job = read_job(path)
    assert job == Job(
        name="classify-tickets",
        path=path.resolve(),
        endpoint="responses",
        model="gpt-6-luna",
        input=str(folder.parent / "data" / "tickets.jsonl"),
        output=folder.parent / "out" / "tickets.jsonl",
        key="id",
        keep=("id", "subject"),
        output_field="answer",
        request=freeze(
            {
                "instructions": "Classify the ticket.",
                "input": "{{ subject }}\n\n{{ body }}",
                "max_output_tokens": 60,
                "temperature": 0.7,
                "logit_bias": {"50256": -100},
                "store": False,
            }
        ),
        schema=freeze(json.loads(SCHEMA)),
        schema_name="ticket",
        on_length="accept",
        on_content_filter="fail",
        on_refusal="accept",
        mode="auto",
        deadline=parse_deadline("06:00 Europe/Berlin"),
        batch=Batch(10.0, 300.0),
        limits=Limits(6000, 2_000_000, 200),
        retry=Retry(4, 90.0),
        budget=Decimal("5.00"),
        dedupe=True,
    )
    assert str(job.budget) == "5.00"
    assert job.accepts == {"stop", "tool_calls", "length", "refusal"}


def test_the_defaults(folder: Path) -> None:
    job = read_job(written(folder, SMALL))
    assert (job.input, job.output, job.key, job.keep, job.schema, job.budget) == (None,) * 6
    assert (job.output_field, job.mode, job.deadline, job.dedupe) == ("result", "online", None, False)
    assert (job.batch, job.limits, job.retry) == (
        Batch(30.0, 300.0),
        Limits(None, None, None),
        Retry(6, 600.0),
    )
    assert job.accepts == {"stop", "tool_calls"}


def test_null_is_absent(folder: Path) -> None:
    assert read_job(written(folder, SMALL + "output:\nbudget: null\nlimits: ~\nkeep:\n")) == read_job(
        written(folder, SMALL)
    )
    assert faults(folder, with_line("model:")) == ["1: model: is missing"]


def test_paths_are_relative_to_the_real_job_file(folder: Path, tmp_path: Path) -> None:
    written(folder, with_line("input: rows.jsonl"))
    link = tmp_path / "link.yaml"
    link.symlink_to(folder / "job.yaml")
    job = read_job(link)
    assert job.path == (folder / "job.yaml").resolve()
    assert job.input == str((folder / "rows.jsonl").resolve())
    assert read_job(written(folder, with_line("input: '-'"))).input == "-"
    assert read_job(written(folder, with_line("input: /data/x.jsonl"))).input == "/data/x.jsonl"


def test_a_schema_may_stand_in_the_job_file(folder: Path) -> None:
    job = read_job(written(folder, SMALL + "schema:\n  type: object\n  required: [label]\n"))
    assert job.schema == freeze({"type": "object", "required": ["label"]})
    assert job.schema_name == "small"


def test_yaml_means_what_it_looks_like(folder: Path) -> None:
    request = """\
    request:
      a: [22:30, no, yes, on, 1e-1, 0.1, 5.00, 012, 0o17, 0x1F, 1_000, 2026-11-21, .5, 1., +3,
          '1', "x", ~, null, True, 1:2]
      b: |
        two
        lines
      c: >-
        one
        line
    """
    text = SMALL.replace('request: {input: "{{ text }}"}\n', dedent(request))
    found = read_job(written(folder, text)).request
    assert list(found["a"]) == [
        *("22:30", "no", "yes", "on", 0.1, 0.1, 5.0, 12, 15, 31, "1_000", "2026-11-21", 0.5, 1.0, 3),
        *("1", "x", None, None, True, "1:2"),
    ]
    assert [type(one) for one in found["a"][4:8]] == [float, float, float, int]
    assert found["b"] == "two\nlines\n"
    assert found["c"] == "one line"


def test_all_faults_are_told_at_once_with_their_lines(folder: Path) -> None:
    found = faults(
        folder,
        """\
        name: Classify Tickets
        endpoint: response
        modle: gpt-6-luna
        base_url: http://127.0.0.1
        OPENAI_API_KEY: sk-canary
        messages: []
        keep: [id, id, 3, result]
        request:
          model: x
          stream: true
          background: true
          instructions: |
            Hello
            {{ a | nope }}
          input: "{{ subject"
        schema: schemas/none.json
        on_length: reject
        mode: onlin
        deadline: 22:30
        batch: {poll: 30x, queue: 3}
        limits: {requests_per_minute: 6_000, concurrency: 0}
        retry: 5
        budget: 5,00
        dedupe: no
        name: again
        """,
    )
    expected = [
        ("1: name: ", "a-z, 0-9 and -"),
        ("1: model: ", "is missing"),
        ("2: endpoint: ", "chat, responses, embeddings, not 'response'; did you mean responses?"),
        ("3: modle: ", "did you mean mode or model?"),
        ("4: base_url: ", "OPENAI_BASE_URL or give --base-url"),
        ("5: OPENAI_API_KEY: ", "set OPENAI_API_KEY"),
        ("6: messages: ", "belongs under request"),
        ("7: keep[1]: ", "already"),
        ("7: keep[2]: ", "must be text, not the number 3; in quotes it is text"),
        ("7: keep: ", "'result' is kept from the input"),
        ("9: request.model: ", "the job's own model"),
        ("10: request.stream: ", "never streamed"),
        ("11: request.background: ", "batch mode"),
        ("14: request.instructions: ", "no filter 'nope'"),
        ("15: request.input: ", "not a template"),
        ("16: schema: ", "cannot be read as JSON: No such file"),
        ("17: on_length: ", "one of fail, accept, not 'reject'"),
        ("18: mode: ", "did you mean online?"),
        ("19: deadline: ", "needs its time zone"),
        ("20: batch.queue: ", "did you mean queue_wait?"),
        ("20: batch.poll: ", "'30x' is not a duration"),
        ("21: limits.requests_per_minute: ", "'6_000'; write it without separators"),
        ("21: limits.concurrency: ", "from 1 to 10,000"),
        ("22: retry: ", "not the number 5"),
        ("23: budget: ", "after a point"),
        ("24: dedupe: ", "true or false, not 'no'"),
        ("25: name: ", "a second time, after line 1"),
    ]
    assert len(found) == len(expected)
    for line, (start, part) in zip(found, expected, strict=True):
        assert line.startswith(start)
        assert part in line
    assert "canary" not in "".join(found)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("name: 12", "must be text, not the number 12; in quotes"),
        ("name: ''", "neither empty"),
        ("model: ' x'", "spaces around it"),
        ("model: [x]", "must be text, not a list"),
        ("endpoint: 3", "must be one of"),
        ("endpoint: chatt", "did you mean chat?"),
        ("request: text", "must be the fields of the request's body, not 'text'"),
        ("request: {}", "must be the fields"),
        ("request: [a]", "not a list"),
        ("request: {input: {{ text }}}", "must be in quotes"),
        ("request: {input: .inf}", "JSON cannot hold"),
        ("request: {input: 1e999}", "JSON cannot hold"),
        ("request: {stream: true, input: x}", "never streamed"),
        ("key: 1", "must be text"),
        ("key: [id]", "not a list"),
        ("keep: id", "must be a list"),
        ("keep: [error]", "'error' is where failed rows"),
        ("output_field: error", "'error' is where failed rows"),
        ("input: s3://bucket/x", "a file on this machine"),
        ('input: "a\\0b"', "a file on this machine"),
        ("output: '-'", "a file on this machine"),
        ("schema: [1]", "must be text"),
        ("schema: {type: strin}", "$.type"),
        ("schema: {$ref: 'file:///etc/passwd'}", "no JSON Schema"),
        ("schema: job.yaml", "cannot be read as JSON"),
        ("schema: schemas", "Is a directory"),
        ("on_refusal: yes", "one of fail, accept"),
        ("deadline: [1]", "must be a duration or a time of day"),
        ("deadline: 0", "from 10ms to 30d"),
        ("deadline: 31d", "from 10ms to 30d"),
        ("batch: {poll: 0s}", "from 10ms to 1h"),
        ("batch: {poll: true}", "a number or a text, not true"),
        ("limits: {concurrency: 2.5}", "a whole number from 1 to 10,000"),
        ("limits: {concurrency: 10001}", "from 1 to 10,000, not '10001'"),
        ("limits: {tokens_per_minute: -1}", "from 1 to"),
        ("limits: {tokens_per_minute: many}", "a whole number"),
        ("limits: [1]", "not a list"),
        ("retry: {attempts: 0}", "from 1 to 100"),
        ("retry: {attemps: 3}", "did you mean attempts?"),
        ("retry: {max_wait: 2d}", "from 10ms to 1d"),
        ("budget: -1", "not an amount"),
        ("budget: .nan", "not"),
        ("budget: 1e12", "at most 1,000,000,000"),
        ("budget: 0.0000000000001", "12 decimals"),
        ("budget: 6_000", "nothing between thousands"),
        ("dedupe: 1", "true or false"),
        ("zzz: 1", "known here: name, endpoint"),
        ("provider: sim", "--provider"),
        ("stream: true", "never streamed"),
        ("temperature: 0", "belongs under request"),
        ('"a\\eb": 1', r"'a\x1bb'"),
        ("model: !!python/object:os.system x", "no YAML tags"),
        ("model: !x y", "no YAML tags"),
        ("<<: {a: 1}", "no merge keys"),
        ("? [a]\n: 1", "a name must be text"),
    ],
)
def test_a_fault_of_one_field(folder: Path, line: str, part: str) -> None:
    found = faults(folder, with_line(line))
    assert any(part in one for one in found), found
    assert "\x1b" not in "".join(found)


@pytest.mark.parametrize(
    "line", ["limits: {concurrency: 2e2}", "limits: {concurrency: '200'}", "limits: {concurrency: 200.0}"]
)
def test_limits_are_read_as_decimal_text(folder: Path, line: str) -> None:
    concurrency = read_job(written(folder, with_line(line))).limits.concurrency
    assert concurrency == 200
    assert type(concurrency) is int


@pytest.mark.parametrize(
    ("text", "amount"),
    [("5.00", "5.00"), ("'5.10'", "5.10"), ("$5", "5"), ("1e-1", "0.1"), ("0", "0"), ("0.1", "0.1")],
)
def test_a_budget_is_exact(folder: Path, text: str, amount: str) -> None:
    budget = read_job(written(folder, with_line(f"budget: {text}"))).budget
    assert isinstance(budget, Decimal)
    assert str(budget) == amount


@pytest.mark.parametrize(
    ("request_line", "endpoint", "part"),
    [
        ("request: {messages: [], response_format: {type: text}}", "chat", "request.response_format"),
        ("request: {input: x, text: {format: {type: text}}}", "responses", "request.text.format"),
        ("request: {input: x, text: '{{ t }}'}", "responses", "request.text"),
        ("request: {input: x}", "embeddings", "no structured output"),
    ],
)
def test_a_schema_needs_its_place(folder: Path, request_line: str, endpoint: str, part: str) -> None:
    text = f"name: a\nendpoint: {endpoint}\nmodel: m\n{request_line}\nschema: schemas/ticket.json\n"
    found = faults(folder, text)
    assert len(found) == 1
    assert found[0].startswith("5: schema: ")
    assert part in found[0]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "1: name: is missing"),
        (b"# nothing\n", "1: name: is missing"),
        (b"- a\n", "must be fields and values"),
        (b"a: [1\n", "is not YAML"),
        (b"a: b\n\tc: d\n", "2: is not YAML"),
        (b"a: {{ x }}, {{ y }}\n", "must be in quotes"),
        (b"a: 1\n---\nb: 2\n", "2: a second document"),
        (b"a: \x01\n", "1: holds a control character"),
        (b"a: 1\nb: \xff\n", "2: is not UTF-8"),
        (b"a: *nowhere\n", "refers to no anchor"),
        (b"a: &a [*a]\n", "refers to itself"),
        (b"a: " + b"[" * 200, "nested deeper than 64"),
        (b"a: x\n" + b"# " * (1 << 19), "larger than 1 MiB"),
    ],
)
def test_what_is_no_job_file_at_all(folder: Path, content: bytes, part: str) -> None:
    path = folder / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(BadJob) as caught:
        read_job(path)
    assert part in str(caught.value)


def test_a_file_that_cannot_be_read(folder: Path) -> None:
    for path, why in ((folder / "none.yaml", "No such file"), (folder, "directory")):
        with pytest.raises(BadJob, match=why):
            read_job(path)


def test_a_byte_order_mark_and_crlf_are_read(folder: Path) -> None:
    path = folder / "job.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    assert read_job(path).name == "small"


def test_aliases_work_and_bombs_do_not() -> None:
    tree, found = compose("a: &x {k: 1}\nb: [*x, *x]\n")
    assert (tree.plain(), found) == ({"a": {"k": 1}, "b": [{"k": 1}, {"k": 1}]}, [])
    bomb = "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "".join(
        f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    with pytest.raises(NotYaml, match="more than 50,000 values"):
        compose(bomb)


def test_every_value_remembers_its_line() -> None:
    tree, _ = compose("a: 1\nb:\n  - x\n  - c:\n      d: |\n        text\n")
    assert isinstance(tree.value, dict)
    items = tree.value["b"].value
    assert isinstance(items, list)
    assert [tree.value["a"].line, tree.value["b"].line, items[0].line, items[1].line] == [1, 2, 3, 4]
    inner = items[1].value["c"].value["d"]  # type: ignore[call-overload, index, union-attr]
    assert (inner.line, inner.content_line) == (5, 6)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
amounts = st.decimals(min_value=0, max_value=10**6, places=4)
jobs = st.builds(
    Job,
    name=st.from_regex(r"[a-z0-9-]+", fullmatch=True),
    path=st.none() | st.just(Path("/jobs/a.yaml")),
    endpoint=st.none() | st.sampled_from(["chat", "responses", "embeddings"]),
    model=st.none() | st.text(),
    input=st.none() | st.just("-") | st.just("/data/x"),
    output=st.none() | st.just(Path("/out/x")),
    key=st.none() | st.text(),
    keep=st.none() | st.lists(st.text()).map(tuple),
    request=st.dictionaries(st.text(), json_values, max_size=4).map(freeze),
    schema=st.none() | st.dictionaries(st.text(), json_values, max_size=2).map(freeze),
    schema_name=st.none() | st.text(),
    mode=st.sampled_from(["online", "batch", "auto"]),
    on_length=st.sampled_from(["fail", "accept"]),
    deadline=st.none()
    | st.sampled_from(["8h", "90", "22:30 UTC", "06:00 Europe/Berlin", "22:30+01:00"]).map(parse_deadline),
    batch=st.builds(Batch, st.floats(0.01, 99), st.floats(0.01, 99)),
    limits=st.builds(
        Limits, st.none() | st.integers(1), st.none() | st.integers(1), st.none() | st.integers(1)
    ),
    retry=st.builds(Retry, st.integers(1, 9), st.floats(0.01, 99)),
    budget=st.none() | amounts,
    dedupe=st.booleans(),
)


@given(jobs)
def test_a_frozen_job_thaws_to_the_same(job: Job) -> None:
    again = Job.thaw(json.loads(json.dumps(job.frozen())))
    assert again == job
    assert str(again.budget) == str(job.budget)
    assert again.frozen() == job.frozen()
    assert again.meaning_digest() == job.meaning_digest()


def test_meaning_is_what_makes_a_new_run(folder: Path) -> None:
    job = read_job(written(folder, FULL))
    same: dict[str, Any] = {
        "mode": "batch",
        "limits": Limits(),
        "retry": Retry(1),
        "budget": None,
        "deadline": None,
        "batch": Batch(1),
        "output": None,
        "input": None,
        "keep": None,
        "on_length": "fail",
        "name": "other",
    }
    for field, value in same.items():
        assert replace(job, **{field: value}).meaning_digest() == job.meaning_digest(), field
    other: dict[str, Any] = {
        "endpoint": "chat",
        "model": "m",
        "request": freeze({"input": "x"}),
        "schema": None,
        "key": None,
        "dedupe": False,
        "schema_name": "other",
    }
    digests = {replace(job, **{field: value}).meaning_digest() for field, value in other.items()}
    assert len(digests | {job.meaning_digest()}) == len(other) + 1
    assert len(job.meaning_digest()) == 64


def test_the_order_of_the_request_belongs_to_its_meaning(folder: Path) -> None:
    first = read_job(written(folder, with_line("request: {a: 1, b: 2}")))
    second = read_job(written(folder, with_line("request: {b: 2, a: 1}")))
    assert first.meaning_digest() != second.meaning_digest()


def test_a_digest_stays_from_version_to_version() -> None:
    job = replace(requests_job("-"), request=freeze({"input": ["é", 0.7, 10**30, None, "\ud800"]}))
    assert job.meaning_digest() == "9a6e7a86202558f6420743b71c6704b02f9ecc8fbd88040ffecac96d42b70fb6"


def test_a_job_cannot_change(folder: Path) -> None:
    job = read_job(written(folder, FULL))
    with pytest.raises(FrozenInstanceError):
        job.name = "x"  # type: ignore[misc]
    request: Any = job.request
    for change in (
        lambda: request.update(a=1),
        lambda: request.__setitem__("a", 1),
        lambda: request.pop("input"),
        request["logit_bias"].clear,
        lambda: request.setdefault("a", 1),
        lambda: request.__ior__({"a": 1}),
        lambda: request.__delitem__("input"),
        request.popitem,
    ):
        with pytest.raises(TypeError, match="never changes"):
            change()
    assert copy.deepcopy(request) == request
    assert pickle.loads(pickle.dumps(request)) == request
    assert orjson.loads(orjson.dumps(request))["logit_bias"] == {"50256": -100}


def test_a_requests_file_is_a_job_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    job = requests_job("in.jsonl")
    assert (job.path, job.endpoint, job.model, job.output) == (None,) * 4
    assert job.input == str(tmp_path / "in.jsonl")
    assert job.accepts is None
    assert requests_job("-").input == "-"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(
            ("30s", 30),
            ("5m", 300),
            ("8h", 28800),
            ("1h30m", 5400),
            ("250ms", 0.25),
            ("1d", 86400),
            ("90", 90),
        ),
        *((" 1d 2h 3m 4s 5ms ", 93784.005), ("1.5h", 5400), ("0.1s", 0.1), ("0", 0), ("2m250ms", 120.25)),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", " ", "h", "5x", "-5s", "5m1h", "1h1h", "1,5h", "1e3", "inf", "nan", "5s5", "٣s", "9" * 400, "1:30"],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write 30s"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "amount"),
    [("5.00", "5.00"), ("$5", "5"), ("0.000001", "0.000001"), (" 12 ", "12"), (".5", "0.5"), ("5.", "5")],
)
def test_money(text: str, amount: str) -> None:
    assert str(parse_money(text)) == amount


@pytest.mark.parametrize(
    "text", ["", "-1", "5,00", "1_000", "five", "nan", "inf", "5 USD", "€5", "1e9999", "٣", "9" * 100]
)
def test_what_is_no_money(text: str) -> None:
    with pytest.raises(ValueError, match="is not an amount of US dollars"):
        parse_money(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("32MiB", 32 << 20),
        ("1 GiB", 1 << 30),
        ("500KB", 500_000),
        ("200mb", 200_000_000),
        ("1.5KiB", 1536),
        ("17", 17),
        ("3B", 3),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1.5", "3 XB", "32M", "1e3", "9" * 100])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write 32MiB"):
        parse_size(text)


def at(text: str, now: str) -> str:
    return parse_deadline(text).at(datetime.fromisoformat(now)).isoformat()


@pytest.mark.parametrize(
    ("text", "now", "expected"),
    [
        ("8h", "2026-11-21T22:00:00+01:00", "2026-11-22T05:00:00+00:00"),
        ("90", "2026-11-21T22:00:00+00:00", "2026-11-21T22:01:30+00:00"),
        ("06:00 Europe/Berlin", "2026-11-21T04:59:59+00:00", "2026-11-21T05:00:00+00:00"),
        ("06:00 Europe/Berlin", "2026-11-21T05:00:00+00:00", "2026-11-22T05:00:00+00:00"),
        ("6:00 Europe/Berlin", "2026-07-01T12:00:00+00:00", "2026-07-02T04:00:00+00:00"),
        ("22:30+01:00", "2026-11-21T12:00:00+00:00", "2026-11-21T21:30:00+00:00"),
        ("22:30 -05:30", "2026-11-21T12:00:00+00:00", "2026-11-22T04:00:00+00:00"),
        ("22:30 UTC", "2026-11-21T23:00:00+05:00", "2026-11-21T22:30:00+00:00"),
        ("22:30Z", "2026-11-21T22:30:00+00:00", "2026-11-22T22:30:00+00:00"),
        # The clock goes back at 03:00 on 2026-10-25: 02:30 comes twice.
        ("02:30 Europe/Berlin", "2026-10-24T20:00:00+00:00", "2026-10-25T00:30:00+00:00"),
        ("02:30 Europe/Berlin", "2026-10-25T00:45:00+00:00", "2026-10-25T01:30:00+00:00"),
        # It goes forward on 2026-03-29: there is no 02:30.
        ("02:30 Europe/Berlin", "2026-03-28T20:00:00+00:00", "2026-03-29T00:30:00+00:00"),
    ],
)
def test_when_a_deadline_is(text: str, now: str, expected: str) -> None:
    assert at(text, now) == expected


@given(
    st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2035, 1, 1)),
    st.times(),
    st.sampled_from(["UTC", "Europe/Berlin", "Pacific/Apia", "America/New_York", "+14:00", "-12:00"]),
)
def test_a_time_of_day_is_the_next_one(moment: datetime, clock: Any, zone: str) -> None:
    now = moment.replace(tzinfo=UTC)
    deadline = parse_deadline(f"{clock:%H:%M} {zone}")
    found = deadline.at(now)
    assert now < found <= now + timedelta(hours=26)
    assert found.tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("22:30", "needs its time zone"),
        ("22:30 Europe/Berlinn", "not known on this machine"),
        ("22:30 ../../etc/passwd", "not a deadline"),
        ("22:30 a/../../etc", "not a deadline"),
        ("22:30+15:00", "not an offset"),
        ("24:00 UTC", "not a deadline"),
        ("22:60 UTC", "not a deadline"),
        ("tomorrow", "not a deadline"),
        ("", "not a deadline"),
        ("2026-11-21T22:30:00Z", "not a deadline"),
    ],
)
def test_what_is_no_deadline(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        parse_deadline(text)


def test_a_deadline_keeps_its_text() -> None:
    deadline = parse_deadline(" 22:30 UTC ")
    assert deadline.text == "22:30 UTC"
    assert parse_deadline(deadline.text) == deadline
    assert parse_deadline("8h") == Deadline("8h", 28800.0)
