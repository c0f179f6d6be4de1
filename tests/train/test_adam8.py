"""AdamW with moments in 8 bits against AdamW in float64, and what a checkpoint keeps of it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from unity.config import MODELS
from unity.data.shards import read_about
from unity.train import loop, zero
from unity.train.adam8 import BLOCK, Adam8, code_book, moment
from unity.train.config import resolve
from unity.train.optim import OptimConfig
from unity.train.options import Options
from unity.train.run import build

ROOT = Path(__file__).parents[2]
# a flat that ends inside of a block
NUMEL = 40 * BLOCK + 77
RATE, DECAY, BETAS, EPS = 1e-3, 0.1, (0.9, 0.95), 1e-8


@pytest.fixture
def flat() -> torch.nn.Parameter:
    torch.manual_seed(0)
    return torch.nn.Parameter(0.02 * torch.randn(NUMEL))


@pytest.fixture
def adam8(flat) -> Adam8:
    found = Adam8([{"params": [flat], "weight_decay": DECAY}], lr=RATE, betas=BETAS, eps=EPS)
    found.state[flat].update(found.fresh(flat), step=torch.zeros(()))
    return found


def gradients(steps: int):
    """Of a size of its own in every block, over six decades; a factor of two inside of it."""
    size = (10 ** (torch.randn(NUMEL // BLOCK + 1) - 4)).repeat_interleave(BLOCK)[:NUMEL]
    size = size * 10 ** (0.3 * torch.randn(NUMEL))
    return [size * (torch.randn(NUMEL) + 0.2) for _ in range(steps)]


def in_float64(weights: torch.Tensor, given: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """AdamW as its paper has it: weights and both moments after these gradients."""
    weights, first, second = weights.double(), 0.0, 0.0
    for step, gradient in enumerate(given, start=1):
        first = BETAS[0] * first + (1 - BETAS[0]) * gradient.double()
        second = BETAS[1] * second + (1 - BETAS[1]) * gradient.double() ** 2
        deviation = (second / (1 - BETAS[1] ** step)).sqrt() + EPS
        weights = weights * (1 - RATE * DECAY) - RATE * first / (1 - BETAS[0] ** step) / deviation
    return weights, first, second


def test_its_weights_stay_within_5_percent_of_the_way_of_float64(adam8, flat):
    start, given = flat.detach().clone(), gradients(20)
    for gradient in given:
        flat.grad = gradient
        adam8.step()
    weights, first, second = in_float64(start, given)
    assert (flat.detach() - weights).norm() < 0.05 * (weights - start.double()).norm()
    for name, exact in (("exp_avg", first), ("exp_avg_sq", second)):
        error = (moment(adam8.state[flat], name).wide() - exact).split(BLOCK)
        shares = [float(e.norm() / b.norm()) for e, b in zip(error, exact.split(BLOCK), strict=True)]
        assert max(shares) < 0.05, (name, max(shares))


def test_its_state_takes_a_byte_and_a_64th_a_moment(adam8, flat):
    state = adam8.state[flat]
    assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.uint8
    assert sum(value.nbytes for value in state.values() if value.dim()) <= 2 * (NUMEL + 4 * (NUMEL / BLOCK + 1))
    for name in ("exp_avg", "exp_avg_sq"):
        assert not moment(state, name).wide().any()
        assert len(code_book(name == "exp_avg", flat.device).unique()) == 256


def test_pieces_change_nothing(adam8, flat):
    """Nor does a scale of a block reach into another."""
    found = moment(adam8.state[flat], "exp_avg")
    found.write(torch.randn(NUMEL))
    parts = [piece.wide() for _, piece in found.pieces(3 * BLOCK)]
    assert len(parts) == 14 and torch.equal(torch.cat(parts), found.wide())


@pytest.fixture(scope="module")
def run(dataset, world, tmp_path_factory) -> Options:
    """Four steps, saved after two and four."""
    options = Options(
        stage=2, model="debug", architecture=MODELS["debug"], data=dataset, steps=4, batch_size=4, save_every=2,
        picture_every=0, keep=9, optim=OptimConfig(kind="adamw8", lr=3e-3), precision="bf16",
        deepspeed=ROOT / "launchers/zero3.json", out=tmp_path_factory.mktemp("runs") / "adam8",
    )  # fmt: skip
    loop.train(options, world)
    return options


@pytest.mark.slow
def test_a_run_goes_on_exactly(run, world, tmp_path):
    cut = shutil.copytree(run.out, tmp_path / "cut", symlinks=True)
    shutil.rmtree(cut / "checkpoints/step-00000004")
    loop.train(replace(run, out=cut, resume=cut), world)
    ends = [folder / "checkpoints/step-00000004" for folder in (run.out, cut)]
    files = sorted(path.name for path in ends[0].glob("*.safetensors"))
    assert len(files) == 6 and load_file(ends[0] / "exp_avg-00000.safetensors")["0"].dtype == torch.uint8
    for name in files:
        assert (ends[0] / name).read_bytes() == (ends[1] / name).read_bytes(), name


@pytest.mark.slow
def test_a_run_goes_on_with_wide_moments_and_back(run, world, tmp_path):
    """To 32 bits it brings the same numbers; back to 8 they are rounded where they were."""
    wide = replace(run, out=tmp_path / "wide", resume=run.out, optim=replace(run.optim, kind="adamw"))
    first = build(resolve(wide, read_about(run.data)), world)
    again = build(resolve(replace(run, out=tmp_path / "again", resume=run.out), read_about(run.data)), world)
    inner = again.engine.optimizer.optimizer
    for name, flats in zero.moments(first.engine).items():
        for flat, found in zip(again.engine.optimizer.fp32_partitioned_groups_flat, flats, strict=True):
            assert torch.equal(moment(inner.state[flat], name).wide(), found)
