"""The main job, small: make data, train both stages, infer, report. `make demo`, or `python launchers/demo.py`.

Everything is made in one folder (runs/demo), in minutes on two cores; report.html there says what came out of it
and how long each part took. Training goes on from the model in the package; `--scale fresh` learns from nothing.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from unity.data.clips import Clip
from unity.data.shards import open_shards
from unity.evaluate.held_out import Exam, examine
from unity.extras import require
from unity.generate import Generator, load_generator
from unity.infer import SAMPLE, SHIPPED, Request, infer
from unity.modality.table import MODALITIES
from unity.model.weights import read_card
from unity.report.demo import Findings, lead, sections
from unity.report.page import page

TRAIN = Path(__file__).with_name("train.py")
# marks a folder as an earlier demo's
MARK = "demo.json"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much of everything."""

    # clips of each source
    train: int
    held_out: int
    # optimizer steps of stage 1 and stage 2
    steps: tuple[int, int]
    # sampling steps
    sampling: int
    rate: float
    # weights that stage 1 starts from, or a size that starts from nothing
    init: Path | None = None
    model: str = "tiny"
    frames: int = 17
    size: int = 64
    # small batches: what a few hundred steps learn is limited by their number
    batch: int = 4


SCALES = {
    "full": Scale(train=40, held_out=4, steps=(100, 300), sampling=25, rate=5e-4, init=SHIPPED),
    "fresh": Scale(train=40, held_out=4, steps=(250, 650), sampling=25, rate=3e-3),
    # for the tests: everything runs, nothing is learnt
    "quick": Scale(train=2, held_out=1, steps=(2, 2), sampling=2, rate=3e-3, model="debug", frames=9, size=32),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Simulate clips, train both stages, sample all tasks of all modalities, and write a report."""

    # folder of everything that is made; an earlier demo in it is deleted first
    out: Path = Path("runs/demo")
    # full goes on from the model in the package, fresh learns from nothing, quick only shows that all parts run
    scale: Literal[tuple(SCALES)] = "full"
    # classifier-free guidance of the samples that have a caption
    guidance: float = 3.0
    # of the clips, the training and the samples
    seed: int = 0


def main(options: Options) -> Path:
    """Run all parts and return the report's path; stops at the first part that fails."""
    require("train", "simulate", "report")
    scale, out = SCALES[options.scale], options.out.absolute()
    _start_anew(out, options)
    clock = Clock()
    with clock("simulate clips to learn from"):
        _simulate(out / "train", scale.train, scale, 2 * options.seed)
    with clock("simulate held-out clips"):
        _simulate(out / "held_out", scale.held_out, scale, 2 * options.seed + 1, "--values")
    for stage, steps in enumerate(scale.steps, start=1):
        with clock(f"train stage {stage}, {steps} steps"):
            _train(out, stage, steps, scale, options.seed)
    with clock("sample and score held-out clips"):
        generator = load_generator(out / "stage2")
        exams = _examine(generator, out / "held_out", scale, options)
    with clock("estimate on a real video"):
        film = _film(generator, out / "real", scale, options)
    findings = Findings(
        machine=_machine(),
        seconds=clock.seconds,
        start=None if scale.init is None else read_card(scale.init),
        card=generator.card,
        parameters=sum(p.numel() for p in generator.model.parameters()),
        clips=sum(open_shards(out / "train").counts.values()),
        batch=scale.batch,
        journals={stage: _journal(out / f"stage{stage}") for stage in (1, 2)},
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
    if out.exists() and any(out.iterdir()):
        if not (out / MARK).is_file():
            raise ValueError(f"{out} holds something else than an earlier demo; give another --out")
        print(f"deleting the earlier demo in {out}")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).write_text(json.dumps(asdict(options) | asdict(SCALES[options.scale]), default=str, indent=2))


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


def _train(out: Path, stage: int, steps: int, scale: Scale, seed: int) -> None:
    begin = ("--model", scale.model) if scale.init is None else ("--init", scale.init)
    start = begin if stage == 1 else ("--resume", out / "stage1")
    folders = ("--data", out / "train", "--out", out / f"stage{stage}")
    amount = ("--steps", steps, "--batch-size", scale.batch, "--optim.lr", scale.rate)
    rest = ("--seed", seed, "--picture-every", 0, "--save-every", steps)
    launcher = Path(sys.executable).with_name("deepspeed")
    _run(launcher, TRAIN, "--stage", stage, *start, *folders, *amount, *rest)


def _run(*command) -> None:
    command = [str(part) for part in command]
    print("$", " ".join(command), flush=True)
    done = subprocess.run(command)
    if done.returncode:
        raise ValueError(f"this command failed with exit code {done.returncode}: {' '.join(command)}")


def _examine(generator: Generator, folder: Path, scale: Scale, options: Options) -> dict[str, Exam]:
    shards = open_shards(folder)
    clips = [shards.clip(source, i) for source, count in shards.counts.items() for i in range(count)]
    exams = {}
    for name in MODALITIES:
        start = time.perf_counter()
        having: list[Clip] = [clip for clip in clips if name in clip.available]
        exams[name] = examine(
            generator, name, having, steps=scale.sampling, guidance=options.guidance, seed=options.seed
        )
        scores = ", ".join(f"{k} {v:.3f}" for k, v in exams[name].scores["model"].items())
        print(f"{name}, {len(having)} clips: {scores} ({time.perf_counter() - start:.0f} s)", flush=True)
    return exams


def _film(generator: Generator, folder: Path, scale: Scale, options: Options) -> dict:
    """The package's video and each modality estimated from it, as the program `unity.infer` writes them."""
    rows = {}
    for name in MODALITIES:
        request = Request(modality=name, video=SAMPLE, out=folder / name, steps=scale.sampling, seed=options.seed)
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
    html = page("What the demo learnt", lead(findings), sections(findings))
    numbers = {
        "machine": findings.machine,
        "seconds": findings.seconds,
        "scores": {name: exam.scores for name, exam in findings.exams.items()},
        "errors": {name: exam.errors for name, exam in findings.exams.items()},
    }
    (out / "report.json").write_text(json.dumps(numbers, indent=2) + "\n")
    (out / "report.html").write_text(html)
    return out / "report.html"


if __name__ == "__main__":
    try:
        print(f"\nreport: {main(tyro.cli(Options, description=__doc__))}")
    except ValueError as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(2)
