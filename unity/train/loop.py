"""Training: from batches of clips to checkpoints. The step itself is `train_step`."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from unity.config import STAGES
from unity.data.loader import Reading, Share, training_batches
from unity.data.shards import read_about
from unity.extras import require
from unity.flow_matching import draw_noise
from unity.modality.table import MODALITIES
from unity.model import fp8
from unity.model.codec import load_codec, to_frames, to_pixels
from unity.model.dit import UnityDiT
from unity.model.text import load_text
from unity.model.weights import ModelCard, load_model, save_model
from unity.objective import routed_loss
from unity.routing import Route, draw_route
from unity.train import checkpoint, zero
from unity.train.augment import disturb
from unity.train.ema import Ema
from unity.train.metrics import Journal, Tally, require_finite_norm
from unity.train.optim import learning_rate, optimizer
from unity.train.options import MACHINES, SIMULATED, TrainConfig, resolve, write_config
from unity.train.pictures import Pictures
from unity.train.signals import StopRequest, deaf_children
from unity.train.zero import Flats, World

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.bfloat16}


@dataclass(kw_only=True)
class Run:
    """All that a training step works with."""

    config: TrainConfig
    world: World
    engine: object
    ema: Ema
    codec: object
    text: object
    # first step that is still to be done
    start: int = 0

    def encode(self, video: UInt8[Tensor, "b t h w 3"], streams: Sequence[str]) -> Float[Tensor, "b c t h w"]:
        return self.codec.encode(to_pixels(video.to(self.world.device)), streams)

    def latents(self, batch: dict, clean: Bool[Tensor, " b"], step: int) -> Float[Tensor, "b 2 c t h w"]:
        """Of both streams; RGB that is `clean` may be disturbed first."""
        names = [list(MODALITIES)[m] for m in batch["modality"].tolist()]
        position = self.config.seed, step, batch["slot"].tolist()
        rgb = disturb(batch["rgb"], clean, self.config.augment, *position)
        return torch.stack([self.encode(rgb, ["rgb"] * len(names)), self.encode(batch["aux"], names)], dim=1)

    def decode(self, latent: Float[Tensor, "b c t h w"], streams: Sequence[str]) -> UInt8[Tensor, "b t h w 3"]:
        return to_frames(self.codec.decode(latent, streams)).cpu()

    def refresh(self) -> None:
        zero.refresh(self.engine)

    def words(self, batch: dict, route: Route) -> tuple[Tensor, ...]:
        """States and lengths of captions and type prompts, empty ones where the route drops them."""
        prompts = [list(MODALITIES.values())[m].type_prompt for m in batch["modality"].tolist()]
        pairs = ((batch["caption"], route.caption), (prompts, route.prompt))
        texts = ([t if kept else "" for t, kept in zip(*pair, strict=True)] for pair in pairs)
        return tuple(part.to(self.world.device) for text in texts for part in self.text(text))


def train(config: TrainConfig, world: World) -> Path:
    """Train until the last step, or until a signal asks to stop; returns the run folder."""
    say = partial(print, flush=True) if world.leads else lambda *_: None
    config = world.from_lead(lambda: prepare(config, say))
    with StopRequest() as stop:
        run = build(config, world, say)
        pictures = Pictures(run) if config.picture_every else None
        journal = Journal(config.out, run.start, config.steps, config.log_every) if world.leads else None
        for batch in batches(run):
            done = batch["step"] + 1
            record, leave = train_step(run, batch, stop)
            if journal:
                journal.write(batch["step"], record)
            if pictures and (done % config.picture_every == 0 or done == config.steps):
                pictures.draw(run, config.out / "pictures" / f"step-{done:08}.png")
            if leave or done % config.save_every == 0 or done == config.steps:
                save(run, done)
            if leave:
                say(f"asked to stop: saved step {done}; --stage {config.stage} --resume {config.out} goes on")
                break
    if journal:
        journal.close()
    if run.start >= config.steps:
        say(f"nothing to do: {config.out} has all of its {config.steps} steps; more --steps go on")
    say(f"weights for inference: {config.out}/model")
    return config.out


def train_step(run: Run, batch: dict, stop: StopRequest) -> tuple[dict[str, float], bool]:
    """One optimizer step over this rank's share of the global batch (paper, section 3.1).

    Everything random is a function of (seed, step, slot). Returns the step's metrics over all ranks, and whether
    any rank was asked to stop. Raises FloatingPointError, before the update, when a loss is not finite.
    """
    config, engine, step = run.config, run.engine, batch["step"]
    lr = learning_rate(config.optim, step, config.steps)
    zero.set_learning_rate(engine, lr)
    tally = Tally(run.world)
    parts = micro_batches(batch, engine.train_micro_batch_size_per_gpu())
    for i, part in enumerate(parts):
        slots, clean_time = part["slot"].tolist(), config.architecture.clean_time
        route = draw_route(config.routing, config.time, clean_time, config.seed, step, slots)
        latents = run.latents(part, ~route.noisy[:, 0], step)
        route = route.to(run.world.device)
        noise = draw_noise(config.seed, step, slots, latents.shape[1:], run.world.device)
        modality = part["modality"].to(run.world.device)
        loss, losses = routed_loss(engine, latents, noise, route, modality, run.words(part, route))
        engine.backward(loss)
        tally.add(losses, route.noisy, route.task, modality)
        if i == len(parts) - 1:
            record, leave = tally.reduce(step, stop.asked)
        engine.step()
    norm = float(engine.get_global_grad_norm())
    require_finite_norm(norm, step)
    run.ema.update()
    tokens = 2 * config.batch_size * math.prod(latents.shape[-3:]) // math.prod(config.architecture.patch)
    return record | {"grad_norm": norm, "lr": lr, "tokens": tokens}, leave


def build(config: TrainConfig, world: World, say: Callable[[str], None] = print) -> Run:
    """Codec, text encoder, engine and average, with the weights and the step that the configuration asks for."""
    device, shape = world.device, config.architecture
    micro = config.micro_batch or (1 if shape.dim >= 1536 else config.batch_size // world.size)
    settings = zero.settings(
        json.loads(config.deepspeed.read_text()), precision=config.precision, batch_size=config.batch_size,
        micro_batch=micro, world_size=world.size, clip=config.optim.clip,
    )  # fmt: skip

    def adapt(model: UnityDiT) -> None:
        if config.precision == "fp8":
            say(fp8.describe(model, fp8.convert(model, config.fp8)))

    parts = partial(UnityDiT, shape), partial(optimizer, config.optim)
    engine = zero.build_engine(*parts, settings, config.seed, adapt)
    run = Run(
        config=config,
        world=world,
        engine=engine,
        ema=Ema(zero.masters(engine), config.optim.ema),
        # frozen, so outside of ZeRO
        codec=load_codec(shape.codec, config.codec_weights, device, _DTYPES[config.precision]),
        text=load_text(shape.text, config.text_weights, device),
    )
    if config.resume is not None:
        restore(run, checkpoint.newest_whole(world, config.resume, say), say)
    elif config.init is not None:
        initialise(run, config.init)
        say(f"starting from the weights of {config.init}")
    return run


def batches(run: Run) -> Iterator[dict]:
    """This rank's batches from the run's first step to its last."""
    config = run.config
    with deaf_children():
        loader = training_batches(
            config.data, STAGES[config.stage], config.batch_size, config.seed, run.start,
            Share(rank=run.world.rank, world=run.world.size),
            Reading(frames=config.frames, size=config.size, workers=config.workers),
        )  # fmt: skip
    for _ in range(run.start, config.steps):
        yield next(loader)


def micro_batches(batch: dict, size: int) -> list[dict]:
    """A batch cut into parts of `size` samples; what is not per sample stays as it is."""
    starts = range(0, len(batch["slot"]), size)
    per_sample = {key for key, value in batch.items() if not isinstance(value, int)}
    return [{k: v[i : i + size] if k in per_sample else v for k, v in batch.items()} for i in starts]


def save(run: Run, step: int) -> None:
    """A checkpoint after `step` steps, with the averaged model for inference in it."""
    config, fragments = run.config, zero.layout(run.engine)
    about = read_about(config.data)
    card = ModelCard(
        model=config.architecture, modalities=STAGES[config.stage].modalities, stage=config.stage, step=step,
        frames=config.frames or about["frames"], size=tuple(config.size or about["size"]), data=str(config.data),
    )  # fmt: skip

    def export(folder: Path) -> None:
        whole = {
            name: tensor if tensor is None else tensor.to(_DTYPES[config.precision])
            for name, tensor in zero.gather(run.world, fragments, run.ema.flats)
        }
        if run.world.leads:
            save_model(whole, card, folder)

    state = {"stage": config.stage, "ema_updates": run.ema.updates}
    checkpoint.save(run.world, config.out, step, _shards(run), fragments, state, export, config.keep)


def restore(run: Run, folder: Path, say: Callable[[str], None] = print) -> None:
    """Go on from a checkpoint of the same stage exactly; of another stage, take its weights and average."""
    state, shards = checkpoint.read_state(folder), _shards(run)
    goes_on = state["stage"] == run.config.stage
    if not goes_on:
        shards = {kind: shards[kind] for kind in ("weight", "ema")}
    checkpoint.load(run.world, folder, shards, zero.layout(run.engine))
    zero.refresh(run.engine)
    run.ema.updates = state["ema_updates"]
    if goes_on:
        run.start = state["step"]
        zero.set_optimizer_step(run.engine, run.start)
    what = (
        f"going on from step {run.start} of" if goes_on else f"stage {run.config.stage} starts from the weights of"
    )
    say(f"{what} {folder}")


def initialise(run: Run, path: Path) -> None:
    """Start from the weights of a model folder or of foreign files, read by rank 0 alone."""
    shape = run.config.architecture
    fragments, masters = zero.layout(run.engine), zero.masters(run.engine)
    zero.scatter(run.world, fragments, masters, lambda: load_model(path, config=shape)[0].state_dict())
    zero.refresh(run.engine)
    run.ema.restart()


def prepare(config: TrainConfig, say: Callable[[str], None]) -> TrainConfig:
    """The complete configuration, with its dataset and run folder at hand; for rank 0."""
    config = resolve(config)
    if config.precision == "fp8":
        fp8.require(config.fp8)
    machine = MACHINES[zero.device_kind()]
    if zero.device_kind() == "cpu":
        say(
            f"no GPU: the {config.model} model in {config.precision} on {config.data}, {config.steps} steps of "
            f"{config.batch_size} clips (--model --data --steps --batch-size change that)"
        )
    if config.data == SIMULATED and not SIMULATED.exists():
        require("simulate")
        say(f"{SIMULATED} is not there yet: simulating {machine.clips} clips of each source, once")
        wanted = {"out": SIMULATED, "clips": machine.clips, "frames": machine.frames, "size": machine.size}
        flags = [str(part) for name, value in wanted.items() for part in (f"--{name}", value)]
        subprocess.run([sys.executable, "-m", "unity.data.simulate", *flags], check=True)
    read_about(config.data)
    (config.out / "checkpoints").mkdir(parents=True, exist_ok=True)
    write_config(config, config.out / "config.json")
    return config


def _shards(run: Run) -> dict[str, Flats]:
    return {"weight": zero.masters(run.engine), "ema": run.ema.flats, **zero.moments(run.engine)}
