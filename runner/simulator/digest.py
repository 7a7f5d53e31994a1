"""What an answer repeats of a text: sentences of it, shortened and marked as simulated."""

from __future__ import annotations

import re

MARK = "[simulated]"
_READ = 20_000
_SENTENCE = re.compile(r"[.!?…。](?=\s|$)\s*|\n+")
_LABEL = re.compile(r"[^\W\d_]{3,12}: ")
_TELLING_WORDS = 4
_TELLING_SIGNS = 20


def sentences(text: str) -> list[str]:
    """The sentences and lines of a text's beginning, without their full stops."""
    return [part.strip() for part in _SENTENCE.split(text[:_READ]) if part and part.strip()]


def telling(text: str) -> list[str]:
    """The sentences that say something: no greetings, no labels such as `Subject:`. All where none does."""
    found = [_LABEL.sub("", sentence, count=1) for sentence in sentences(text)]
    # Scripts without spaces have one long word to a sentence.
    wanted = [one for one in found if len(one.split()) >= _TELLING_WORDS or len(one) >= _TELLING_SIGNS]
    return wanted or found


def shorten(sentence: str, *, words: int = 24, signs: int = 200) -> str:
    """The beginning of a sentence, with `...` where more than so many words are left out."""
    found = sentence.split()
    short = " ".join(found[:words])[:signs]
    return short if len(found) <= words else f"{short} ..."
