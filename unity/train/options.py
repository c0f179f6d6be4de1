"""Everything a training run can be told, and what it decides for itself."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import tyro

from unity.config import MODELS, STAGES, ModelConfig
from unity.flow_matching import TimeConfig
from unity.model.fp8 import Fp8Config
from unity.model.weights import read_card
from unity.routing import RoutingConfig
from unity.train.optim import OptimConfig
from unity.train.zero import computes_bf16, device_kind

SIMULATED = Path("data/simulated")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train a unified video model. What is left out depends on the machine, the stage, or the resumed run."""

    # stage of the curriculum
    stage: Literal[1, 2] = 1
    # size of the model, a row of unity.config.MODELS; by default tiny on a CPU, small on a GPU
    model: Literal[tuple(MODELS)] | None = None
    # optimizer steps in all; by default the stage's on a GPU, few on a CPU
    steps: int | None = None
    # run folder; by default runs/stage<n>, with a number if that is taken
    out: Path | None = None
    # dataset folder; by default data/simulated, which is made if it is not there
    data: Path | None = None
    # weights to start from: a model folder, or Wan's, diffusers' or the release's files
    init: Path | None = None
    # a run folder, or one of its checkpoints: the same stage goes on exactly, another one starts from its weights
    resume: Path | None = None
    # every random draw is a function of it and of where it is used
    seed: int = 0
    # by default bf16 where there are units for it (GPUs, newer CPUs), else fp32; fp8: bf16 with the large Linears
    # of the blocks in 8 bits
    precision: Literal["fp32", "bf16", "fp8"] | None = None
    # samples per optimizer step, all ranks together
    batch_size: int | None = None
    # samples that a rank works on at once; by default all of its share, but 1 from 1.3b up
    micro_batch: int | None = None
    # frames (4k+1), height and width of what the model sees; by default the dataset's
    frames: int | None = None
    size: tuple[int, int] | None = None
    # share of the estimates whose RGB is shown in other light, blurred, noisy or compressed (unity.train.augment)
    augment: float = 0.0
    # processes per rank that read and decode
    workers: int | None = None
    # steps between checkpoints, pictures of samples, and progress lines; 0 for no pictures
    save_every: int | None = None
    picture_every: int | None = None
    log_every: int | None = None
    # checkpoints that are kept
    keep: int = 2
    # weights of the codec and of the text encoder, where the embedded ones are not used
    codec_weights: Path | None = None
    text_weights: Path | None = None
    # DeepSpeed's own settings; by default launchers/zero3.json
    deepspeed: Path | None = None
    # which 8-bit arithmetic, with --precision fp8
    fp8: Fp8Config = field(default_factory=Fp8Config)
    optim: OptimConfig = field(default_factory=OptimConfig)
    routing: RoutingConfig = field(default_factory=RoutingConfig)
    time: TimeConfig = field(default_factory=TimeConfig)
    # the model's shape; follows --model, and single settings can be changed
    architecture: ModelConfig = MODELS["tiny"]

    def __post_init__(self):
        if not 0 <= self.augment <= 1:
            raise ValueError(f"augment is {self.augment}; give the share of estimates, from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a kind of machine can do in a sensible time."""

    model: str
    batch_size: int
    workers: int
    # None: the stage's
    steps: int | None
    # clips of each source that are simulated when no data is given
    clips: int
    frames: int
    size: int


MACHINES = {
    "cpu": Machine(model="tiny", batch_size=8, workers=0, steps=150, clips=16, frames=17, size=64),
    "cuda": Machine(model="small", batch_size=32, workers=4, steps=None, clips=256, frames=33, size=128),
}

# models that start from nothing and learn faster; all others take the paper's rate
LEARNING_RATES = {"debug": 4e-3, "tiny": 3e-3, "small": 1e-3}
PAPER_RATE = 5e-5
# these models' times: their estimates need little more than a first step, from nearly pure noise
SMALL_TIMES = TimeConfig(shift=3.0, estimate_shift=20.0)


def parse(args: Sequence[str], talkative: bool = True) -> TrainConfig:
    """The configuration that command-line arguments ask for; unknown ones end the program with code 2.

    A resumed run keeps the settings it had, except those given. Another stage has its own steps and folder.
    """
    given = tyro.cli(TrainConfig, args=args, console_outputs=talkative)
    if given.resume is not None and given.init is not None:
        raise ValueError("--resume and --init both name weights to start from; give one of them")
    base = TrainConfig() if given.resume is None else _resumed(given.resume, given.stage)
    base = replace(base, architecture=_architecture(given, base))
    if base.architecture.stem and given.resume is None:
        base = replace(base, time=SMALL_TIMES)
    return tyro.cli(TrainConfig, args=args, default=base, console_outputs=talkative)


def resolve(config: TrainConfig) -> TrainConfig:
    """Fill in all that was left out; raises ValueError for a run folder that is taken."""
    machine = MACHINES[device_kind()]
    model = config.model or machine.model
    steps = config.steps or machine.steps or STAGES[config.stage].steps
    optim = config.optim
    optim = replace(
        optim,
        kind=optim.kind or ("muon" if model in LEARNING_RATES else "adamw"),
        lr=LEARNING_RATES.get(model, PAPER_RATE) if optim.lr is None else optim.lr,
        warmup=min(200, steps // 10) if optim.warmup is None else optim.warmup,
    )
    return replace(
        config,
        model=model,
        steps=steps,
        out=_run_folder(config),
        data=config.data or SIMULATED,
        precision=config.precision or ("bf16" if computes_bf16() else "fp32"),
        batch_size=config.batch_size or machine.batch_size,
        workers=machine.workers if config.workers is None else config.workers,
        save_every=config.save_every or min(1000, max(1, steps // 2)),
        picture_every=min(1000, max(1, steps // 3)) if config.picture_every is None else config.picture_every,
        log_every=config.log_every or min(50, max(1, steps // 20)),
        optim=optim,
    )


def write_config(config: TrainConfig, path: Path) -> None:
    path.write_text(json.dumps(asdict(config), indent=2, default=str) + "\n")


def read_config(run: Path) -> TrainConfig:
    """The complete configuration that a run folder holds."""
    return _from_plain(TrainConfig, json.loads((run / "config.json").read_text()))


def find_run(path: Path) -> Path:
    """The run folder that `path` is, or is a checkpoint of."""
    for folder in (path, *path.parents[:2]):
        if (folder / "config.json").exists() and (folder / "checkpoints").is_dir():
            return folder
    raise ValueError(f"{path} is no run folder (with config.json and checkpoints/) nor a checkpoint in one")


def _resumed(path: Path, stage: int) -> TrainConfig:
    run = find_run(path)
    saved = replace(read_config(run), init=None)
    if saved.stage == stage:
        return replace(saved, out=run)
    return replace(saved, steps=None, out=None, save_every=None, picture_every=None, log_every=None)


def _architecture(given: TrainConfig, base: TrainConfig) -> ModelConfig:
    """The resumed model's shape, else that of --init's weights, else the one --model names."""
    if given.resume is not None and given.model in (None, base.model):
        return base.architecture
    if given.init is not None and given.model is None:
        return read_card(given.init).model
    return MODELS[given.model or MACHINES[device_kind()].model]


def _run_folder(config: TrainConfig) -> Path:
    if config.out is None:
        names = ("", *(f"-{n}" for n in range(2, 1000)))
        candidates = (Path("runs") / f"stage{config.stage}{name}" for name in names)
        return next(path for path in candidates if not path.exists())
    goes_on = config.resume is not None and find_run(config.resume).resolve() == config.out.resolve()
    taken = (config.out / "checkpoints").exists()
    if taken and not (goes_on and read_config(config.out).stage == config.stage):
        raise ValueError(
            f"{config.out} holds a run already: --resume {config.out} with its stage goes on with it, "
            f"another --out starts a new one"
        )
    return config.out


def _from_plain(kind: Any, value: Any) -> Any:
    """JSON's value as the type that a field is declared with."""
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        unknown = value.keys() - {f.name for f in fields(kind)}
        if unknown:
            raise ValueError(
                f"the run's config.json has unknown settings {sorted(unknown)}; it is of another version"
            )
        return kind(**{name: _from_plain(hints[name], entry) for name, entry in value.items()})
    if value is not None and (kind is Path or Path in get_args(kind)):
        return Path(value)
    return tuple(value) if isinstance(value, list) else value
