"""RMSNorm over the width of every row."""

import torch
from torch import Tensor

from unity.kernels.differentiable import differentiable, library_op
from unity.native.library import run
from unity.native.tensors import (
    CHUNK,
    add_partial_sums,
    chunks,
    flat_readable,
    flat_rows,
    flat_shape,
    is_bf16,
    partial_sums,
    pointers,
)


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """RMSNorm(x)·weight: x [..., d] with evenly spaced rows, weight [d], result as x."""
    return _rms_norm(x, weight, eps)


def _forward(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    out, weight = _forward_fake(x, weight, eps), weight.float().contiguous()
    run("rms_norm_forward", is_bf16(x), *flat_shape(x), CHUNK, eps, *flat_rows(x), *pointers(weight, out))
    return out


def _forward_fake(x, weight, eps):
    return x.new_empty(x.shape)


def _backward(d_out: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    d_x, d_weight = _backward_fake(d_out, x, weight, eps)
    d_out, weight = flat_readable(d_out), weight.float().contiguous()
    length, width = flat_shape(x)
    partials = partial_sums(1, chunks(length), width)
    reads = (*flat_rows(d_out), *flat_rows(x), *pointers(weight, d_x, partials))
    run("rms_norm_backward", is_bf16(x), length, width, CHUNK, eps, *reads)
    return d_x, add_partial_sums(partials, d_weight)


def _backward_fake(d_out, x, weight, eps):
    return x.new_empty(x.shape), weight.new_empty(weight.shape, dtype=torch.float32)


def _setup(ctx, inputs, output):
    x, weight, ctx.eps = inputs
    ctx.save_for_backward(x, weight)


def _gradients(run, ctx, d_out):
    x, weight = ctx.saved_tensors
    d_x, d_weight = run(d_out, x, weight, ctx.eps)
    return d_x, d_weight.to(weight.dtype), None


_rms_norm = differentiable(
    library_op("native_rms_norm", _forward, _forward_fake),
    library_op("native_rms_norm_backward", _backward, _backward_fake),
    _setup,
    _gradients,
)
