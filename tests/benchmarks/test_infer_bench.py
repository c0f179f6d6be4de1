"""The benchmark of inference: options compute what they say, and one that is wrong gets no speed."""

import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import infer_bench as bench

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
    """On a CPU it ends in the same bits: large products are the same calls, and what is fused keeps its order."""
    torch._dynamo.reset()
    counters.clear()
    sample = bench.OPTIONS["unity, compiled"].make(CASE)
    assert not counters["stats"] and sample().isfinite().all()
    assert counters["stats"]["unique_graphs"] == 1 and counters["stats"]["calls_captured"] > 100
    assert not counters["graph_break"]


@pytest.mark.slow
def test_what_is_wrong_gets_no_speed(monkeypatch, capsys):
    wrong = bench.OPTIONS["unity, unguided"].make
    monkeypatch.setitem(bench.OPTIONS, "unity, one pass", bench.Option(wrong, "unity"))
    rows = list(bench.bench(CASE, ["unity", "unity, one pass"], 0.0, float("inf")))
    assert [row["option"] for row in rows] == ["unity"]
    assert "unity, one pass          not measured: latents is off by" in capsys.readouterr().out
    assert list(bench.bench(CASE, ["unity"], 0.0, 0.0)) == []
