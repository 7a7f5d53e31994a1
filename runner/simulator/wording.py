"""Simulated text: short digests of the prompt, marked as simulated, and JSON as it was asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from runner.simulator.chance import Chance
from runner.simulator.digest import MARK, sentences, shorten
from runner.simulator.question import count_tokens
from runner.simulator.schema_instances import Instances


@dataclass(frozen=True, slots=True)
class Wording:
    """A text, its tokens, and whether it was cut at the limit."""

    text: str
    tokens: int
    cut: bool


def write(text: str, chance: Chance, *, variant: int, limit: int | None) -> Wording:
    """A digest of a text: its beginning, and where it is long one more sentence of it."""
    found = sentences(text)
    if not found:
        return cut(f"{MARK} The prompt holds no text.", limit)
    chosen = [shorten(found[0])]
    if len(found) > 1:
        chosen.append(shorten(found[1 + chance.pick(len(found) - 1, f"sentence {variant}")]))
    return cut(f"{MARK} {'. '.join(chosen)}.", limit)


def write_json(
    schema: object, text: str, chance: Chance, *, variant: int = 0, limit: int | None = None
) -> Wording:
    """JSON that satisfies a schema; None stands for any object."""
    value: Any
    if schema is None:
        value = {"simulated": True, "digest": write(text, chance, variant=variant, limit=None).text}
    else:
        value = Instances(schema, text, chance, variant=variant).make()
    return cut(json.dumps(value, ensure_ascii=False, separators=(",", ":")), limit)


def cut(text: str, limit: int | None) -> Wording:
    """The text, cut where it is longer than so many tokens."""
    data = text.encode("utf-8", "replace")
    tokens = count_tokens(len(data))
    if limit is None or tokens <= limit:
        return Wording(text, tokens, cut=False)
    return Wording(data[: limit * 4].decode("utf-8", "ignore"), limit, cut=True)
