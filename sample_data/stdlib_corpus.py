"""Makes a corpus of ten thousand texts and more from this Python's own standard library, with no download.

    python sample_data/stdlib_corpus.py -o stdlib.jsonl

One line for each documented module, class, function and method, as {"id", "kind", "module", "lineno",
"text"}, and one (kind "literal") for each string in the code that is long or holds characters beyond ASCII:
the library's tests and encoding tables know most of the world's alphabets. Sources are parsed, never
imported. The order is that of paths and lines, so one Python version always gives the same bytes.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import sysconfig
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TextIO

LONGEST = 2_000
"""Characters of a text; the rest is cut off. That is 8,000 bytes at most, within a model's 8,192 tokens."""

LONG_LITERAL = 41

INSTALLED = frozenset({"site-packages", "dist-packages", "__pycache__"})

Row = dict[str, str | int]
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def rows(stdlib: Path) -> Iterator[Row]:
    """Every row of the corpus, in order, with ids that occur once."""
    seen: Counter[str] = Counter()
    for path in sorted(stdlib.rglob("*.py"), key=lambda path: path.relative_to(stdlib).parts):
        parts = path.relative_to(stdlib).with_suffix("").parts
        if INSTALLED.intersection(parts):
            continue
        module = ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)
        for row in _rows_of_module(path, module):
            name = str(row["id"])
            seen[name] += 1
            if seen[name] > 1:
                row["id"] = f"{name}#{seen[name]}"
            yield row


def _rows_of_module(path: Path, module: str) -> Iterator[Row]:
    try:
        with tokenize.open(path) as source, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source.read())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # the tests of Python's parser include files that are broken on purpose
    yield from _docstrings(tree, module, module)
    yield from _literals(tree, module)


def _docstrings(node: Documented, name: str, module: str, *, in_class: bool = False) -> Iterator[Row]:
    if isinstance(node, ast.Module):
        kind = "module"
    elif isinstance(node, ast.ClassDef):
        kind = "class"
    else:
        kind = "method" if in_class else "function"
    lineno = 1 if isinstance(node, ast.Module) else node.lineno
    row = _row(name, kind, module, lineno, ast.get_docstring(node) or "")
    if row is not None:
        yield row
    for child in _definitions(node):
        yield from _docstrings(child, f"{name}.{child.name}", module, in_class=isinstance(node, ast.ClassDef))


def _definitions(node: ast.AST) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """The definitions directly inside a node, those under an `if` or a `try` included."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        elif not isinstance(child, ast.expr):
            yield from _definitions(child)


def _literals(tree: ast.Module, module: str) -> Iterator[Row]:
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, Documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]
    for node in sorted(found, key=lambda node: (node.lineno, node.col_offset)):
        text = str(node.value)
        if len(text) >= LONG_LITERAL or not text.isascii():
            row = _row(f"{module}:{node.lineno}:{node.col_offset}", "literal", module, node.lineno, text)
            if row is not None:
                yield row


def _row(name: str, kind: str, module: str, lineno: int, text: str) -> Row | None:
    """A row, or None where there is no text: nothing but white space, or halves of characters."""
    if not text.strip() or any("\ud800" <= char <= "\udfff" for char in text):
        return None
    return {"id": name, "kind": kind, "module": module, "lineno": lineno, "text": text[:LONGEST]}


def write(output: TextIO, stdlib: Path) -> tuple[Counter[str], int]:
    """Write the corpus as JSONL; how many rows there are of each kind, and how many are not plain ASCII."""
    kinds: Counter[str] = Counter()
    beyond_ascii = 0
    for row in rows(stdlib):
        output.write(json.dumps(row, ensure_ascii=False) + "\n")
        kinds[str(row["kind"])] += 1
        beyond_ascii += not str(row["text"]).isascii()
    return kinds, beyond_ascii


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, help="the file to write; standard output if absent")
    path: Path | None = parser.parse_args().output
    if path is None:
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") if path else nullcontext(sys.stdout) as output:
        kinds, beyond_ascii = write(output, Path(sysconfig.get_path("stdlib")))
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    print(f"{kinds.total()} rows ({counts}); {beyond_ascii} hold characters beyond ASCII", file=sys.stderr)


if __name__ == "__main__":
    main()
