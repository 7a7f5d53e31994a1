"""`listen`: hears of batches by webhook, so that whoever waits for them need not wait for the next look."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import click

from runner.cli import EXIT_CODES, importing, printable
from runner.cli.account import account_of
from runner.cli.options import address_options, store_option, store_url
from runner.cli.secret import webhook_secret
from runner.cli.signals import signals
from runner.errors import UsageError


@click.command("listen", epilog=EXIT_CODES)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8322, show_default=True, help="0 is any free one."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@address_options
@store_option
@click.option("--json", "as_json", is_flag=True, help="Events as JSON lines on standard error.")
def listen_command(port: int, host: str, as_json: bool, **options: Any) -> None:
    """Take the provider's webhooks about batches, and tell the runs that wait for them.

    Verifies each delivery by the secret in OPENAI_WEBHOOK_SECRET, and believes nothing else of it: the batch
    itself is asked for its state. A run needs no webhooks; it only hears sooner. Speaks plain http: put a proxy
    that ends TLS in front of it. SIGTERM or Ctrl-C ends it, exit code 0.

    \b
    OPENAI_WEBHOOK_SECRET=whsec_... runner listen --port 8322
    """
    with importing():
        from runner.listening import Listen, listen

    secret = webhook_secret()
    if options["provider"] == "sim" and options["base_url"] is None:
        raise UsageError(
            "--provider sim needs --base-url here: the address of the `runner simulate` that sends the webhooks."
        )
    emit = _teller(as_json=as_json)
    with signals() as stop, account_of(options, emit) as account:
        if not _is_loopback(host):
            emit(
                {
                    "event": "warning",
                    "message": f"{host} is not loopback, and deliveries come over plain http: let only a proxy that "
                    "ends TLS reach it.",
                }
            )
        what = Listen(account, store_url(options["store"]), host, port, secret)
        listen(what, stop=stop, emit=emit)


def sentence(event: dict[str, Any]) -> str:
    """An event as one line for people."""
    match event["event"]:
        case "listening":
            host = f"[{event['host']}]" if ":" in event["host"] else event["host"]
            return f"Listening at http://{host}:{event['port']}/ (Ctrl-C ends it)."
        case "told":
            return f"Batch {event['batch']} of run {event['run']} ({event['job']}): {_state(event)}. {event['next']}"
        case "unknown":
            return f"Batch {event['batch']} is of no run in this store ({event['type']})."
        case "repeated":
            return f"Batch {event['batch']}: {event['type']} was delivered before."
        case "other":
            return f"Nothing to do for {event['type']}{_of(event['subject'])}."
        case "refused":
            times = "" if event["times"] == 1 else f" ({event['times']:,} refused so far)"
            return f"Refused a delivery with {event['status']}: {event['why']}{times}."
        case _:
            return f"Warning: {event['message']}"


def _state(event: dict[str, Any]) -> str:
    if event["state"] is None:
        return f"{event['type']}, but {event['why']}"
    if not event["lines"]:
        return str(event["state"])
    failed = f", {event['failed']:,} failed" if event["failed"] else ""
    return f"{event['state']}, {event['completed'] or 0:,} of {event['lines']:,} lines done{failed}"


def _of(subject: str | None) -> str:
    return "" if subject is None else f" ({subject})"


def _teller(*, as_json: bool) -> Callable[[dict[str, Any]], None]:
    from runner.cli.progress import JsonLines

    if as_json:
        return JsonLines().emit

    def say(event: dict[str, Any]) -> None:
        try:
            click.echo(printable(sentence(event)).replace("\n", " "), err=True)
        except OSError:
            # Nobody reads what is said any more; what is kept is kept.
            pass

    return say


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
