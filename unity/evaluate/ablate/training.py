"""An arm as a run of the one trainer, and the clips that all arms share."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from unity.command import say
from unity.evaluate.ablate.arms import OBJECTS, PEOPLE, Arm
from unity.evaluate.ablate.scales import Scale

if TYPE_CHECKING:
    from unity.train.options import Options

# of the clips to learn from, and of those to be examined on
_SEEDS = (31, 32)


def make_data(scale: Scale, folder: Path) -> tuple[Path, Path]:
    """The latents to learn from and the clips to be examined on, which are made where they are not there yet.

    Processes that start together wait for the one that makes them.
    """
    clips, latents, held_out = (folder / name for name in ("clips", "latents", "held_out"))
    extent = ["--frames", scale.frames, "--size", scale.size]
    simulate = ["unity.data.simulate", *extent]
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        _made(clips, [*simulate, "--out", clips, "--clips", scale.clips, "--seed", _SEEDS[0]])
        _made(held_out, [*simulate, "--out", held_out, "--clips", scale.held_out, "--seed", _SEEDS[1], "--values"])
        words = ["--texts", PEOPLE, OBJECTS]
        _made(latents, ["unity.data.latents", clips, "--out", latents, "--model", scale.model, *words])
    return latents, held_out


def _made(folder: Path, program: Sequence[object]) -> None:
    if (folder / "dataset.json").exists():
        return
    say(f"{folder} is not there yet: making it, once")
    if subprocess.run([sys.executable, "-m", *map(str, program)]).returncode:
        raise ValueError(f"{folder} could not be made, see above")


def options_of(arm: Arm, scale: Scale, seed: int, data: Path, run: Path) -> "Options":
    """The method's own options at this scale, but for what the arm says."""
    from unity.train.optim import OptimConfig
    from unity.train.options import SMALL_TIMES, Options

    base = Options(
        stage=2, model=scale.model, architecture=scale.architecture, steps=scale.steps, batch_size=scale.batch,
        precision="bf16" if scale.precision == "bf16" else "fp32", time=SMALL_TIMES, optim=OptimConfig(ema=0.99),
        workers=0, picture_every=0, save_every=scale.steps // scale.marks, keep=scale.marks + 1,
        log_every=max(1, scale.steps // 3), watchdog_minutes=0.0, seed=seed, data=data, out=run, resume=run,
    )  # fmt: skip
    architecture = replace(base.architecture, **arm.architecture)
    routing = replace(base.routing, **arm.routing)
    return replace(base, architecture=architecture, routing=routing, **arm.options)


def trainer() -> Callable[["Options"], Path]:
    """Runs one training after another in this process: seconds of imports are paid once."""
    from unity.train.loop import train
    from unity.train.world import start_world

    return partial(train, world=start_world())


def tasks_of(arm: Arm) -> dict[str, float]:
    """The share of every task in an arm's training."""
    from unity.routing import RoutingConfig
    from unity.tasks import TASKS

    routing = replace(RoutingConfig(), **arm.routing)
    return {name: getattr(routing, name) for name in TASKS}
