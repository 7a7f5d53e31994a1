"""`run`, `resume` and `retry`: start a run, or go on with one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runner.cli import EXIT_CODES, importing
from runner.cli.account import account_of, check_same_account, identity_of, prices_of
from runner.cli.options import Size, account_options, handling_options, job_of, store_option, store_url
from runner.cli.signals import signals
from runner.cli.stdin import standard_input
from runner.errors import NotFinished, RunnerError, SeriesLocked, UsageError

if TYPE_CHECKING:
    from runner.api.account import Account
    from runner.engine import Start
    from runner.job import Job
    from runner.stop import Stop
    from runner.store.identity import Identity


@click.command("run", epilog=EXIT_CODES)
@click.argument("job_or_requests", metavar="JOB_OR_REQUESTS", type=str)
@click.option(
    "-i", "--input", "input_path", metavar="PATH", help="The input, instead of the job's; - is stdin."
)
@account_options
@store_option
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N rows.")
@click.option("--fresh", is_flag=True, help="Forget the series' answers, and pay for all of them again.")
@click.option(
    "--max-line", type=Size(), default="32MiB", show_default=True, help="The longest line that is read."
)
@handling_options
@click.pass_context
def run_command(ctx: click.Context, /, job_or_requests: str, input_path: str | None, **options: Any) -> None:
    """Answer every row of a job's input, or every request of a file in the Batch API's format.

    The same command again resumes, and pays nothing for what is answered. OUTPUT appears when the run is
    finished; OUTPUT.errors.jsonl has the failed rows; OUTPUT.summary.json is written last.

    \b
    runner run jobs/classify_tickets.yaml --provider sim
    runner run requests.jsonl -o results.jsonl
    """
    job = with_handling(job_of(job_or_requests, input_path), options)
    output = _output_of(job, options["output"])
    start_run(ctx, job, output, options)


@click.command("resume", epilog=EXIT_CODES)
@click.argument("run_name", metavar="RUN")
@account_options
@store_option
@handling_options
@click.pass_context
def resume_command(ctx: click.Context, /, run_name: str, **options: Any) -> None:
    """Go on with a run by its id, from any folder, with the input kept in the store.

    RUN is a run's id, a unique beginning of it, or `last`.
    """
    stored = _stored(run_name, options)
    start_run(ctx, stored.job, _output_of(stored.job, options["output"]), options, stored=stored)


@click.command("retry", epilog=EXIT_CODES)
@click.argument("run_name", metavar="RUN")
@account_options
@store_option
@handling_options
@click.pass_context
def retry_command(ctx: click.Context, /, run_name: str, **options: Any) -> None:
    """Send the failed and the held rows of a run round again, and nothing else.

    RUN is a run's id, a unique beginning of it, or `last`.
    """
    stored = _stored(run_name, options)
    start_run(ctx, stored.job, _output_of(stored.job, options["output"]), options, stored=stored, again=True)


def start_run(
    ctx: click.Context,
    job: Job,
    output: Path,
    options: dict[str, Any],
    *,
    stored: Stored | None = None,
    again: bool = False,
) -> None:
    """Run the engine with the progress that was asked for, and exit with its code."""
    with importing():
        from runner.cli.progress import JsonLines, reporter

    job = replace(job, output=output)
    with reporter(as_json=options["as_json"], quiet=options["quiet"]) as report, signals() as stop:
        try:
            if stored is None:
                _refuse_if_running(job, options)
            with importing():
                from runner.engine import run
            with account_of(options, report.emit) as account:
                start = _start(job, account, options, stop, stored=stored, again=again)
                finished = run(start, stop=stop, emit=report.emit)
        except SeriesLocked as locked:
            if options["if_locked"] == "error":
                raise
            if options["as_json"] or not options["quiet"]:
                report.emit({"event": "warning", "message": str(locked)})
            ctx.exit(0)
        except RunnerError as error:
            if isinstance(report, JsonLines):
                report.stopped(error)
            elif not (options["quiet"] and isinstance(error, NotFinished)):
                # What is as it should be is no error, and cron mails all that is said.
                raise
            ctx.exit(error.exit_code)
        report.finished(finished)
    ctx.exit(finished.exit_code)


def _refuse_if_running(job: Job, options: dict[str, Any]) -> None:
    """Say that the series is running before importing what it takes to run it: most of a start."""
    from runner.store.locks import SeriesLock
    from runner.store.place import path_of

    with account_of(options, lambda _: None, asks=False) as account:
        digest = identity_of(job, account).digest
    SeriesLock(path_of(store_url(options["store"])), digest).refuse_if_held()


def with_handling(job: Job, options: dict[str, Any]) -> Job:
    """The job with what the command line says about its handling."""
    from runner.job import Batch, parse_deadline

    changed: dict[str, Any] = {}
    if options.get("mode"):
        changed["mode"] = options["mode"]
    if options.get("budget") is not None:
        changed["budget"] = options["budget"]
    if options.get("deadline"):
        try:
            changed["deadline"] = parse_deadline(options["deadline"])
        except ValueError as error:
            raise UsageError(f"--deadline: {error}") from error
    if options.get("poll") is not None or options.get("queue_wait") is not None:
        changed["batch"] = Batch(
            poll=options["poll"] if options.get("poll") is not None else job.batch.poll,
            queue_wait=options["queue_wait"]
            if options.get("queue_wait") is not None
            else job.batch.queue_wait,
        )
    job = replace(job, **changed)
    if job.mode == "auto" and job.deadline is None:
        raise UsageError("Mode auto needs a deadline: --deadline 8h, or `deadline:` in the job.")
    return job


@dataclass(frozen=True, slots=True)
class Stored:
    """A run in the store, to be gone on with."""

    name: str
    job: Job
    identity: Identity


def _start(
    job: Job, account: Account, options: dict[str, Any], stop: Stop, *, stored: Stored | None, again: bool
) -> Start:
    from runner.engine import Start
    from runner.pricing import pico

    identity = identity_of(job, account)
    if stored is not None:
        check_same_account(stored.identity, identity, stored.name)
        identity = stored.identity
    assert job.output is not None
    from_file = stored is None and job.input not in (None, "-")
    return Start(
        job=job,
        account=account,
        identity=identity,
        store_url=store_url(options["store"]),
        output=job.output,
        prices=prices_of(options["prices"], account),
        input=Path(job.input or "") if from_file else None,
        stdin=standard_input(stop) if stored is None and job.input == "-" else None,
        run_name=None if stored is None else stored.name,
        limit=options.get("limit"),
        concurrency=options["concurrency"],
        budget=None if job.budget is None else pico(job.budget),
        max_line=options.get("max_line") or 32 * 2**20,
        grace=options["grace"],
        on_ambiguous=options["on_ambiguous"],
        quarantine=options["quarantine"],
        waits=not options["no_wait"],
        skip_invalid=options["skip_invalid"],
        overwrite=options["overwrite"],
        fresh=options.get("fresh", False),
        again=again,
    )


def _output_of(job: Job, given: Path | None) -> Path:
    if given is not None:
        return given.absolute()
    if job.output is not None:
        return job.output
    if job.endpoint is not None:
        raise UsageError("The job names no output: add `output:` to it, or -o PATH.")
    if job.input == "-" or job.input is None:
        raise UsageError("Requests from standard input need an output: -o PATH.")
    source = Path(job.input)
    name = source.name
    for ending in (".gz", ".zst", ".bz2", ".jsonl", ".json", ".ndjson"):
        name = name.removesuffix(ending)
    return source.with_name(f"{name}.results.jsonl")


def _stored(run_name: str, options: dict[str, Any]) -> Stored:
    """A run of the store by its id, with what this start says about its handling."""
    from runner.job import Job
    from runner.store import runs, series
    from runner.store.database import Store

    with Store.read_only(store_url(options["store"])) as store, store.read() as connection:
        found = runs.find(connection, run_name)
        identity = series.identity_of(connection, found.series_id)
    options["skip_invalid"] = options["skip_invalid"] or found.skip_invalid
    if options["provider"] is None and identity.provider == "sim":
        options["provider"] = "sim"
    job = with_handling(Job.thaw(dict(found.job)), options)
    # Another account is said before a key is missed that only the wrong one would need.
    with account_of(options, lambda _: None, asks=False) as account:
        check_same_account(identity, identity_of(job, account), found.name)
    return Stored(found.name, job, identity)
