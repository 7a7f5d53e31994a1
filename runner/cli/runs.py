"""`export`, `cancel` and `forget`: what can be done with a run that is in the store."""

from __future__ import annotations

from pathlib import Path

import click

from runner.cli.options import store_option, store_url


@click.command("export")
@click.argument("run_name", metavar="RUN")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Where to; default: the run's own output."
)
@click.option("--partial", is_flag=True, help="What there is so far; the rest counts as skipped.")
@click.option("--overwrite", is_flag=True, help="Replace a file that this series did not write.")
@store_option
@click.pass_context
def export_command(
    ctx: click.Context, run_name: str, output: Path | None, partial: bool, overwrite: bool, store: str | None
) -> None:
    """Write the output of a run again from the store, at no cost.

    RUN is a run's id, a unique beginning of it, or `last`.
    """
    from runner.cli.progress import closing
    from runner.keeping import export_again

    run, summary, where = export_again(
        store_url(store), run_name, output=output, partial=partial, overwrite=overwrite
    )
    for line in closing(run.name, summary, where):
        click.echo(line, err=True)
    ctx.exit(3 if summary["rows"]["ok"] < summary["rows"]["in"] else 0)


@click.command("cancel")
@click.argument("run_name", metavar="RUN")
@store_option
def cancel_command(run_name: str, store: str | None) -> None:
    """Ask the process that runs RUN to stop; what was paid is kept, and the same command goes on.

    RUN is a run's id, a unique beginning of it, or `last`.
    """
    from runner.keeping import cancel

    click.echo(cancel(store_url(store), run_name), err=True)


@click.command("forget")
@click.argument("run_name", metavar="RUN")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@store_option
def forget_command(run_name: str, yes: bool, store: str | None) -> None:
    """Delete a run, and the answers of its series, from the store.

    The other runs of the series must be asked, and paid, again. Output files stay where they are. RUN is a
    run's id, a unique beginning of it, or `last`.
    """
    from runner.keeping import forget
    from runner.store import runs
    from runner.store.database import Store

    if not yes:
        with Store.read_only(store_url(store)) as kept, kept.read() as connection:
            run_name = runs.find(connection, run_name).name
        click.confirm(
            f"Delete run {run_name} and all answers of its series from {store_url(store)}?",
            abort=True,
            err=True,
        )
    click.echo(forget(store_url(store), run_name), err=True)
