"""The benchmark of inference: options compute what they say, and one that is wrong gets no speed."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import infer_bench as bench

FOLDER = Path(bench.__file__).parent
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{FOLDER.parent}:{FOLDER}"}

CASE = bench.Case("debug", bench.SHAPES["debug"], 288, 2, "cpu", torch.float32)
NAMES = ["unity", "unity, one pass", "unity, unguided", "unity, RGB alone", "diffusers Wan"]


@pytest.fixture(scope="module")
def rows():
    return {row["option"]: row for row in bench.bench(CASE, NAMES, 0.0, float("inf"))}


@pytest.mark.slow
def test_options_that_are_the_same_function_end_in_the_same_latents(rows):
    """diffusers' own transformer is the independent truth of the RGB half, guidance and steps included."""
    assert rows.keys() == set(NAMES)
    assert rows["diffusers Wan"]["error"] < 1e-4 and rows["unity, one pass"]["error"] < 1e-5
    assert rows["unity"]["error"] is None
    assert rows["unity, unguided"]["seconds_per_step"] < rows["unity"]["seconds_per_step"]


@pytest.mark.slow
def test_what_is_called_compiled_is_one_graph():
    """In a process of its own: what checks annotations in the tests breaks graphs."""
    code = """
        import infer_bench as bench, torch
        from torch._dynamo.utils import counters
        case = bench.Case("debug", bench.SHAPES["debug"], 288, 2, "cpu", torch.float32)
        sample = bench.OPTIONS["unity, compiled"].make(case)
        assert not counters["stats"] and sample().isfinite().all()
        print(counters["stats"]["unique_graphs"], counters["stats"]["calls_captured"], *counters["graph_break"])
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    ran = subprocess.run(command, cwd=FOLDER, env=ENVIRONMENT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    graphs, calls, *breaks = ran.stdout.split()
    assert graphs == "1" and int(calls) > 100 and not breaks


@pytest.mark.slow
def test_what_is_wrong_gets_no_speed(monkeypatch, capsys):
    wrong = bench.OPTIONS["unity, unguided"].make
    monkeypatch.setitem(bench.OPTIONS, "unity, one pass", bench.Option(wrong, "unity"))
    rows = list(bench.bench(CASE, ["unity", "unity, one pass"], 0.0, float("inf")))
    assert [row["option"] for row in rows] == ["unity"]
    assert "unity, one pass          not measured: latents is off by" in capsys.readouterr().out
    assert list(bench.bench(CASE, ["unity"], 0.0, 0.0)) == []
