"""Values of a modality as an annotator gives them: measured for the gates, and brought to a clip's size."""

from collections.abc import Callable

import cv2
import numpy as np

from unity.data.annotate.base import Video
from unity.data.annotate.flow import moved
from unity.modality.overlap import best_pairs, iou_table

Values = np.ndarray
# shorter side, in pixels, at which motion is followed
_FOLLOWED = 256
# two masks of successive frames that have more than this share in common are one thing's
_SAME = 0.5


def measure(modality: str, values: Values, video: Video) -> dict[str, float]:
    """Numbers for the gates of a modality; what only its annotator can know comes from there."""
    return _MEASURES[modality](values, video) if modality in _MEASURES else {}


def _depth(values: Values, video: Video) -> dict[str, float]:
    """Mean change of inverse depth from frame to frame, along the motion that DIS sees, as a share of its range.

    Over what is seen in both frames: what only moves is no flicker. By DIS at a size of its own whoever annotates
    the flow, so that the bound means the same in every run; next to a network for depth that costs nothing.
    """
    by = max(1, min(video.shape[1:3]) // _FOLLOWED)
    inverse = 1 / shrink("depth", values, by)
    span, changes = max(float(np.ptp(inverse)), 1e-9), []
    ways = moved(_mean(video, by)) if len(video) > 1 else ()
    for before, after, (x, y, seen) in zip(inverse, inverse[1:], ways, strict=False):
        there = cv2.remap(after, x, y, cv2.INTER_LINEAR)
        changes.append(float(np.abs(there - before)[seen].mean()) / span if seen.any() else 1.0)
    return {"flicker": float(np.mean(changes)) if changes else 0.0}


def _skeleton(values: Values, video: Video) -> dict[str, float]:
    """Share of frames that show somebody, and mean joints of those who are shown."""
    joints = (values[..., 2] > 0.5).sum(-1)
    people = joints > 0
    shown = joints[people]
    return {"seen": float(people.any(1).mean()), "joints": float(shown.mean()) if shown.size else 0.0}


def _masks(labels: Values, video: Video) -> dict[str, float]:
    """Share of the picture that is no background, its overlap with the frame before, frames that show some."""
    front = labels > 0
    both, either = ((f(front[1:], front[:-1])).sum((1, 2)) for f in (np.logical_and, np.logical_or))
    overlap = np.where(either > 0, both / np.maximum(either, 1), 1.0)
    seen = float(front.any((1, 2)).mean())
    return {"cover": float(front.mean()), "overlap": float(overlap.mean()) if len(overlap) else 1.0, "seen": seen}


def _instances(labels: Values, video: Video) -> dict[str, float]:
    """And how often an instance goes on, from a frame to the next, under the number of another."""
    return _masks(labels, video) | {"swaps": float(sum(map(_renamed, labels, labels[1:])))}


def _renamed(before: Values, after: Values) -> int:
    table = iou_table(after[None], before[None])[1:, 1:]
    pairs = zip(*best_pairs(table), strict=True)
    return sum(bool(one != other and table[one, other] > _SAME) for one, other in pairs)


_MEASURES: dict[str, Callable[[Values, Video], dict[str, float]]] = {
    "depth": _depth,
    "skeleton": _skeleton,
    "segmentation": _instances,
    "densepose": lambda values, video: _masks(values[..., 0], video),
}


def shrink(modality: str, values: Values, by: int) -> Values:
    """Values of pictures that are a whole number `by` times smaller."""
    return values if by == 1 else _SMALLER[modality](values, by)


def _mean(values: Values, by: int) -> Values:
    size = (values.shape[2] // by, values.shape[1] // by)
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in values])


def _middle(values: Values, by: int) -> Values:
    """Of labels the one in the middle: there is no mean of names."""
    return np.ascontiguousarray(values[:, by // 2 :: by, by // 2 :: by])


def _points(values: Values, by: int) -> Values:
    """Whole numbers are pixel centres, before and after."""
    smaller = values.copy()
    smaller[..., :2] = (values[..., :2] + 0.5) / by - 0.5
    return smaller


_SMALLER: dict[str, Callable[[Values, int], Values]] = {
    # in the inverse, as it is drawn
    "depth": lambda values, by: (1 / _mean(1 / values, by)).astype(np.float32),
    "flow": lambda values, by: (_mean(values, by) / by).astype(np.float32),
    "skeleton": _points,
    "segmentation": _middle,
    "densepose": _middle,
}
