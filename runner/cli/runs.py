"""`export`, `cancel` and `forget`: what can be done with a run that is in the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runner.cli import EXIT_CODES, importing
from runner.cli.account import account_of, check_same_account, identity_of, prices_of
from runner.cli.options import (
    Duration,
    account_options,
    grace_option,
    quarantine_option,
    store_option,
    store_url,
)
from runner.cli.signals import signals
from runner.errors import RunnerError

if TYPE_CHECKING:
    from runner.keeping import BatchesOut


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
    from runner.cli.closing import closing
    from runner.keeping import export_again

    run, summary, where = export_again(
        store_url(store), run_name, output=output, partial=partial, overwrite=overwrite
    )
    for line in closing(run.name, summary, where):
        click.echo(line, err=True)
    ctx.exit(3 if summary["rows"]["ok"] < summary["rows"]["in"] else 0)


@click.command("cancel", epilog=EXIT_CODES)
@click.argument("run_name", metavar="RUN")
@account_options
@store_option
@click.option(
    "--poll", type=Duration("10ms", "1h"), help="First pause between looks at a batch. [default: the job's]"
)
@quarantine_option
@click.option(
    "--no-wait",
    is_flag=True,
    help="Ask the batches to end, and do not wait for it; exit 75 if some have not.",
)
@grace_option
@click.option("--json", "as_json", is_flag=True, help="Events as JSON lines on standard error.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, only errors.")
@click.pass_context
def cancel_command(ctx: click.Context, /, run_name: str, **options: Any) -> None:
    """Stop RUN, and cancel its batches; what was paid is kept, and the same command goes on.

    The process that runs it is asked to: it cancels the batches, takes in what they did, and ends with exit code
    4. Where nobody runs it and batches are out, its own or earlier ones whose rows it waits for, this does the
    same; only then it needs the key. What was not sent is not sent; what may have been is looked for until that
    is known. Rows that were not done are ready again, and not asked until somebody goes on with the run.

    RUN is a run's id, a unique beginning of it, or `last`.
    """
    from runner.keeping import cancel

    done = cancel(store_url(options["store"]), run_name)
    if isinstance(done, str):
        click.echo(done, err=True)
    else:
        _call_off(ctx, done, options)


def _call_off(ctx: click.Context, out: BatchesOut, options: dict[str, Any]) -> None:
    with importing():
        from runner.calling_off import CallOff, call_off
        from runner.cli.progress import JsonLines, reporter

    if options["provider"] is None and out.identity.provider == "sim":
        options["provider"] = "sim"
    # Another account is said before a key is missed that only the wrong one would need.
    with account_of(options, lambda _: None, asks=False) as account:
        check_same_account(out.identity, identity_of(out.job, account), out.run_name)
    with reporter(as_json=options["as_json"], quiet=options["quiet"]) as report, signals() as stop:
        try:
            with account_of(options, report.emit) as account:
                what = CallOff(
                    store_url(options["store"]),
                    out.run_name,
                    account,
                    prices_of(options["prices"], account),
                    poll=options["poll"],
                    quarantine=options["quarantine"],
                    grace=options["grace"],
                    waits=not options["no_wait"],
                )
                told = call_off(what, stop=stop, emit=report.emit)
        except RunnerError as error:
            if not isinstance(report, JsonLines):
                raise
            report.stopped(error)
            ctx.exit(error.exit_code)
        report.emit({"event": "cancelled", "run": out.run_name, "message": told})
    if not options["as_json"]:
        click.echo(told, err=True)


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
