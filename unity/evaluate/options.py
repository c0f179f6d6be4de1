"""The exams as a command: which clips, which exams, what is written and printed."""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from unity.command import check_bounds, real, whole
from unity.data.clips import Clip
from unity.data.shards import Shards, open_shards
from unity.evaluate.contestants import BASELINES
from unity.evaluate.exam import EXAMS, Effort, Exam, Result, sit
from unity.evaluate.metrics import Mean
from unity.evaluate.unibench import TRACKS, Track
from unity.files import check_writable, write_json
from unity.generate import Generator, load_generator
from unity.modality.table import MODALITIES
from unity.request import SHIPPED
from unity.thrift import Thrift, thrift_of

if TYPE_CHECKING:
    Name = str
    Baseline = str
else:
    # the rows of tables, which a type checker cannot read
    Name, Baseline = Literal[tuple(MODALITIES)], Literal[BASELINES]

Bench = Literal["unibench-sim", "folder"]
# clips of each modality that the exams take
EXAMINED = 64


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is examined, on what; there are ways to save memory and time beside it."""

    # dataset of clips that the checkpoint has not seen, with exact values; or see --bench folder
    data: Path | None = None
    # a benchmark in place of the exams: of simulated clips, or of your own in --data
    bench: Bench | None = None
    # of a benchmark
    tracks: tuple[Track, ...] = TRACKS
    # folder of files that a benchmark scores in place of a model's answers, see docs/evaluate.md
    predictions: Path | None = None
    # what a benchmark scores in place of a model
    baseline: Baseline | None = None
    # NAME=PATH of what has weights: that baseline, annotators that read a benchmark's videos, VBench's networks
    weights: tuple[str, ...] = ()
    # which share of a benchmark this process does, 2/8 for the second of eight
    part: str = "1/1"
    # folder to write a benchmark's clips to, for other programs to answer, and nothing else
    export: Path | None = None
    # model folder, run folder of launchers/train.py, or file of weights; by default the one in the package
    checkpoint: Path = SHIPPED
    # JSON file of the numbers, by default runs/exam.json; of a benchmark, the folder, by default runs/unibench
    out: Path | None = None
    # modalities to examine; by default all that the checkpoint has learnt and the dataset holds
    modality: tuple[Name, ...] = ()
    # Python files with modalities of your own (unity.modality.plug_in)
    modalities: tuple[Path, ...] = ()
    # estimate: against the truth; control: does a video follow; joint: do both streams agree; errors: of latents
    exams: tuple[Exam, ...] = EXAMS
    # most clips of each modality, spread over the sources, by default 64; of a benchmark, of each track, 200
    clips: Annotated[int, whole(1)] | None = None
    # sampling steps; by default as many as the checkpoint's card says
    steps: Annotated[int | None, whole(1, 1000)] = None
    # classifier-free guidance where a caption is read; by default as the card says
    guidance: Annotated[float | None, real(0, 100)] = None
    # of the noise that sampling starts from
    seed: Annotated[int, whole(0)] = 0
    # clips at a time; as part of what decides the noise it changes results within their spread
    batch: Annotated[int, whole(1)] = Effort.batch
    # cpu or cuda; by default a GPU if there is one
    device: str | None = None
    # weights of the Wan VAE, for the models that use it
    codec_weights: Path | None = None
    # weights of UMT5, for the models that use it
    text_weights: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Options(Thrift, Asked):
    """What is examined, on what, and at what cost."""


def start(options: Options) -> object:
    """The benchmark that is asked for, or else the exams; ValueError for what cannot be done."""
    if options.bench is None:
        return run(options)
    check_bounds(options)
    from unity.evaluate.benchmark import run_bench

    return run_bench(options)


def run(options: Options) -> dict[str, Result]:
    """Examine, write and print; ValueError, before anything is loaded, for what cannot be done."""
    check_bounds(options)
    options = _completed(options)
    assert options.data is not None and options.out is not None and options.clips is not None
    if not options.exams:
        raise ValueError(f"--exams names none; give some of {', '.join(EXAMS)}")
    if options.step_cache > 1 and "errors" in options.exams:
        raise ValueError("--step-cache is of steps, and the exam errors takes none; leave one of them out")
    if options.out.is_dir():
        raise ValueError(f"{options.out} is a folder; give --out the name of a JSON file")
    check_writable(options.out.absolute().parent)
    shards = open_shards(options.data)
    chosen = {name: _places(shards, name, options.clips) for name in options.modality or MODALITIES}
    _check(shards, chosen, options)
    generator = loaded(options)
    names = _names(chosen, generator, options)
    effort = Effort(steps=options.steps, guidance=options.guidance, seed=options.seed, batch=options.batch)
    results, seconds = {}, {}
    for name in names:
        start = time.perf_counter()
        clips = [_clip(shards, place, name) for place in chosen[name]]
        results[name] = sit(generator, name, clips, effort, options.exams, _say)
        seconds[name] = round(time.perf_counter() - start, 1)
        print(table(name, results[name]), flush=True)
    write_json(options.out, _record(options, generator, effort, results, seconds))
    print(f"wrote {options.out}")
    return results


def loaded(options: Options) -> Generator:
    """The checkpoint that is examined."""
    weights = options.codec_weights, options.text_weights
    return load_generator(options.checkpoint, options.device, *weights, thrift=thrift_of(options))


def _completed(options: Options) -> Options:
    """With the exams' defaults. Raises ValueError without a dataset, and for what only a benchmark knows."""
    idle = [name for name in ("predictions", "baseline", "weights", "export") if getattr(options, name)]
    if idle or options.part != "1/1":
        raise ValueError(f"--{(idle or ['part'])[0]} belongs to a benchmark; give --bench unibench-sim, too")
    if options.data is None:
        raise ValueError("--data names no dataset for the exams; give one, or --bench unibench-sim")
    return replace(options, out=options.out or Path("runs/exam.json"), clips=options.clips or EXAMINED)


