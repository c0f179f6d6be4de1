"""The block's benchmark: contestants compute one function, wrong ones are caught, FLOPs are those that run."""

import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import block_bench as bench
from block_cases import Whole


@pytest.fixture(scope="module")
def case():
    return bench.make_case("debug", 288, "cpu", torch.float32)


@pytest.fixture(scope="module")
def truth(case):
    return bench.evaluate(bench.plain(case), case)


@pytest.mark.parametrize("name", ["unity", "diffusers eager"])
def test_contestants_agree(name, case, truth):
    assert bench.wrong(bench.CONTESTANTS[name](case), truth, case, 2e-5) is None


def test_eight_bits_are_near_but_not_equal(case, truth):
    forward = bench.CONTESTANTS["unity fp8"](case)
    assert bench.wrong(forward, truth, case, bench.FP8_TOLERANCE) is None
    assert "output is off" in bench.wrong(forward, truth, case, 1e-4)


def test_what_is_captured_is_the_same_function_of_the_same_parameters(case, truth):
    whole = Whole(case)
    assert {p.data_ptr() for p in whole.parameters()} == {p.data_ptr() for p in case.block.parameters()}
    assert bench.wrong(whole, truth, case, 2e-5) is None


def test_a_graph_needs_a_gpu_and_is_not_recomputed(case, monkeypatch, capsys):
    assert bench.bench(case, [bench.GRAPH], ["forward"], 0.0, "cpu", float("inf")) == []
    assert "not measured: ValueError: CUDA graphs need a CUDA GPU" in capsys.readouterr().out
    monkeypatch.setitem(bench.CONTESTANTS, bench.GRAPH, Whole)
    rows = bench.bench(case, [bench.GRAPH], ["both", "both, checkpointed"], 0.0, "cpu", float("inf"))
    assert [row["direction"] for row in rows] == ["both"] and "kept_bytes" not in rows[0]


def test_all_contestants_pay_for_the_gradients_of_the_same_parameters(case):
    for name in ("unity", "unity fp8", "torch eager", "diffusers eager"):
        call, share = bench.calls(bench.CONTESTANTS[name](case), case)["both"]
        # an unused parameter would raise
        call()
        assert share == 3


def test_only_the_directions_asked_for_are_timed(case, capsys):
    rows = bench.bench(case, ["unity"], ["forward", "both"], 0.0, "cpu", float("inf"))
    assert [row["direction"] for row in rows] == ["forward", "both"]
    assert all(row["ms"] > 0 and row["mfu"] is None for row in rows)
    assert capsys.readouterr().out.count("debug") == 2


def test_the_formula_counts_the_flops_that_run(case):
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        bench.plain(case)(*case.inputs)
    assert counter.get_total_flops() == bench.flops(case.config, case.tokens)


def test_checkpointing_keeps_nothing_and_ours_keeps_less_than_plain_torch(case):
    ours, plain = bench.CONTESTANTS["unity"](case), bench.plain(case)
    assert bench.kept_bytes(ours, case, checkpointed=True) < bench.kept_bytes(ours, case, checkpointed=False) / 20
    assert bench.kept_bytes(ours, case, False) < bench.kept_bytes(plain, case, False)


def test_the_formula_of_the_paper_size():
    """10b at 65,520 tokens: 11.9 PFLOP a sample in 40 blocks, by far the most of it attention."""
    config = bench.MODELS["10b"]
    total = 3 * config.num_layers * bench.flops(config, 65520)
    assert total == pytest.approx(11.9e15, rel=0.01)
