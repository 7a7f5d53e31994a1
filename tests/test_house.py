"""The plan of the house is kept: import contracts, format, lint, types, and the rules that no linter knows."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent
PACKAGE = HOUSE / "runner"


def tool(*words: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / words[0]), *words[1:]]
    return subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "words",
    [("lint-imports",), ("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)],
    ids=lambda words: words[0] + ("-format" if "format" in words else ""),
)
def test_the_tools_find_nothing(words: tuple[str, ...]) -> None:
    found = tool(*words)

    assert found.returncode == 0, found.stdout + found.stderr


def test_the_top_level_holds_what_was_asked_for_and_no_more() -> None:
    tracked = tool_git("ls-files")
    top = {path.split("/")[0] for path in tracked}

    asked = {"pyproject.toml", "runner", "jobs", "migrations", "tests", "sample_data", "README.md"}
    allowed = {"Makefile", "CHANGELOG.md", "LICENSE", ".gitignore", ".ci"}
    assert asked <= top <= asked | allowed


def tool_git(*words: str) -> list[str]:
    found = subprocess.run(["git", *words], cwd=HOUSE, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.fail(f"the tests need a git checkout: {found.stderr}")
    return found.stdout.split("\n")[:-1]


FORBIDDEN = {
    r"\bsplitlines\(": "a line of JSONL ends at a line feed alone: split bytes at \\n",
    r"except Exception\b": "only the engine's outermost frame may catch everything",
    r"\bos\.environ\b": "the environment is read in runner/cli alone",
    r"\bTODO\b|\bFIXME\b|\bNotImplementedError\b": "no stub",
}


@pytest.mark.parametrize("pattern", FORBIDDEN, ids=FORBIDDEN.values())
def test_rules_of_the_house(pattern: str) -> None:
    guilty = [
        f"{path.relative_to(HOUSE)}:{number}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if not (pattern.startswith(r"\bos\.environ") and path.parent.name in ("cli", "simulator"))
        for number, line in enumerate(path.read_text().split("\n"), 1)
        if re.search(pattern, line)
    ]

    assert guilty == [], FORBIDDEN[pattern]


@pytest.mark.parametrize("word", ["utils", "common", "helpers", "manager", "base", "tracker"])
def test_no_bucket_names(word: str) -> None:
    assert not [path for path in PACKAGE.rglob("*.py") if word in path.stem.split("_")]


def test_no_source_file_is_much_longer_than_its_noun() -> None:
    long = {
        str(path.relative_to(HOUSE)): count
        for path in PACKAGE.rglob("*.py")
        if (count := path.read_text().count("\n")) > 350
    }

    assert long == {}


def test_each_dependency_is_one_that_the_code_imports() -> None:
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[\[<>=; ]", line)[0] for line in project["dependencies"]}
    module = {"ruamel.yaml": "ruamel", "backports.zstd": "backports", "jsonschema-rs": "jsonschema_rs"}
    source = (
        "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
        + (HOUSE / "migrations" / "env.py").read_text()
    )

    unused = [
        n for n in names if not re.search(rf"^\s*(import|from) {module.get(n, n)}\b", source, re.MULTILINE)
    ]
    assert unused == []
