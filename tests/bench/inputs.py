"""Inputs of any size, and the bare loop that every rate stands beside: read, parse, serialise, write.

python tests/bench/inputs.py requests|records|short COUNT PATH
python tests/bench/inputs.py bare IN OUT
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

import orjson

TEXT = (
    "router signal customer invoice delayed Zürich window kettle garden café firmware 東京 reset light "
    "carton Łódź return evening parcel battery missing train ticket naïve charge refund sensor"
)

RECORD_JOB = """\
name: bench-records
endpoint: chat
model: gpt-6-luna
key: id
request:
  messages:
    - {role: system, content: Summarise in one sentence.}
    - role: user
      content: "{{ subject }}\\n\\n{{ text }}"
  max_completion_tokens: 60
"""
LONG_TEXT = 760
SHORT_TEXT = 60


def write(kind: str, count: int, path: Path) -> None:
    """Make an input of `count` lines: requests and records are 1 kB a line, short ones small chat calls."""
    chance = random.Random(7)
    size = SHORT_TEXT if kind == "short" else LONG_TEXT
    texts = [_text(chance, size) for _ in range(512)]
    make = _record if kind == "records" else _request
    with path.open("wb") as file:
        for number in range(count):
            file.write(orjson.dumps(make(number, texts[number % len(texts)])) + b"\n")


def record_job(folder: Path, data: Path) -> Path:
    """A templated job over such records."""
    path = folder / "bench.yaml"
    path.write_text(f"{RECORD_JOB}input: {data}\noutput: {folder / 'out.jsonl'}\n")
    return path


def bare(source: Path, target: Path) -> int:
    """The bare loop: how many lines it took."""
    count = 0
    with source.open("rb") as lines, target.open("wb") as out:
        for line in lines:
            out.write(orjson.dumps(orjson.loads(line)) + b"\n")
            count += 1
    return count


def _text(chance: random.Random, size: int) -> str:
    text = " ".join(chance.choices(TEXT.split(), k=size // 5))
    return text.encode()[:size].decode(errors="ignore")


def _request(number: int, text: str) -> dict[str, object]:
    return {
        "custom_id": f"row-{number:08}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "gpt-6-luna",
            "messages": [
                {"role": "system", "content": "Summarise in one sentence."},
                {"role": "user", "content": f"{number} {text}"},
            ],
            "max_completion_tokens": 60,
        },
    }


def _record(number: int, text: str) -> dict[str, object]:
    return {
        "id": f"row-{number:08}",
        "subject": f"{text[:40]} ({number})",
        "amount": number * 1.37,
        "opened": "2026-11-01T08:30:00Z",
        "tags": text.split()[:3],
        "text": f"{number} {text}",
    }


def main(arguments: list[str]) -> None:
    if arguments[0] == "bare":
        source, target = map(Path, arguments[1:])
        started = time.process_time()
        rows = bare(source, target)
        print(json.dumps({"rows": rows, "cpu": time.process_time() - started}))
        return
    write(arguments[0], int(arguments[1]), Path(arguments[2]))


if __name__ == "__main__":
    main(sys.argv[1:])
