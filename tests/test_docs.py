"""What the README says is so: its commands run, its examples come out, its tables name what there is.

Blocks in `sh` and `console` are run one after the other, in a clean copy of the files, as a reader would: with
`runner` on the path, no key, and a data folder of its own. `# exit code N` at a command's end says how it ends.
What a `console` block shows is compared line by line; there `...` stands for anything, alone on a line for any
lines, the README's run id for any id, and its times for any times. Port 8321 is replaced by a free one. The
first two blocks, which install, are run by `tests/e2e/test_install.py` and by `.ci/run`.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest

from runner import errors
from runner.cli import COMMANDS, app
from runner.job import read_job
from runner.job.reader import FIELDS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
RUN_ID = "7dwj479ady"
PORT = "8321"
TIMEOUT = 60
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
EXIT_CODE = re.compile(r"\s+# exit code (\d+)$")


@dataclass
class Step:
    """A command of the README, how it ends, and what it shows, where the README says so."""

    command: str
    code: int = 0
    shows: list[str] | None = field(default=None)


def steps_of(language: str, text: str) -> Iterator[Step]:
    step: Step | None = None
    for line in text.rstrip("\n").split("\n"):
        if language == "console" and not line.startswith("$ "):
            assert step is not None, "a console block begins with a command"
            assert step.shows is not None
            step.shows.append(line)
            continue
        if step is not None:
            yield step
        command = line.removeprefix("$ ") if language == "console" else line
        found = EXIT_CODE.search(command)
        code = 0 if found is None else int(found[1])
        step = Step(EXIT_CODE.sub("", command), code, [] if language == "console" else None)
    if step is not None:
        yield step


def shown_as(shows: list[str]) -> re.Pattern[str]:
    """A pattern for what a console block shows."""
    lines = []
    for line in shows:
        if line == "...":
            lines.append(r"(?:.*\n)*?")
            continue
        lines.append(re.escape(line).replace(re.escape("..."), ".*").replace(RUN_ID, "[a-z2-9]{10}") + r"\n")
    return re.compile("".join(lines))


def free_port() -> str:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return str(listening.getsockname()[1])


class Reader:
    """Somebody who types what the README says."""

    def __init__(self, folder: Path) -> None:
        self.copy = folder / "copy"
        self._port = free_port()
        self._servers: list[subprocess.Popen[bytes]] = []
        self._environment = self._prepare(folder)

    def _prepare(self, folder: Path) -> dict[str, str]:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
            timeout=TIMEOUT,
        )
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (ROOT / name).is_file():
                (self.copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.copy / name)
        commands = folder / "bin"
        commands.mkdir()
        for name, words in (("runner", "-m runner"), ("python3", "")):
            (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
            (commands / name).chmod(0o755)
        # The README shows what a plain install gives, without the extra that counts tokens.
        plain = folder / "plain"
        plain.mkdir()
        (plain / "sitecustomize.py").write_text("import sys\nsys.modules['rs_bpe'] = None\n")
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        return kept | {
            "PATH": f"{commands}:/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": f"{self.copy}:{plain}",
            "XDG_DATA_HOME": str(folder / "data"),
        }

    def follow(self, step: Step) -> None:
        command = step.command.replace(PORT, self._port)
        if command.endswith(" &"):
            self._start_server(command.removesuffix(" &"))
            return
        done = subprocess.run(
            ["bash", "-c", f"{command} 2>&1"],
            cwd=self.copy,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=TIMEOUT,
        )
        text = done.stdout.decode()
        assert done.returncode == step.code, f"{command} ended {done.returncode}:\n{text}"
        if step.shows is not None:
            assert shown_as(step.shows).fullmatch(text), f"{command} shows:\n{text}"

    def _start_server(self, command: str) -> None:
        server = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=self.copy, env=self._environment, stdout=subprocess.PIPE
        )
        self._servers.append(server)
        assert server.stdout is not None
        assert b"http://127.0.0.1" in server.stdout.readline()

    def close(self) -> None:
        for server in self._servers:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=TIMEOUT)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    one = Reader(tmp_path_factory.mktemp("reader"))
    yield one
    one.close()


STEPS = [
    step
    for language, text in BLOCKS[2:]
    if language in ("sh", "console")
    for step in steps_of(language, text)
]


@pytest.mark.parametrize("number", range(len(STEPS)), ids=[step.command for step in STEPS])
def test_the_command_does_what_the_readme_says(number: int, reader: Reader) -> None:
    # In the order of the README: later commands build on what earlier ones left.
    reader.follow(STEPS[number])


def test_a_command_that_shows_something_else_would_be_found() -> None:
    shows = [f"Run {RUN_ID}: 3 rows", "...", "Output: .../out.jsonl"]

    assert shown_as(shows).fullmatch("Run abcdefgh23: 3 rows\nsome\nmore\nOutput: /x/out.jsonl\n")
    assert not shown_as(shows).fullmatch("Run abcdefgh23: 4 rows\nsome\nmore\nOutput: /x/out.jsonl\n")
    assert not shown_as(shows).fullmatch("Run abcdefgh23: 3 rows\nOutput: /x/out.jsonl\nand more\n")


def test_the_readme_begins_with_the_two_commands() -> None:
    (first, one), (second, two) = BLOCKS[:2]

    assert (first, second) == ("sh", "sh")
    assert README.startswith(f"# runner\n\n```sh\n{one}```\n\n```sh\n{two}```\n")
    assert one.count("\n") == two.count("\n") == 1
    assert one.startswith(
        "python3 -m venv .venv && .venv/bin/pip install --quiet . && .venv/bin/runner run jobs/"
    )


def test_ci_runs_the_readmes_second_command() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    commands = [line for line in script.split("\n") if line and not line.startswith(("#", "set ", "cd "))]

    assert commands == [BLOCKS[1][1].rstrip("\n")]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_job_that_is_explained_is_one_that_can_be_read(reader: Reader) -> None:
    [text] = [text for language, text in BLOCKS if language == "yaml"]
    path = reader.copy / "jobs" / "explained.yaml"
    path.write_text(text)

    job = read_job(path)

    assert job.keep == ("id", "subject")
    assert job.retry.max_wait == 600


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def first_cells(text: str) -> list[str]:
    """The names in the first column of a section's tables, without their heads."""
    cells = re.findall(r"^\| (.+?) \|", text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_every_field_of_a_job_is_explained() -> None:
    assert sorted(first_cells(section("The job file"))) == sorted(FIELDS)


@pytest.mark.parametrize(
    "name", ["requests_per_minute", "tokens_per_minute", "concurrency", "attempts", "max_wait"]
)
def test_every_part_of_a_field_is_explained(name: str) -> None:
    assert f"`{name}`" in section("The job file")


def commands() -> dict[str, click.Command]:
    context = click.Context(app)
    found = {name: app.get_command(context, name) for name in COMMANDS}
    return {name: command for name, command in found.items() if command is not None}


def options_of(command: click.Command) -> set[str]:
    """The long options of a command; `--help` goes without saying."""
    return {name for parameter in command.params for name in parameter.opts if name.startswith("--")} - {
        "--help"
    }


def test_the_readme_names_every_command_and_no_other() -> None:
    table = re.findall(r"^\| `runner (\w+)", section("Commands"), re.MULTILINE)
    named = set(re.findall(r"(?:^|[`$] ?)runner ([a-z]+)", README, re.MULTILINE))

    assert sorted(table) == sorted(COMMANDS)
    assert named <= set(COMMANDS)


def test_the_readme_names_every_option_and_no_other() -> None:
    described = README.split("## First steps", 1)[1]
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", described)) - {"--help"}
    known = set().union(*(options_of(command) for command in commands().values()))

    assert named == known


def test_every_command_of_a_block_takes_the_options_that_it_is_given() -> None:
    jobs = [path.read_text() for path in sorted((ROOT / "jobs").glob("*.yaml"))]
    lines = [line for text in [*(text for _, text in BLOCKS[2:]), *jobs] for line in text.split("\n")]
    for line in lines:
        if found := re.search(r"\brunner (\w+)(.*)", line):
            given = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", found[2]))
            assert given <= options_of(commands()[found[1]]), line


def test_help_speaks_of_every_command() -> None:
    text = app.get_help(click.Context(app, info_name="runner"))

    assert re.findall(r"^  ([a-z]+)  ", text, re.MULTILINE) == list(COMMANDS)
    for command in commands().values():
        help_text = command.get_help(click.Context(command, info_name=f"runner {command.name}"))
        assert all(option in help_text for option in options_of(command))


def stops(kind: type[errors.RunnerError]) -> set[int]:
    return {kind.exit_code}.union(*(stops(one) for one in kind.__subclasses__()))


def test_the_exit_codes_are_those_of_the_errors_and_of_the_help() -> None:
    table = {int(code) for code in re.findall(r"^\| (\d+) \|", section("Exit codes"), re.MULTILINE)}
    in_help = {int(code) for code in re.findall(r"\b\d+\b", str(app.epilog))}
    drawn = {int(code) for code in re.findall(r" {2,}(\d+) {3}", str(errors.__doc__))}
    raised = stops(errors.RunnerError) - {errors.RunnerError.exit_code}

    assert drawn == raised
    # Answered, failed rows, not finished and interrupted twice are ends that no error makes.
    assert table == in_help == raised | {0, 3, 75, 130}


def test_the_rooms_are_those_of_the_import_contracts() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract["id"] == "layers"]

    assert first_cells(section("How it works"))[:1] == ["__main__"]
    rooms = re.findall(r"^\| `(\w+)` \|", section("How it works"), re.MULTILINE)
    assert rooms == [room.strip("()") for layer in layers for room in layer.split(" | ")]


