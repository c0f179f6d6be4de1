"""Datasets of simulated clips, made by parallel processes."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from tqdm import tqdm

from unity.command import check_bounds, real, whole
from unity.data.claim import dataset_folder
from unity.data.clips import SOURCES
from unity.data.shards.write import join_parts, write_part
from unity.data.simulate.clip import simulate
from unity.data.simulate.workers import run_shares
from unity.randomness import fold


@dataclass(frozen=True, kw_only=True)
class Options:
    """Simulate a dataset. The same options but for `workers` give the same clips in the same order."""

    # folder to write; it must not exist, or be empty
    out: Path
    # clips of every source
    clips: Annotated[int, whole(1, 10_000_000)]
    # pictures a clip; the codec wants 4k + 1
    frames: Annotated[int, whole(2, 10_000)] = 33
    # height and width in pixels
    size: Annotated[int, whole(16, 4096)] = 128
    # frames a second
    fps: Annotated[float, real(0, 1000, above=True)] = 16.0
    # every clip is a function of it, its source and its number
    seed: Annotated[int, whole(0)] = 0
    # processes
    workers: Annotated[int, whole(1, 1024)] = os.cpu_count() or 1
    # kinds of scenes
    sources: tuple[str, ...] = SOURCES
    # keep exact float values beside the videos (about ten times the bytes)
    values: bool = False
    # Python files with modalities of your own, which say how they follow from the others
    modalities: tuple[Path, ...] = ()


def make_dataset(options: Options) -> None:
    """Write the dataset; ValueError for what cannot be made."""
    tasks = _tasks(options)
    with dataset_folder(options.out) as new:
        # Compiles the kernels once rather than in every worker.
        simulate(0, options.sources[0], 2, (16, 16), options.fps)
        shares = _shares(tasks, options.workers)
        parts = [new / f"part{number}" for number in range(len(shares))]
        with tqdm(total=len(tasks), unit="clip", desc=str(options.out)) as bar:
            run_shares(partial(_work, options), list(zip(shares, parts, strict=True)), bar.update)
        join_parts(parts, new, options.seed)
    print(f"{options.out}: {len(tasks)} clips of {len(options.sources)} sources")


def _tasks(options: Options) -> list[tuple[str, int]]:
    if min(options.clips, options.workers, len(options.sources)) < 1:
        raise ValueError(
            f"nothing to do with {options.clips} clips, {options.workers} workers and {len(options.sources)} "
            f"sources: give at least 1 of each"
        )
    check_bounds(options)
    strange = [source for source in options.sources if source not in SOURCES]
    if strange or len(set(options.sources)) < len(options.sources):
        raise ValueError(f"sources are {options.sources}; give some of {SOURCES}, each once")
    return [(source, index) for source in options.sources for index in range(options.clips)]


def _shares(tasks: list, workers: int) -> list[list]:
    """Contiguous shares of nearly equal length, so that the order of clips does not depend on the workers."""
    count = min(workers, len(tasks))
    edges = [len(tasks) * number // count for number in range(count + 1)]
    return [tasks[start:end] for start, end in zip(edges[:-1], edges[1:], strict=True)]


def _work(options: Options, share: tuple[list[tuple[str, int]], Path], done: Callable[[], object]) -> None:
    def clips():
        for source, index in share[0]:
            seed = fold(options.seed, SOURCES.index(source), index)
            yield simulate(seed, source, options.frames, (options.size, options.size), options.fps)
            done()

    write_part(clips(), share[1], values=options.values)
