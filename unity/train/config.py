"""The complete configuration of a run: from a command line, the machine, the dataset, and the run that goes on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from unity.command import check_bounds
from unity.config import MODELS, STAGES, ModelConfig
from unity.data.latents.facts import Facts
from unity.modality.encodings import OURS
from unity.modality.table import BUILT_IN, MODALITIES
from unity.model.heritage import Heritage, heritage
from unity.model.weights import read_card
from unity.train import folder, frugal, latents, sequence
from unity.train.config_file import read_config
from unity.train.optim import Kind, OptimConfig, SetOptim
from unity.train.options import LEARNING_RATES, MACHINES, PAPER_RATE, SIMULATED, SMALL_TIMES, Options
from unity.train.planner.auto import recommended
from unity.train.recipes import RECIPES
from unity.train.remote import Visit, address_of
from unity.train.world import computes_bf16, device_kind


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Options):
    """Of which nothing is left to be decided: None is only where a run starts from nothing of that kind."""

    model: str = field()
    steps: int = field()
    out: Path = field()
    data: Path = field()
    precision: Literal["fp32", "bf16", "fp8"] = field()
    batch_size: int = field()
    micro_batch: int = field()
    sequence_parallel: int = field()
    recompute: str = field()
    frames: int = field()
    size: tuple[int, int] = field()
    workers: int = field()
    save_every: int = field()
    picture_every: int = field()
    log_every: int = field()
    save_beside: bool = field()
    deepspeed: Path = field()
    optim: SetOptim = field()


def parse(args: Sequence[str], talkative: bool = True, ranks: int = 1, visit: Visit | None = None) -> Options:
    """The options that command-line arguments ask for; unknown ones end the program with code 2.

    A resumed run keeps the settings it had, except those given. Another stage has its own steps and folder. What
    starts from weights has their size and conventions, and the recipe of their size. Raises ValueError for what
    cannot be. What is resumed from elsewhere is brought here, which `visit` can undo.
    """
    # single settings of a shape mean nothing before it is known whose
    given = tyro.cli(Options, args=_without_shape(args), console_outputs=talkative)
    check_bounds(given)
    if given.resume is not None and given.init is not None:
        raise ValueError("--resume and --init both name weights to start from; give one of them")
    if given.resume is not None and (address := address_of(given.resume)):
        given = replace(given, resume=(visit or Visit()).bring(address, given.out))
    base = Options() if given.resume is None else _resumed(given, given.resume, ranks)
    found = None if given.init is None else heritage(given.init, given.model, _asked(given, args, talkative))
    base = _inheriting(base, found, given) if found else replace(base, architecture=_architecture(given, base))
    row = MODELS[found.preset] if found and found.exact else base.architecture
    if row.stem and (given.resume is None or base.model is None):
        base = replace(base, time=SMALL_TIMES)
    if given.recipe and given.resume is None:
        base = RECIPES[given.recipe](base)
    options = tyro.cli(Options, args=args, default=base, console_outputs=talkative)
    options = replace(options, resume=given.resume)
    check_bounds(options)
    if found:
        found.check(options.architecture)
    if options.frozen and options.init is None:
        flag = "--lora adapts" if options.lora.rank else "--only adds to"
        raise ValueError(f"{flag} weights that are there already; name them with --init")
    if options.lora.rank and options.only:
        raise ValueError("--only leaves everything else as it is, and --lora does not; leave one of them out")
    return options


def resolve(options: Options, about: Mapping, ranks: int = 1) -> TrainConfig:
    """Fill in all that was left out; `about` is what the dataset says of itself.

    Raises ValueError for a run folder that is taken, for samples that --sequence-parallel cannot cut, for what
    cannot be had of latents, and for ways to save memory that do not go together.
    """
    machine, cut = MACHINES[device_kind()], options.sequence_parallel or 1
    options = replace(options, **_by_modality(options), views=_views(options, about))
    facts = latents.check(options, about)
    frames, (height, width) = options.frames or about["frames"], options.size or about["size"]
    shape, buckets = options.architecture, about.get("buckets", ())
    if buckets and (frames, height, width) != buckets[0]:
        raise ValueError(
            f"{options.data} holds buckets with frames and sizes of their own; leave --frames and --size out"
        )
    for t, h, w in buckets or [(frames, height, width)]:
        sequence.check(cut, ranks, shape.num_heads, sequence.tokens(shape, t, (h, w)))
    model = options.model or machine.model
    steps = options.steps or machine.steps or STAGES[options.stage].steps
    batch_size, optim = options.batch_size or machine.batch_size, options.optim
    kind, rate = recipe(options)
    frugal.check(
        offload=options.offload, base_storage=options.base_storage, lora_rank=options.lora.rank,
        precision=options.precision, optimizer=kind,
    )  # fmt: skip
    # of a source's samples, which are of one bucket
    share, local = batch_size // len(options.curriculum.sources), batch_size * cut // ranks
    filled: dict[str, Any] = dict(
        model=model,
        steps=steps,
        out=run_folder(options),
        data=options.data or SIMULATED,
        precision=options.precision or ("bf16" if computes_bf16() else "fp32"),
        batch_size=batch_size,
        micro_batch=options.micro_batch or _micro_batch(options, math.gcd(share, local) if buckets else local),
        sequence_parallel=cut,
        recompute=options.recompute or ("selective" if _is_large(options) else "none"),
        frames=frames,
        size=(height, width),
        workers=machine.workers if options.workers is None else options.workers,
        save_every=options.save_every or min(1000, max(1, steps // 2)),
        picture_every=_picture_every(steps, facts) if options.picture_every is None else options.picture_every,
        log_every=options.log_every or min(50, max(1, steps // 20)),
        save_beside=device_kind() == "cuda" if options.save_beside is None else options.save_beside,
        deepspeed=options.deepspeed or _settings_beside_the_launcher(),
        optim=SetOptim(
            **vars(optim)
            | {
                "kind": kind,
                "lr": rate,
                "warmup": min(200, steps // 10) if optim.warmup is None else optim.warmup,
            }
        ),
    )
    if options.plan == "auto":
        asked = {name: getattr(options, name) for name in ("sequence_parallel", "micro_batch", "recompute")}
        filled |= vars(recommended(replace(options, **filled | asked), ranks))
    if buckets and share % filled["micro_batch"]:
        raise ValueError(
            f"--micro-batch {filled['micro_batch']} would mix buckets; give a divisor of the {share} clips that a "
            f"step takes of each source"
        )
    return TrainConfig(**vars(options) | filled)


def _views(options: Options, about: Mapping) -> tuple[str, ...]:
    """The modalities asked for that some clip has; all of them where none has any, so that the plan says so."""
    stage = options.asked
    there = set().union(*(about.get("views", {}).get(source, ()) for source in stage.sources))
    return tuple(name for name in stage.modalities if name in there) or stage.modalities


def _picture_every(steps: int, facts: Facts | None) -> int:
    return 0 if facts else min(1000, max(1, steps // 3))


def recipe(options: Options) -> tuple[Kind, float]:
    """The optimizer and its peak learning rate: those asked for, else those of the model's size."""
    model, optim = options.model or MACHINES[device_kind()].model, options.optim
    kind = optim.kind or ("muon" if model in LEARNING_RATES and not options.frozen else "adamw")
    return kind, LEARNING_RATES.get(model, PAPER_RATE) if optim.lr is None else optim.lr


