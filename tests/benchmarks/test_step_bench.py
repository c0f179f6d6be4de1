"""The training step's benchmark: contestants take the same step, wrong ones are caught, memory is counted."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import step_bench as bench
import step_plan
from step_cases import Contestant

from unity import ops
from unity.config import MODELS
from unity.model.fp8 import Fp8Config
from unity.train.planner.gpus import GPUS

MEASURED = json.loads((Path(bench.__file__).parent / "results/step_bench_cuda.json").read_text())["rows"]
SMALL = ["--shape", "debug", "--tokens", "288", "--layers", "1", "--contestant", "unity full", "--seconds", "0"]


@pytest.fixture
def case():
    return bench.make_case("debug", 288, 2, "cpu", torch.float32)


@pytest.fixture
def truth(case):
    return bench.gradients(bench.TRUTH.loss(bench.twin(case.model)), case, case.batch())


def off(case, contestant, truth, tolerance=2e-5):
    """How far a contestant is off, if it is."""
    found = bench.gradients(contestant.loss(bench.twin(case.model)), case, case.batch(padded=contestant.padded))
    return bench.deviation(("loss", "gradient norm"), found, truth, tolerance)


@pytest.mark.parametrize("name", ["unity full", "unity selective", "release recipe"])
def test_contestants_agree_and_every_parameter_has_a_gradient(case, truth, name):
    assert truth[1].min() > 0
    assert off(case, bench.CONTESTANTS[name], truth) is None


def test_plain_torch_is_plain_also_where_it_is_recomputed(case, monkeypatch):
    seen = set()
    choose = ops.choose

    def watched(op, *args, **kwargs):
        found = choose(op, *args, **kwargs)
        seen.add(found[0].name)
        return found

    monkeypatch.setattr(ops, "choose", watched)
    bench.gradients(bench.TRUTH.loss(bench.twin(case.model)), case, case.batch())
    assert seen == {"reference"}


def test_eight_bits_are_near_but_not_equal(case, truth):
    eight = bench.CONTESTANTS["unity full fp8"]
    assert off(case, eight, truth, bench.FP8_TOLERANCE) is None
    assert "is off by" in off(case, eight, truth, 1e-4)


def test_a_wrong_gradient_is_seen(case, truth, monkeypatch):
    handle = case.model.stem_head.weight.register_hook(lambda gradient: 1.01 * gradient)
    assert "gradient norm is off" in off(case, Contestant(), truth, 1e-5)
    handle.remove()


@dataclass(frozen=True, kw_only=True)
class Wrong(Contestant):
    def loss(self, model):
        loss = super().loss(model)
        return lambda *batch: (1.01 * loss(*batch)[0], None)


def test_a_wrong_contestant_gets_no_speed(case, monkeypatch, capsys):
    monkeypatch.setitem(bench.CONTESTANTS, "unity full", Wrong())
    assert list(bench.bench(case, ["unity full"], 0.0, "cpu", float("inf"))) == []
    assert "not measured: loss is off by 1.0e-02" in capsys.readouterr().out


def test_a_contestant_whose_package_is_not_there_is_named(case, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformer_engine.pytorch", None)
    assert list(bench.bench(case, ["unity full te"], 0.0, "cpu", float("inf"))) == []
    assert "not measured: ValueError: fp8 backend 'transformer-engine' is not installed" in capsys.readouterr().out


def test_a_back_end_of_attention_is_taken_by_its_name_or_not_at_all(case, capsys, flash_attention_4, monkeypatch):
    assert list(bench.bench(case, ["unity none fa3"], 0.0, "cpu", float("inf"))) == []
    assert "not measured: ModuleNotFoundError: No module named 'flash_attn_interface'" in capsys.readouterr().out
    (row,) = bench.bench(case, ["unity none fa4"], 0.0, "cpu", float("inf"))
    assert row["attention"] == "flash-attention 4" and ("backward", False) in flash_attention_4
    kinds = [bench.CONTESTANTS[name].attends(case) for name in ("unity none", "torch eager", "unity none cudnn")]
    assert kinds == ["torch", "torch", "cudnn"]
    long = ops.Implementation("long", lambda q, k, v: None if q.shape[1] == case.tokens else "short", None)
    monkeypatch.setitem(ops.IMPLEMENTATIONS, "self_attention", (long,))
    assert bench.CONTESTANTS["unity full"].attends(case) == "long"


def test_two_samples_are_twice_one():
    """The loss is the mean over samples, each with its own noise and texts."""
    case = bench.make_case("debug", 288, 1, "cpu", torch.float32, samples=2)
    loss = Contestant().loss(bench.twin(case.model))
    both, first = (loss(*case.batch(samples))[0].item() for samples in (2, 1))
    turned = replace(
        case, latents=case.latents.flip(0), noise=case.noise.flip(0), texts=tuple(t.flip(0) for t in case.texts)
    )
    assert both == pytest.approx((first + loss(*turned.batch(1))[0].item()) / 2, rel=1e-5)


def test_what_was_measured_before_the_time_is_up_is_written(tmp_path, monkeypatch):
    def cut_short(*_):
        yield {"contestant": "first"}
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "bench", cut_short)
    monkeypatch.setattr(sys, "argv", ["step_bench.py", *SMALL, "--json", str(tmp_path / "rows.json")])
    with pytest.raises(KeyboardInterrupt):
        bench.main()
    assert json.loads((tmp_path / "rows.json").read_text())["rows"] == [{"contestant": "first"}]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_step_trains(dtype):
    case = bench.make_case("debug", 288, 1, "cpu", dtype, lr=5e-5)
    loss, batch = Contestant().loss(bench.twin(case.model)), case.batch()
    before = bench.gradients(loss, case, batch)[0]
    for _ in range(3):
        bench.step(loss, case, batch)
    assert bench.gradients(loss, case, batch)[0] < before
    assert all(p.grad is None for p in case.model.parameters())


def test_a_timed_step_leaves_the_weights_to_the_next_contestant(case, truth):
    list(bench.bench(case, ["unity full"], 0.0, "cpu", float("inf")))
    again = bench.gradients(bench.TRUTH.loss(bench.twin(case.model)), case, case.batch())
    assert all(map(torch.equal, again, truth))


def test_rows_say_how_many_layers_ran(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["step_bench.py", *SMALL, "--json", str(tmp_path / "rows.json")])
    bench.main()
    row = json.loads((tmp_path / "rows.json").read_text())["rows"][0]
    assert (row["layers"], row["tokens"], row["contestant"]) == (1, 288, "unity full")
    assert row["samples_per_s"] == pytest.approx(1e3 / row["ms"]) and row["loss"] > 0
    assert row["tokens_per_s"] == pytest.approx(288e3 / row["ms"]) and row["mfu"] is None
    # the planner knows cards alone
    assert row["planned_ms"] is None and row["planned_bytes"] is None
    assert row["tflops"] == pytest.approx(3 * bench.flops(MODELS["debug"], 288) / row["ms"] / 1e9)


def test_ranks_that_are_not_there_are_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["step_bench.py", *SMALL[:-3], "unity full sp2"])
    with pytest.raises(SystemExit) as ended:
        bench.main()
    assert ended.value.code == 2 and "torchrun --standalone --nproc-per-node 2" in capsys.readouterr().err


@pytest.mark.slow
def test_samples_cut_over_two_ranks(tmp_path, case):
    """As a launcher starts them: the loss of one process, in rows of rank 0's."""
    names, out = ["unity full sp2", "unity selective sp2 fp8"], tmp_path / "rows.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [bench.__file__, *SMALL[:6], "--contestant", *names, "--seconds", "0", "--json", out]
    done = subprocess.run(
        list(map(str, command)), env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["contestant"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows.keys() == set(names) and done.stdout.count("unity full sp2") == 1
    alone = bench.make_case("debug", 288, 1, "cpu", torch.float32)
    loss = Contestant().loss(bench.twin(alone.model))(*alone.batch())[0].item()
    assert rows[names[0]]["loss"] == pytest.approx(loss, rel=1e-5)
    assert rows[names[1]]["loss"] == pytest.approx(loss, rel=bench.FP8_TOLERANCE)


def test_what_fits_on_a_card():
    """Of 80 GB: a part of 10b at the paper's length, all of 1.3b at a short one, and never less than a layer."""
    card = 80 * 2**30
    assert 4 <= bench.fitting_layers(MODELS["10b"], 65520, card) < bench.fitting_layers(MODELS["10b"], 1152, card)
    assert bench.fitting_layers(MODELS["1.3b"], 1152, card) == 30
    assert bench.fitting_layers(MODELS["14b"], 65520, 2**30) == 1


def test_what_the_planner_has_for_a_step():
    """Of 4 layers of 10b on an H100: recomputing less takes less time and more memory."""
    config = replace(MODELS["10b"], num_layers=4)
    rows = (Contestant(), Contestant(recompute="selective"), Contestant(fp8=Fp8Config()))
    full, selective, eight = (step_plan.figures(row, config, 65520, GPUS["H100"]) for row in rows)
    assert selective["planned_ms"] < full["planned_ms"] and selective["planned_bytes"] > full["planned_bytes"]
    # a block that keeps nothing saves nothing by 8 bits: measured, its peak is 3% higher
    assert eight["planned_ms"] < full["planned_ms"]
    assert eight["planned_bytes"] == pytest.approx(full["planned_bytes"], rel=0.03)
    two = step_plan.figures(Contestant(cut=2), config, 65520, GPUS["H100"])
    assert full["planned_ms"] / 2 < two["planned_ms"] < 0.6 * full["planned_ms"]
    assert two["planned_bytes"] < full["planned_bytes"]


@pytest.mark.parametrize("row", [r for r in MEASURED if r["contestant"] != "torch eager"], ids=str)
def test_the_planner_has_what_was_measured_on_a_gpu(row):
    config = replace(MODELS[row["shape"]], num_layers=row["layers"])
    attention = "cudnn" if row["attention"] == "cudnn" else "flash"
    found = step_plan.figures(bench.CONTESTANTS[row["contestant"]], config, row["tokens"], GPUS["H100"], attention)
    assert found["planned_ms"] == pytest.approx(row["ms"], rel=0.03)
    assert found["planned_bytes"] == pytest.approx(row["peak_bytes"], rel=0.07)


def test_a_case_is_whole_on_its_device():
    # what forgets to say where it belongs lands here
    with torch.device("meta"):
        case = bench.make_case("debug", 288, 1, "cpu", torch.float32)
        given = case.batch()
    tensors = [*case.model.parameters(), case.latents, case.noise, *case.texts, *given[4], given[3]]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
