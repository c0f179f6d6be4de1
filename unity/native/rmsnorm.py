"""RMSNorm over the width of every row."""

import torch
from torch import Tensor

from unity.kernels.differentiable import differentiable, library_op
from unity.native import refusals
from unity.native.library import run
from unity.native.tensors import dense_like, flat_readable, flat_rows, flat_shape, pointers, vector


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """RMSNorm(x)·weight: x [..., d] with evenly spaced rows, weight [d], result as x."""
    return _rms_norm(x, weight, eps)


def refusal(x: Tensor, weight: Tensor, eps: float = 1e-6) -> str | None:
    """Why it cannot take these, or None."""
    return refusals.common(x, weight) or refusals.storage(x) or refusals.spacing(x)


def _forward(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    out, weight = dense_like(x), vector(weight, x.shape[-1])
    run("rms_norm_forward", *flat_shape(x), *flat_rows(x), *pointers(weight, out), eps)
    return out


def _forward_fake(x, weight, eps):
    return dense_like(x)


def _backward(d_out: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    outputs = _backward_fake(d_out, x, weight, eps)
    d_out, weight = flat_readable(d_out), vector(weight, x.shape[-1])
    reads = (*flat_rows(d_out), *flat_rows(x), weight.data_ptr())
    run("rms_norm_backward", *flat_shape(x, d_out), *reads, *pointers(*outputs), eps)
    return outputs


def _backward_fake(d_out, x, weight, eps):
    return dense_like(x), weight.new_empty(weight.shape, dtype=torch.float32)


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
