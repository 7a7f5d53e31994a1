"""`gc`: what runs have left at the provider, listed and, when told to, deleted."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from runner.cli import EXIT_CODES, importing, printable
from runner.cli.account import account_of
from runner.cli.options import Duration, address_options, store_option, store_url
from runner.errors import AccessRefused, NotFinished, RunnerError

if TYPE_CHECKING:
    from runner.leftovers import Found, Leftover


@click.command("gc", epilog=EXIT_CODES)
@click.option("-y", "--yes", is_flag=True, help="Delete them without asking.")
@click.option(
    "--older-than", type=Duration(), default="1d", show_default=True, help="Only files that are older."
)
@click.option(
    "--foreign",
    is_flag=True,
    help="Also files of ended batches that this store knows nothing of. Another store may still need them.",
)
@address_options
@store_option
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def gc_command(*, yes: bool, older_than: float, foreign: bool, as_json: bool, **options: Any) -> None:
    """List the files that runs have left at the provider and that nothing needs any more; --yes deletes them.

    These are input files whose batches have ended, or never came to be, and the results that this store has taken
    in. Never deleted: files of batches that are out, here or at the server, results that are in no store, and
    anything that runner did not make. Lines of results that belonged to no row are in local files: these are
    listed alone. Exit code 75 if some files could not be deleted now.
    """
    with importing():
        from runner.leftovers import Sweep, delete, find_leftovers

    def warn(event: dict[str, Any]) -> None:
        click.echo(f"Warning: {printable(str(event['message']))}", err=True)

    with account_of(options, warn) as account:
        sweep = Sweep(account, store_url(options["store"]), older_than, foreign)
        found = find_leftovers(sweep, now=time.time())
        if not as_json:
            _show(found)
        chosen = found.leftovers
        if chosen and not yes:
            chosen = []
            if sys.stdin.isatty() and not as_json and _agreed(found.leftovers):
                # Somebody may have come to need one of them while the question stood.
                still = {one.id for one in find_leftovers(sweep, now=time.time()).leftovers}
                chosen = [one for one in found.leftovers if one.id in still]
        still_there = delete(account, chosen) if chosen else {}
    if as_json:
        _print_json(found, chosen, still_there)
    _close(found, chosen, still_there)


def _agreed(leftovers: list[Leftover]) -> bool:
    return click.confirm(f"Delete {_count(len(leftovers))} at the provider?", err=True)


def _show(found: Found) -> None:
    if found.leftovers:
        click.echo(f"{'FILE':32} {'KIND':6} {'SIZE':>9} {'AGE':>7}  {'BATCH':38} WHY")
    for one in found.leftovers:
        line = f"{one.id:32} {one.kind:6} {_size(one.size):>9} {_age(one.age):>7}  {one.batch or '-':38} {one.why}"
        click.echo(printable(line))
    for path, size in found.unmatched:
        click.echo(printable(f"Lines that belong to no row ({_size(size)}) are kept in {path}."))


def _close(found: Found, chosen: list[Leftover], still_there: dict[str, RunnerError]) -> None:
    """Say what was done. Raises the error that kept files from being deleted."""
    for why, count in found.stay.items():
        click.echo(f"{_count(count)} of runner's stay: {why}.", err=True)
    if not found.leftovers:
        click.echo("No leftover files.", err=True)
    elif not chosen:
        size = _size(sum(one.size or 0 for one in found.leftovers))
        click.echo(
            f"{_count(len(found.leftovers))} ({size}) can go. Nothing was deleted: --yes does it.", err=True
        )
    else:
        click.echo(f"{_count(len(chosen) - len(still_there))} deleted.", err=True)
    if still_there:
        errors = list(still_there.values())
        first = next((one for one in errors if isinstance(one, AccessRefused)), errors[0])
        kind = type(first) if isinstance(first, AccessRefused) else NotFinished
        raise kind(f"{_count(len(errors))} could not be deleted. {first}")


def _print_json(found: Found, chosen: list[Leftover], still_there: dict[str, RunnerError]) -> None:
    import orjson

    files = [
        {
            "id": one.id,
            "name": one.name,
            "kind": one.kind,
            "bytes": one.size,
            "age_seconds": round(one.age),
            "batch": one.batch,
            "why": one.why,
        }
        for one in found.leftovers
    ]
    shown = {
        "files": files,
        "stay": found.stay,
        "deleted": [one.id for one in chosen if one.id not in still_there],
        "failed": {name: str(error) for name, error in still_there.items()},
        "unmatched": [{"path": str(path), "bytes": size} for path, size in found.unmatched],
    }
    click.echo(orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode())


def _count(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"


def _size(size: int | None) -> str:
    if size is None:
        return "?"
    for unit, one in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= one:
            return f"{size / one:.1f} {unit}"
    return f"{size} B"


def _age(seconds: float) -> str:
    return f"{seconds / 86_400:.1f} d" if seconds >= 86_400 else f"{seconds / 3600:.1f} h"
