"""LayerNorm with a scale and a shift per group, the gated residual, and both in one pass."""

import torch
from torch import Tensor

from unity.kernels.differentiable import differentiable, library_op
from unity.native.library import run
from unity.native.tensors import (
    CHUNK,
    add_partial_sums,
    chunks,
    is_bf16,
    partial_sums,
    pointers,
    readable,
    rows,
    table,
)


def modulated_layernorm(x: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-6) -> Tensor:
    """LayerNorm(x)·(1 + scale) + shift: x [g, n, d], scale and shift float32 [g, d], result as x."""
    return _layernorm(x, None, None, scale, shift, eps)[1]


def gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """x + gate·y: x and y [g, n, d], gate float32 [g, d]."""
    return _residual(x, y, gate)


def gated_residual_layernorm(
    x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """r = x + gate·y, and LayerNorm(r)·(1 + scale) + shift: the boundary between two sublayers."""
    return _layernorm(x, y, gate, scale, shift, eps)[:2]


def _layernorm_forward(
    x: Tensor, y: Tensor | None, gate: Tensor | None, scale: Tensor, shift: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    outputs = _layernorm_forward_fake(x, y, gate, scale, shift, eps)
    tables = (*table(gate), *table(scale), *table(shift))
    run("layernorm_forward", is_bf16(x), *x.shape, CHUNK, eps, *rows(x), *rows(y), *tables, *pointers(*outputs))
    return outputs


def _layernorm_forward_fake(x, y, gate, scale, shift, eps):
    residual = x.new_empty(x.shape if y is not None else 0)
    return residual, x.new_empty(x.shape), x.new_empty(*x.shape[:2], 2, dtype=torch.float32)


def _layernorm_backward(
    d_out: Tensor,
    d_residual: Tensor | None,
    r: Tensor,
    y: Tensor | None,
    gate: Tensor | None,
    scale: Tensor,
    statistics: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    d_out = readable(d_out)
    d_residual = None if y is None else readable(d_residual)
    d_x, d_y, sums = _layernorm_backward_fake(d_out, d_residual, r, y, gate, scale, statistics)
    partials = partial_sums(len(r), chunks(r.shape[1]), sums[0].numel())
    reads = (*rows(d_out), *rows(d_residual), *rows(r), *rows(y), *table(gate), *table(scale))
    run("layernorm_backward", is_bf16(r), *r.shape, CHUNK, *reads, *pointers(statistics, d_x, d_y, partials))
    return d_x, d_y, add_partial_sums(partials, sums)


def _layernorm_backward_fake(d_out, d_residual, r, y, gate, scale, statistics):
    groups, _, width = r.shape
    sums = r.new_empty(groups, 2 if y is None else 3, width, dtype=torch.float32)
    return r.new_empty(r.shape), r.new_empty(r.shape if y is not None else 0), sums


def _layernorm_setup(ctx, inputs, output):
    x, y, gate, scale, _, _ = inputs
    residual, _, statistics = output
    ctx.mark_non_differentiable(statistics)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x if y is None else residual, y, gate, scale, statistics)


def _layernorm_gradients(run, ctx, d_residual, d_out, *_):
    r, y, gate, scale, statistics = ctx.saved_tensors
    d_out = torch.zeros_like(r) if d_out is None else d_out
    if y is None:
        d_x, _, sums = run(d_out, None, r, None, None, scale, statistics)
        return d_x, None, None, *sums.unbind(1), None
    d_residual = torch.zeros_like(r) if d_residual is None else d_residual
    d_x, d_y, sums = run(d_out, d_residual, r, y, gate, scale, statistics)
    d_scale, d_shift, d_gate = sums.unbind(1)
    return d_x, d_y, d_gate, d_scale, d_shift, None


def _residual_forward(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    out = _residual_forward_fake(x, y, gate)
    run("residual_forward", is_bf16(x), *x.shape, CHUNK, *rows(x), *rows(y), *table(gate), out.data_ptr())
    return out


def _residual_forward_fake(x, y, gate):
    return x.new_empty(x.shape)


def _residual_backward(d_out: Tensor, y: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    d_out = readable(d_out)
    d_y, d_gate = _residual_backward_fake(d_out, y, gate)
    partials = partial_sums(len(y), chunks(y.shape[1]), y.shape[2])
    reads = (*rows(d_out), *rows(y), *table(gate))
    run("residual_backward", is_bf16(y), *y.shape, CHUNK, *reads, *pointers(d_y, partials))
    return d_y, add_partial_sums(partials, d_gate)


def _residual_backward_fake(d_out, y, gate):
    return y.new_empty(y.shape), gate.new_empty(gate.shape)


def _residual_setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs[1:])


def _residual_gradients(run, ctx, d_out):
    return d_out, *run(d_out, *ctx.saved_tensors)


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
