"""`plan`: what a run would be, before a cent is spent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from runner.cli.account import account_of, identity_of, prices_of
from runner.cli.options import (
    Money,
    account_options,
    deadline_option,
    job_of,
    mode_option,
    store_option,
    store_url,
)


@click.command("plan")
@click.argument("job_or_requests", metavar="JOB_OR_REQUESTS", type=str)
@click.option(
    "-i", "--input", "input_path", metavar="PATH", help="The input, instead of the job's; - is stdin."
)
@account_options
@store_option
@mode_option
@deadline_option
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N rows.")
@click.option("--budget", type=Money(), help="Say how many calls this budget allows in flight.")
@click.option("--skip-invalid", is_flag=True, help="Plan without the bad lines.")
@click.option("--json", "as_json", is_flag=True, help="The plan as JSON.")
def plan_command(job_or_requests: str, input_path: str | None, **options: Any) -> None:
    """Check a job and every line of its input, and say what the run would take: calls or batches, tokens, cost, time.

    Calls no API and changes nothing. The first 20 bad lines are listed, with exit code 65.
    """
    import sys
    from datetime import UTC, datetime

    import orjson

    from runner.cli.run import with_handling
    from runner.plan import plan
    from runner.pricing import pico
    from runner.provider import provider_of
    from runner.store.place import path_of
    from runner.takeup import Source

    job = with_handling(job_of(job_or_requests, input_path), options)
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
            budget=None if job.budget is None else pico(job.budget),
            now=datetime.now(UTC),
            provider=provider_of(account.provider, account.address.is_azure, account.api_version is not None),
        )
    if options["as_json"]:
        click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    else:
        for line in _lines(found):
            click.echo(line)


def _lines(found: dict[str, Any]) -> list[str]:
    rows, models = found["rows"], found["models"].items()
    lines = [
        f"Job       {found['job']}",
        f"Rows      {rows['in']:,}" + (f", {rows['invalid']:,} of them invalid" if rows["invalid"] else ""),
        f"To ask    {_to_ask(found)}",
    ]
    if not found["calls"]:
        return lines
    in_batches = found["mode"] != "online"
    lines += [
        f"Models    {', '.join(f'{name} ({count:,})' for name, count in models)}",
        f"Tokens    {_tokens(found['tokens'])}",
        *(_batches(found["batches"]) if in_batches else []),
        *(f"Cost      {way:7} {_cost(cost)}" for way, cost in found["cost_usd"].items()),
    ]
    if all(cost["least"] is None for cost in found["cost_usd"].values()):
        lines.append("          a model has no known price; --prices FILE gives one")
    if found["budget"]["usd"] is not None:
        lines.extend(_budget(found["budget"], found["calls"], in_batches=found["mode"] == "batch"))
    lines += _duration(found)
    if found["prices_as_of"]:
        lines.append(f"Prices    as of {found['prices_as_of']}")
    return lines


def _to_ask(found: dict[str, Any]) -> str:
    tasks, calls = found["tasks"], found["calls"]
    packed = f"{tasks['to_ask']:,} rows in " if calls != tasks["to_ask"] else ""
    if found["mode"] == "batch" and calls:
        count = found["batches"]["count"]
        parts = [f"{calls:,} row{'' if calls == 1 else 's'} in {count:,} batch{'' if count == 1 else 'es'}"]
    else:
        parts = [f"{packed}{calls:,} call{'' if calls == 1 else 's'}" if calls else "nothing"]
    if tasks["in_batches"]:
        parts.append(f"{tasks['in_batches']:,} out in batches of earlier starts")
    if tasks["answered_before"]:
        parts.append(f"{tasks['answered_before']:,} answered before")
    if tasks["repeats"]:
        parts.append(f"{tasks['repeats']:,} repeat{'' if tasks['repeats'] == 1 else 's'} of these")
    if tasks["need_retry"]:
        again = f"runner retry {found['run'] or 'RUN'}"
        parts.append(f"{tasks['need_retry']:,} failed before, which `{again}` asks again")
    return "; ".join(parts)


def _batches(batches: dict[str, Any]) -> list[str]:
    count, unfit = batches["count"], batches["unfit"]
    lines = []
    if count:
        tokens = sum(batches["tokens"].values())
        lines.append(
            f"Batches   {count:,} file{'' if count == 1 else 's'} of {_size(batches['bytes'])} in all, about "
            f"{tokens:,} tokens to enqueue"
        )
        limits = [(model, limit) for model, limit in batches["queue_takes"].items() if limit is not None]
        lines += [
            f"          the account's queue takes {limit:,} of {model} at a time" for model, limit in limits
        ]
        if not limits:
            lines.append("          how many the account's queue takes is told by its first refusal")
    for one in unfit:
        rows = f"{one['rows']:,} row{'' if one['rows'] == 1 else 's'}"
        lines.append(f"          no batch takes {rows}: {one['message']} [{one['code']}]")
    return lines


def _duration(found: dict[str, Any]) -> list[str]:
    seconds, auto = found["seconds_at_limits"], found["auto"]
    at_limits = (
        f"at least {_spelt(seconds)} at the job's limits"
        if seconds is not None
        else "the account's limits are told by its first answer"
    )
    if found["mode"] == "batch":
        expires = found["batches"]["expire"]
        day = (
            "expires after 24 hours, and what it has not done"
            if expires
            else "is done when it is, and what it has left"
        )
        return [f"Duration  a batch {day} goes into the next one"]
    if auto is None:
        return [f"Duration  {at_limits}"]
    ways = " then ".join(_WAYS[way] for way in auto["ways"])
    lines = [f"Duration  done by {auto['deadline']}: {ways}"]
    if len(auto["ways"]) == 1:
        return [*lines, "          there is no time left for the cheaper ways"]
    sooner = "" if auto["calls_per_second"] else ", or as much sooner as the first call shows to be needed"
    return [
        *lines,
        f"          at {auto['switch_at']} batches are called off and what is left goes online{sooner}",
    ]


_WAYS = {"flex": "flex,", "batch": "batches,", "online": "online at the standard price"}


def _size(size: int) -> str:
    if size < 1_000_000:
        return f"{size / 1000:,.1f} kB"
    return f"{size / 1_000_000:,.1f} MB"


def _tokens(tokens: dict[str, Any]) -> str:
    names = ", ".join(sorted(set(tokens["counted_as"].values())))
    given = {
        "exact": f"exactly {tokens['input']:,} in",
        "counted": f"{tokens['input']:,} in (counted as {names})",
        "estimated": f"about {tokens['input']:,} in",
    }[tokens["input_is"]]
    if tokens["output_at_most"] == 0:
        return given
    return f"{given}, {_upto(tokens['output_at_most'])} out"


def _cost(cost: dict[str, str | None]) -> str:
    if cost["least"] is None:
        return "no price known"
    if cost["least"] == cost["most"]:
        return f"${cost['least']}"
    return f"${cost['least']} (input alone) to {_dollars(cost['most'])} (longest answers)"


def _budget(budget: dict[str, Any], calls: int, *, in_batches: bool) -> list[str]:
    spent = f", of which ${budget['spent_usd']} is spent," if budget["spent_usd"] != "0" else ""
    shorter = budget["if_shorter"]
    if budget["dearest_call_usd"] is None:
        says = "cannot be held: nobody knows what a call may cost at most, and the run would refuse it"
    else:
        allowed = _of(budget["calls_in_flight"], calls, in_batches=in_batches)
        says = f"{allowed}; the dearest could cost ${budget['dearest_call_usd']}"
    lines = [f"Budget    ${budget['usd']}{spent} {says}"]
    few = budget["dearest_call_usd"] is None or (budget["calls_in_flight"] or 0) < calls
    if shorter is not None and few:
        allowed = _of(shorter["calls_in_flight"], calls, in_batches=in_batches)
        lines.append(
            f"          with {' or '.join(shorter['fields'])}: {shorter['tokens']} it {allowed} "
            f"(${shorter['dearest_call_usd']} at most), and cuts longer answers"
        )
    return lines


def _of(in_flight: int | None, calls: int, *, in_batches: bool) -> str:
    if not in_flight:
        return "allows no call"
    if in_batches:
        return f"allows {'all rows' if in_flight >= calls else f'about {in_flight:,} rows'} out at once"
    if in_flight >= calls:
        return "allows all calls in flight at once"
    return f"allows {in_flight:,} call{'' if in_flight == 1 else 's'} in flight at once"


def _upto(count: int | None) -> str:
    return "an unknown number" if count is None else f"at most {count:,}"


def _dollars(text: str | None) -> str:
    return "an unknown sum" if text is None else f"${text}"


def _spelt(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _warn(event: dict[str, Any]) -> None:
    click.echo(f"Warning: {event['message']}", err=True)
