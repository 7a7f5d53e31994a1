"""`status`: the runs, or one: where it stands, what it has cost, what to do next. Looks only, and never blocks."""

from __future__ import annotations

from typing import Any

import click

from runner.cli import importing, printable
from runner.cli.options import store_option, store_url

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


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _count(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def _cost(text: str | None) -> str:
    return "unknown" if text is None else f"${text}"
