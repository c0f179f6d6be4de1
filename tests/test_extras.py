"""The core install is inference alone; what an extra brings is asked for in one sentence."""

import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from unittest.mock import patch

import pytest
import setuptools

from unity.extras import PACKAGES, MissingExtra, extra, require

ROOT = Path(__file__).parents[1]
# import names of everything that is not in the core
EXTRA = sorted({name for packages in PACKAGES.values() for name in packages} | {"nvidia", "torchvision", "triton"})

WITHOUT = """
import json, runpy, sys
sys.modules.update(dict.fromkeys({extra}))
sys.argv = {argv}
runpy.{how}(sys.argv[0], run_name="__main__")
"""

COMMANDS = {
    "train": ("run_path", ["launchers/train.py", "--stage", "1"]),
    "simulate": ("run_module", ["unity.data.simulate", "--out", "nowhere"]),
    "app": ("run_module", ["unity.apps.web"]),
    "data": ("run_module", ["unity.data.curate", "films", "--out", "nowhere"]),
}


def command(how: str, argv: list[str], folder: Path) -> subprocess.CompletedProcess:
    """Run a program of the project as if no extra were installed."""
    script = [str(ROOT / argv[0]) if how == "run_path" else argv[0], *argv[1:]]
    code = WITHOUT.format(extra=EXTRA, argv=script, how=how)
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def declared() -> dict:
    """What setup.py tells setuptools."""
    with patch.object(setuptools, "setup") as setup:
        exec(compile((ROOT / "setup.py").read_text(), "setup.py", "exec"), {"__file__": str(ROOT / "setup.py")})
    return setup.call_args.kwargs


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", requirement).group().lower() for requirement in requirements}


@pytest.mark.parametrize("name", PACKAGES)
def test_what_the_code_imports_is_in_the_extra_and_not_in_the_core(name, declared):
    brought_by = packages_distributions()
    for package in PACKAGES[name]:
        # one that is a single compiled file says nothing of its modules, and bears their name
        distributions = {distribution.lower() for distribution in brought_by.get(package, [package])}
        assert distributions & names(declared["extras_require"][name]), package
        assert not distributions & names(declared["install_requires"]), package


def test_dev_is_everything_that_wants_no_gpu(declared):
    extras = dict(declared["extras_require"])
    dev, *others = (names(extras.pop(name)) for name in ("dev", "cuda", "flash"))
    assert dev >= set().union(*map(names, extras.values()))
    assert not dev & set().union(*others)


def test_pins_hold_for_everything_that_dev_installs(declared):
    wanted = names(declared["install_requires"]) | names(declared["extras_require"]["dev"])
    pinned = names([line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line])
    assert wanted - pinned == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_names_its_missing_extra_in_one_sentence(name, tmp_path):
    result = command(*COMMANDS[name], tmp_path)
    assert result.returncode != 0
    assert len(result.stderr.splitlines()) == 1
    assert f"pip install 'unity-video[{name}]'" in result.stderr
    assert not list(tmp_path.iterdir())


def test_inference_needs_no_extra(tmp_path):
    argv = ["unity.infer", "--modality", "flow", "--steps", "1", "--size", "32", "32", "--frames", "5"]
    result = command("run_module", [*argv, "--out", "out"], tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "out/run.json").read_text())["task"] == "estimate"


def test_missing_and_present_packages():
    require(*PACKAGES)
    with pytest.raises(MissingExtra, match=r"streaming is not installed.*unity-video\[train\]"), extra("train"):
        raise ModuleNotFoundError("No module named 'streaming'", name="streaming")
    with pytest.raises(ModuleNotFoundError, match="unity.nothing"), extra("train"):
        import unity.nothing  # noqa: F401
