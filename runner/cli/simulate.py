"""`simulate`: the local simulator as a server."""

from __future__ import annotations

import click

from runner.cli.options import Duration
from runner.cli.secret import webhook_secret
from runner.errors import UsageError


@click.command("simulate")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8321, show_default=True, help="0 is any free one."
)
@click.option("--rpm", type=click.IntRange(min=1), help="Requests a minute, for each model.")
@click.option("--tpm", type=click.IntRange(min=1), help="Tokens a minute, for each model.")
@click.option("--latency", type=Duration(), default="0s", show_default=True, help="How long an answer takes.")
@click.option(
    "--faults",
    metavar="NAME=RATE,...",
    help="What goes wrong, and how often: 429=0.05,500=0.02@first. @first spares the second try.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed meets the same faults.")
@click.option(
    "--batch-time", type=Duration(), default="5s", show_default=True, help="How long a batch takes."
)
@click.option(
    "--queue-tokens",
    type=click.IntRange(min=1),
    help="Input tokens that a model's batches may hold enqueued together.",
)
@click.option(
    "--webhook",
    metavar="URL",
    help="Where the end of a batch is told, signed with OPENAI_WEBHOOK_SECRET, as `runner listen` expects it.",
)
@click.option(
    "--profile",
    type=click.Choice(["openai", "azure"]),
    default="openai",
    show_default=True,
    help="Whose Batch API it speaks.",
)
def simulate_command(
    *,
    port: int,
    rpm: int | None,
    tpm: int | None,
    latency: float,
    faults: str | None,
    seed: int,
    batch_time: float,
    queue_tokens: int | None,
    webhook: str | None,
    profile: str,
) -> None:
    """Serve the OpenAI API's protocol on this machine, without a key and at no cost.

    Real rate limits, real headers, faults by a seeded script, batches through all their states. Point any
    client at it; what arrived, and what it would have cost, is at /sim/ledger.

    \b
    runner simulate --rpm 500 --faults 429=0.05,500=0.02
    runner run jobs/classify_tickets.yaml --provider sim --base-url http://127.0.0.1:8321/v1
    """
    from runner.simulator import BadFaults, Settings, serve_forever

    settings = Settings(
        port=port,
        rpm=rpm,
        tpm=tpm,
        latency=latency,
        faults=faults,
        seed=seed,
        batch_time=batch_time,
        profile=profile,
        enqueued_tokens=queue_tokens,
        webhook=None if webhook is None else _url(webhook),
        webhook_secret="" if webhook is None else webhook_secret(),
    )
    try:
        serve_forever(settings, lambda url: click.echo(f"Simulating at {url} (Ctrl-C ends it)"))
    except BadFaults as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(
            f"Port {port} cannot be used: {error.strerror or error}. Name another with --port."
        ) from error
    except KeyboardInterrupt:
        click.echo("Stopped.", err=True)


def _url(text: str) -> str:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise UsageError(f"--webhook {text}: give a whole address, such as http://127.0.0.1:8322/.")
    return text
