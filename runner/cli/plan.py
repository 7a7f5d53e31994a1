"""`plan`: what a run would be, before a cent is spent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from runner.cli.account import account_of, identity_of, prices_of
from runner.cli.options import Money, account_options, job_of, store_option, store_url


@click.command("plan")
@click.argument("job_or_requests", metavar="JOB_OR_REQUESTS", type=str)
@click.option(
    "-i", "--input", "input_path", metavar="PATH", help="The input, instead of the job's; - is stdin."
)
@account_options
@store_option
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N rows.")
@click.option("--budget", type=Money(), help="Say how many calls this budget allows in flight.")
@click.option("--skip-invalid", is_flag=True, help="Plan without the bad lines.")
@click.option("--json", "as_json", is_flag=True, help="The plan as JSON.")
def plan_command(job_or_requests: str, input_path: str | None, **options: Any) -> None:
    """Check a job and every line of its input, and say what the run would take: calls, tokens, cost, time.

    Calls no API and changes nothing. Bad lines are listed all at once, with exit code 65.
    """
    import sys

    import orjson

    from runner.plan import plan
    from runner.pricing import pico
    from runner.store.database import path_of
    from runner.takeup import Source

    job = job_of(job_or_requests, input_path)
    budget = options["budget"] if options["budget"] is not None else job.budget
    with account_of(options, _warn, asks=False) as account:
        found = plan(
            job,
            Source(
                None if job.input == "-" else Path(job.input or ""),
                sys.stdin.buffer if job.input == "-" else None,
                limit=options["limit"],
                max_line=32 * 2**20,
            ),
            identity_of(job, account),
            prices_of(options["prices"], account),
            store_path=path_of(store_url(options["store"])),
            skip_invalid=options["skip_invalid"],
            budget=None if budget is None else pico(budget),
        )
    if options["as_json"]:
        click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    else:
        for line in _lines(found):
            click.echo(line)


def _lines(found: dict[str, Any]) -> list[str]:
    rows, tasks, tokens, budget = found["rows"], found["tasks"], found["tokens"], found["budget"]
    lines = [
        f"Job       {found['job']}",
        f"Rows      {rows['in']:,}" + (f", {rows['invalid']:,} of them invalid" if rows["invalid"] else ""),
        f"To ask    {tasks['to_ask']:,} calls"
        + (f"; {tasks['answered_before']:,} answered before" if tasks["answered_before"] else "")
        + (f"; {tasks['repeats']:,} repeats" if tasks["repeats"] else ""),
        f"Models    {', '.join(f'{name} ({count:,})' for name, count in found['models'].items()) or 'none'}",
        f"Tokens    about {tokens['input']:,} in, {_upto(tokens['output_at_most'])} out",
    ]
    for way, cost in found["cost_usd"].items():
        if cost["most"] is None and cost["least"] is None:
            lines.append(f"Cost      {way:7} unknown (no price for a model; --prices FILE gives one)")
        else:
            lines.append(
                f"Cost      {way:7} ${cost['least']} (input alone) to {_dollars(cost['most'])} (longest answers)"
            )
    if budget["usd"] is not None:
        lines.append(
            f"Budget    ${budget['usd']} allows {budget['calls_in_flight'] or 0:,} calls in flight; the dearest "
            f"could cost {_dollars(budget['dearest_call_usd'])}"
        )
    seconds = found["seconds_at_limits"]
    lines.append(
        "Duration  "
        + (
            f"at least {seconds:,} s at the job's limits"
            if seconds is not None
            else "the account's limits are told by its first answer"
        )
    )
    if found["prices_as_of"]:
        lines.append(f"Prices    as of {found['prices_as_of']}")
    return lines


def _upto(count: int | None) -> str:
    return "an unknown number" if count is None else f"at most {count:,}"


def _dollars(text: str | None) -> str:
    return "an unknown sum" if text is None else f"${text}"


def _warn(event: dict[str, Any]) -> None:
    click.echo(f"Warning: {event['message']}", err=True)