def _by_modality(options: Options) -> dict[str, dict[str, str]]:
    """Words and encodings of all modalities: the run's own, else those of the weights that it starts from."""
    ours = {
        "type_prompts": {name: row.type_prompt for name, row in MODALITIES.items()},
        "encodings": dict.fromkeys(MODALITIES, OURS),
    }
    own = options
    if options.init is not None and not options.type_prompts:
        own = read_card(options.init, options.architecture)
    return {name: words | getattr(own, name) for name, words in ours.items()}


def _micro_batch(options: Options, share: int) -> int:
    return 1 if _is_large(options) else max(1, share)


def _is_large(options: Options) -> bool:
    """From 1.3b up."""
    return options.architecture.dim >= MODELS["1.3b"].dim


def run_folder(options: Options) -> Path:
    """Where the run goes; raises ValueError where another run has saved something."""
    if options.out is None:
        names = ("", *(f"-{n}" for n in range(2, 1000)))
        candidates = (Path("runs") / f"stage{options.stage}{name}" for name in names)
        return next(path for path in candidates if not path.exists())
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out {options.out} is a file; give a folder's name")
    if folder.checkpoints(options.out) and not _goes_on(options, options.out):
        raise ValueError(
            f"{options.out} holds a run already: --resume {options.out} with its stage goes on with it, "
            f"another --out starts a new one"
        )
    return options.out