def test_the_states_are_drawn_as_in_the_model() -> None:
    from runner import model

    def drawing(first: str, text: str) -> list[str]:
        lines = [line.strip() for line in text.split("\n")]
        at = next(number for number, line in enumerate(lines) if line.startswith(first))
        end = next(number for number, line in enumerate(lines) if number > at and line in ("", "```"))
        return [re.sub(r"\s+", " ", line) for line in lines[at:end]]

    for first in ("READY ", "INGESTING "):
        assert drawing(first, section("Words")) == drawing(first, str(model.__doc__))


def test_each_state_of_a_batch_is_drawn() -> None:
    from runner.polling import _UNDER_WAY
    from runner.remote import ENDED
    from runner.submission import Stage

    drawn = set(re.findall(r"\w+", section("Batches")))
    # These two end it here: what they mean is told in the table of what goes wrong.
    ours = {stage.value for stage in Stage} - {"seeking", "refused"}
    assert ours | ENDED | _UNDER_WAY <= drawn


def emitted() -> Iterator[tuple[str, set[str]]]:
    """The events that the code emits, each with its fields."""
    for path in (ROOT / "runner").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Dict):
                fields = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
                if "event" in fields:
                    name = node.values[fields.index("event")]
                    if isinstance(name, ast.Constant):
                        yield str(name.value), {str(one) for one in fields if one not in (None, "event")}


