"""The sample files are what they claim to be: a user's first run must not fail on our own data."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "sample_data"
JOBS = ROOT / "jobs"

INPUTS = {"tickets": ("id", 300), "corpus": ("id", 400), "documents": ("doc_id", 200)}
URLS = {"/v1/chat/completions", "/v1/responses", "/v1/embeddings"}


def lines_of(name: str) -> list[bytes]:
    data = (SAMPLES / name).read_bytes()
    assert data.endswith(b"\n")
    return data[:-1].split(b"\n")


def records_of(name: str) -> list[dict[str, Any]]:
    records = [json.loads(line.decode("utf-8")) for line in lines_of(name)]
    assert all(isinstance(record, dict) for record in records)
    return records


def table_of(name: str) -> dict[int, str]:
    """The codes of a broken file's table, by line."""
    rows = re.findall(r"^\| (\d+) \| (\w+) \| .+ \|$", (SAMPLES / name).read_text(), re.MULTILINE)
    assert len(rows) == len({line for line, _ in rows})
    return {int(line): code for line, code in rows}


def is_strict_json(line: bytes) -> bool:
    def refuse(_name: str) -> None:
        raise ValueError

    try:
        json.loads(line.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return True


@pytest.mark.parametrize(("name", "key", "count"), [(name, *rest) for name, rest in INPUTS.items()])
def test_each_input_has_its_rows_and_unique_keys(name: str, key: str, count: int) -> None:
    records = records_of(f"{name}.jsonl")
    assert len(records) == count
    assert len({record[key] for record in records}) == count
    assert all(isinstance(record[key], str) and record[key] for record in records)


def test_tickets_have_what_the_template_uses() -> None:
    records = records_of("tickets.jsonl")
    assert all(isinstance(record["subject"], str) and isinstance(record["body"], str) for record in records)
    assert len({record["body"] for record in records}) == len(records)
    assert not any("result" in record for record in records)


def test_tickets_are_as_odd_as_life() -> None:
    text = (SAMPLES / "tickets.jsonl").read_text(encoding="utf-8")
    wanted = [
        "\u2028",
        "\u2029",
        "\u0085",
        "\\ud83d",
        "\\r\\n",
        "<b>",
        "```",
        "{{",
        "12345678901234567890",
    ]
    assert [one for one in wanted if one not in text] == []
    assert re.search(r'"amount": ?1\.10[,}]', text)
    assert len({tuple(record) for record in records_of("tickets.jsonl")}) > 50
    alphabets = {
        "Cyrillic": "а-я",
        "Greek": "α-ω",
        "Hebrew": "א-ת",
        "Arabic": "ء-ي",
        "Thai": "ก-ฮ",
        "Hangul": "가-힣",
    }
    assert [name for name, span in alphabets.items() if not re.search(f"[{span}]", text)] == []


def test_corpus_passages_are_distinct_but_for_those_that_came_in_twice() -> None:
    records = records_of("corpus.jsonl")
    repeats = Counter((record["title"], record["text"]) for record in records)
    assert all(record["title"] and record["text"] and record["lang"] for record in records)
    assert sorted(repeats.values())[-4:] == [1, 2, 2, 2]
    assert len({record["lang"] for record in records}) > 25


def test_documents_are_long_and_distinct() -> None:
    records = records_of("documents.jsonl")
    assert len({record["text"] for record in records}) == len(records)
    spaced = [record for record in records if len(record["text"].split()) >= 150]
    assert len(spaced) >= 195
    assert all(len(record["text"]) >= 400 and len(record["text"].split()) <= 600 for record in records)
    assert all(isinstance(record["title"], str) for record in records)


def test_requests_mix_endpoints_and_models_in_the_batch_format() -> None:
    records = records_of("requests.jsonl")
    assert len(records) == 60
    assert all(set(record) == {"custom_id", "method", "url", "body"} for record in records)
    assert {record["method"] for record in records} == {"POST"}
    assert len({record["custom_id"] for record in records}) == len(records)
    assert {record["url"] for record in records} == URLS
    assert len({(record["url"], record["body"]["model"]) for record in records}) >= 6
    assert not any(record["body"].get("stream") for record in records)


def test_each_broken_line_is_named_and_the_others_are_good() -> None:
    lines = (SAMPLES / "broken.jsonl").read_bytes().split(b"\n")
    codes = table_of("broken.md")
    keys: list[object] = []
    for number, line in enumerate(lines, 1):
        code = codes.get(number)
        if code in {
            "invalid_json",
            "invalid_utf8",
            "control_character",
            "not_a_number",
            "byte_order_mark",
            "too_deep",
        }:
            assert not is_strict_json(line), number
            continue
        if not line.strip():
            assert code is None, number
            continue
        record = json.loads(line)
        if code == "not_an_object":
            assert not isinstance(record, dict), number
        elif code in {"missing_field", "null_field"}:
            assert record.get("body") is None, number
            assert ("body" in record) == (code == "null_field"), number
        elif code == "missing_key":
            assert "id" not in record, number
        elif code == "bad_key":
            assert not isinstance(record["id"], str) or record["id"] == "", number
        elif code == "duplicate_key":
            assert record["id"] in keys, number
        else:
            assert code is None, number
            assert record["id"] not in keys, number
            assert isinstance(record["subject"], str), number
            assert isinstance(record["body"], str), number
            keys.append(record["id"])
    assert len(keys) >= 7
    assert len(set(codes.values())) == 12
    assert b"" in lines


def test_each_broken_request_is_named_and_the_others_are_good() -> None:
    lines = lines_of("broken_requests.jsonl")
    codes = table_of("broken_requests.md")
    good = [json.loads(line) for number, line in enumerate(lines, 1) if line and number not in codes]
    assert len(good) == 3
    assert all(record["url"] in URLS and record["body"]["model"] for record in good)
    assert max(codes) <= len(lines)
    for number, code in codes.items():
        if code.startswith("missing_") and (name := code.removeprefix("missing_")):
            record = json.loads(lines[number - 1])
            assert name not in record, number
            assert name not in record.get("body", {}), number


def test_jobs_name_their_own_files_and_fields() -> None:
    from ruamel.yaml import YAML

    for name, (key, _) in {
        "classify_tickets": INPUTS["tickets"],
        "embed_corpus": INPUTS["corpus"],
        "summarize_documents": INPUTS["documents"],
    }.items():
        job = YAML(typ="safe", pure=True).load((JOBS / f"{name}.yaml").read_text())
        assert job["name"] == name.replace("_", "-")
        assert job["key"] == key
        assert key in job["keep"]
        assert job["output"] == f"../out/{name}.jsonl"
        records = records_of(str((JOBS / job["input"]).resolve().relative_to(SAMPLES)))
        assert all(any(field in record for record in records) for field in job["keep"])
        assert "schema" not in job or (JOBS / job["schema"]).is_file()


def test_the_ticket_schema_is_one_that_strict_mode_takes() -> None:
    schema = json.loads((JOBS / "schemas" / "ticket.json").read_text())
    assert schema["additionalProperties"] is False
    assert sorted(schema["required"]) == sorted(schema["properties"])
    assert schema["properties"]["needs_human"]["type"] == "boolean"
    allowed = {"type", "enum", "description", "pattern"}
    assert all(set(one) <= allowed for one in schema["properties"].values())
    assert not re.match(schema["properties"]["summary"]["pattern"], "x" * 121)
    assert re.match(schema["properties"]["summary"]["pattern"], "x" * 120)


def test_numbers_of_the_tickets_are_not_all_floats() -> None:
    exact = [
        json.loads(line, parse_float=Decimal, parse_int=Decimal).get("amount")
        for line in lines_of("tickets.jsonl")
    ]
    texts = {str(value) for value in exact if value is not None}
    assert {"1.10", "1E+2", "-0"} <= texts


@pytest.fixture(scope="module")
def stdlib_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("corpus") / "new" / "stdlib.jsonl"
    done = subprocess.run(
        [sys.executable, "-W", "error", SAMPLES / "stdlib_corpus.py", "-o", target],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert re.match(r"\d+ rows \(.+\); \d+ hold characters beyond ASCII\n", done.stderr)
    return target


def test_the_stdlib_gives_a_corpus_of_ten_thousand_rows(stdlib_corpus: Path) -> None:
    lines = stdlib_corpus.read_bytes().removesuffix(b"\n").split(b"\n")
    records = [json.loads(line) for line in lines]
    assert len(records) >= 10_000
    assert len({record["id"] for record in records}) == len(records)
    assert {record["kind"] for record in records} == {"module", "class", "function", "method", "literal"}
    assert all(set(record) == {"id", "kind", "module", "lineno", "text"} for record in records)
    assert all(record["text"].strip() and len(record["text"]) <= 2_000 for record in records)
    assert sum(not record["text"].isascii() for record in records) > 1_000
    by_id = {record["id"]: record for record in records}
    assert by_id["json.loads"]["text"].startswith("Deserialize")
    assert by_id["json.encoder.JSONEncoder.default"]["kind"] == "method"
