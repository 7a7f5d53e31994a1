"""`status`: the runs, or one: where it stands, what it has cost, what to do next. Looks only, and never blocks."""

from __future__ import annotations

from typing import Any

import click

from runner.cli import importing, printable
from runner.cli.options import store_option, store_url
from runner.polling import hours

SHOWN = 20


@click.command("status")
@click.argument("run_name", metavar="[RUN]", required=False)
@store_option
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def status_command(run_name: str | None, store: str | None, as_json: bool) -> None:
    """Show the newest runs, or one of them.

    RUN is a run's id, a unique beginning of it, or `last`.
    """
    with importing():
        import orjson

        from runner.standing import all_runs, one_run

    found: dict[str, Any] | list[dict[str, Any]]
    if run_name is None:
        found = all_runs(store_url(store), SHOWN)
        lines = _table(found)
    else:
        found = one_run(store_url(store), run_name)
        lines = _one(found)
    if as_json:
        click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2))
        return
    for line in lines:
        click.echo(printable(line))


def _table(runs: list[dict[str, Any]]) -> list[str]:
    if not runs:
        return ["No runs yet. `runner run JOB` starts one."]
    head = f"{'RUN':12}{'JOB':26}{'STATE':11}{'ROWS':>10}{'OK':>10}{'FAILED':>8}  {'COST':14}STARTED"
    return [
        head,
        *(
            f"{one['run']:12}{_cut(one['job'], 25):26}{one['state']:11}{one['rows']:>10,}{_count(one['ok']):>10}"
            f"{_count(one['failed']):>8}  {_cost(one['cost_usd']):14}{one['started_at']}"
            for one in runs
        ),
    ]


def _one(run: dict[str, Any]) -> list[str]:
    lines = [
        f"Run       {run['run']} of {run['job']}: {run['state']}",
        "Where     "
        + ("the simulator" if run["origin"] == "sim" else f"{run['provider']} at {run['origin']}"),
        f"Input     {run['input']}",
        f"Output    {run['output'] or 'none named'}",
        f"Rows      {run['rows']:,} in, {_count(run['ok'])} answered, {_count(run['failed'])} failed, "
        f"{run['invalid']:,} invalid, {run['left']:,} left"
        + (f", {run['held']:,} held" if run["held"] else ""),
        f"Cost      {_cost(run['cost_usd'])}"
        + (f", up to ${run['at_risk_usd']} at risk" if run["at_risk_usd"] not in (None, "0") else ""),
        f"Calls     {run['requests']:,} sent, {run['retries']:,} again, {run['rate_limited']:,} refused for speed",
        f"Started   {run['started_at']}",
    ]
    if run["finished_at"]:
        lines.append(f"Finished  {run['finished_at']}")
    lines.extend(_batches(run))
    if run["rows_per_second"]:
        eta = f", about {run['eta_seconds']:,} s left" if run["eta_seconds"] else ""
        lines.append(f"Rate      {run['rows_per_second']:,} rows/s{eta}")
    for error in run["errors"]:
        status = f" (HTTP {error['status']})" if error["status"] else ""
        lines.append(
            f"Error     {error['code']}{status}, {error['times']:,} call{'' if error['times'] == 1 else 's'}"
        )
    lines.append(f"Next      {run['next']}")
    return lines


def _batches(run: dict[str, Any]) -> list[str]:
    """The batches that are out, each on a line of its own, and how many have ended."""
    out, ended = run["batches"], run["batches_ended"]
    if not out and not ended:
        return []
    parts = []
    for sent, words in ((True, "out"), (False, "not submitted yet")):
        some = [one["lines"] for one in out if one["sent"] is sent]
        parts += [f"{len(some):,} {words} ({_rows(sum(some))})"] if some else []
    waiting = run["left"] - sum(one["lines"] for one in out)
    if out and waiting > 0:
        parts.append(f"{_rows(waiting)} in none yet")
    parts += [f"{count:,} {result}" for result, count in ended.items()]
    lines = [f"Batches   {', '.join(parts)}"]
    for one in out[:SHOWN]:
        lines.append(f"          {_batch(run, one)}")
        if one["odd"]:
            lines.append(f"          {'':2}odd: {one['odd']}")
    if len(out) > SHOWN:
        lines.append(f"          and {len(out) - SHOWN:,} more; --json shows all")
    return lines


def _batch(run: dict[str, Any], one: dict[str, Any]) -> str:
    state = "waits for room in the account's queue" if one["state"] == "queue_full" else one["state"]
    parts = [f"{one['batch']}  {state}"]
    if one["waits_until"]:
        parts.append(f"next try at {one['waits_until']}")
    else:
        parts.append(f"{hours(one['age_seconds'])} old")
    rows = _rows(one["lines"])
    parts.append(rows if one["done"] is None else f"{one['done']:,} of {rows} done")
    if one["run"] != run["run"]:
        parts.append(f"of the earlier run {one['run']}")
    return ", ".join(parts)


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _count(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def _cost(text: str | None) -> str:
    return "unknown" if text is None else f"${text}"
