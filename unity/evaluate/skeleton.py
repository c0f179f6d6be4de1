"""Keypoints of people against the truth."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment

People = Float[np.ndarray, "t p 18 3"]
Frame = Float[np.ndarray, "p 18 3"]
# of a prediction, which may find another number of people
Found = Float[np.ndarray, "t found 18 3"]


def score(prediction: Found, truth: People, threshold: float = 0.1) -> dict[str, float]:
    """PCK, share of the truly visible joints found, and the share of the predicted joints that are right.

    A joint is right within `threshold` times the longer side of the box around its true person's visible joints
    (Yang & Ramanan, 2013). In each frame people are matched one-to-one such that most joints are right. The
    first is NaN where no joint is visible, the second where none is predicted.
    """
    right = sum(_right(*frames, threshold) for frames in zip(prediction, truth, strict=True))
    visible, claimed = (int((people[..., 2] > 0.5).sum()) for people in (truth, prediction))
    return {
        "pck": right / visible if visible else float("nan"),
        "precision": right / claimed if claimed else float("nan"),
    }


def _right(prediction: Float[np.ndarray, "found 18 3"], truth: Frame, threshold: float) -> int:
    """How many joints of a frame are right under the best matching of people."""
    seen = truth[..., 2] > 0.5
    distance = np.linalg.norm(truth[:, None, :, :2] - prediction[None, :, :, :2], axis=-1)
    near = distance <= threshold * _sizes(truth, seen)[:, None, None]
    hits = (near & seen[:, None] & (prediction[None, ..., 2] > 0.5)).sum(-1)
    return int(hits[linear_sum_assignment(hits, maximize=True)].sum())


def _sizes(people: Frame, seen: Bool[np.ndarray, "p 18"]) -> Float[np.ndarray, " p"]:
    """Longer side of the box around each person's visible joints, at least a pixel."""
    low, high = (np.where(seen[..., None], people[..., :2], fill) for fill in (np.inf, -np.inf))
    sides = high.max(1, initial=-np.inf) - low.min(1, initial=np.inf)
    return sides.max(-1).clip(1)


def trivial(truth: People) -> Found:
    """Nobody is there."""
    return np.zeros_like(truth[:, :0])
