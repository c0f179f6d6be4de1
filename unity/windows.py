"""Films longer than a clip: overlapping windows, each estimated by itself, and their values as one clip's.

Neighbours share a third of their frames. There the later one is brought to the earlier one's terms (`agree` of a
modality: depth's scale, the numbers of instances and people), and one turns into the other: values that have
something in between are faded (`mix`), labels change in the middle.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from unity.modality.base import Modality


def places(frames: int, window: int) -> list[int]:
    """Where windows of `window` frames begin that cover all `frames`; the last one ends where they do.

    Raises ValueError for a film that is shorter than a window, and for windows that are too short to overlap.
    """
    if frames < window:
        raise ValueError(f"{frames} frames are fewer than the {window} of a window")
    if frames > window and window < 2:
        raise ValueError(f"windows of {window} frame cannot overlap; give a checkpoint that takes more at once")
    # of one frame there is one window
    step = max(1, window - max(1, window // 3))
    return [*range(0, frames - window, step), frames - window]


def cut(frames: Iterable[np.ndarray], starts: Sequence[int], window: int) -> Iterator[np.ndarray]:
    """The windows that begin at `starts`, of frames that come one after the other; one is held at a time."""
    coming, held, begin = iter(frames), [], 0
    for start in starts:
        held, begin = held[start - begin :], start
        held += itertools.islice(coming, window - len(held))
        yield np.stack(held)


class Joint:
    """Values of all frames from those of windows, as these come; one window is held at a time."""

    def __init__(self, row: Modality):
        self._row, self._tail, self._begin = row, None, 0

    def add(self, clip: np.ndarray, start: int) -> np.ndarray:
        """The next window, which begins at `start`; returns what is settled: the frames before it."""
        if self._tail is None:
            self._tail, self._begin = clip, start
            return clip[:0]
        before, shared = np.split(self._tail, [start - self._begin])
        if self._row.agree is not None:
            clip = self._row.agree(shared, clip)
        shared = as_many(shared, clip)
        joined = np.concatenate((_seam(self._row, shared, clip[: len(shared)]), clip[len(shared) :]))
        self._tail, self._begin = joined, start
        return before

    def rest(self) -> np.ndarray:
        """The frames from the last window's beginning on."""
        assert self._tail is not None
        return self._tail


def _seam(row: Modality, earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """From one to the other; the first frame is the earlier's, whose motion into it the later one has not seen."""
    count = len(earlier)
    if row.mix is None:
        half = (count + 1) // 2
        return np.concatenate((earlier[:half], later[half:]))
    weights = np.arange(count, dtype=np.float32) / count
    return row.mix(earlier, later, weights.reshape(-1, *(1,) * (earlier.ndim - 1)))


def as_many(people: np.ndarray, others: np.ndarray) -> np.ndarray:
    """With as many people as `others`, the added ones unseen; what holds no people stays as it is."""
    if people.ndim != 4 or people.shape[1] >= others.shape[1] or people.shape[2:] != others.shape[2:]:
        return people
    return np.pad(people, ((0, 0), (0, others.shape[1] - people.shape[1]), (0, 0), (0, 0)))
