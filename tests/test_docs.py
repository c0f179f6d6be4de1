"""The guides are tested as written: blocks marked `run` run in order, the flags of all other commands exist."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
GUIDES = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *GUIDES]


class Block(NamedTuple):
    language: str
    mark: str
    text: str


def blocks(page: Path) -> list[Block]:
    fences = re.findall(r"^```(\w*) ?(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(*fence) for fence in fences]


def commands(page: Path) -> list[list[str]]:
    """Every call of a program of the project, also those in tables and in other programs' arguments, as words."""
    text = "\n".join(b.text for b in blocks(page) if b.language != "python").replace("\\\n", " ")
    text += "\n" + "\n".join(re.findall(r"`((?:python|deepspeed) [^`\n]*)`", page.read_text()))
    calls = re.findall(r"((?:python|deepspeed)\b[^\n|&]*)", text)
    return [shlex.split(call.replace("'", ""), comments=True) for call in calls if "unity" in call or "/" in call]


def program(words: list[str]) -> tuple[str, ...] | None:
    """How to start what a command starts, without its flags."""
    for place, word in enumerate(words):
        if word.endswith(".py"):
            return (word,)
        if word == "-m":
            return ("-m", words[place + 1])
    return None


def checked() -> list:
    """(program, flags) of all programs of ours, each flag with the page that gives it."""
    ours = ("unity", "launchers", "benchmarks", "docs")
    found = {}
    for page in PAGES:
        for words in commands(page):
            start = program(words)
            if start and start[-1].startswith(ours):
                after = words[words.index(start[-1]) + 1 :]
                found.setdefault(start, set()).update(f"{page.stem}: {w}" for w in after if w.startswith("--"))
    return [pytest.param(start, flags, id=start[-1]) for start, flags in found.items() if flags]


@pytest.mark.parametrize(("start", "given"), checked())
def test_flags_exist(start, given):
    known = subprocess.run(
        [sys.executable, *start, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    missing = [x for x in sorted(given) if not re.search(rf"{re.escape(x.partition(': ')[2])}(?![\w-])", known)]
    assert not missing, f"{start[-1]} knows no {missing}"
    assert "{None,True,False}" not in known, "a switch that wants a value: DisallowNone[bool | None]"


@pytest.mark.slow
@pytest.mark.parametrize("page", GUIDES, ids=lambda p: p.stem)
def test_a_guide_runs_as_written(page, tmp_path):
    runs = [block for block in blocks(page) if block.mark == "run"]
    assert runs, f"{page.name} shows nothing that runs"
    for folder in ("launchers", "benchmarks", "tests", "docs"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    binaries = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{binaries}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": ""}
    for block in runs:
        shell = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}[block.language]
        done = subprocess.run([*shell, block.text], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_guide_is_named_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in GUIDES if f"docs/{page.name}" not in readme] == []
