"""gpu.sh on a bare machine: its imports suffice, its options are understood, its parts fit into ten minutes."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/gpu.sh"
# torch, triton and einops, and what torch itself requires
PACKAGES = (
    "torch",
    "torchgen",
    "functorch",
    "triton",
    "einops",
    "numpy",
    "numpy.libs",
    "nvidia",
    "filelock",
    "fsspec",
)
PACKAGES += ("jinja2", "markupsafe", "mpmath", "networkx", "setuptools", "sympy", "typing_extensions.py")
START_UP = 15
# Sizes for a CPU, after which a script's own options no longer count.
SMALL = {
    "kernel_gate.py": "--op gelu flow_noise",
    "kernel_bench.py": "--device cpu --dtype float32 --shape debug --tokens 1152 --op gelu --seconds 0.001",
    "block_bench.py": "--shape debug --tokens 288 --seconds 0",
    "step_bench.py": "--shape debug --tokens 288 --layers 2 --seconds 0",
    "infer_bench.py": "--shape debug --tokens 288 --steps 2 --seconds 0",
}


@pytest.fixture
def bare(tmp_path):
    """The environment of a Python that sees these packages and its own library, nothing else."""
    packages, installed = tmp_path / "packages", Path(sysconfig.get_path("purelib"))
    packages.mkdir()
    for name in PACKAGES:
        if (installed / name).exists():
            (packages / name).symlink_to(installed / name)
    return {**os.environ, "PYTHONPATH": str(packages), "OMP_NUM_THREADS": "1"}


def test_the_parts_fit_into_ten_minutes():
    runs = re.findall(r"^run (\w+) (\d+) (\d+)", SCRIPT.read_text(), re.MULTILINE)
    always, named = ["values", "kernels", "block", "block", "step", "step"], ["infer", "sequence", "checkpoint"]
    assert [part for part, *_ in runs] == always + named
    assert sum(int(end) for _, end, _ in runs[: len(always)]) + START_UP < 600
    assert all(int(limit) < int(end) for _, end, limit in runs)
    for half in (("values", "kernels"), ("block",), ("step",), *((part,) for part in named)):
        assert sum(2 * int(end) for part, end, _ in runs if part in half) + START_UP < 600


def test_every_contestant_that_it_names_is_there(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import block_bench
    import step_bench

    names = re.findall(r'"((?:unity|torch|release) [^"]+)"', SCRIPT.read_text().replace("$gpus", "2"))
    assert len(names) > 15 and set(names) <= {*block_bench.CONTESTANTS, *step_bench.CONTESTANTS}


def test_imports_suffice_on_a_bare_machine(bare):
    bare["PYTHONPATH"] += "".join(f":{ROOT / folder}" for folder in ("", "benchmarks", "benchmarks/bare"))
    modules = ", ".join(name.removesuffix(".py") for name in SMALL)
    line = [sys.executable, "-S", "-c", f"import {modules}"]
    found = subprocess.run(line, env=bare, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


@pytest.mark.slow
def test_the_script_runs_on_a_bare_machine(tmp_path, bare):
    """From end to end, as written, but on a CPU at small sizes."""
    cases = "\n".join(f'*{name}) set -- "$@" {words} ;;' for name, words in SMALL.items())
    python = tmp_path / "python"
    # the script's check for a GPU is the one line that cannot pass here
    python.write_text(
        f"#!/bin/sh\ncase \"$*\" in *is_available*) exit ;; esac\n"
        f"case \"$1\" in {cases} esac\nexec {sys.executable} -S \"$@\"\n"
    )  # fmt: skip
    python.chmod(0o755)
    bare |= {"PYTHON": str(python), "OUT": str(tmp_path / "out")}
    parts = ["values", "kernels", "block", "step", "infer"]
    found = subprocess.run(["bash", SCRIPT, *parts], env=bare, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    written = {path.name for path in (tmp_path / "out").iterdir()}
    names = ("kernel_bench", "block_bench", "block_bench_graph", "step_bench", "step_bench_release")
    names += ("infer_bench",)
    assert {"gpu.txt", *(f"{name}_cuda.json" for name in names)} <= written
    assert "jaxtyping" not in found.stdout
