"""Everything that README.md shows runs: its Python blocks and its `ideareg` commands, in order."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

README = Path(__file__).parents[1] / "README.md"
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+?) -->\n+)?"
    r"^```(?P<language>python|console|bash)[^\n]*\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
SECONDS = 600

if not README.exists():
    pytest.skip("there is no README.md", allow_module_level=True)


class Block(NamedTuple):
    language: str
    line: int  # of the first line of the body
    body: str
    reason: str | None  # why it is not run


def commands_of(body):
    """The `ideareg` commands of a shell block, without their prompts and with lines joined."""
    lines = body.replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ") for line in lines if re.match(r"\$ ideareg\b", line)]


def blocks_of(text):
    blocks = [
        Block(m["language"], text.count("\n", 0, m.start("body")) + 1, m["body"], m["reason"])
        for m in FENCE.finditer(text)
    ]
    return [block for block in blocks if block.language == "python" or commands_of(block.body)]


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """One folder and one namespace, as someone has who reads from top to bottom."""
    return tmp_path_factory.mktemp("readme"), {"__name__": "readme"}


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(
            block,
            id=f"line-{block.line}-{block.language}",
            marks=pytest.mark.skip(reason=f"README: {block.reason}") if block.reason else (),
        )
        for block in blocks_of(README.read_text(encoding="utf-8"))
    ],
)
def test_block_runs(block, reader, monkeypatch):
    folder, namespace = reader
    monkeypatch.chdir(folder)
    if block.language == "python":
        # The empty lines make a traceback name the line of the README.
        exec(compile("\n" * (block.line - 1) + block.body, str(README), "exec"), namespace)
        return
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    for command in commands_of(block.body):
        run = subprocess.run(
            command,
            shell=True,
            env=os.environ | {"PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert run.returncode == 0, f"$ {command}\n{run.stdout}{run.stderr}"


def test_package_page_shows_the_readme():
    settings = (README.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^readme = "README.md"$', settings, re.MULTILINE), (
        'README.md exists now: write `readme = "README.md"` under [project] in pyproject.toml'
    )
