"""Run one command from a process that is small itself: a child's peak memory counts from that of its parent.

    python tests/bench/launch.py SECONDS STDOUT STDERR COMMAND...

Prints what the command took, as JSON. It is killed after that many seconds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time


def main(seconds: str, out: str, err: str, *command: str) -> str:
    """Wall time and CPU time in seconds, peak memory in MB, exit code."""
    with open(out, "wb") as stdout, open(err, "wb") as stderr:  # noqa: PTH123 - pathlib costs memory
        started = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
        signal.signal(signal.SIGALRM, lambda _number, _frame: process.kill())
        signal.alarm(int(seconds))
        # wait4 gives this child's own usage; getrusage would give the highest of all children so far.
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    cpu = usage.ru_utime + usage.ru_stime
    rss = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return f'{{"wall": {wall}, "cpu": {cpu}, "rss": {rss}, "code": {process.returncode}}}'


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
