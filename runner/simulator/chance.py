"""Choices that look random and are the same every time."""

from __future__ import annotations

import hashlib


class Chance:
    """A source of choices that depends on a seed, a body and the name of the choice, and on nothing else."""

    __slots__ = ("_key",)

    def __init__(self, seed: int, digest: bytes) -> None:
        self._key = hashlib.blake2b(digest, key=str(seed).encode()[:64], digest_size=32).digest()

    def number(self, name: str) -> int:
        """A whole number of 64 bits for this name."""
        return int.from_bytes(hashlib.blake2b(name.encode(), key=self._key, digest_size=8).digest(), "big")

    def pick(self, count: int, name: str) -> int:
        """A number from 0 to `count` - 1 for this name."""
        return self.number(name) % count

    def unit(self, name: str) -> float:
        """A number of [0, 1) for this name."""
        return self.number(name) / 2**64

    def hex(self, name: str, digits: int) -> str:
        """So many hexadecimal digits (at most 64) for this name."""
        return hashlib.blake2b(name.encode(), key=self._key, digest_size=32).hexdigest()[:digits]
