"""Figures, not verdicts: what the product costs on this machine, beside a bare loop in the same run.

python tests/bench                   everything, in about fifteen minutes
python tests/bench ingest export     some parts, of those that PARTS names
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

# The parts import the product and the tests' server from this checkout, installed or not.
sys.path[1:1] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from measuring import Figure, machine  # noqa: E402

PARTS = (
    "startup",
    "ingest",
    "export",
    "calls",
    "flight",
    "embeddings",
    "batches",
    "memory",
    "resume",
    "limits",
    "corpus",
)


def main() -> None:
    """Measure the parts that are named, or all, and print one table."""
    parser = argparse.ArgumentParser(prog="python tests/bench", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parts = parser.parse_args().parts or PARTS
    unknown = set(parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    print(machine())
    found: list[Figure] = []
    try:
        for part in parts:
            started = time.perf_counter()
            with tempfile.TemporaryDirectory(prefix="runner-bench-") as folder:
                found += importlib.import_module(part).figures(Path(folder))
            print(f"{part}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    finally:
        print_table(found)


def print_table(figures: Sequence[Figure]) -> None:
    """The figures in columns as wide as what they hold."""
    lines = [("part", "what", "figure", "target", "beside")]
    lines += [(one.part, one.what, one.figure, one.target, one.beside) for one in figures]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


if __name__ == "__main__":
    main()
