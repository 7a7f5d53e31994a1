"""`doctor`: is everything there that a run needs?"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from runner.cli import printable
from runner.cli.account import account_of, prices_of
from runner.cli.options import account_options, store_option, store_url
from runner.errors import RunnerError

MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}


@click.command("doctor")
@account_options
@store_option
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
@click.pass_context
def doctor_command(ctx: click.Context, /, as_json: bool, **options: Any) -> None:
    """Check versions, the store, the key, the prices, and the shutdown dates of the models in use.

    Asks the API for its list of models, which costs nothing. Exit code 78 if something would stop a run.
    """
    import orjson

    from runner.checkup import Check, check_account, check_prices, check_store, check_versions, models_in_use

    url = store_url(options["store"])
    checks = [*check_versions(), *check_store(url)]
    try:
        with account_of(
            options, lambda event: checks.append(Check("account", "warn", event["message"]))
        ) as account:
            prices = prices_of(options["prices"], account)
            checks.append(check_prices(prices, datetime.now(UTC).date()))
            checks += check_account(account, _used(checks, url, models_in_use), prices)
    except RunnerError as error:
        checks.append(Check("key", "fail", str(error)))
    if as_json:
        click.echo(
            orjson.dumps(
                [{"check": one.name, "verdict": one.verdict, "found": one.found} for one in checks],
                option=orjson.OPT_INDENT_2,
            )
        )
    else:
        for one in checks:
            click.echo(f"{MARKS[one.verdict]}  {one.name:9} {printable(one.found)}")
    ctx.exit(78 if any(one.verdict == "fail" for one in checks) else 0)


def _used(checks: list[Any], url: str, models_in_use: Any) -> set[str]:
    broken = any(one.name == "store" and one.verdict == "fail" for one in checks)
    found: set[str] = set() if broken else models_in_use(url)
    return found
