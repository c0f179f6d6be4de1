"""Rows written as 8-bit floats (e4m3) with one float32 scale a row, by the pass that computes them."""

from typing import NamedTuple

import torch
from torch import Tensor

from unity.kernels.jit import ABSENT, tl, triton
from unity.kernels.rows import INTERPRETED


class Quantized(NamedTuple):
    """Rows in 8 bits: values · scale is the tensor, values e4m3 [..., d], scale float32 [..., 1].

    `carrier` has the tensor's shape and wide dtype and no memory of its own (all strides are 0): it stands for
    the tensor in autograd, which cannot send a bf16 gradient through an 8-bit tensor. A linear layer that reads
    `values` returns the gradient of its input as the gradient of `carrier`.
    """

    values: Tensor
    scale: Tensor
    carrier: Tensor


@triton.jit
def quantize(a, b, A: tl.constexpr, B: tl.constexpr, T: tl.constexpr):
    """Both parts of a row divided by its scale, and the scale: the largest number becomes 448."""
    largest_a = tl.max(tl.reshape(tl.abs(a), [T, A // T]), 1)
    largest_b = tl.max(tl.reshape(tl.abs(b), [T, B // T]), 1)
    largest = tl.maximum(tl.max(tl.maximum(largest_a, largest_b), 0), 1e-12)
    inverse = 448.0 / largest
    return a * inverse, b * inverse, largest / 448.0


def empty_quantized(x: Tensor) -> Quantized:
    """Room for x in 8 bits, and its carrier."""
    values = x.new_empty(x.shape, dtype=torch.float8_e4m3fn)
    scale = x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
    return Quantized(values, scale, x.new_empty_strided(x.shape, (0,) * x.ndim))


def refusal(x: Tensor) -> str | None:
    """Why 8-bit rows cannot be written on this tensor's device, or None."""
    if ABSENT:
        return ABSENT
    if x.is_cuda and torch.cuda.get_device_capability(x.device) < (8, 9):
        return "e4m3 needs compute capability 8.9"
    return None if x.is_cuda or INTERPRETED else f"x is on {x.device.type}"