def _resumed(given: Options, resume: Path, ranks: int) -> Options:
    """The settings of the run that `given` resumes, or starts from."""
    if resume == given.out and not folder.checkpoints(resume):
        # a run that is started by the command that goes on with it
        return Options()
    run = folder.find_run(resume)
    saved = read_config(run)
    shares = ranks // (given.sequence_parallel or saved.sequence_parallel or 1) or 1
    if (saved.batch_size or 0) % ((saved.micro_batch or 1) * shares) or given.batch_size is not None:
        # of another number of ranks
        saved = replace(saved, micro_batch=None)
    if not folder.checkpoints(run):
        if saved.stage != given.stage:
            raise ValueError(f"{run} has saved nothing yet that stage {given.stage} could start from")
        return replace(saved, resume=None, out=run)
    if not saved.frozen:
        saved = replace(saved, init=None)
    if saved.stage == given.stage:
        _check_moments(run, saved.optim.kind, given.optim.kind)
        return replace(saved, out=run)
    # another dataset may have other frames
    fits = {} if given.data is None else {"frames": None, "size": None}
    return replace(saved, steps=None, out=None, save_every=None, picture_every=None, log_every=None, **fits)


def _check_moments(run: Path, saved: Kind | None, given: Kind | None) -> None:
    """AdamW's moments are wanted in 32 bits or in 8, and those of its matrices Muon has not."""
    if given is not None and saved is not None and "muon" in (saved, given) and saved != given:
        raise ValueError(
            f"--optim.kind {given} cannot go on from the moments of {saved} that {run} holds: leave it out, or "
            f"start a new run from its weights, with --init {run}/model and another --out"
        )


def _goes_on(options: Options, out: Path) -> bool:
    if options.resume is None or folder.find_run(options.resume).resolve() != out.resolve():
        return False
    return read_config(out).stage == options.stage


def _architecture(given: Options, base: Options) -> ModelConfig:
    """The resumed model's shape, else the one --model names."""
    if given.resume is not None and base.model is not None and given.model in (None, base.model):
        return base.architecture
    return MODELS[given.model or MACHINES[device_kind()].model]


def _inheriting(base: Options, found: Heritage, given: Options) -> Options:
    """Shape, size and recipe of the weights; the paper's where they tell none and none is known for their size."""
    card = found.card
    optim = OptimConfig(kind="adamw" if given.frozen else card.optimizer, lr=card.learning_rate)
    if given.model is None and not found.exact:
        optim = replace(optim, kind=optim.kind or "adamw", lr=optim.lr or PAPER_RATE)
    shape = replace(card.model, num_modalities=max(card.model.num_modalities, _plugged(card.model)))
    return replace(base, architecture=shape, model=given.model or found.preset, optim=optim)


def _plugged(shape: ModelConfig) -> int:
    """Modalities that a model has room for beside those of a user's own."""
    own = len(MODALITIES) - len(BUILT_IN)
    return len(MODALITIES) if own and shape.num_modalities >= len(BUILT_IN) else shape.num_modalities


def _asked(given: Options, args: Sequence[str], talkative: bool) -> ModelConfig | None:
    """The shape that --model and --architecture name together."""
    if given.model is None:
        return None
    named = Options(architecture=MODELS[given.model])
    return tyro.cli(Options, args=args, default=named, console_outputs=talkative).architecture


def _without_shape(args: Sequence[str]) -> list[str]:
    """The arguments but for --architecture's settings and their values."""
    kept, shape = [], False
    for arg in args:
        if arg.startswith("--"):
            shape = arg.startswith("--architecture.")
        kept += [] if shape else [arg]
    return kept


def _settings_beside_the_launcher() -> Path:
    path = Path(__file__).parents[2] / "launchers" / "zero3.json"
    if not path.is_file():
        raise ValueError("no settings for DeepSpeed are given; --deepspeed launchers/zero3.json names them")
    return path
