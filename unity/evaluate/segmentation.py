"""Instance masks of a clip against the truth; an instance's number means nothing, so they are matched first."""

import numpy as np
from jaxtyping import Float, Integer
from scipy.optimize import linear_sum_assignment

Labels = Integer[np.ndarray, "t h w"]


def score(prediction: Labels, truth: Labels) -> dict[str, float]:
    """IoU over the whole clip, one-to-one matched such that the sum is largest (Kuhn, 1955).

    `instance_iou` is the mean over true instances, 0 for one without a match, NaN without any instance; `miou`
    counts the background as one label more, matched to the predicted background.
    """
    overlap = iou_table(prediction, truth)
    instances = overlap[1:, 1:]
    present = np.unique(truth[truth > 0]) - 1
    found, match = linear_sum_assignment(instances, maximize=True)
    best = np.zeros(len(instances))
    best[found] = instances[found, match]
    every = best[present]
    if (truth == 0).any():
        every = np.append(every, overlap[0, 0])
    return {
        "miou": float(every.mean()),
        "instance_iou": float(best[present].mean()) if len(present) else float("nan"),
    }


def iou_table(prediction: Labels, truth: Labels) -> Float[np.ndarray, "true predicted"]:
    """Intersection over union of every true label with every predicted one; 0 where both are absent."""
    count = 1 + int(max(prediction.max(), truth.max()))
    pairs = np.bincount(truth.ravel().astype(np.int64) * count + prediction.ravel(), minlength=count * count)
    both = pairs.reshape(count, count).astype(np.float64)
    either = both.sum(1, keepdims=True) + both.sum(0) - both
    return np.divide(both, either, out=np.zeros_like(both), where=either > 0)


def trivial(truth: Labels) -> Labels:
    """Background alone."""
    return np.zeros_like(truth)
