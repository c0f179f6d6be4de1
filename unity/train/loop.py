"""Training: from options to checkpoints. The step itself is `unity.train.step`."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from unity.data.buckets import describe
from unity.data.latents.facts import read_facts
from unity.data.loader import Reading, Share, training_batches
from unity.data.shards import annotators
from unity.extras import require
from unity.model import fp8
from unity.model.heritage import heritage
from unity.model.lora import peft_config
from unity.train import sequence
from unity.train.config import TrainConfig, recipe, resolve, run_folder
from unity.train.config_file import write_config
from unity.train.folder import held
from unity.train.kept import Keep
from unity.train.latents import check_weights
from unity.train.metrics import Journal, high_water
from unity.train.options import MACHINES, SIMULATED, Options
from unity.train.pictures import Pictures
from unity.train.planner.auto import ideal_seconds
from unity.train.planner.auto import line as plan_line
from unity.train.preflight import preflight
from unity.train.remote import open_remote
from unity.train.run import Run, build, content
from unity.train.saver import Manner, Saver, saving
from unity.train.signals import StopRequest, deaf_children
from unity.train.step import train_step
from unity.train.watchdog import Watchdog, watched
from unity.train.world import World, device_kind


def train(options: Options, world: World) -> Path:
    """Train until the last step, or until a signal asks to stop; returns the run folder.

    All that can be refused is refused, with a ValueError on all ranks, before a byte of the run folder changes.
    """
    say = partial(print, flush=True) if world.leads else lambda *_: None
    config = world.from_lead(lambda: prepare(options, world.size, say))
    if world.size > 1 or config.preflight:
        preflight(config, world, say)
    with StopRequest() as stop, _alone(world, config.out):
        run = build(config, world, say)
        if run.start >= config.steps:
            say(f"nothing to do: {config.out} has all of its {config.steps} steps; more --steps go on")
            return config.out
        pictures = world.agree(lambda: Pictures(run)) if config.picture_every else None
        coming = world.agree(lambda: batches(run))
        with (
            _journal(run, say) as journal,
            watched(world, config.out, config.watchdog_minutes) as dog,
            saving(world, manner(config), say) as saver,
        ):
            witnesses = Witnesses(journal=journal, pictures=pictures, dog=dog, saver=saver)
            done = _go(run, timed(coming), stop, witnesses)
    if done < config.steps:
        say(f"asked to stop: saved step {done}; --stage {config.stage} --resume {config.out} goes on")
    say(f"weights for inference: {config.out}/model")
    return config.out


@dataclass(frozen=True, kw_only=True)
class Witnesses:
    """Who looks on at the steps."""

    # on rank 0
    journal: Journal | None
    # where there are any
    pictures: Pictures | None
    dog: Watchdog
    saver: Saver


def _go(run: Run, coming: Iterator[tuple[dict, float]], stop: StopRequest, by: Witnesses) -> int:
    """Every step that is left, with what it leaves behind; returns the last one done, whose save has begun."""
    config, dog, losses = run.config, by.dog, []
    for batch, waited in coming:
        step, done = batch["step"], batch["step"] + 1
        # the first one compiles, and takes as long as that takes
        if step > run.start:
            dog.at(step, "compute")
        # the ranks leave together, and hear there why
        stop.asked |= by.saver.failed
        record, leave = train_step(run, batch, stop)
        losses.append(record["loss"])
        if by.journal:
            by.journal.write(step, record | {"wait_seconds": waited, "memory_gib": high_water(run.world.device)})
        if by.pictures and (done % config.picture_every == 0 or done == config.steps):
            dog.at(step, "draw")
            by.pictures.draw(run, config.out / "pictures" / f"step-{done:08}.png")
        if leave or done % config.save_every == 0 or done == config.steps:
            dog.at(step, "save")
            by.saver.save(done, content(run, done, fmean(losses)))
            losses.clear()
        if leave or done == config.steps:
            return done
        dog.at(done, "read")
    return config.steps


def manner(config: TrainConfig) -> Manner:
    """How a run's checkpoints are written."""
    keep = Keep(last=config.keep, best=config.keep_best)
    remote = None if config.remote is None else open_remote(config.remote)
    return Manner(run=config.out, keep=keep, beside=config.save_beside, remote=remote)


def timed(coming: Iterator[dict]) -> Iterator[tuple[dict, float]]:
    """Batches, each with the seconds that it was waited for."""
    start = time.perf_counter()
    for batch in coming:
        yield batch, time.perf_counter() - start
        start = time.perf_counter()


