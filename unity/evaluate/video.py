"""Pictures against pictures."""

import numpy as np
from jaxtyping import UInt8

Video = UInt8[np.ndarray, "t h w 3"]


def psnr(prediction: Video, truth: Video) -> float:
    """Peak signal-to-noise ratio of a clip in dB, inf for equal ones."""
    error = np.square(prediction.astype(np.float64) - truth).mean()
    return float(10 * np.log10(255**2 / error)) if error else float("inf")
