"""Depth of a clip against the truth: absolute relative error and the share within 25%."""

import numpy as np
from jaxtyping import Float

Depth = Float[np.ndarray, "t h w"]


def score(prediction: Depth, truth: Depth, aligned: bool = True) -> dict[str, float]:
    """AbsRel, mean of |prediction - truth| / truth, and δ<1.25, share of max(p/t, t/p) < 1.25.

    Both depths in metres, inf where nothing is seen; pixels whose true depth is inf are left out, and nothing is
    farther than the farthest true surface. `aligned` first fits scale and shift of the inverse depth, once per
    clip, as a relative prediction needs (Ranftl et al., 2020, section 5).
    """
    seen = np.isfinite(truth)
    if not seen.any():
        return {"abs_rel": float("nan"), "delta_125": float("nan")}
    disparity, wanted = (1 / depth[seen].astype(np.float64) for depth in (prediction, truth))
    if aligned:
        disparity = align(disparity, wanted)
    # depth over true depth is true over predicted disparity
    ratio = wanted / np.maximum(disparity, wanted.min())
    return {
        "abs_rel": float(np.abs(ratio - 1).mean()),
        "delta_125": float((np.maximum(ratio, 1 / ratio) < 1.25).mean()),
    }


def align(disparity: Float[np.ndarray, " n"], wanted: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """`scale·disparity + shift` nearest to `wanted` in the mean square; the mean of `wanted` for a constant."""
    centred = disparity - disparity.mean()
    spread = np.square(centred).sum()
    # a constant has no scale; rounding leaves it a spread of about the square of the machine's precision
    flat = spread <= 1e-20 * np.square(disparity).sum()
    scale = 0.0 if flat else (centred * wanted).sum() / spread
    return wanted.mean() + scale * centred


def trivial(truth: Depth) -> Depth:
    """One depth everywhere; aligned, it is the clip's own mean inverse depth, the best of all constants."""
    return np.ones_like(truth)