def prepare(options: Options, ranks: int, say: Callable[[str], None]) -> TrainConfig:
    """The complete configuration, with its dataset at hand; for rank 0."""
    refuse(options, ranks)
    if options.init is not None:
        shape = options.architecture
        say(heritage(options.init, shape=shape).line(shape, *recipe(options)))
    data, machine = options.data or SIMULATED, MACHINES[device_kind()]
    if data == SIMULATED and not SIMULATED.exists():
        require("simulate")
        say(f"{SIMULATED} is not there yet: simulating {machine.clips} clips of each source, once")
        wanted = {"out": SIMULATED, "clips": machine.clips, "frames": machine.frames, "size": machine.size}
        flags = [str(part) for name, value in wanted.items() for part in (f"--{name}", value)]
        if subprocess.run([sys.executable, "-m", "unity.data.simulate", *flags]).returncode:
            raise ValueError(f"{SIMULATED} could not be simulated, see above; --data names another dataset")
    about = describe(data)
    config = resolve(options, about, ranks)
    if about["buckets"]:
        shapes = ", ".join(f"{frames} frames of {height}x{width}" for frames, height, width in about["buckets"])
        say(f"{data} has buckets: {shapes}; frames and size in the plan and the card are the first's")
    for line in (*_left_out(config), *annotators.lines(about["annotators"], config.curriculum.modalities)):
        say(line)
    if facts := read_facts(about):
        say(check_weights(config, facts))
    if options.plan == "auto":
        say(plan_line(config, ranks))
    if device_kind() == "cpu":
        say(
            f"no GPU: the {config.model} model in {config.precision} on {config.data}, {config.steps} steps of "
            f"{config.batch_size} clips (--model --data --steps --batch-size change that)"
        )
    return config


def _left_out(config: TrainConfig) -> list[str]:
    """What of the stage its dataset does not have."""
    missing = [name for name in config.asked.modalities if name not in config.views]
    if not missing:
        return []
    views = ", ".join(config.views)
    return [f"no clip of {config.data} has {', '.join(missing)}: stage {config.stage} trains on {views} alone"]


def refuse(options: Options, ranks: int) -> None:
    """Raises ValueError for what cannot be, whatever the dataset."""
    sequence.check(options.sequence_parallel or 1, ranks, options.architecture.num_heads)
    if options.precision == "fp8":
        fp8.require(options.fp8)
    if options.lora.rank:
        peft_config(options.lora)
    if options.remote is not None:
        open_remote(options.remote).try_out()
    run_folder(options)


def batches(run: Run) -> Iterator[dict]:
    """This rank's batches from the run's first step to its last; the dataset is opened, and checked, at once.

    Ranks that share samples have the same batches.
    """
    config, cut = run.config, run.config.sequence_parallel
    with deaf_children():
        loader = training_batches(
            config.data, config.curriculum, config.batch_size, config.seed, run.start,
            Share(rank=run.world.rank // cut, world=run.world.size // cut),
            Reading(
                frames=config.frames, size=config.size, workers=config.workers, encodings=config.encodings
            ),
        )  # fmt: skip
    return (next(loader) for _ in range(run.start, config.steps))


@contextmanager
def _alone(world: World, run: Path) -> Iterator[None]:
    """No other training writes in the run folder meanwhile; rank 0 sees to it."""
    with ExitStack() as stack:
        world.from_lead(lambda: stack.enter_context(held(run)))
        yield


@contextmanager
def _journal(run: Run, say: Callable[[str], None]) -> Iterator[Journal | None]:
    """From here on the run folder changes: its configuration, and on rank 0 the journal of its steps."""
    config, opened = run.config, []

    def begin() -> None:
        for name in ("checkpoints", "tensorboard", "pictures"):
            if (place := config.out / name).exists() and not place.is_dir():
                raise ValueError(f"{place} is no folder; move it out of the way")
        # steps of several shapes take as many times
        ideal = None if describe(config.data)["buckets"] else ideal_seconds(config, run.world.size)
        opened.append(Journal(config.out, run.start, config.steps, config.log_every, say, ideal))
        (config.out / "checkpoints").mkdir(exist_ok=True)
        write_config(config, config.out / "config.json")

    run.world.from_lead(begin)
    with ExitStack() as stack:
        yield stack.enter_context(closing(opened[0])) if opened else None
