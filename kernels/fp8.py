"""8-bit floats (e4m3) with one float32 scale a row, written by the pass that computes the row."""

import torch
from torch import Tensor

from unity.kernels.jit import ABSENT, tl, triton
from unity.kernels.passes import INTERPRETED


@triton.jit
def divide(a, b, A: tl.constexpr, B: tl.constexpr, T: tl.constexpr):
    """Both parts of a row divided by its scale, and the scale: the largest number becomes 448."""
    largest_a = tl.max(tl.reshape(tl.abs(a), [T, A // T]), 1)
    largest_b = tl.max(tl.reshape(tl.abs(b), [T, B // T]), 1)
    largest = tl.maximum(tl.max(tl.maximum(largest_a, largest_b), 0), 1e-12)
    inverse = 448.0 / largest
    return a * inverse, b * inverse, largest / 448.0


def refusal(x: Tensor) -> str | None:
    """Why 8-bit floats cannot be written on this tensor's device, or None."""
    if ABSENT:
        return ABSENT
    if x.is_cuda and torch.cuda.get_device_capability(x.device) < (8, 9):
        return "e4m3 needs compute capability 8.9"
    return None if x.is_cuda or INTERPRETED else f"x is on {x.device.type}"
