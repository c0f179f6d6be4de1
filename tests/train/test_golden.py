"""Losses of a short run and what it then samples, to the fifth digit: no change of draw or wiring goes unseen.

Where numbers are meant to change, `RENEW_GOLDEN=1 python -m pytest tests/train/test_golden.py` writes golden.json
anew; the commit says why.
"""

import json
import os
from pathlib import Path

import pytest
import torch

from unity.config import MODELS
from unity.data.shards import write_shards
from unity.data.simulate.clip import simulate
from unity.model.weights import load_model
from unity.sampler import Guidance, Known, Sampling, Texts, sample
from unity.tasks import TASKS
from unity.train import loop
from unity.train.optim import OptimConfig
from unity.train.options import Options

# in the names of what differs from run to run
CLOCK = ("seconds", "_per_", "memory")
GOLDEN = Path(__file__).with_name("golden.json")
SOURCES = ("single_person", "two_persons", "general", "subject")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Three simulated clips of every source, of 5 frames at 32x32."""
    made = (simulate(10 * i + s, source, 5, (32, 32), 8.0) for s, source in enumerate(SOURCES) for i in range(3))
    return write_shards(made, tmp_path_factory.mktemp("golden") / "clips", seed=0)


@pytest.fixture(scope="module")
def run(clips, world, tmp_path_factory) -> Path:
    """Four steps of stage 2 in fp32, two micro-batches a step; every task and modality occurs."""
    config = Options(
        stage=2, model="debug", architecture=MODELS["debug"], data=clips, steps=4, batch_size=8, micro_batch=4,
        precision="fp32", save_every=4, picture_every=0, workers=0, seed=5, frames=5, size=(32, 32),
        optim=OptimConfig(lr=3e-3, warmup=1), out=tmp_path_factory.mktemp("golden") / "run",
        deepspeed=ROOT / "launchers/zero3.json",
    )  # fmt: skip
    return loop.train(config, world)


def losses(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if not any(sign in name for sign in CLOCK)} for line in lines
    ]


def sampled(run: Path) -> dict[str, list[float]]:
    """Per task, two latents of the averaged model as three weighted sums each."""
    model, card = load_model(run / "model")
    g = torch.Generator().manual_seed(1)
    rgb, aux = torch.randn(2, 2, card.model.latent_channels, 2, 4, 4, generator=g)
    words = [(torch.randn(2, 3, card.model.text_dim, generator=g), torch.tensor([3, 2])) for _ in range(3)]
    texts = Texts(**dict(zip(("caption", "prompt", "empty"), words, strict=True)))
    sampling = Sampling(steps=3, shift=2.0, guidance=Guidance(scale=3.0, prompt=True), seed=7)
    found = {}
    for task, row in TASKS.items():
        given = {name: z for name, z, n in zip(("rgb", "aux"), (rgb, aux), row.noisy, strict=True) if not n}
        known = Known(**given, shape=rgb.shape)
        pair = sample(model, task, torch.tensor([0, 3]), texts, known, sampling)
        latent = torch.stack(pair).double().flatten()
        weights = torch.rand(3, latent.numel(), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        found[task] = (weights @ latent).tolist()
    return found


def test_losses_and_samples_are_the_golden_ones(run):
    found = {"steps": losses(run), "samples": sampled(run)}
    assert {f"loss/{task}" for task in TASKS} <= set().union(*found["steps"])
    if os.environ.get("RENEW_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())
    for ours, expected in zip(found["steps"], golden["steps"], strict=True):
        assert ours == pytest.approx(expected, rel=1e-5)
    for task, expected in golden["samples"].items():
        assert found["samples"][task] == pytest.approx(expected, rel=1e-5)
