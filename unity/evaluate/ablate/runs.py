"""The runs that tables need: which there are, which are done, and how one is done. A run is whole or absent."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from unity.command import say
from unity.evaluate.ablate.arms import ARMS
from unity.evaluate.ablate.scales import SCALES, Scale
from unity.evaluate.ablate.tables import TABLES
from unity.files import json_text, write_json

RESULT = "measures.json"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One arm from one seed; arms that several tables name are run once."""

    arm: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a job: its numbers, and those of its marks by step."""

    measures: dict[str, float]
    marks: list[dict[str, float]]
    # processor seconds of training and of measuring
    seconds: dict[str, float]


def jobs(tables: Sequence[str], seeds: int) -> list[Job]:
    """Seed by seed, so that what is stopped early has all arms of some seeds."""
    arms = dict.fromkeys(arm for table in tables for arm in TABLES[table].arms)
    return [Job(arm=arm, seed=seed) for seed in range(seeds) for arm in arms]


def asked(job: Job, scale: Scale) -> dict:
    """All that decides a result, as JSON has it. What an arm is called, and costs, does not."""
    arm, size = asdict(ARMS[job.arm]), asdict(scale)
    for cost in ("step_seconds", "exam_seconds", "words"):
        size.pop(cost)
    arm.pop("words")
    return json.loads(json_text({"arm": arm, "scale": size, "seed": job.seed}))


def result_of(job: Job, scale: Scale, folder: Path) -> Result | None:
    """What was measured, None where it is still to be done; ValueError where something else is in its place."""
    path = folder / job.name / RESULT
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
        known = content.pop("asked")
        result = Result(**content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, and it is made again") from error
    if known != asked(job, scale):
        raise ValueError(f"{path} is of other settings; give another --out, or delete {path.parent}")
    return result


def do(todo: Sequence[Job], scale: Scale, folder: Path, data: tuple[Path, Path]) -> None:
    """Train and measure what is not there yet; a job that another process works on is left to it."""
    waiting = [job for job in todo if result_of(job, scale, folder) is None]
    say(f"ablate: {len(todo)} runs, of which {len(todo) - len(waiting)} are done already")
    if not waiting:
        return
    one = worker(scale, folder, data)
    for number, job in enumerate(waiting, 1):
        place = folder / job.name
        place.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(place / ".lock", timeout=0):
                if result_of(job, scale, folder) is None:
                    result = one(job)
                    took = " + ".join(f"{seconds:.0f} s {what}" for what, seconds in result.seconds.items())
                    say(f"[{number}/{len(waiting)}] {job.name}: {took}")
        except Timeout:
            say(f"[{number}/{len(waiting)}] {job.name}: another process is at it")


def worker(scale: Scale, folder: Path, data: tuple[Path, Path]) -> Callable[[Job], Result]:
    """What does a job: with everything loaded that all jobs share."""
    # seconds of imports, and only where something is to be done
    from unity.evaluate.ablate.measure import at_end, at_mark, marks, open_model, read_clips
    from unity.evaluate.ablate.training import options_of, trainer

    train, clips, encoders = trainer(), read_clips(data[1]), {}

    def one(job: Job) -> Result:
        arm, place, begun = ARMS[job.arm], folder / job.name, time.process_time()
        options = options_of(arm, scale, job.seed, data[0], place / "run")
        train(options)
        trained = time.process_time()
        models = list(marks(place / "run", scale.steps // scale.marks))
        if not models or models[-1][0] < scale.steps:
            # a signal asked it to save and leave
            raise SystemExit(143)
        numbers = [{"step": step, **at_mark(open_model(path, encoders), arm, clips)} for step, path in models]
        measures = at_end(open_model(models[-1][1], encoders), arm, clips, numbers[-1])
        seconds = {"training": trained - begun, "measuring": time.process_time() - trained}
        result = Result(measures=measures, marks=numbers, seconds={k: round(v, 1) for k, v in seconds.items()})
        write_json(place / RESULT, {"asked": asked(job, scale), **asdict(result)})
        # all that was wanted of it
        shutil.rmtree(place / "run")
        return result

    return one


def with_first(result: Result) -> dict[str, float]:
    """The measures, and those of the first mark as NAME@first."""
    return result.measures | {f"{name}@first": value for name, value in result.marks[0].items()}


def plan(tables: Sequence[str], scale_name: str, seeds: int, folder: Path) -> str:
    """The arms of tables, what differs in them, and what is still to be paid, in words."""
    scale, todo = SCALES[scale_name], jobs(tables, seeds)
    waiting = [job for job in todo if result_of(job, scale, folder) is None]
    lines = [f"table {name}: {TABLES[name].words}: {', '.join(TABLES[name].arms)}" for name in tables]
    for arm in dict.fromkeys(job.arm for job in todo):
        row = ARMS[arm]
        differs = {**row.architecture, **row.routing, **row.options}
        said = ", ".join(f"{name} {value}" for name, value in differs.items()) or "nothing"
        lines.append(f"arm {arm}: {row.words}; differs in {said}")
    each = scale.steps * scale.step_seconds + scale.exam_seconds
    size = f"{scale.batch} clips of {scale.frames} frames of {scale.size}x{scale.size}"
    lines.append(f"scale {scale_name} ({scale.words}): {scale.steps} steps of {size}, {seeds} seeds")
    minutes = each * len(waiting) / 60
    lines.append(f"{len(todo)} runs, {len(waiting)} still to do, about {each:.0f} s each: {minutes:.0f} minutes")
    return "\n".join(lines)
