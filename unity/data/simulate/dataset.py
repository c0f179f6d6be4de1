"""Datasets of simulated clips, made by parallel processes."""

import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from unity.data.clips import SOURCES, Clip
from unity.data.shards import merge_parts, write_part
from unity.data.simulate.clip import simulate
from unity.randomness import fold


@dataclass(frozen=True, kw_only=True)
class Options:
    """Simulate a dataset. The same options but for `workers` give the same clips in the same order."""

    # folder to write; it must not exist
    out: Path
    # clips of every source
    clips: int
    # pictures a clip; the codec wants 4k + 1
    frames: int = 33
    # height and width in pixels
    size: int = 128
    # frames a second
    fps: float = 16.0
    # every clip is a function of it, its source and its number
    seed: int = 0
    # processes
    workers: int = os.cpu_count() or 1
    # kinds of scenes
    sources: tuple[str, ...] = SOURCES
    # keep exact float values beside the videos (about ten times the bytes)
    values: bool = False


def make_dataset(options: Options) -> None:
    """Write the dataset; ValueError for what cannot be made."""
    tasks = [(source, index) for source in options.sources for index in range(options.clips)]
    if not tasks or options.workers < 1:
        raise ValueError(
            f"nothing to do with {options.clips} clips and {options.workers} workers: give at least 1 of each"
        )
    if options.out.exists():
        raise ValueError(f"{options.out} exists: choose another folder, or delete it first")
    # Checks the options, and compiles the kernels once rather than in every worker.
    simulate(0, options.sources[0], 2, (options.size, options.size), options.fps)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{options.out.name}.", dir=options.out.parent) as stage:
        shares = _shares(tasks, options.workers)
        parts = [Path(stage) / f"part{number}" for number in range(len(shares))]
        _run(options, shares, parts)
        merge_parts(parts, options.out, options.seed)
    print(f"{options.out}: {len(tasks)} clips of {len(options.sources)} sources")


def _shares(tasks: list, workers: int) -> list[list]:
    """Contiguous shares of nearly equal length, so that the order of clips does not depend on the workers."""
    count = min(workers, len(tasks))
    edges = [len(tasks) * number // count for number in range(count + 1)]
    return [tasks[start:end] for start, end in zip(edges[:-1], edges[1:], strict=True)]


def _run(options: Options, shares: list[list], parts: list[Path]) -> None:
    spawn = multiprocessing.get_context("spawn")
    done = spawn.Value("l", 0)
    total = sum(len(share) for share in shares)
    with (
        tqdm(total=total, unit="clip", desc=str(options.out)) as bar,
        ProcessPoolExecutor(len(shares), spawn, initializer=_remember, initargs=(done,)) as pool,
    ):
        waiting = {pool.submit(_work, options, share, part) for share, part in zip(shares, parts, strict=True)}
        while waiting:
            finished, waiting = wait(waiting, timeout=0.5, return_when=FIRST_EXCEPTION)
            bar.update(done.value - bar.n)
            for future in finished:
                future.result()


def _remember(counter) -> None:
    """Give this worker the counter of finished clips, which only process start can hand over."""
    global _done
    _done = counter


def _work(options: Options, share: list[tuple[str, int]], part: Path) -> None:
    write_part(_clips(options, share), part, values=options.values)


def _clips(options: Options, share: list[tuple[str, int]]) -> Iterator[Clip]:
    for source, index in share:
        seed = fold(options.seed, SOURCES.index(source), index)
        yield simulate(seed, source, options.frames, (options.size, options.size), options.fps)
        with _done.get_lock():
            _done.value += 1
