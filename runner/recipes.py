"""The ready jobs that ship with the product, and how to copy one to start from."""

from __future__ import annotations

import shutil
from pathlib import Path

from runner.errors import OutputUnwritable
from runner.job import read_job

JOBS = "jobs"
SAMPLES = "sample_data"


def recipes() -> dict[str, str]:
    """The names of the ready jobs, each with its first comment line."""
    return {path.stem: _purpose(path) for path in sorted((_shipped() / JOBS).glob("*.yaml"))}


def copy(name: str, folder: Path) -> Path:
    """Copy a ready job, its schema and its sample input into a folder; where the job file is then.

    The copy has the same layout as the original, so that it runs as it is. OutputUnwritable if something of the
    same name stands there; OSError if it cannot be written.
    """
    source = _shipped() / JOBS / f"{name}.yaml"
    job = read_job(source)
    wanted = [source, *([Path(job.input)] if job.input else [])]
    if job.schema is not None:
        wanted.append(source.parent / "schemas" / f"{_schema_stem(source)}.json")
    targets = [folder / path.relative_to(_shipped()) for path in wanted]
    for target in targets:
        if target.exists():
            raise OutputUnwritable(f"{target} is there already. Name another folder, or move it away.")
    for path, target in zip(wanted, targets, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return targets[0]


def _schema_stem(job_file: Path) -> str:
    for line in job_file.read_text().split("\n"):
        if line.startswith("schema:"):
            return Path(line.removeprefix("schema:").split("#")[0].strip()).stem
    return ""


def _purpose(path: Path) -> str:
    first = path.read_text().split("\n", 1)[0]
    return first.lstrip("# ").rstrip() if first.startswith("#") else ""


def _shipped() -> Path:
    package = Path(__file__).resolve().parent
    installed = package / "_shipped"
    return installed if installed.is_dir() else package.parent
