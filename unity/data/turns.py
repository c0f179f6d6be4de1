"""Which bucket of clips of one shape has its turn at which step, and the global batches that follow.

All clips of a source have one shape in a batch, and so have all clips where its sources have the same buckets: one
draw decides for all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from unity.config import StageConfig
from unity.data.clips import MODALITY_NAMES, SOURCES
from unity.data.plan import Plan, Row, epoch_order, random_at
from unity.randomness import Purpose, uniform

# steps in which every bucket has its share of the turns, to one turn
CYCLE = 1024
# the golden section: its multiples fill a circle evenly, however many there are
_GOLDEN = (5**0.5 - 1) / 2


class Turns:
    """Turns of buckets with these `counts` of clips: each as often as it has clips, so that all are seen alike.

    In each cycle of steps evenly spaced points of [0, 1) come in random order, and a bucket has the turns whose
    points lie in its part, which is as long as its share. From cycle to cycle the points move on by the golden
    section, so that in the long run a bucket with less than a turn a cycle has no more than its share either.
    """

    def __init__(self, seed: int, counts: Sequence[int]):
        self._seed, self._edges = seed, np.cumsum(counts)[:-1] / sum(counts)
        # before each cycle
        self._had = [np.zeros(len(counts), np.int64)]

    def at(self, step: int) -> tuple[int, int]:
        """The bucket whose turn it is, and how many turns it had before."""
        cycle, place = divmod(step, CYCLE)
        while len(self._had) <= cycle:
            turns = np.bincount(self._cycle(len(self._had) - 1), minlength=len(self._had[0]))
            self._had.append(self._had[-1] + turns)
        buckets = self._cycle(cycle)
        bucket = int(buckets[place])
        return bucket, int(self._had[cycle][bucket] + (buckets[:place] == bucket).sum())

    def _cycle(self, cycle: int) -> Int[np.ndarray, " steps"]:
        """The buckets of a cycle's steps. A bucket without clips has an empty part, and never a turn."""
        return np.searchsorted(self._edges, points(self._seed, cycle), "right")


def points(seed: int, cycle: int) -> np.ndarray:
    """Of the steps of a cycle, the same for all sources."""
    shift = (uniform(Purpose.BUCKET, seed) + cycle * _GOLDEN) % 1
    return (random_at(Purpose.BUCKET, seed, cycle).permutation(CYCLE) + shift) / CYCLE


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a bucket holds, per source: clips in each shard, and which modalities each clip has."""

    sizes: Mapping[str, Sequence[int]]
    available: Mapping[str, Bool[np.ndarray, "count modalities"]]


class BucketPlan(Plan):
    """The global batches of a stage whose clips have several shapes; of one bucket, those of `Plan`.

    Each batch holds the sources equally, each source's samples of one bucket. Slots of one bucket lie together: a
    micro-batch has one shape wherever its size divides `share`, on any number of ranks.
    """

    def __init__(self, stage: StageConfig, batch_size: int, seed: int, buckets: Sequence[Held]):
        sizes = {s: [n for held in buckets for n in held.sizes.get(s, ())] for s in stage.sources}
        nothing = np.zeros((0, len(MODALITY_NAMES)), bool)
        tables = {s: [held.available.get(s, nothing) for held in buckets] for s in stage.sources}
        super().__init__(
            stage, batch_size, seed,
            {s: row for s, row in sizes.items() if row}, {s: np.concatenate(rows) for s, rows in tables.items()},
        )  # fmt: skip
        self._shards = {s: [tuple(held.sizes.get(s, ())) for held in buckets] for s in stage.sources}
        counts = {s: [sum(row) for row in rows] for s, rows in self._shards.items()}
        self._turns = {s: Turns(seed, row) for s, row in counts.items()}
        # a clip's number among all of its source
        self._first = {s: np.cumsum([0, *row]) for s, row in counts.items()}

    def layout(self, step: int) -> tuple[Int[np.ndarray, " batch"], dict[str, tuple[int, int]]]:
        """By slot the items of the batch, source i's from i·share on; per source its bucket, and turns before."""
        turns = {source: self._turns[source].at(step) for source in self.stage.sources}
        order = random_at(Purpose.ORDER, self.seed, step).permutation(self.batch_size)
        buckets = np.array([turns[source][0] for source in self.stage.sources])[order // self.share]
        # buckets in the order in which the first of each comes up
        _, first, which = np.unique(buckets, return_index=True, return_inverse=True)
        return order[np.argsort(first[which], kind="stable")], turns

    def batch(self, step: int) -> list[Row]:
        """The samples of the global batch of a step, in the order of their slots."""
        order, turns = self.layout(step)
        return [self._drawn(step, slot, int(item), turns) for slot, item in enumerate(order)]

    def _drawn(self, step: int, slot: int, item: int, turns: Mapping[str, tuple[int, int]]) -> Row:
        source = self.stage.sources[item // self.share]
        bucket, before = turns[source]
        sizes, number = self._shards[source][bucket], SOURCES.index(source)
        epoch, place = divmod(before * self.share + item % self.share, sum(sizes))
        # the first bucket's position is that of a plan without buckets
        position = (number, epoch, bucket) if bucket else (number, epoch)
        index = int(epoch_order(self.seed, position, sizes)[place])
        modality = self.modality(step, slot, source, int(self._first[source][bucket]) + index)
        return Row(step, slot, number, index, modality, bucket)
