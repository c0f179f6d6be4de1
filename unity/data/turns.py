"""Which bucket of clips of one shape has its turn at which step.

All clips of a source have one shape in a batch, and so have all clips where its sources have the same buckets: one
draw decides for all of them.
"""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from unity.randomness import Purpose, generator, uniform

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


@functools.lru_cache(maxsize=4)
def points(seed: int, cycle: int) -> np.ndarray:
    """Of the steps of a cycle, the same for all sources."""
    shift = (uniform(Purpose.BUCKET, seed) + cycle * _GOLDEN) % 1
    return (generator(Purpose.BUCKET, seed, cycle).permutation(CYCLE) + shift) / CYCLE
