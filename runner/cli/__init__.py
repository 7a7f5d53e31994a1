"""The command line: parse, call one function, print, exit code."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from runner import __version__
from runner.errors import BadInput, BadJob, RunnerError

COMMANDS = {
    "run": "runner.cli.run",
    "resume": "runner.cli.run",
    "retry": "runner.cli.run",
    "plan": "runner.cli.plan",
    "status": "runner.cli.status",
    "export": "runner.cli.runs",
    "cancel": "runner.cli.runs",
    "forget": "runner.cli.runs",
    "listen": "runner.cli.listen",
    "gc": "runner.cli.leftovers",
    "adopt": "runner.cli.adopt",
    "simulate": "runner.cli.simulate",
    "new": "runner.cli.new",
    "doctor": "runner.cli.doctor",
}

EXIT_CODES = (
    "Exit codes: 0 every row answered, 2 usage, 3 some rows failed, 4 paused (run it again), 5 running already, "
    "65 bad input, 73 output, 74 store, 75 not finished yet, 77 key, 78 configuration, 130 interrupted."
)


class Commands(click.Group):
    """The commands in the order of a day's work, each imported when it is called for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        with importing():
            command = getattr(importlib.import_module(COMMANDS[cmd_name]), f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean '{near[0]}'?", ctx) from error


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@click.version_option(__version__, prog_name="runner")
def app() -> None:
    """Answer every row of a JSONL file by an OpenAI-compatible API: resumable, in input order, paid once.

    JOB_OR_REQUESTS is a job file (.yaml or .yml); any other path is a requests file in the Batch API's own
    format. The same command again goes on where the last one stopped, and pays nothing for what is answered.
    """


@contextmanager
def importing() -> Iterator[None]:
    """Import modules while the garbage collector rests.

    It would look through all that they make, again and again, and find nothing: a tenth of a start.
    """
    gc.disable()
    try:
        yield
    finally:
        # What is there now stays till the end: the collector need not look through it later either.
        gc.freeze()
        gc.enable()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    # The interpreter's own end would look through everything for garbage that the system takes back anyway.
    atexit.register(gc.freeze)
    _fill_closed_streams()
    try:
        code = app.main(args=None if arguments is None else list(arguments), standalone_mode=False)
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except RunnerError as error:
        tell(error)
        code = error.exit_code
    except BrokenPipeError:
        # Whoever read our standard output has gone: Python must not complain when it flushes it at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


def _fill_closed_streams() -> None:
    # The next file opened would get the number that is free: the store, say, and our messages would go into it.
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")


def tell(error: RunnerError) -> None:
    """Print what stopped the command: bad lines first, then the message."""
    if isinstance(error, BadInput):
        for fault in error.faults:
            key = "" if fault.key is None else f" (key {printable(fault.key)})"
            click.echo(f"  line {fault.line}{key}: {printable(fault.message)} [{fault.code}]", err=True)
    message = printable(str(error))
    faults = message.split("\n") if isinstance(error, BadJob) else []
    if len(faults) > 1:
        for one in faults:
            click.echo(f"  {one}", err=True)
        message = f"{len(faults)} faults in the job file. Nothing was sent. Mend them and run the same command again."
    click.echo(f"runner: {message}", err=True)


def printable(text: str) -> str:
    """Text that cannot steer a terminal: control and direction characters are shown as escapes."""
    return "".join(
        char if char.isprintable() or char in "\n " else char.encode("unicode_escape").decode()
        for char in text
    )
