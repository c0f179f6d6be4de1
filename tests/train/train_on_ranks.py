"""Checks for several ranks: a run cut in two equals one that is not; a bad loss or a signal stops every rank."""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import torch

from unity.config import MODELS
from unity.data.shards import read_about
from unity.encoders import Encoders
from unity.train import loop, preflight
from unity.train.config import resolve
from unity.train.folder import checkpoints
from unity.train.optim import OptimConfig
from unity.train.options import Options
from unity.train.run import build
from unity.train.signals import StopRequest
from unity.train.step import train_step
from unity.train.world import World


def short_run(data: Path, out: Path, **changes) -> Options:
    """Six steps of stage 2 with the debug model, two micro-batches a step, checkpoints after 3 and 6."""
    return Options(
        stage=2, model="debug", architecture=MODELS["debug"], data=data, out=out, steps=6, batch_size=8,
        micro_batch=2, save_every=3, picture_every=0, optim=OptimConfig(lr=3e-3), keep=9, save_beside=True,
        # whatever units the machine has
        precision="fp32", deepspeed=Path(__file__).parents[2] / "launchers/zero3.json", **changes,
    )  # fmt: skip


def check_resume(world: World, data: Path, folder: Path):
    """Leaves the runs `unbroken` and `cut`, the latter resumed after step 3, for the test to compare."""
    config = short_run(data, folder / "unbroken")
    loop.train(config, world)
    if world.leads:
        shutil.copytree(folder / "unbroken", folder / "cut", symlinks=True)
        shutil.rmtree(folder / "cut/checkpoints/step-00000006")
    world.barrier()
    loop.train(replace(config, out=folder / "cut", resume=folder / "cut"), world)


def check_non_finite(world: World, data: Path, folder: Path):
    """NaN on rank 1 in the second micro-batch: both ranks stop, naming it, with every weight as it was."""
    run = build(resolve(short_run(data, folder / "broken"), read_about(data), world.size), world)
    before = [flat.clone() for flats in run.shards.values() for flat in flats]
    batch = next(loop.batches(run))
    encode, calls = Encoders.encode, []

    def broken(self, video, streams):
        calls.append(video)
        # rgb and aux are encoded one after the other, so the third call is in the second micro-batch
        return encode(self, video, streams) * (float("nan") if world.rank == 1 and len(calls) == 3 else 1.0)

    Encoders.encode = broken
    try:
        train_step(run, batch, StopRequest())
        raise AssertionError("a step with a loss of NaN went through")
    except FloatingPointError as error:
        assert "step 0" in str(error) and "rank 1:" in str(error), error
    finally:
        Encoders.encode = encode
    after = [flat for flats in run.shards.values() for flat in flats]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def check_signal(world: World, data: Path, folder: Path):
    """SIGTERM to rank 1 alone, in its third step: both save what they have after it, and leave."""
    step, run = loop.train_step, folder / "asked"

    def asked(run, batch, stop):
        if world.rank == 1 and batch["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(run, batch, stop)

    loop.train_step = asked
    try:
        loop.train(replace(short_run(data, run), steps=500, save_every=999), world)
    finally:
        loop.train_step = step
    world.barrier()
    assert [path.name for path in checkpoints(run)] == ["step-00000003"]
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3


def check_preflight(world: World, data: Path, folder: Path):
    """A rank with other code is named on both ranks, before a byte is written."""
    digest, said = preflight.digest, []
    config = resolve(short_run(data, folder / "other"), read_about(data), world.size)
    preflight.preflight(config, world, said.append)
    assert "2 ranks on 1 machine" in said[0] and "GB/s a rank" in said[0], said
    preflight.digest = lambda: "another" if world.rank else digest()
    try:
        loop.train(short_run(data, folder / "other"), world)
        raise AssertionError("two codes trained together")
    except ValueError as error:
        assert "another code than the others" in str(error), error
    finally:
        preflight.digest = digest
    assert not (folder / "other").exists()


CHECKS = (check_resume, check_non_finite, check_signal, check_preflight)
