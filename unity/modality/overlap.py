"""How label maps overlap, and which pairs belong together."""

import numpy as np
from jaxtyping import Float, Int, Integer, Num


def iou_table(
    prediction: Integer[np.ndarray, "t h w"], truth: Integer[np.ndarray, "t h w"]
) -> Float[np.ndarray, "true predicted"]:
    """Intersection over union of every true label with every predicted one; 0 where both are absent."""
    count = 1 + int(max(prediction.max(), truth.max()))
    pairs = np.bincount(truth.ravel().astype(np.int64) * count + prediction.ravel(), minlength=count * count)
    both = pairs.reshape(count, count).astype(np.float64)
    either = both.sum(1, keepdims=True) + both.sum(0) - both
    return np.divide(both, either, out=np.zeros_like(both), where=either > 0)


def best_pairs(gain: Num[np.ndarray, "m n"]) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Rows and columns paired one-to-one such that the sum of their gains is largest (Kuhn, 1955)."""
    # scipy takes a while to import, and only scores need it
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(gain, maximize=True)
