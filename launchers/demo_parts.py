"""The parts of the demo (demo.py), and what they found."""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch

from unity.command import check_bounds, real, whole
from unity.data.clips import Clip
from unity.data.shards import open_shards
from unity.evaluate.held_out import Exam, draw, estimate_scores, examine
from unity.files import write_json, write_text
from unity.generate import Generator, load_generator
from unity.infer import infer
from unity.modality.table import MODALITIES
from unity.report.demo import Findings, Learner, lead, sections
from unity.report.page import page
from unity.request import SAMPLE, SHIPPED, Request

TRAIN = Path(__file__).with_name("train.py")
# marks a folder as an earlier demo's
MARK = "demo.json"
# what a demo makes beside it
PARTS = ("train", "held_out", "longer", "fresh1", "fresh2", "real", "report.html", "report.json")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much of everything."""

    # clips of each source
    train: int
    held_out: int
    # optimizer steps: on from the shipped model, and of stages 1 and 2 from nothing
    longer: int
    fresh: tuple[int, int]
    # stage 2 takes fewer steps if both would take longer
    seconds: float
    # sampling steps of what is generated; of estimates they are the card's
    sampling: int
    # model that learns from nothing
    model: str = "tiny"
    frames: int = 17
    size: int = 64
    batch: int = 8
    # peak rate on from the shipped model, whose own rate has long fallen
    rate: float = 1e-4


SCALES = {
    "full": Scale(train=40, held_out=4, longer=4, fresh=(12, 60), seconds=36.0, sampling=12),
    # for the tests: everything runs, nothing is learnt
    "quick": Scale(
        train=2, held_out=1, longer=2, fresh=(2, 2), seconds=60.0, sampling=2, model="debug", frames=9, size=32
    ),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Show the shipped model, train on from it and from nothing, and write a report."""

    # folder of everything that is made; what an earlier demo made in it is deleted first
    out: Path = Path("runs/demo")
    # full takes minutes, quick only shows that all parts run
    scale: Literal[tuple(SCALES)] = "full"
    # classifier-free guidance of the samples that have a caption
    guidance: Annotated[float, real(0, 100)] = 2.0
    # of the clips, the training and the samples
    seed: Annotated[int, whole(0, 2**31)] = 0


def run(options: Options) -> Path:
    """Run all parts and return the report's path; stops at the first part that fails."""
    check_bounds(options)
    scale, out = SCALES[options.scale], options.out.absolute()
    _start_anew(out, options)
    clock, seed = Clock(), options.seed
    with clock("simulate held-out clips"):
        _simulate(out / "held_out", scale.held_out, scale, 2 * seed + 1, "--values")
    shipped = load_generator(SHIPPED)
    with clock("the shipped model on held-out clips"):
        exams = _examine(shipped, out / "held_out", scale, options)
    with clock("the shipped model on a real video"):
        film = _film(shipped, out / "real", scale, options)
    with clock("simulate clips to learn from"):
        _simulate(out / "train", scale.train, scale, 2 * seed)
    learners = {"as shipped": Learner.of(shipped, {name: exam.scores["model"] for name, exam in exams.items()})}
    with clock(f"train on from it, {scale.longer} steps"):
        _train(out, "longer", 2, scale.longer, scale, "--init", SHIPPED, "--optim.lr", scale.rate)
    first = scale.fresh[0]
    with clock(f"train from nothing, {first} steps of stage 1"):
        _train(out, "fresh1", 1, first, scale, "--model", scale.model)
    second = _affordable(scale, _journal(out / "fresh1"))
    with clock(f"and {second} steps of stage 2"):
        _train(out, "fresh2", 2, second, scale, "--resume", out / "fresh1")
    with clock("what both have learnt"):
        for title, runs in (("trained on", ("longer",)), ("from nothing", ("fresh1", "fresh2"))):
            generator = load_generator(out / runs[-1])
            journals = {name: _journal(out / name) for name in runs}
            learners[title] = Learner.of(generator, _scores(generator, out / "held_out", scale, seed), journals)
    findings = Findings(
        machine=_machine(),
        seconds=clock.seconds,
        learners=learners,
        clips=sum(open_shards(out / "train").counts.values()),
        batch=scale.batch,
        exams=exams,
        film=film,
        guidance=options.guidance,
        sampling=scale.sampling,
    )
    return _write(findings, out)


class Clock:
    """Says what begins and how long it took, and remembers it: seconds, and seconds of all cores together."""

    def __init__(self):
        self.seconds: dict[str, tuple[float, float]] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        print(f"\n== {part}", flush=True)
        start, worked = time.perf_counter(), _worked()
        yield
        self.seconds[part] = time.perf_counter() - start, _worked() - worked
        print(f"== {part}: {self.seconds[part][0]:.0f} s", flush=True)


