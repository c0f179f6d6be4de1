"""Many requests with one model, in one go that goes on where it was stopped.

python -m unity.jobs films --modality depth,flow      each film of a folder, below the same name in --out
python -m unity.jobs jobs.jsonl                       each line of a file: {"modality": "depth", "video": "a.mp4"}

A line holds options of `python -m unity.infer`, and may have a "name", the folder of its results in --out. Options
given here hold for all jobs. What is done already, with the same options and from the same film, is not done
again. What fails is told at the end, and tried again by the next run.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar, get_type_hints

import tyro
from filelock import FileLock, Timeout

from unity.command import end, say, sentence, share_of
from unity.files import check_writable, json_text, plain
from unity.request import Request, command_line
from unity.thrift import thrift_of
from unity.typed import typed

if TYPE_CHECKING:
    from unity.generate import Generator

Piece = TypeVar("Piece")
# what is taken for a film in a folder
FILMS = {".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv"}


@dataclass(frozen=True, kw_only=True)
class Options(Request):
    """The same options for all jobs; see `python -m unity.infer --help`."""

    # folder of films, or file with a job on each line
    jobs: tyro.conf.Positional[Path]
    # as for unity.infer; lines of a file may name their own
    modality: str = ""
    # folder of all results, each job's in one of its own
    out: Path = Path("runs/jobs")
    # which share of the jobs this process does, 2/8 for the second of eight: for several GPUs, or a SLURM array
    part: str = "1/1"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One request, and the name of its results, which is unique among all jobs."""

    name: str
    request: Request

    @property
    def asked(self) -> dict:
        """What makes it the same job as an earlier one: its options, and its film by size and time."""
        film, state = self.request.film, None
        if film is not None and film.is_file():
            state = [film.stat().st_size, film.stat().st_mtime_ns]
        return {"command": command_line(replace(self.request, out=None, device=None)), "film": state}


class Journal:
    """A line for each job that ended: what was asked, and `done` or why not. A torn last line counts as none."""

    def __init__(self, path: Path):
        self.path, self._done, self._torn = path, {}, False
        # of other shares, too: jobs may be shared out anew
        for other in sorted(path.parent.glob("journal*.jsonl")):
            text = other.read_text(errors="replace")
            self._torn |= other == path and not text.endswith("\n")
            for line in text.splitlines():
                self._read(line)

    def has(self, job: Job) -> bool:
        """Whether the job was done as it is asked for now, and its results are still there."""
        results = job.request.out or Path()
        return self._done.get(job.name) == job.asked and (results / "run.json").is_file()

    def add(self, job: Job, asked: dict, why: str | None, seconds: float) -> None:
        """`why` it failed, or None."""
        entry = {"name": job.name, "done": why is None, "why": why, "seconds": round(seconds, 1), **asked}
        line = "\n" * self._torn + json_text(entry, indent=None) + "\n"
        with self.path.open("a") as file:
            file.write(line)
        self._torn = False

    def _read(self, line: str):
        try:
            entry = json.loads(line)
            asked = {"command": entry["command"], "film": entry["film"]}
            self._done[entry["name"]] = asked if entry["done"] else None
        except (ValueError, KeyError, TypeError):
            return


def read_jobs(options: Options) -> list[Job]:
    """All jobs that are asked for, in an order of their own names or lines.

    Raises ValueError for what holds no jobs, and for the first line that is none.
    """
    base = Request(**{field.name: getattr(options, field.name) for field in fields(Request)})
    if options.jobs.is_dir():
        if base.film:
            raise ValueError(
                f"{options.jobs} is a folder of films: leave --video, --condition and --control-from out"
            )
        jobs = list(_films(options.jobs, base))
        missing = f"{options.jobs} holds no film (a file that ends in {' '.join(sorted(FILMS))})"
    elif options.jobs.is_file():
        jobs = list(_lines(options.jobs, base))
        missing = f'{options.jobs} holds no job; a line is {{"modality": "depth", "video": "a.mp4"}}'
    else:
        raise ValueError(
            f"there is no {plain(str(options.jobs))}; give a folder of films, or a file of JSON lines"
        )
    if not jobs:
        raise ValueError(missing)
    twice = [name for name, count in Counter(job.name for job in jobs).items() if count > 1]
    if twice:
        raise ValueError(f"two jobs are named {plain(twice[0])!r}; give each a name of its own")
    if any(not job.request.modality for job in jobs):
        raise ValueError("no modality is named; give --modality depth, or one on each line")
    return jobs


