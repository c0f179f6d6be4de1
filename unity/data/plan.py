"""Which clips and modalities a training step sees: a pure function of (seed, step).

Nothing is remembered between steps, so a run resumes by naming a step, with any number of workers and ranks.
"""

import functools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from unity.config import StageConfig
from unity.data.balance import tables
from unity.data.clips import MODALITY_NAMES, SOURCES
from unity.data.turns import Turns
from unity.randomness import Purpose, draw, generator, uniform

# clips of this many shards are shuffled together, so that few shards are in use at a time
SHUFFLED_SHARDS = 16


class Row(NamedTuple):
    """One sample of a global batch; source and modality are ids, and clip its number in its source and bucket."""

    step: int
    slot: int
    source: int
    clip: int
    modality: int
    bucket: int = 0


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a bucket holds, per source: clips in each shard, and which modalities each clip has."""

    sizes: Mapping[str, Sequence[int]]
    available: Mapping[str, Bool[np.ndarray, "count modalities"]]


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What a stage can use of a source's clips in a bucket: those that have one of its modalities, by number."""

    clips: Int[np.ndarray, " usable"]
    has: Bool[np.ndarray, "usable modalities"]
    # usable clips of each shard
    sizes: tuple[int, ...]
    # how many are not
    left_out: int


class Plan:
    """The global batches of a stage, whose clips lie in buckets of one shape each.

    Every batch holds each of the stage's sources equally often, each source's samples of one bucket. Slots of one
    bucket lie together: a micro-batch has one shape wherever its size divides `share`, on any number of ranks. Per
    source and bucket every clip is seen once per epoch. A sample's modality is drawn from a table
    (`unity.data.balance`), so that over all samples the stage's modalities are uniform although not every clip has
    each of them; clips that have none of them are left out, and a warning says how many.

    Raises ValueError for a batch that cannot be balanced, or a source or modality that no clip has.
    """

    def __init__(self, stage: StageConfig, batch_size: int, seed: int, buckets: Sequence[Held]):
        _check_batch(stage, batch_size)
        self.stage, self.batch_size, self.seed = stage, batch_size, seed
        self._ids = np.array([MODALITY_NAMES.index(name) for name in stage.modalities])
        self._parts = {source: [_part(held, source, self._ids) for held in buckets] for source in stage.sources}
        _check_parts(stage, self._parts, sorted({source for held in buckets for source in held.available}))
        counts = {source: [len(part.clips) for part in parts] for source, parts in self._parts.items()}
        self._turns = {source: Turns(seed, row) for source, row in counts.items()}
        # a usable clip's place among all of its source
        self._first = {source: np.cumsum([0, *row]) for source, row in counts.items()}
        has = {source: np.concatenate([part.has for part in parts]) for source, parts in self._parts.items()}
        self._row_of, self.table = tables(has, stage.modalities)

    def batch(self, step: int) -> list[Row]:
        """The samples of the global batch of a step, in the order of their slots."""
        order, turns = self.layout(step)
        return [self._row(step, slot, int(item), turns) for slot, item in enumerate(order)]

    @property
    def share(self) -> int:
        """Samples of each source in a global batch."""
        return self.batch_size // len(self.stage.sources)

    def layout(self, step: int) -> tuple[Int[np.ndarray, " batch"], dict[str, tuple[int, int]]]:
        """By slot the items of the batch, source i's from i·share on; per source its bucket, and turns before."""
        turns = {source: self._turns[source].at(step) for source in self.stage.sources}
        order = generator(Purpose.ORDER, self.seed, step).permutation(self.batch_size)
        buckets = np.array([turns[source][0] for source in self.stage.sources])[order // self.share]
        # buckets in the order in which the first of each comes up
        _, first, which = np.unique(buckets, return_index=True, return_inverse=True)
        return order[np.argsort(first[which], kind="stable")], turns

    def _row(self, step: int, slot: int, item: int, turns: Mapping[str, tuple[int, int]]) -> Row:
        source = self.stage.sources[item // self.share]
        bucket, before = turns[source]
        part, number = self._parts[source][bucket], SOURCES.index(source)
        epoch, place = divmod(before * self.share + item % self.share, len(part.clips))
        # the first bucket's position is that of a dataset without buckets
        position = (number, epoch, bucket) if bucket else (number, epoch)
        index = int(epoch_order(self.seed, position, part.sizes)[place])
        chances = self.table[self._row_of[source][self._first[source][bucket] + index]]
        return Row(step, slot, number, int(part.clips[index]), self._modality(step, slot, chances), bucket)

    def _modality(self, step: int, slot: int, chances: np.ndarray) -> int:
        """The id of one of the stage's modalities, drawn by their chances."""
        edges = np.cumsum(chances)
        drawn = np.searchsorted(edges / edges[-1], uniform(Purpose.MODALITY, self.seed, step, slot), "right")
        return int(self._ids[drawn])


def window_start(seed: int, step: int, slot: int, choices: int) -> int:
    """Where in its stored clip a sample's frames begin: one of `choices` places."""
    return draw(Purpose.WINDOW, seed, step, slot) % choices


@functools.lru_cache(maxsize=64)
def epoch_order(seed: int, position: tuple[int, ...], sizes: tuple[int, ...]) -> np.ndarray:
    """A permutation of clips: shards of these sizes in random order, clips shuffled within groups of shards.

    `position` is the source, the epoch and, but for the first one, the bucket.
    """
    random, starts = generator(Purpose.EPOCH, seed, *position), np.cumsum((0, *sizes))
    shards = random.permutation(len(sizes))
    groups = [shards[i : i + SHUFFLED_SHARDS] for i in range(0, len(shards), SHUFFLED_SHARDS)]
    clips = [np.concatenate([np.arange(starts[s], starts[s + 1]) for s in group]) for group in groups]
    return np.concatenate([random.permutation(group) for group in clips])


def _part(held: Held, source: str, ids: np.ndarray) -> _Part:
    sizes = held.sizes.get(source, ())
    if not sizes:
        nothing = np.zeros((0, len(ids)), bool)
        return _Part(clips=np.zeros(0, int), has=nothing, sizes=(), left_out=0)
    has = held.available[source][:, ids]
    usable = has.any(1)
    counts = np.add.reduceat(usable.astype(int), np.cumsum((0, *sizes))[:-1])
    kept = tuple(int(count) for count in counts if count)
    return _Part(clips=np.flatnonzero(usable), has=has[usable], sizes=kept, left_out=int((~usable).sum()))


def _check_batch(stage: StageConfig, batch_size: int):
    if batch_size < 1 or batch_size % len(stage.sources):
        nearest = max(1, math.ceil(batch_size / len(stage.sources))) * len(stage.sources)
        raise ValueError(
            f"a global batch of {batch_size} cannot hold the {len(stage.sources)} sources "
            f"{stage.sources} equally; use a multiple of {len(stage.sources)}, such as {nearest}"
        )


def _check_parts(stage: StageConfig, parts: Mapping[str, Sequence[_Part]], there: Sequence[str]):
    """ValueError for a source without clips and for a modality that none has; says what is left out.

    `there` are the sources that the dataset has.
    """
    views = ", ".join(stage.modalities)
    for source, row in parts.items():
        usable, left_out = sum(len(part.clips) for part in row), sum(part.left_out for part in row)
        count = usable + left_out
        if not count:
            raise ValueError(
                f"the dataset has no clips of source {source!r}, only of {there}; "
                f"add some (python -m unity.data.simulate --sources {source}) or train another stage"
            )
        if not usable:
            raise ValueError(f"no clip of {source!r} has any of {views}; annotate some, or train another stage")
        if left_out:
            logging.getLogger(__name__).warning(
                "%d of %d clips of %s have none of %s, and are left out",
                left_out,
                usable + left_out,
                source,
                views,
            )
    for column, name in enumerate(stage.modalities):
        if not any(part.has[:, column].any() for row in parts.values() for part in row):
            raise ValueError(
                f"no clip of {stage.sources} has modality {name!r}; annotate some, or leave it out of the stage"
            )
