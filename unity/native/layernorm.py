"""LayerNorm with a scale and a shift per group, alone or after a gated residual in the same pass."""

import torch
from torch import Tensor

from unity.kernels.differentiable import differentiable, library_op
from unity.native import refusals
from unity.native.library import run
from unity.native.tensors import dense_like, pointers, readable, rows, shape, table


def modulated_layernorm(x: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-6) -> Tensor:
    """LayerNorm(x)·(1 + scale) + shift: x [g, n, d], scale and shift float32 [g, d], result as x."""
    return _layernorm(x, None, None, scale, shift, eps)[1]


def gated_residual_layernorm(
    x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """r = x + gate·y, and LayerNorm(r)·(1 + scale) + shift: the boundary between two sublayers."""
    return _layernorm(x, y, gate, scale, shift, eps)[:2]


def refusal(x: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-6) -> str | None:
    """Why `modulated_layernorm` cannot take these, or None."""
    return (
        refusals.common(x, scale, shift)
        or refusals.storage(x)
        or refusals.tables(scale, shift)
        or refusals.width(x)
    )


def gated_refusal(
    x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-6
) -> str | None:
    """Why `gated_residual_layernorm` cannot take these, or None."""
    return (
        refusals.common(x, y, gate, scale, shift)
        or refusals.storage(x, y)
        or refusals.tables(gate, scale, shift)
        or refusals.width(x)
    )


def _forward(
    x: Tensor, y: Tensor | None, gate: Tensor | None, scale: Tensor, shift: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    outputs = _forward_fake(x, y, gate, scale, shift, eps)
    reads = (*rows(x), *rows(y), *table(gate, x), *table(scale, x), *table(shift, x))
    run("layernorm_forward", *shape(x, y), *reads, *pointers(*outputs), eps)
    return outputs


def _forward_fake(x, y, gate, scale, shift, eps):
    residual = x.new_empty(0) if y is None else dense_like(x)
    return residual, dense_like(x), x.new_empty(*x.shape[:-1], 2, dtype=torch.float32)


def _backward(
    d_out: Tensor,
    d_residual: Tensor | None,
    r: Tensor,
    y: Tensor | None,
    gate: Tensor | None,
    scale: Tensor,
    statistics: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    outputs = _backward_fake(d_out, d_residual, r, y, gate, scale, statistics)
    d_out, d_residual = readable(d_out), None if d_residual is None else readable(d_residual)
    reads = (*rows(d_out), *rows(d_residual), *rows(r), *rows(y), *table(gate, r), *table(scale, r))
    run("layernorm_backward", *shape(r, d_out, d_residual, y), *reads, *pointers(statistics, *outputs))
    return outputs


def _backward_fake(d_out, d_residual, r, y, gate, scale, statistics):
    groups, width = scale.shape
    d_y, parts = (r.new_empty(0), 2) if y is None else (dense_like(r), 3)
    return dense_like(r), d_y, scale.new_empty(groups, parts, width)


def _setup(ctx, inputs, output):
    x, y, gate, scale, _, _ = inputs
    residual, _, statistics = output
    ctx.mark_non_differentiable(statistics)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x if y is None else residual, y, gate, scale, statistics)


def _gradients(run, ctx, d_residual, d_out, *_):
    r, y, gate, scale, statistics = ctx.saved_tensors
    d_out = torch.zeros_like(r) if d_out is None else d_out
    if y is None:
        d_x, _, sums = run(d_out, None, r, None, None, scale, statistics)
        return d_x, None, None, *sums.unbind(1), None
    d_residual = torch.zeros_like(r) if d_residual is None else d_residual
    d_x, d_y, sums = run(d_out, d_residual, r, y, gate, scale, statistics)
    d_scale, d_shift, d_gate = sums.unbind(1)
    return d_x, d_y, d_gate, d_scale, d_shift, None


_layernorm = differentiable(
    library_op("native_layernorm", _forward, _forward_fake),
    library_op("native_layernorm_backward", _backward, _backward_fake),
    _setup,
    _gradients,
)
