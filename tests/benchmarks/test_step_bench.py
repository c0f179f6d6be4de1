"""The training step's benchmark: contestants take the same step, wrong ones are caught, memory is counted."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import step_bench as bench
import step_plan

from unity import ops
from unity.config import MODELS
from unity.train.planner.gpus import GPUS


@pytest.fixture
def case():
    return bench.make_case("debug", 288, 2, "cpu", torch.float32)


@pytest.fixture
def truth(case):
    return bench.gradients(bench.plain(bench.twin(case.model)), case)


def test_contestants_agree_and_every_parameter_has_a_gradient(case, truth):
    assert truth[1].min() > 0
    assert bench.wrong(bench.ours(bench.twin(case.model)), truth, case, 2e-5) is None


def test_plain_torch_is_plain_also_where_it_is_recomputed(case, monkeypatch):
    seen = set()
    choose = ops.choose

    def watched(op, *args, **kwargs):
        found = choose(op, *args, **kwargs)
        seen.add(found[0].name)
        return found

    monkeypatch.setattr(ops, "choose", watched)
    bench.gradients(bench.plain(bench.twin(case.model)), case)
    assert seen == {"reference"}


def test_eight_bits_are_near_but_not_equal(case, truth):
    loss = bench.eight_bits(bench.twin(case.model))
    assert bench.wrong(loss, truth, case, bench.FP8_TOLERANCE) is None
    assert "is off by" in bench.wrong(loss, truth, case, 1e-4)


def test_a_wrong_gradient_is_seen(case, truth):
    model = bench.twin(case.model)
    model.stem_head.weight.register_hook(lambda gradient: 1.01 * gradient)
    assert "gradient norm is off" in bench.wrong(bench.ours(model), truth, case, 1e-5)


def test_a_wrong_contestant_gets_no_speed(case, monkeypatch, capsys):
    def scaled(model):
        loss = bench.ours(model)
        return lambda *batch: (1.01 * loss(*batch)[0], None)

    monkeypatch.setitem(bench.CONTESTANTS, "unity", scaled)
    assert bench.bench(case, ["unity"], 0.0, "cpu", float("inf")) == []
    assert "not measured: loss is off by 1.0e-02" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_step_trains(dtype):
    case = bench.make_case("debug", 288, 1, "cpu", dtype)
    loss = bench.ours(bench.twin(case.model))
    before = bench.gradients(loss, case)[0]
    for _ in range(3):
        bench.step(loss, case)
    assert bench.gradients(loss, case)[0] < before
    assert all(p.grad is None for p in case.model.parameters())


def test_rows_say_how_many_layers_ran(tmp_path, monkeypatch, capsys):
    words = ["--shape", "debug", "--tokens", "288", "--layers", "1", "--contestant", "unity"]
    monkeypatch.setattr(sys, "argv", ["step_bench.py", *words, "--json", str(tmp_path / "rows.json")])
    bench.main()
    row = json.loads((tmp_path / "rows.json").read_text())["rows"][0]
    assert (row["layers"], row["tokens"], row["contestant"]) == (1, 288, "unity")
    assert row["tokens_per_s"] == pytest.approx(288e3 / row["ms"]) and row["mfu"] is None
    # the planner knows cards alone
    assert row["planned_ms"] is None and row["planned_bytes"] is None
    assert row["tflops"] == pytest.approx(3 * bench.flops(MODELS["debug"], 288) / row["ms"] / 1e9)


def test_what_fits_on_a_card():
    """Of 80 GB: a part of 10b at the paper's length, all of 1.3b at a short one, and never less than a layer."""
    card = 80 * 2**30
    assert 4 <= bench.fitting_layers(MODELS["10b"], 65520, card) < bench.fitting_layers(MODELS["10b"], 1152, card)
    assert bench.fitting_layers(MODELS["1.3b"], 1152, card) == 30
    assert bench.fitting_layers(MODELS["14b"], 65520, 2**30) == 1


def test_what_the_planner_has_for_a_step():
    """Of 4 layers of 10b on an H100: recomputing less takes less time and more memory."""
    config = replace(MODELS["10b"], num_layers=4)
    found = {name: step_plan.figures(name, config, 65520, GPUS["H100"]) for name in step_plan.PLANNED}
    full, selective, eight = found.values()
    assert selective["planned_ms"] < full["planned_ms"] and selective["planned_bytes"] > full["planned_bytes"]
    # a block that keeps nothing saves nothing by 8 bits: measured, its peak is 3% higher
    assert eight["planned_ms"] < full["planned_ms"]
    assert eight["planned_bytes"] == pytest.approx(full["planned_bytes"], rel=0.03)
