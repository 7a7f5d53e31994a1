"""Data files: lines in, whole files out. Nothing else in the product opens one.

`LineReader` streams JSONL with its line numbers; `AtomicFile` writes a file that appears under its name only
when it is complete.
"""

from runner.files.lines import MAX_LINE, LineReader, Stamp, digest
from runner.files.outputs import AtomicFile, check_writable, remove

__all__ = ["MAX_LINE", "AtomicFile", "LineReader", "Stamp", "check_writable", "digest", "remove"]