def table(modality: str, result: Result) -> str:
    """The numbers of one modality as lines of text."""
    row = MODALITIES[modality]
    lines = [f"{modality}, {result.clips} clips"]
    for name, measure in row.measures.items():
        said = [f"{who} {_number(found[name])}" for who, found in result.scores.items()]
        if said:
            lines.append(f"  {measure.words} ({'more' if measure.more else 'less'} is better): {', '.join(said)}")
    shares = {
        "error as a share of the trivial guess's": result.share_of_trivial,
        "control: error as a share of the one without the condition": result.control,
        "joint: disagreement as a share of the one with another clip": result.joint,
    }
    for words, found in shares.items():
        lines += [f"  {words}, {row.measures[name].words}: {_number(mean)}" for name, mean in found.items()]
    for exam, found in result.least.items():
        words = f"{exam}: least share, of the clips' own videos"
        lines += [f"  {words}, {row.measures[name].words}: {_number(mean)}" for name, mean in found.items()]
    for task, error in result.errors.items():
        lines.append(f"  {task}: squared error of latents {error['model']:.4f}, of nothing {error['trivial']:.4f}")
    return "\n".join(lines)


def _number(mean: Mean) -> str:
    left_out = f", {mean.undefined} undefined" if mean.undefined else ""
    return f"{mean.mean:.3f} [{mean.low:.3f}, {mean.high:.3f}{left_out}]"


def _places(shards: Shards, modality: str, most: int) -> list[tuple[str, int]]:
    """(source, index) of the clips that have a modality, the sources in turn."""
    column = list(MODALITIES).index(modality)
    having = (
        [(source, index) for index, flags in enumerate(table) if flags[column]]
        for source, table in shards.available.items()
    )
    return [place for place in chain.from_iterable(zip_longest(*having)) if place is not None][:most]


def _check(shards: Shards, chosen: dict[str, list], options: Options) -> None:
    empty = [name for name, places in chosen.items() if not places]
    if options.modality and empty:
        raise ValueError(f"{options.data} has no clip with {empty[0]}; leave it out of --modality")
    if len(empty) == len(chosen):
        raise ValueError(f"{options.data} has no modality at all; give --data a dataset that has")
    for name, places in chosen.items():
        for place in places[:1]:
            _clip(shards, place, name)


def _names(chosen: dict[str, list], generator: Generator, options: Options) -> list[str]:
    learnt = generator.card.modalities
    unknown = [name for name in options.modality if name not in learnt]
    if unknown:
        raise ValueError(
            f"{options.checkpoint} has not learnt {unknown[0]}, only {', '.join(learnt) or 'plain video'}; "
            f"leave it out of --modality, or give another --checkpoint"
        )
    names = [name for name, places in chosen.items() if places and name in learnt]
    if not names:
        raise ValueError(f"{options.checkpoint} has learnt no modality of {options.data}; give another of the two")
    return names


def _clip(shards: Shards, place: tuple[str, int], modality: str) -> Clip:
    clip = shards.clip(*place, ("rgb", modality))
    if modality not in clip.values:
        raise ValueError(
            f"clip {place[1]} of {place[0]} has no exact {modality} to score against; "
            f"make the dataset with --values (python -m unity.data.simulate)"
        )
    return clip


def _record(
    options: Options, generator: Generator, effort: Effort, results: dict[str, Result], seconds: dict[str, float]
) -> dict:
    card = generator.card
    return {
        "checkpoint": options.checkpoint,
        "model": {"stage": card.stage, "step": card.step, "data": card.data},
        "thrift": asdict(generator.thrift),
        "data": options.data,
        "exams": options.exams,
        "effort": asdict(effort),
        "seconds": seconds,
        "results": {name: asdict(result) for name, result in results.items()},
    }


def _say(words: Sequence[str] | str) -> None:
    print(words, file=sys.stderr, flush=True)