def _films(folder: Path, base: Request) -> Iterator[Job]:
    out = Path(base.out or ".")
    paths = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in FILMS and p.is_file()]
    # not what is hidden, and not the results of an earlier run inside
    hidden = [any(part.startswith(".") for part in path.relative_to(folder).parts) for path in paths]
    paths = [
        p for p, h in zip(paths, hidden, strict=True) if not h and not p.resolve().is_relative_to(out.resolve())
    ]
    stems = Counter(path.with_suffix("") for path in paths)
    for path in paths:
        name = (path if stems[path.with_suffix("")] > 1 else path.with_suffix("")).relative_to(folder).as_posix()
        yield Job(name=name, request=replace(base, video=path, out=out / name))


def _lines(path: Path, base: Request) -> Iterator[Job]:
    kinds = get_type_hints(Request)
    # these are one for all
    closed = {"out", "modalities"}
    for number, line in enumerate(path.read_text("utf-8-sig", errors="surrogateescape").splitlines(), 1):
        if not line.strip():
            continue
        try:
            given = json.loads(line)
            if not isinstance(given, dict):
                raise ValueError("it is no object {...}")
            given = {key.replace("-", "_"): value for key, value in given.items()}
            name = _name(given.pop("name", f"{number:05}"))
            if unknown := given.keys() - (kinds.keys() - closed):
                raise ValueError(f"{sorted(unknown)[0]!r} is nothing that a line can say")
            request = replace(base, **{key: typed(kinds[key], value, key) for key, value in given.items()})
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} of {plain(str(path))} is no job: {error}") from None
        yield Job(name=name, request=replace(request, out=Path(base.out or ".") / name))


def _name(name: object) -> str:
    """A folder below another; ValueError for what could lie elsewhere."""
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    fine = parts and not {"..", "/"} & {*parts} and "\\" not in str(name) and ":" not in str(name)
    if not fine or any(part.startswith(".") for part in parts):
        raise ValueError(f"its name {name!r} is no name of a folder; give one such as clips/a")
    return "/".join(parts)


def share(jobs: Sequence[Piece], part: str) -> Sequence[Piece]:
    """Every n-th job of `part` "i/n", from the i-th on; ValueError for what is no part."""
    return jobs[share_of(part)]


def run(options: Options) -> None:
    """Do what is not done yet; ValueError at the end where a job failed."""
    jobs = share(read_jobs(options), options.part)
    check_writable(options.out)
    options.out.mkdir(parents=True, exist_ok=True)
    suffix = "" if options.part == "1/1" else "-" + options.part.replace("/", "-of-")
    path = options.out / f"journal{suffix}.jsonl"
    try:
        with FileLock(path.with_suffix(".lock"), timeout=0):
            _run(jobs, Journal(path))
    except Timeout:
        raise ValueError("another process does these jobs; give each its own --part, or another --out") from None


def _run(jobs: Sequence[Job], journal: Journal) -> None:
    waiting = [job for job in jobs if not journal.has(job)]
    say(f"jobs: {len(jobs)}, of which {len(jobs) - len(waiting)} are done already")
    worker, failed = _Worker(), 0
    for number, job in enumerate(waiting, 1):
        # as it is now: a film that is replaced meanwhile is not the one that was asked for
        begun, asked, why = time.monotonic(), job.asked, None
        try:
            worker.do(job.request)
        except (ValueError, OSError, MemoryError) as error:
            why = sentence(error)
        failed += why is not None
        journal.add(job, asked, why, time.monotonic() - begun)
        said = f"{job.request.out}" if why is None else f"failed: {why}"
        print(f"[{number}/{len(waiting)}] {plain(job.name)}: {plain(said)}", flush=True)
    if failed:
        raise ValueError(
            f"{failed} of {len(jobs)} jobs failed, {journal.path} says why; the same command tries them again"
        )


class _Worker:
    """The last model that was asked for stays loaded."""

    def __init__(self):
        self._of, self._generator = None, None

    def do(self, request: Request) -> None:
        # torch takes seconds to load, and a question about flags needs none of it
        from unity.answer import answer

        answer(request, self._loaded(request), lambda words: None)

    def _loaded(self, request: Request) -> "Generator":
        from unity.generate import load_generator
        from unity.plan import card_of, lora_of, plan_request
        from unity.request import SHIPPED

        weights = (
            request.checkpoint,
            request.device,
            request.codec_weights,
            request.text_weights,
            lora_of(request),
            thrift_of(request),
        )
        if self._generator is None or self._of != weights:
            plan_request(request, card_of(request))
            # not two at once
            self._generator = None
            self._generator = load_generator(request.checkpoint or SHIPPED, *weights[1:])
            self._of = weights
        return self._generator


def main() -> None:
    options = tyro.cli(Options, prog="python -m unity.jobs", description=__doc__)
    # before anything knows the table
    from unity.modality.plug_in import use

    use(options.modalities)
    run(options)


if __name__ == "__main__":
    end("jobs", main)
