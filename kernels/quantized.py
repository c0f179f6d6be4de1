"""A tensor in 8-bit floats (e4m3), and how its gradient finds it."""

from typing import NamedTuple

import torch
from torch import Tensor

E4M3_MAX = 448.0


class Quantized(NamedTuple):
    """A tensor in 8 bits: it is values · scale, values e4m3 [..., d], scale float32 [..., 1] (or one for all).

    `carrier` has the tensor's shape and wide dtype and no memory of its own (all strides are 0): it stands for
    the tensor in autograd, which cannot send a bf16 gradient through an 8-bit tensor. A linear layer that reads
    `values` returns the gradient of its input as the gradient of `carrier`.
    """

    values: Tensor
    scale: Tensor
    carrier: Tensor


class Carrier(torch.autograd.Function):
    """`Carrier.apply(x, dtype)`: the carrier of x in a wide dtype; what reaches it reaches x."""

    @staticmethod
    def forward(ctx, x, dtype):
        ctx.dtype = x.dtype
        return empty_carrier(x, dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.to(ctx.dtype), None


def empty_carrier(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of the shape of x that holds no memory."""
    return x.new_empty_strided(x.shape, (0,) * x.ndim, dtype=dtype)


def empty_quantized(x: Tensor) -> Quantized:
    """Room for x in 8 bits with a scale for each of its last axes, and its carrier."""
    values = x.new_empty(x.shape, dtype=torch.float8_e4m3fn)
    scale = x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
    return Quantized(values, scale, empty_carrier(x, x.dtype))
