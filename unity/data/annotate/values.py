"""Values of a modality as an annotator gives them: measured for the gates, and brought to a clip's size."""

from collections.abc import Callable

import cv2
import numpy as np

Values = np.ndarray


def measure(modality: str, values: Values) -> dict[str, float]:
    """Numbers for the gates of a modality; what only its annotator can know comes from there."""
    return _MEASURES[modality](values) if modality in _MEASURES else {}


def _depth(values: Values) -> dict[str, float]:
    """Mean change of the inverse depth between frames, as a share of its range."""
    inverse = 1 / values
    span = max(float(np.ptp(inverse)), 1e-9)
    return {"flicker": float(np.abs(np.diff(inverse, axis=0)).mean() / span) if len(values) > 1 else 0.0}


def _skeleton(values: Values) -> dict[str, float]:
    """Share of frames that show somebody, and mean joints of those who are shown."""
    joints = (values[..., 2] > 0.5).sum(-1)
    people = joints > 0
    shown = joints[people]
    return {"seen": float(people.any(1).mean()), "joints": float(shown.mean()) if shown.size else 0.0}


def _masks(labels: Values) -> dict[str, float]:
    """Share of the picture that is no background, its overlap with the frame before, frames that show some."""
    front = labels > 0
    both, either = ((f(front[1:], front[:-1])).sum((1, 2)) for f in (np.logical_and, np.logical_or))
    overlap = np.where(either > 0, both / np.maximum(either, 1), 1.0)
    seen = float(front.any((1, 2)).mean())
    return {"cover": float(front.mean()), "overlap": float(overlap.mean()) if len(overlap) else 1.0, "seen": seen}


_MEASURES: dict[str, Callable[[Values], dict[str, float]]] = {
    "depth": _depth,
    "skeleton": _skeleton,
    "segmentation": _masks,
    "densepose": lambda values: _masks(values[..., 0]),
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
