"""Vectors for texts: hashed character n-grams, so that like texts lie near each other."""

from __future__ import annotations

import math
import re
import zlib
from array import array
from collections import Counter
from functools import lru_cache

_WORD = re.compile(r"\w+")


class Vectors:
    """Makes vectors; remembers the n-grams of words it has met, for speed alone."""

    def __init__(self) -> None:
        self._grams = lru_cache(maxsize=50_000)(_grams)

    def embed(self, text: str | list[int], dimensions: int) -> array[float]:
        """A vector of length 1 for a text, or for a list of token numbers."""
        words = [str(token) for token in text] if isinstance(text, list) else _WORD.findall(text.lower())
        sums: dict[int, float] = {}
        for word, times in Counter(words).items():
            # Words that come often say less each time.
            weight = 1 + math.log(times)
            for gram in self._grams(word):
                place = gram % dimensions
                sums[place] = sums.get(place, 0.0) + (weight if gram & 0x8000_0000 else -weight)
        length = math.sqrt(sum(value * value for value in sums.values()))
        vector = array("f", bytes(4 * dimensions))
        if not length:
            vector[zlib.crc32(repr(text).encode()) % dimensions] = 1.0
            return vector
        for place, value in sums.items():
            vector[place] = value / length
        return vector


def _grams(word: str) -> tuple[int, ...]:
    framed = f"<{word}>"
    grams = {framed, *(framed[start : start + 3] for start in range(len(framed) - 2))}
    return tuple(sorted(zlib.crc32(gram.encode("utf-8", "replace")) for gram in grams))