def _worked() -> float:
    """Seconds that cores have worked for this process and its finished children."""
    return sum(os.times()[:4])


def _start_anew(out: Path, options: Options) -> None:
    """Delete what an earlier demo made, and nothing else; refuse a folder that no demo made."""
    if out.exists() and any(out.iterdir()):
        if not (out / MARK).is_file():
            raise ValueError(f"{out} holds something else than an earlier demo; give another --out")
        print(f"deleting the earlier demo in {out}")
        for path in (out / name for name in PARTS):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / MARK, json.loads(json.dumps(asdict(options) | asdict(SCALES[options.scale]), default=str)))


def _simulate(folder: Path, clips: int, scale: Scale, seed: int, *more: str) -> None:
    shape = ("--frames", scale.frames, "--size", scale.size)
    _run(
        sys.executable,
        "-m",
        "unity.data.simulate",
        "--out",
        folder,
        "--clips",
        clips,
        *shape,
        "--seed",
        seed,
        *more,
    )


def _train(out: Path, name: str, stage: int, steps: int, scale: Scale, *begin) -> None:
    folders = ("--data", out / "train", "--out", out / name)
    amount = ("--steps", steps, "--batch-size", scale.batch, "--picture-every", 0, "--save-every", steps)
    _run(Path(sys.executable).with_name("deepspeed"), TRAIN, "--stage", stage, *begin, *folders, *amount)


def _affordable(scale: Scale, journal: list[dict]) -> int:
    """Steps of stage 2 in the time that stage 1, whose journal it is, has left."""
    pace = statistics.median(line["seconds"] for line in journal)
    left = scale.seconds - pace * len(journal)
    return min(scale.fresh[1], max(2, round(left / pace)))


def _run(*command) -> None:
    command = [str(part) for part in command]
    print("$", " ".join(command), flush=True)
    done = subprocess.run(command)
    if done.returncode:
        raise ValueError(f"this command failed with exit code {done.returncode}: {' '.join(command)}")


def _clips(folder: Path, modality: str) -> list[Clip]:
    """The held-out clips that have a modality."""
    shards = open_shards(folder)
    clips = (shards.clip(source, i) for source, count in shards.counts.items() for i in range(count))
    return [clip for clip in clips if modality in clip.available]


def _examine(generator: Generator, folder: Path, scale: Scale, options: Options) -> dict[str, Exam]:
    exams = {}
    for name in MODALITIES:
        clips = _clips(folder, name)
        exams[name] = examine(
            generator, name, clips, steps=scale.sampling, guidance=options.guidance, seed=options.seed
        )
        scores = ", ".join(f"{k} {v:.3f}" for k, v in exams[name].scores["model"].items())
        print(f"{name}, {len(clips)} clips: {scores}", flush=True)
    return exams


def _scores(generator: Generator, folder: Path, scale: Scale, seed: int) -> dict[str, dict[str, float]]:
    """Modality → the scores of its estimates."""
    found = {}
    for name in MODALITIES:
        clips = _clips(folder, name)
        _, estimated = draw(generator, "estimate", name, clips, guidance=1.0, seed=seed)
        found[name] = estimate_scores(generator, name, estimated, clips)["model"]
    return found


def _film(generator: Generator, folder: Path, scale: Scale, options: Options) -> dict:
    """The package's video and each modality estimated from it, as the program `unity.infer` writes them."""
    rows = {}
    for name in MODALITIES:
        request = Request(modality=name, video=SAMPLE, out=folder / name, seed=options.seed)
        result = infer(request, generator)
        rows |= {"video": result.video["rgb"], name: result.video[name]}
    return rows


def _journal(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _machine() -> str:
    """Processor or GPU, cores, and the commit, for whoever compares numbers."""
    names = [line.split(":")[1].strip() for line in _text("/proc/cpuinfo").splitlines() if "model name" in line]
    chip = torch.cuda.get_device_name() if torch.cuda.is_available() else (names or [platform.machine()])[0]
    git = ["git", "-C", str(TRAIN.parent), "describe", "--always", "--dirty", "--abbrev=10"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    return f"{chip}, {os.cpu_count()} cores, commit {commit or 'unknown'}"


def _text(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


def _write(findings: Findings, out: Path) -> Path:
    """report.html, and the same numbers in report.json."""
    html = page("What the model can do", lead(findings), sections(findings))
    numbers = {
        "machine": findings.machine,
        "seconds": findings.seconds,
        "scores": {name: exam.scores for name, exam in findings.exams.items()},
        "learners": {name: learner.scores for name, learner in findings.learners.items()},
        "errors": {name: exam.errors for name, exam in findings.exams.items()},
    }
    write_json(out / "report.json", numbers)
    write_text(out / "report.html", html)
    return out / "report.html"
