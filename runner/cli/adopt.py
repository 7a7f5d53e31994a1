"""`adopt`: a run rebuilt from what the provider has of it, when the local store is lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runner.cli import EXIT_CODES, importing
from runner.cli.account import account_of, identity_of, prices_of
from runner.cli.options import Size, account_options, job_of, store_option, store_url
from runner.cli.signals import signals
from runner.cli.stdin import standard_input
from runner.errors import RunnerError

if TYPE_CHECKING:
    from runner.adoption import Adopted


@click.command("adopt", epilog=EXIT_CODES)
@click.argument("job_or_requests", metavar="JOB_OR_REQUESTS", type=str)
@click.option(
    "-i", "--input", "input_path", metavar="PATH", help="The input, instead of the job's; - is stdin."
)
@click.option(
    "--run",
    "of_run",
    metavar="NAME",
    help="The lost run whose batches to take over, or a unique beginning of its id. Default: those of this job and "
    "input, else those of the newest run that asked some of its rows.",
)
@account_options
@store_option
@click.option(
    "--max-line", type=Size(), default="32MiB", show_default=True, help="The longest line that is read."
)
@click.option("--json", "as_json", is_flag=True, help="Events as JSON lines on standard error.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, only errors.")
@click.pass_context
def adopt_command(
    ctx: click.Context, /, job_or_requests: str, input_path: str | None, of_run: str | None, **options: Any
) -> None:
    """Take over the batches of a run whose store is lost, and pay nothing again.

    Reads the input as `run` does, looks through the account's batches for those that runner made, and finds by the
    ids of their lines which rows they ask. What has ended is taken in at once; what is out is collected by the
    next start of the run. Submits, cancels and deletes nothing. Exit code 75 if some results could not be
    fetched now: the same command again goes on.
    """
    with importing():
        from runner.adoption import Adopt, adopt
        from runner.cli.progress import JsonLines, reporter

    job = job_of(job_or_requests, input_path)
    with reporter(as_json=options["as_json"], quiet=options["quiet"]) as report, signals() as stop:
        try:
            with account_of(options, report.emit) as account:
                what = Adopt(
                    job=job,
                    account=account,
                    identity=identity_of(job, account),
                    store_url=store_url(options["store"]),
                    prices=prices_of(options["prices"], account),
                    input=None if job.input in (None, "-") else Path(job.input or ""),
                    stdin=standard_input(stop) if job.input == "-" else None,
                    max_line=options["max_line"],
                    of_run=of_run,
                )
                adopted = adopt(what, stop=stop, emit=report.emit)
        except RunnerError as error:
            if not isinstance(report, JsonLines):
                raise
            report.stopped(error)
            ctx.exit(error.exit_code)
        report.emit(
            {
                "event": "adopted",
                "run": adopted.run,
                "of_runs": sorted(adopted.of_runs),
                "batches": adopted.batches,
                "rows": adopted.rows,
                "answered": adopted.answered,
                "batches_out": adopted.out,
                "rows_out": adopted.out_rows,
                "rows_left": adopted.left,
                "files_gone": adopted.gone,
            }
        )
    if not options["as_json"]:
        for line in _told(adopted, job_or_requests, "" if input_path is None else f" -i {input_path}"):
            click.echo(line, err=True)


def _told(adopted: Adopted, job: str, more: str) -> list[str]:
    """The last lines; `more` are the words that a start needs beside the job."""
    lines = []
    same = f"`runner run {job}{more} --mode batch`, with the same server and store,"
    if adopted.batches:
        lines.append(
            f"Run {adopted.run}: {_count(adopted.batches)} of run {', '.join(sorted(adopted.of_runs))} taken over, with "
            f"{adopted.rows:,} rows. {adopted.answered:,} are answered; {adopted.out_rows:,} are out in "
            f"{_count(adopted.out)}."
        )
    elif adopted.gone:
        lines.append(f"Run {adopted.run}: no batch could be taken over.")
    else:
        others = f" Batches there are of the runs {', '.join(adopted.others)}." if adopted.others else ""
        lines.append(f"Run {adopted.run}: there is no batch to take over that asks its rows.{others}")
    if adopted.gone:
        lines.append(
            f"The files of {_count(len(adopted.gone))} are no longer there ({', '.join(adopted.gone)}): which rows they "
            "answered cannot be known any more."
        )
    if not (adopted.left or adopted.out):
        lines.append(f"No row is left to ask: {same} writes the output.")
        return lines
    again = ", and pays for no row again" if adopted.batches else ""
    left = f" {adopted.left:,} rows are in no batch, and will be asked." if adopted.left else ""
    lines.append(f"{same} goes on{again}.{left}")
    return lines


def _count(count: int) -> str:
    return f"{count:,} batch" if count == 1 else f"{count:,} batches"
