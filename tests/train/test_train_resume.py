"""A resumed run equals an unbroken one bit for bit, whatever interrupted it."""

import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from unity.config import MODELS
from unity.data.shards import read_about
from unity.model.fp8 import Fp8Config
from unity.model.weights import load_model
from unity.train import checkpoint, loop, zero
from unity.train.config import TrainConfig, resolve
from unity.train.config_file import read_config
from unity.train.optim import OptimConfig
from unity.train.options import Options
from unity.train.run import build

ROOT = Path(__file__).parents[2]
# of a record: what differs from run to run
CLOCK = ("seconds", "tokens_per_second", "wait_seconds", "memory_gib")


def complete(options: Options) -> TrainConfig:
    return resolve(options, read_about(options.data))


@pytest.fixture(scope="module")
def config(dataset) -> Options:
    """Six steps of stage 2 with the debug model, two micro-batches a step, checkpoints after 3 and 6."""
    return Options(
        stage=2, model="debug", architecture=MODELS["debug"], data=dataset, steps=6, batch_size=8, micro_batch=4,
        save_every=3, picture_every=0, keep=9, save_beside=True, optim=OptimConfig(lr=3e-3),
        # whatever units the machine has
        precision="fp32", deepspeed=ROOT / "launchers/zero3.json",
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(config, world, tmp_path_factory):
    """finished("bf16"): a run to its end in that precision, which also drew pictures on the way."""

    @functools.cache
    def run(precision: str) -> Options:
        done = replace(config, out=tmp_path_factory.mktemp(precision) / "unbroken", precision=precision)
        loop.train(replace(done, picture_every=4), world)
        return done

    return run


def launcher_on_two_ranks() -> list:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    return [Path(sys.executable).with_name("deepspeed"), "--num_gpus", "2", "--master_port", port]


def as_after(run: Options, step: int, out: Path) -> Options:
    """A copy of a finished run as it was when only the checkpoint of `step` was there."""
    shutil.copytree(run.out, out, symlinks=True)
    for folder in (out / "checkpoints").iterdir():
        if folder.name != f"step-{step:08}":
            shutil.rmtree(folder)
    return replace(run, out=out, resume=out)


def same_bytes(one: Path, other: Path) -> None:
    """Weights, moments, average and exported model of the last checkpoints, and all metrics but the clock's."""
    names = sorted(path.relative_to(one) for path in (one / "checkpoints/step-00000006").rglob("*.safetensors"))
    assert len(names) >= 5
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert metrics(one) == metrics(other)


def metrics(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]


# in fp32, `make test` sees it where a run falls back
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
def test_resumed_run_equals_the_unbroken_one(finished, world, tmp_path, precision):
    """Pictures exchange weights and average, and must leave no trace either: only one of the runs draws them."""
    unbroken = finished(precision)
    resumed = as_after(unbroken, 3, tmp_path / "cut")
    loop.train(resumed, world)
    same_bytes(unbroken.out, resumed.out)


@pytest.mark.slow
def test_eight_bits_are_said_and_stay_near_sixteen(finished, config, world, tmp_path):
    said = []
    build(complete(replace(config, precision="fp8", out=tmp_path)), world, said.append)
    assert said == [
        "fp8: 16 Linears of the blocks (cross_attn.o, cross_attn.q, ffn.0, ffn.2, self_attn.k, self_attn.o, "
        "self_attn.q, self_attn.v); wide: cross_attn.k, cross_attn.v"
    ]
    eight, sixteen = (metrics(finished(precision).out) for precision in ("fp8", "bf16"))
    # a fresh head gives zeros whatever it is fed
    for ours, truth in zip(eight[1:], sixteen[1:], strict=True):
        assert ours["loss"] != truth["loss"] and ours["loss"] == pytest.approx(truth["loss"], rel=0.02)


def test_a_missing_back_end_is_named_before_anything_is_made(config, tmp_path):
    wanted = replace(config, precision="fp8", fp8=Fp8Config(backend="transformer-engine"), out=tmp_path / "run")
    with pytest.raises(ValueError, match="choose the backend 'native'"):
        loop.prepare(wanted, 1, print)
    assert not wanted.out.exists()


def test_two_ranks_resume_exactly(two_ranks):
    said, folder = two_ranks
    assert said.count("check_resume") == 2
    same_bytes(folder / "unbroken", folder / "cut")


@pytest.mark.slow
def test_one_rank_goes_on_where_two_had_stopped(two_ranks, config, world, tmp_path):
    _, folder = two_ranks
    two = replace(config, out=folder / "unbroken", micro_batch=2)
    one = as_after(two, 3, tmp_path / "one")
    loop.train(one, world)
    expected, found = (load_file(run.out / "model/model.safetensors") for run in (two, one))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=2e-5, msg=name)
    losses = ([line["loss"] for line in metrics(run.out)] for run in (two, one))
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)