def test_each_event_of_json_is_documented_with_its_fields() -> None:
    table = re.findall(r"^\| (`.+?) \| (.+) \|$", section("Progress, and `--json`"), re.MULTILINE)
    rows = {name: text for names, text in table for name in re.findall(r"`(\w+)`", names)}
    found = list(emitted())

    assert {name for name, _ in found} == set(rows)
    for name, fields in found:
        assert [field for field in fields if f"`{field}`" not in rows[name]] == [], name


def test_each_field_that_tells_of_a_batch_is_documented() -> None:
    tree = ast.parse((ROOT / "runner" / "bulletin.py").read_text())
    [batch] = [one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name == "_batch"]
    [told] = [one for one in ast.walk(batch) if isinstance(one, ast.Dict)]
    text = section("Progress, and `--json`")

    assert [
        key.value for key in told.keys if isinstance(key, ast.Constant) and f"`{key.value}`" not in text
    ] == []


def test_each_link_within_the_readme_leads_somewhere() -> None:
    def anchor(title: str) -> str:
        return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")

    titles = {anchor(title) for title in re.findall(r"^#+ (.+)$", README, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= titles


def test_the_changelog_says_what_is_new() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()

    assert text.startswith("# Changelog\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE)[0] == "[Unreleased]"
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds
    assert len(re.findall(r"^- ", text, re.MULTILINE)) >= 10
