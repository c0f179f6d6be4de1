"""A run: all that its steps work with, from a configuration or a checkpoint, and back into checkpoints."""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from unity.config import ModelConfig
from unity.data.buckets import open_buckets
from unity.data.latents.texts import read_texts
from unity.encoders import Encoders, Kept, load_encoders
from unity.flow_matching import TimeConfig
from unity.modality.table import MODALITIES
from unity.model.adapter import stream_adapter
from unity.model.card import ModelCard, Schedule
from unity.model.convert import convert
from unity.model.dit import UnityDiT
from unity.model.hub import is_name
from unity.model.lora import plain_name
from unity.model.names import is_factor
from unity.model.packed import pack, packed_rows, packing
from unity.model.reader import Reader
from unity.model.stored import model_folder
from unity.model.weights import check_fit, open_weights, read_card, stream_model
from unity.tasks import TASKS
from unity.train import checkpoint, folder, sequence, zero
from unity.train.config import TrainConfig
from unity.train.config_file import to_plain
from unity.train.ema import Ema
from unity.train.latents import encoder_weights, reads_latents
from unity.train.optim import optimizer, rate
from unity.train.recompute import recompute
from unity.train.revision import revision
from unity.train.sequence import SequenceGroup
from unity.train.world import World
from unity.train.writer import Content, Weights
from unity.train.zero import Engine, Flats

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.bfloat16}


@dataclass(kw_only=True)
class Run:
    """All that a training step works with."""

    config: TrainConfig
    world: World
    engine: Engine
    ema: Ema
    encoders: Encoders | Kept
    # the ranks that share this one's samples
    sequence: SequenceGroup = field(default_factory=SequenceGroup)
    # first step that is still to be done
    start: int = 0

    @property
    def shards(self) -> dict[str, Flats]:
        """What this rank keeps of every kind of value."""
        return {"weight": zero.masters(self.engine), "ema": self.ema.flats, **zero.moments(self.engine)}

    def refresh(self) -> None:
        zero.refresh(self.engine)


def build(config: TrainConfig, world: World, say: Callable[[str], None] = print) -> Run:
    """Encoders, engine and average, with the weights and the step that the configuration asks for.

    Nothing is written. Raises ValueError on all ranks for what cannot be.
    """
    settings = world.agree(lambda: engine_settings(config, world.size))
    # frozen, so outside of ZeRO
    encoders, dtype = world.agree(lambda: _encoders(config, world.device)), _DTYPES[config.precision]
    only = None if config.only is None else list(MODALITIES).index(config.only)

    group = sequence.join(config.sequence_parallel)

    def adapt(model: UnityDiT) -> None:
        model.peers = group.peers()
        for line in convert(model, config.lora, config.fp8 if config.precision == "fp8" else None, only):
            say(line)
        recompute(model, config.recompute)

    # what is masked must not decay
    optim = config.optim if only is None else replace(config.optim, weight_decay=0.0)
    rates = config.lora.rate if config.lora.rank else partial(rate, optim)
    update = partial(optimizer, optim, products=dtype, rate=rates)
    parts = partial(UnityDiT, config.architecture, packing(config.base_storage)), update
    engine = zero.build_engine(*parts, settings, config.seed, adapt)
    ema = Ema(zero.masters(engine), config.optim.ema)
    run = Run(config=config, world=world, engine=engine, ema=ema, encoders=encoders, sequence=group)
    _begin(run, say)
    return run


def _encoders(config: TrainConfig, device: torch.device) -> Encoders | Kept:
    """What the run's clips are encoded with, or was before."""
    if reads_latents(config):
        # all buckets have the same texts
        shards = open_buckets(config.data)[0]
        assert shards.latents
        return Kept(texts=read_texts(shards.folder, shards.latents), device=device)
    weights = encoder_weights(config)
    return load_encoders(config.architecture, device, _DTYPES[config.precision], *weights)


def engine_settings(config: TrainConfig, ranks: int) -> dict:
    """DeepSpeed's settings for a run; raises ValueError for those that it cannot have."""
    path = config.deepspeed
    try:
        base = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"--deepspeed {path} cannot be read ({error}); launchers/zero3.json is one") from error
    if not isinstance(base, Mapping):
        raise ValueError(f"--deepspeed {path} holds no settings by name; launchers/zero3.json does")
    return zero.settings(
        base, precision=config.precision, batch_size=config.batch_size, micro_batch=config.micro_batch,
        world_size=ranks, clip=config.optim.clip, sequence_parallel=config.sequence_parallel,
        offload=config.offload,
    )  # fmt: skip


def _begin(run: Run, say: Callable[[str], None]) -> None:
    """Give a new run the weights and the place that it starts from."""
    config, resume = run.config, run.config.resume
    # where most is frozen, checkpoints hold what is trained, and the rest comes from where it came from
    if config.init is not None and (resume is None or config.frozen):
        initialise(run, config.init)
    if resume is not None and run.world.from_lead(lambda: _has_saved(resume)):
        restore(run, checkpoint.newest_whole(run.world, resume, say), say)
        return
    if resume is not None:
        say(f"nothing was saved in {resume} yet: it starts from its first step")