def test_a_loss_that_is_not_finite_stops_both_ranks_before_the_update(two_ranks):
    """See train_on_ranks.py."""
    said, _ = two_ranks
    assert said.count("check_non_finite") == 2


@pytest.mark.slow
def test_the_run_falls_back_to_the_last_whole_checkpoint(finished, world, tmp_path, capfd):
    unbroken = finished("fp32")
    resumed = as_after(unbroken, 3, tmp_path / "cut")
    shutil.copytree(unbroken.out / "checkpoints/step-00000006", resumed.out / "checkpoints/step-00000006")
    (resumed.out / "checkpoints/step-00000006/exp_avg-00000.safetensors").unlink()
    loop.train(resumed, world)
    said = capfd.readouterr().out
    assert "step-00000006 is not whole (exp_avg-00000.safetensors is missing): passing it over" in said
    assert "going on from step 3" in said
    same_bytes(unbroken.out, resumed.out)


@pytest.mark.slow
def test_another_stage_takes_weights_and_average_but_starts_afresh(finished, world, tmp_path):
    unbroken = finished("fp32")
    first = complete(replace(unbroken, stage=1, steps=2, out=tmp_path / "first", resume=unbroken.out))
    run = build(first, world)
    saved = unbroken.out / "checkpoints/step-00000006"
    for kind, flats in (("weight", zero.masters(run.engine)), ("ema", run.ema.flats)):
        expected = load_file(saved / f"{kind}-00000.safetensors")
        assert all(torch.equal(flat, expected[str(i)]) for i, flat in enumerate(flats))
    assert run.start == 0
    assert not any(flat.any() for flats in zero.moments(run.engine).values() for flat in flats)


@pytest.mark.parametrize(
    ("precision", "rounding"), [("fp32", 0), pytest.param("bf16", 2**-8, marks=pytest.mark.slow)]
)
def test_export_is_the_average_and_starts_another_run(finished, world, tmp_path, precision, rounding):
    unbroken = finished(precision)
    model, card = load_model(unbroken.out / "model")
    assert (card.stage, card.step, card.frames, tuple(card.size)) == (2, 6, 5, (32, 32))
    run = build(complete(replace(unbroken, out=tmp_path, resume=None, init=unbroken.out / "model")), world)
    found = dict(zero.gather(world, zero.layout(run.engine), zero.masters(run.engine)))
    for name, parameter in model.named_parameters():
        assert torch.equal(found[name], parameter), name
    average = load_file(unbroken.out / "checkpoints/step-00000006/ema-00000.safetensors")
    whole = zero.gather(world, zero.layout(run.engine), [average[str(i)] for i in range(len(average))])
    for name, value in whole:
        torch.testing.assert_close(found[name], value, rtol=rounding, atol=0, msg=name)


