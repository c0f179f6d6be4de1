"""LayerNorm with a scale and a shift per group, the gated residual, and both in one pass.

Groups have equal lengths, x [g, n, d]; or unequal ones, x [total, d] cut at offsets [g + 1].
"""

import torch
from torch import Tensor

from unity.kernels.differentiable import differentiable, library_op
from unity.native.library import run
from unity.native.tensors import bounds, dense_like, pointers, readable, rows, shape, table


def modulated_layernorm(
    x: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-6, offsets: Tensor | None = None
) -> Tensor:
    """LayerNorm(x)·(1 + scale) + shift: scale and shift float32 [g, d], result as x."""
    return _layernorm(x, None, None, scale, shift, offsets, eps)[1]


def gated_residual(x: Tensor, y: Tensor, gate: Tensor, offsets: Tensor | None = None) -> Tensor:
    """x + gate·y: y as x, gate float32 [g, d]."""
    return _residual(x, y, gate, offsets)


def gated_residual_layernorm(
    x: Tensor,
    y: Tensor,
    gate: Tensor,
    scale: Tensor,
    shift: Tensor,
    eps: float = 1e-6,
    offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """r = x + gate·y, and LayerNorm(r)·(1 + scale) + shift: the boundary between two sublayers."""
    return _layernorm(x, y, gate, scale, shift, offsets, eps)[:2]


def _layernorm_forward(
    x: Tensor,
    y: Tensor | None,
    gate: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    offsets: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    outputs = _layernorm_forward_fake(x, y, gate, scale, shift, offsets, eps)
    offsets = bounds(offsets, x)
    reads = (*rows(x), *rows(y), *table(gate), *table(scale), *table(shift))
    run("layernorm_forward", *shape(x, offsets), *reads, *pointers(*outputs), eps)
    return outputs


def _layernorm_forward_fake(x, y, gate, scale, shift, offsets, eps):
    residual = x.new_empty(0) if y is None else dense_like(x)
    return residual, dense_like(x), x.new_empty(*x.shape[:-1], 2, dtype=torch.float32)


def _layernorm_backward(
    d_out: Tensor,
    d_residual: Tensor | None,
    r: Tensor,
    y: Tensor | None,
    gate: Tensor | None,
    scale: Tensor,
    statistics: Tensor,
    offsets: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    outputs = _layernorm_backward_fake(d_out, d_residual, r, y, gate, scale, statistics, offsets)
    offsets = bounds(offsets, r)
    d_out, d_residual = readable(d_out), None if y is None else readable(d_residual)
    reads = (*rows(d_out), *rows(d_residual), *rows(r), *rows(y), *table(gate), *table(scale))
    run("layernorm_backward", *shape(r, offsets), *reads, *pointers(statistics, *outputs))
    return outputs


def _layernorm_backward_fake(d_out, d_residual, r, y, gate, scale, statistics, offsets):
    groups, width = scale.shape
    d_y, parts = (r.new_empty(0), 2) if y is None else (dense_like(r), 3)
    return dense_like(r), d_y, scale.new_empty(groups, parts, width)


def _layernorm_setup(ctx, inputs, output):
    x, y, gate, scale, _, offsets, _ = inputs
    residual, _, statistics = output
    ctx.mark_non_differentiable(statistics)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x if y is None else residual, y, gate, scale, statistics, offsets)


def _layernorm_gradients(run, ctx, d_residual, d_out, *_):
    r, y, gate, scale, statistics, offsets = ctx.saved_tensors
    d_out = torch.zeros_like(r) if d_out is None else d_out
    if y is None:
        d_x, _, sums = run(d_out, None, r, None, None, scale, statistics, offsets)
        return d_x, None, None, *sums.unbind(1), None, None
    d_residual = torch.zeros_like(r) if d_residual is None else d_residual
    d_x, d_y, sums = run(d_out, d_residual, r, y, gate, scale, statistics, offsets)
    d_scale, d_shift, d_gate = sums.unbind(1)
    return d_x, d_y, d_gate, d_scale, d_shift, None, None


def _residual_forward(x: Tensor, y: Tensor, gate: Tensor, offsets: Tensor | None) -> Tensor:
    out = dense_like(x)
    offsets = bounds(offsets, x)
    run("residual_forward", *shape(x, offsets), *rows(x), *rows(y), *table(gate), out.data_ptr())
    return out


def _residual_forward_fake(x, y, gate, offsets):
    return dense_like(x)


def _residual_backward(d_out: Tensor, y: Tensor, gate: Tensor, offsets: Tensor | None) -> tuple[Tensor, Tensor]:
    outputs = _residual_backward_fake(d_out, y, gate, offsets)
    d_out, offsets = readable(d_out), bounds(offsets, y)
    run("residual_backward", *shape(y, offsets), *rows(d_out), *rows(y), *table(gate), *pointers(*outputs))
    return outputs


def _residual_backward_fake(d_out, y, gate, offsets):
    return dense_like(y), dense_like(gate)


def _residual_setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs[1:])


def _residual_gradients(run, ctx, d_out):
    return d_out, *run(d_out, *ctx.saved_tensors), None


_layernorm = differentiable(
    library_op("native_layernorm", _layernorm_forward, _layernorm_forward_fake),
    library_op("native_layernorm_backward", _layernorm_backward, _layernorm_backward_fake),
    _layernorm_setup,
    _layernorm_gradients,
)
_residual = differentiable(
    library_op("native_residual", _residual_forward, _residual_forward_fake),
    library_op("native_residual_backward", _residual_backward, _residual_backward_fake),
    _residual_setup,
    _residual_gradients,
)
