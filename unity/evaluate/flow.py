"""Optical flow of a clip against the truth."""

import numpy as np
from jaxtyping import Float

Flow = Float[np.ndarray, "t h w 2"]


def score(prediction: Flow, truth: Flow) -> dict[str, float]:
    """EPE, the mean distance of flow vectors in pixels, and the share of vectors that are off by 1 pixel or more.

    Map 0 is left out: it repeats map 1 (unity.modality.base).
    """
    distance = np.linalg.norm(prediction[1:].astype(np.float64) - truth[1:], axis=-1)
    return {"epe": float(distance.mean()), "off_1px": float((distance >= 1).mean())}


def trivial(truth: Flow) -> Flow:
    """Nothing moves."""
    return np.zeros_like(truth)
