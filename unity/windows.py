"""Films longer than a clip: overlapping windows, each estimated by itself, and their values as one clip's.

Neighbours share a third of their frames. There the later one is brought to the earlier one's terms (`agree` of a
modality: depth's scale, the numbers of instances and people), and one turns into the other: values that have
something in between are faded (`mix`), labels change in the middle.
"""

from collections.abc import Sequence

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
    step = window - max(1, window // 3)
    return [*range(0, frames - window, step), frames - window]


def join(row: Modality, clips: Sequence[np.ndarray], starts: Sequence[int]) -> np.ndarray:
    """Values of all frames, from those of the windows that begin at `starts`."""
    pieces, tail, begin = [], clips[0], starts[0]
    for clip, start in zip(clips[1:], starts[1:], strict=True):
        before, shared = tail[: start - begin], tail[start - begin :]
        if row.agree is not None:
            clip = row.agree(shared, clip)
        shared = _as_many(shared, clip)
        pieces.append(before)
        tail, begin = np.concatenate((_seam(row, shared, clip[: len(shared)]), clip[len(shared) :])), start
    pieces.append(tail)
    return np.concatenate([_as_many(piece, tail) for piece in pieces])


def _seam(row: Modality, earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """From one to the other; the first frame is the earlier's, whose motion into it the later one has not seen."""
    count = len(earlier)
    if row.mix is None:
        half = (count + 1) // 2
        return np.concatenate((earlier[:half], later[half:]))
    weights = np.arange(count, dtype=np.float32) / count
    return row.mix(earlier, later, weights.reshape(-1, *(1,) * (earlier.ndim - 1)))


def _as_many(people: np.ndarray, others: np.ndarray) -> np.ndarray:
    """With as many people as `others`, the added ones unseen; what holds no people stays as it is."""
    if people.ndim != 4 or people.shape[1] >= others.shape[1] or people.shape[2:] != others.shape[2:]:
        return people
    return np.pad(people, ((0, 0), (0, others.shape[1] - people.shape[1]), (0, 0), (0, 0)))