def test_weights_of_another_shape_are_refused(finished, world, tmp_path):
    unbroken = finished("fp32")
    changed = replace(unbroken.architecture, cross_attention="separate")
    config = complete(replace(unbroken, architecture=changed, out=tmp_path, init=unbroken.out / "model"))
    with pytest.raises(ValueError, match="cross_attn_aux"):
        build(replace(config, resume=None), world)
    with pytest.raises(ValueError, match="cross_attn_aux"):
        build(replace(config, resume=unbroken.out, init=None), world)


def test_a_signal_to_one_rank_saves_and_ends_both(two_ranks):
    said, _ = two_ranks
    assert said.count("check_signal") == 2


@pytest.mark.slow
def test_a_signal_to_one_rank_of_the_launcher_saves_and_ends_both(config, dataset, world, tmp_path):
    """`deepspeed launchers/train.py` is asked to stop after its first steps; then one rank alone goes on."""
    out = tmp_path / "asked"
    flags = "--stage 1 --model debug --precision fp32 --steps 500 --batch-size 4 --workers 1 --save-every 999"
    flags += " --picture-every 0"
    flags += f" --log-every 1 --optim.lr 3e-3 --optim.schedule constant --data {dataset} --out {out}"
    command = [*launcher_on_two_ranks(), ROOT / "launchers/train.py", *flags.split()]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    launcher = psutil.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").read_text():
            assert launcher.poll() is None, launcher.communicate()
            time.sleep(0.05)
        # the rank and its data worker, whose command line is the same
        asked = [p for p in launcher.children(recursive=True) if "--local_rank=1" in p.cmdline()]
        assert len(asked) == 2
        for process in asked:
            process.send_signal(signal.SIGTERM)
        said, _ = launcher.communicate(timeout=300)
    finally:
        for process in [*launcher.children(recursive=True), launcher] if launcher.poll() is None else []:
            process.kill()
    assert launcher.returncode == 0, said
    assert "no GPU: the debug model in fp32" in said and "asked to stop: saved step" in said
    step = checkpoint.read_state(checkpoint.newest_whole(world, out, print))["step"]
    assert 1 <= step < 500 and [line["step"] for line in metrics(out)] == list(range(step))
    resumed = replace(read_config(out), resume=out, steps=step + 1)
    loop.train(resumed, world)
    unbroken = replace(resumed, resume=None, out=tmp_path / "unbroken")
    loop.train(unbroken, world)
    losses = ([line["loss"] for line in metrics(run.out)] for run in (resumed, unbroken))
    torch.testing.assert_close(*losses, rtol=1e-4, atol=0)


@pytest.mark.slow
def test_both_stages_through_the_launcher_on_two_ranks(tmp_path):
    """The two commands of the README on clips of the simulated world, and what they leave behind."""
    deepspeed = [*launcher_on_two_ranks(), ROOT / "launchers/train.py"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    simulate = [sys.executable, "-m", "unity.data.simulate", "--out", "data/simulated", "--clips", "2"]
    simulate += ["--frames", "5", "--size", "32"]
    stages = (["--stage", "1", "--model", "debug", "--steps", "8"], ["--stage", "2", "--steps", "6"])
    stages[1].extend(["--resume", "runs/stage1"])
    for command in (simulate, *([*deepspeed, *flags] for flags in stages)):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "stage 2 starts from the weights of runs/stage1/checkpoints/step-00000008" in done.stdout
    for stage, steps, count in ((1, 8, 3), (2, 6, 5)):
        run = tmp_path / f"runs/stage{stage}"
        assert [line["step"] for line in metrics(run)] == list(range(steps))
        picture = Image.open(run / f"pictures/step-{steps:08}.png")
        assert picture.height % count == 0 and np.asarray(picture).std() > 20
        model, card = load_model(run / "model")
        assert (card.stage, card.step, len(card.modalities)) == (stage, steps, count)
        assert all(p.isfinite().all() for p in model.parameters())
        assert list((run / "tensorboard").iterdir())
