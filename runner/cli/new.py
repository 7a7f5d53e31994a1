"""`new`: copy a ready job with its sample input to start from."""

from __future__ import annotations

from pathlib import Path

import click

from runner.errors import OutputUnwritable, UsageError


@click.command("new")
@click.argument("recipe", metavar="[RECIPE]", required=False)
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), required=False)
def new_command(recipe: str | None, folder: Path | None) -> None:
    """Copy a ready job with its sample input into DIR (default: a new folder named like the recipe).

    Without RECIPE it lists the recipes.
    """
    from runner.recipes import copy, recipes

    known = recipes()
    if recipe is None:
        for name, purpose in known.items():
            click.echo(f"{name:24} {purpose}")
        return
    name = recipe.replace("-", "_")
    if name not in known:
        raise UsageError(f"There is no recipe '{recipe}'. There are: {', '.join(known)}.")
    try:
        job = copy(name, folder or Path(name))
    except OSError as error:
        raise OutputUnwritable(
            f"{error.filename}: cannot be written: {error.strerror}. Name another folder."
        ) from error
    click.echo(f"{job} is ready. Try it without a key:")
    click.echo(f"  runner run {job} --provider sim")
