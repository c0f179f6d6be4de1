"""What a recipe has learnt after so many processor seconds, from nothing: the embedded models' against the former.

    python benchmarks/learn_bench.py --data data/train --held-out data/held [--seconds 120 --seeds 0 1 2]

Both datasets are simulated ones (`python -m unity.data.simulate`), the second with --values. Every recipe trains
the same clips of the same seeds with the training program's own step, one thread; the clock is processor time and
counts reading, codec, words and optimizer, but not the examination. At every mark the averaged weights estimate
the modalities of held-out clips. `unexplained` is the squared error of their pixels over the variance: 1 is what
one colour would leave, and it means the same for every codec.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
import tyro
from harness import commit, machine, write_result

from unity.config import MODELS, ModelConfig
from unity.data.clips import Clip
from unity.data.shards import open_shards, read_about
from unity.evaluate.held_out import read_values, stacked
from unity.evaluate.metrics import mean_score
from unity.flow_matching import TimeConfig
from unity.generate import Footage, Frames, Generator, generate
from unity.modality.base import Measure
from unity.modality.table import MODALITIES
from unity.model.weights import ModelCard
from unity.routing import RoutingConfig
from unity.sampler import Guidance, Sampling
from unity.train.config import resolve
from unity.train.loop import batches
from unity.train.optim import OptimConfig
from unity.train.options import SMALL_TIMES
from unity.train.options import Options as Training
from unity.train.run import Run, build
from unity.train.signals import StopRequest
from unity.train.step import train_step
from unity.train.world import World, start_world, stop_world

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ZERO = Path(__file__).parents[1] / "launchers/zero3.json"

# A DCT codec and a bare transformer, all tasks at the same times: what the embedded models were before.
FORMER = ModelConfig(
    dim=256, ffn_dim=1024, num_heads=4, num_layers=8, latent_channels=48, text_dim=384, rope_theta=16.0,
    prediction="data", codec="dct", text="minilm",
)  # fmt: skip
_UNEXPLAINED = Measure(words="unexplained variance", more=False)
_MORE_ESTIMATES = RoutingConfig(joint=0.25, control=0.25, estimate=0.5)

RECIPES: dict[str, dict] = {
    "cells, stem, Muon": {
        "architecture": MODELS["tiny"], "routing": _MORE_ESTIMATES, "time": SMALL_TIMES,
        "optim": OptimConfig(kind="muon", lr=3e-3, warmup=20, schedule="constant", ema=0.99),
    },
    "DCT, AdamW": {
        "architecture": FORMER, "routing": RoutingConfig(), "time": TimeConfig(),
        "optim": OptimConfig(kind="adamw", lr=3e-3, warmup=20, schedule="constant", ema=0.99),
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    # simulated clips to learn from
    data: Path
    # simulated clips, with values, to be examined on
    held_out: Path
    # processor seconds of training
    seconds: float = 120.0
    # how often it is examined
    marks: int = 5
    seeds: tuple[int, ...] = (0, 1, 2)
    recipes: tuple[str, ...] = tuple(RECIPES)
    # held-out clips of each source
    clips: int = 6
    # sampling steps of an estimate
    steps: int = 4
    precision: str = "bf16"
    # where to write the JSON, and the picture beside it; benchmarks/results by default
    out: Path | None = None


def train(recipe: str, seed: int, options: Options, world: World, clips: Sequence[Clip]) -> list[dict]:
    """One run from nothing: a row of scores at every mark."""
    with tempfile.TemporaryDirectory() as folder:
        config = Training(
            stage=2, seed=seed, data=options.data, out=Path(folder) / "run", steps=1 << 20, batch_size=8,
            workers=0, precision=options.precision, deepspeed=ZERO, **RECIPES[recipe],
        )  # fmt: skip
        run = build(resolve(config, read_about(options.data)), world)
        marks = np.linspace(0, options.seconds, options.marks + 1)[1:].tolist()
        rows, used, start, stop = [], 0.0, time.process_time(), StopRequest()
        for batch in batches(run):
            train_step(run, batch, stop)
            used += time.process_time() - start
            if used >= marks[len(rows)]:
                rows.append({"recipe": recipe, "seed": seed, "seconds": used, "steps": batch["step"] + 1})
                rows[-1] |= examine(run, clips, options.steps)
                print(json.dumps(rows[-1]), flush=True)
            if len(rows) == len(marks):
                return rows
            start = time.process_time()
    raise AssertionError("a run ended before its time")


def examine(run: Run, clips: Sequence[Clip], steps: int) -> dict[str, dict[str, float | None]]:
    """Modality → scores and `unexplained` of estimates by the averaged weights."""
    shape = run.config.architecture
    size = clips[0].video["rgb"].shape[1:3]
    card = ModelCard(
        model=shape, modalities=tuple(MODALITIES), stage=2, step=0, frames=len(clips[0].video["rgb"]), size=size
    )
    generator = Generator(
        path=run.config.out, model=run.engine.module.eval(), card=card, encoders=run.encoders,
        dtype=torch.float32,
    )  # fmt: skip
    with run.ema.in_place_of_weights(run.refresh):
        found = {name: _scores(generator, name, clips, steps) for name in MODALITIES}
    run.engine.module.train()
    return found


def _scores(generator: Generator, modality: str, clips: Sequence[Clip], steps: int) -> dict[str, float | None]:
    having = [clip for clip in clips if modality in clip.values]
    footage = Footage(rgb=stacked(having, "rgb"))
    sampling = Sampling(steps=steps, sampler="euler", shift=3.0, guidance=Guidance(scale=1.0))
    _, video = generate(generator, "estimate", modality, [""] * len(having), footage, sampling)
    values = read_values(modality, video, having)
    scores = mean_score(modality, zip(values, [clip.values[modality] for clip in having], strict=True))
    scores["unexplained"] = unexplained(video, stacked(having, modality))
    # what is undefined (the precision of no person at all) is null in JSON
    return {name: None if np.isnan(value) else value for name, value in scores.items()}


def unexplained(video: Frames, truth: Frames) -> float:
    """Squared error of pixels over their variance about the mean colour."""
    video, truth = video.astype(np.float64), truth.astype(np.float64)
    return float(((video - truth) ** 2).sum() / ((truth - truth.mean((0, 1, 2, 3))) ** 2).sum())


def draw(rows: Sequence[dict], title: str, target: Path) -> None:
    """One panel a modality and one a score: each seed a thin line, their mean a thick one."""
    panels = [(name, "unexplained") for name in MODALITIES]
    panels += [(name, next(iter(row.measures))) for name, row in MODALITIES.items()]
    figure, grid = plt.subplots(2, len(MODALITIES), figsize=(3 * len(MODALITIES), 6), layout="constrained")
    for axes, (modality, score) in zip(grid.flat, panels, strict=True):
        for recipe, colour in zip(RECIPES, ("#2a7f8f", "#e0954f"), strict=True):
            mine = [row for row in rows if row["recipe"] == recipe]
            runs = [[r for r in mine if r["seed"] == seed] for seed in sorted({row["seed"] for row in mine})]
            lines = [([r["seconds"] / 60 for r in run], [r[modality][score] for r in run]) for run in runs]
            for line in lines:
                axes.plot(*line, color=colour, linewidth=0.7, alpha=0.6)
            if lines:
                axes.plot(*np.mean(lines, axis=0), color=colour, linewidth=2.2, label=recipe)
        measure = MODALITIES[modality].measures.get(score, _UNEXPLAINED)
        axes.set_title(f"{modality}: {measure.words} ({'up' if measure.more else 'down'} is better)", fontsize=8)
        axes.set_xlabel("processor minutes", fontsize=8)
        axes.set_xlim(0)
    grid[0, 0].legend(fontsize=8)
    figure.suptitle(title, fontsize=9)
    figure.savefig(target, dpi=110)
    plt.close(figure)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    world = start_world()
    torch.set_num_threads(1)
    shards = open_shards(options.held_out)
    clips = [shards.clip(source, i) for source in shards.counts for i in range(options.clips)]
    about = {
        "seconds": options.seconds,
        "clips": len(clips),
        "steps": options.steps,
        "precision": options.precision,
    }
    rows = []
    for seed in options.seeds:
        for recipe in options.recipes:
            rows += train(recipe, seed, options, world, clips)
            path = write_result("learn_bench_cpu", rows, folder=options.out, method=__doc__, **about)
            title = f"{machine()['cpu']}, one thread, {options.precision}, {len(clips)} held-out clips, {commit()}"
            draw(rows, title, path.with_suffix(".png"))
    print(path)
    stop_world()


if __name__ == "__main__":
    main()
