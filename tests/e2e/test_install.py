"""The README's first command on a fresh machine: what is installed from a clean copy runs the main job.

No package comes over the network here: the wheel is built from the tracked files with the tools that are
installed, and its dependencies are lent to the new environment by the one that runs the tests.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SET_UP = "python3 -m venv .venv && .venv/bin/pip install --quiet . && "


def run(*words: object, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ
    }
    environment |= {"XDG_DATA_HOME": str(folder / "data"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command = [str(word) for word in words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command} ended {done.returncode}:\n{done.stdout}{done.stderr}"
    return done


def copy_of_the_tracked_files(folder: Path) -> Path:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        # A file that was deleted and not committed yet is listed still.
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = copy_of_the_tracked_files(tmp_path_factory.mktemp("source"))
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", source / "wheels", folder=source)
    [built] = (source / "wheels").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def machine(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the jobs, their samples and `.venv`, where the wheel and nothing of the checkout is."""
    folder = tmp_path_factory.mktemp("machine")
    for name in ("jobs", "sample_data"):
        shutil.copytree(wheel.parents[1] / name, folder / name)
    run(sys.executable, "-m", "venv", "--without-pip", ".venv", folder=folder)
    [site_packages] = (folder / ".venv").glob("lib/python*/site-packages")
    lent = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages / "lent.pth").write_text("".join(f"{path}\n" for path in sorted(lent)))
    pip = (sys.executable, "-m", "pip", "--python", ".venv/bin/python", "install", "--quiet")
    run(*pip, "--no-deps", "--no-index", wheel, folder=folder)
    return folder


def test_the_readmes_first_command_runs_the_main_job(machine: Path) -> None:
    first = re.search(r"^```sh\n(.+)\n```$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert first is not None
    assert first[1].startswith(SET_UP)

    done = run("bash", "-c", first[1].removeprefix(SET_UP), folder=machine)

    assert "300 of 300 rows answered" in done.stderr
    output = (machine / "out" / "classify_tickets.jsonl").read_bytes()
    assert output == (ROOT / "sample_data" / "expected" / "classify_tickets.jsonl").read_bytes()
    assert (machine / "out" / "classify_tickets.jsonl.summary.json").exists()


def test_what_runs_is_what_was_installed(machine: Path) -> None:
    where = run(".venv/bin/python", "-c", "import runner; print(runner.__file__)", folder=machine)

    assert Path(where.stdout.strip()).is_relative_to(machine / ".venv")


def test_a_ready_job_comes_with_all_that_it_needs(machine: Path) -> None:
    copied = run(".venv/bin/runner", "new", "classify_tickets", "mine", folder=machine)
    offered = [line.strip() for line in copied.stdout.split("\n") if line.strip().startswith("runner run ")]

    assert len(offered) == 1
    done = run("bash", "-c", f".venv/bin/{offered[0]} --limit 3", folder=machine)
    assert "3 of 3 rows answered" in done.stderr


def test_a_plain_install_brings_everything_that_the_product_needs(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [metadata] = [name for name in names if name.endswith(".dist-info/METADATA")]
        text = archive.read(metadata).decode()

    plain = [
        line for line in re.findall(r"^Requires-Dist: (.+)$", text, re.MULTILINE) if "extra ==" not in line
    ]
    assert len(plain) == len(project["dependencies"])
    for path in ("runner/py.typed", "runner/prices.json", "runner/_shipped/migrations/env.py"):
        assert path in names
    jobs = {path.name for path in (ROOT / "jobs").glob("*.yaml")}
    assert jobs == {
        Path(name).name for name in names if re.fullmatch(r"runner/_shipped/jobs/[^/]+\.yaml", name)
    }
    assert not [name for name in names if name.startswith("tests/")]
