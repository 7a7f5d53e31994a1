"""Room on the interpreter's own stack for what is called millions of times."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")

_WORDS = 17_000
"""136 kB, so that the chunk that holds such a frame has 256 KiB, and half of it is left."""


def roomy(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Let a function's calls, and theirs, lie in one chunk of the stack.

    CPython keeps frames in chunks of 16 KiB. It asks the system for a chunk when a call passes the end of the last
    one, and gives it back when that call returns: where a loop happens to stand just before such an end, with each
    of its calls. A frame that claims more than it uses costs nothing: memory that is not touched is none.
    """
    code = getattr(function, "__code__", None)
    if code is not None:
        function.__code__ = code.replace(co_stacksize=max(_WORDS, code.co_stacksize))
    return function