def _has_saved(path: Path) -> bool:
    """Whether a resumed path is a checkpoint, or a run folder with any."""
    return path.name.startswith("step-") or (path / "state.json").exists() or bool(folder.checkpoints(path))


def content(run: Run, step: int, loss: float | None = None) -> Content:
    """What a checkpoint after `step` steps holds, the averaged model for inference too; `loss` goes with it."""
    config, fragments = run.config, zero.layout(run.engine)
    card = ModelCard(
        model=config.architecture, modalities=_learnt(config), stage=config.stage, step=step,
        frames=config.frames, size=config.size, data=str(config.data), optimizer=config.optim.kind,
        learning_rate=config.optim.lr, type_prompts=config.type_prompts, encodings=config.encodings,
        schedules=schedules(config.time, config.architecture), base=_base(config), history=_history(run, loss),
    )  # fmt: skip
    state = {"stage": config.stage, "ema_updates": run.ema.updates, "loss": loss, "config": to_plain(config)}
    return Content(
        shards=run.shards, fragments=fragments, state=state, export=partial(_export, config, card),
        frozen={} if config.only is None else zero.frozen(run.engine),
    )  # fmt: skip


def _history(run: Run, loss: float | None) -> dict[str, str]:
    """What people ask of a model that the rest of its card does not say."""
    config, device = run.config, run.world.device
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    said = {
        "sources": ", ".join(config.curriculum.sources),
        "batch": f"{config.batch_size} clips a step, in {config.precision}",
        "averaged with": f"decay {config.optim.ema:g}",
        "hardware": f"{run.world.size} × {kind}",
        "code": _code(),
    }
    return said | ({} if loss is None else {"loss": f"{loss:.4g}, of the last steps"})


@functools.cache
def _code() -> str:
    return str(revision())


def _export(config: TrainConfig, card: ModelCard, average: Weights, folder: Path) -> dict[str, dict]:
    """Write the averaged weights for inference, in the precision of the training; see `Content.export`."""
    dtype = _DTYPES[config.precision]
    shapes = {name: like.to(dtype) for name, like in average.shapes.items()}

    def parts(name: str) -> Iterator[Tensor]:
        return (part.to(dtype) for part in average.parts(name))

    if config.lora.rank:
        return stream_adapter(shapes, parts, config.lora, card, folder)
    return stream_model(shapes, parts, card, folder)


def schedules(time: TimeConfig, model: ModelConfig) -> dict[str, Schedule]:
    """How samples of each task are drawn: at the times that training has seen.

    Where estimates have times of their own they were learnt almost from noise alone, and few steps serve. Pixels,
    unlike a VAE's latents, show at once what guides too far, and are made best with new noise at every step and
    most steps early, where it is settled who is there (the shipped model's card has the figures).
    """
    usual = Schedule(shift=time.shift)
    found = dict.fromkeys(TASKS, usual)
    if model.codec == "cells":
        made = Schedule(steps=12, shift=max(8.0, time.shift), guidance=2.0, sampler="stochastic")
        found |= {"joint": made, "control": made}
    if time.estimate_shift is not None:
        found["estimate"] = replace(usual, steps=3, shift=time.estimate_shift)
    return found


def restore(run: Run, folder: Path, say: Callable[[str], None] = print) -> None:
    """Go on from a checkpoint of the same stage exactly; of another stage, take its weights and average."""
    state, shards = checkpoint.read_state(folder), run.shards
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
    """Start from the weights of a model folder or of foreign files, which rank 0 reads tensor by tensor."""
    shape, dtype, readers = run.config.architecture, _DTYPES[run.config.precision], []
    packed = packed_rows(run.engine.module)

    def opened() -> None:
        stored, _ = open_weights(path, shape)
        check_fit(stored, shape)
        readers.append(Reader(stored, shape))

    def read(name: str) -> Tensor | None:
        if is_factor(name):
            return None
        tensor = readers[0](plain_name(name))
        return pack(tensor.to(run.world.device), packed[name], dtype) if name in packed else tensor

    run.world.from_lead(opened)

    zero.fill(run.world, run.engine, read)
    run.ema.restart()


def _learnt(config: TrainConfig) -> tuple[str, ...]:
    if config.only is None or config.init is None:
        return config.curriculum.modalities
    return tuple(dict.fromkeys((*read_card(config.init, config.architecture).modalities, config.only)))


def _base(config: TrainConfig) -> str:
    """The weights that adapters belong to, where they will be found again."""
    if not config.lora.rank or config.init is None:
        return ""
    if is_name(config.init):
        return config.init.as_posix()
    # a run's link to its newest model moves on
    return str(model_folder(config.init).resolve() if config.init.is_dir() else config.init.absolute())
