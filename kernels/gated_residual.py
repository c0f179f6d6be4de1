"""The boundary between two sublayers in one pass: r = x + gate·y and z = LayerNorm(r)·(1 + scale) + shift.

With h = (r - mean)·rstd, w = dz·(1 + scale) and averages over the width, the gradient that reaches r is
e = dr + rstd·(w - mean(w) - h·mean(w·h)); then dx = e, dy = gate·e, and summed over the rows of a group
dscale = Σ dz·h, dshift = Σ dz, dgate = Σ e·y. Without the LayerNorm e = dr, and dx is dr itself: no copy.
"""

import torch
from torch import Tensor

from unity.kernels import fp8, passes
from unity.kernels.differentiable import differentiable, library_op
from unity.kernels.fp8 import divide
from unity.kernels.jit import tl, triton
from unity.kernels.passes import load_row, origin, standardize, store_row, sum_both, thread_sums
from unity.kernels.quantized import Quantized, empty_quantized

_FORWARD_WARPS = 16
_BACKWARD_WARPS = 16
_PLAIN_WARPS = 24


def gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """x + gate·y in the dtype of x: x and y [g, n, d], gate [g, d]."""
    return _plain_op(x, y, gate)[0]


def gated_residual_layernorm(
    x: Tensor,
    y: Tensor,
    gate: Tensor,
    scale: Tensor,
    shift: Tensor,
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """r = x + gate·y as stored in the dtype of x, and LayerNorm(r)·(1 + scale) + shift.

    x and y are [g, n, d], the tables [g, d].
    """
    return _op(x, y, gate, scale, shift, eps)[:2]


def gated_residual_layernorm_fp8(
    x: Tensor,
    y: Tensor,
    gate: Tensor,
    scale: Tensor,
    shift: Tensor,
    eps: float = 1e-6,
) -> tuple[Tensor, Quantized]:
    """The same, with the second result in e4m3 with a float32 scale a token."""
    residual, values, z_scale, carrier, *_ = _op_fp8(x, y, gate, scale, shift, eps)
    return residual, Quantized(values, z_scale, carrier)


def plain_refusal(x: Tensor, y: Tensor, gate: Tensor) -> str | None:
    """Why `gated_residual` cannot run on these tensors, or None."""
    return passes.refusal({"x": x, "y": y}, {"gate": gate})


def refusal(x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-6) -> str | None:
    """Why `gated_residual_layernorm` cannot run on these tensors, or None."""
    return passes.refusal({"x": x, "y": y}, {"gate": gate, "scale": scale, "shift": shift})


def refusal_fp8(x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-6) -> str | None:
    """As `refusal`, for the 8-bit form."""
    return refusal(x, y, gate, scale, shift) or fp8.refusal(x)


@triton.jit
def forward_kernel(
    x, y, gate, scale, shift, residual, z, z_scale, mean, rstd, n,
    x_group, x_row, y_group, y_row, gate_group, scale_group, shift_group, eps,
    D: tl.constexpr, A: tl.constexpr, B: tl.constexpr, T: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1)
    first = group.to(tl.int64) * n
    x += origin(group, first, x_group, x_row)
    y += origin(group, first, y_group, y_row)
    gate_a, gate_b = load_row(gate + group.to(tl.int64) * (gate_group * 8), D, A, B)
    scale_a, scale_b = load_row(scale + group.to(tl.int64) * (scale_group * 8), D, A, B)
    shift_a, shift_b = load_row(shift + group.to(tl.int64) * (shift_group * 8), D, A, B)
    scale_a += 1.0
    scale_b += 1.0
    for row in tl.range(tl.program_id(0), n, tl.num_programs(0), num_stages=STAGES):
        at = first + row
        a, b = load_row(x + at * (x_row * 8), D, A, B)
        y_a, y_b = load_row(y + at * (y_row * 8), D, A, B)
        # The norm reads the residual as it is stored, so that the backward can start from it.
        a = (a + gate_a * y_a).to(residual.dtype.element_ty)
        b = (b + gate_b * y_b).to(residual.dtype.element_ty)
        store_row(residual + at * D, a, b, D, A, B)
        a, b, row_mean, row_rstd = standardize(a.to(tl.float32), b.to(tl.float32), eps, D, A, B, T)
        a = a * scale_a + shift_a
        b = b * scale_b + shift_b
        if z_scale is not None:
            a, b, row_scale = divide(a, b, A, B, T)
            tl.store(z_scale + at, row_scale)
        store_row(z + at * D, a, b, D, A, B)
        tl.store(mean + at, row_mean)
        tl.store(rstd + at, row_rstd)


@triton.jit
def backward_kernel(
    dz, dr, residual, y, gate, scale, mean, rstd, dx, dy, partial, n,
    dz_group, dz_row, dr_group, dr_row, y_group, y_row, gate_group, scale_group,
    D: tl.constexpr, A: tl.constexpr, B: tl.constexpr, T: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1)
    first = group.to(tl.int64) * n
    dz += origin(group, first, dz_group, dz_row)
    y += origin(group, first, y_group, y_row)
    if dr is not None:
        dr += origin(group, first, dr_group, dr_row)
    gate_a, gate_b = load_row(gate + group.to(tl.int64) * (gate_group * 8), D, A, B)
    scale_a, scale_b = load_row(scale + group.to(tl.int64) * (scale_group * 8), D, A, B)
    scale_a += 1.0
    scale_b += 1.0
    dgate_a = tl.zeros([A], tl.float32)
    dgate_b = tl.zeros([B], tl.float32)
    dscale_a = tl.zeros([A], tl.float32)
    dscale_b = tl.zeros([B], tl.float32)
    dshift_a = tl.zeros([A], tl.float32)
    dshift_b = tl.zeros([B], tl.float32)
    for row in tl.range(tl.program_id(0), n, tl.num_programs(0), num_stages=STAGES):
        at = first + row
        row_mean = tl.load(mean + at)
        row_rstd = tl.load(rstd + at)
        a, b = load_row(residual + at * D, D, A, B)
        g_a, g_b = load_row(dz + at * (dz_row * 8), D, A, B)
        a = (a - row_mean) * row_rstd
        b = (b - row_mean) * row_rstd
        dscale_a += g_a * a
        dscale_b += g_b * b
        dshift_a += g_a
        dshift_b += g_b
        g_a *= scale_a
        g_b *= scale_b
        along, average = sum_both(thread_sums(g_a * a, g_b * b, A, B, T), thread_sums(g_a, g_b, A, B, T))
        along /= D
        average /= D
        a = (g_a - average - a * along) * row_rstd
        b = (g_b - average - b * along) * row_rstd
        if dr is not None:
            dr_a, dr_b = load_row(dr + at * (dr_row * 8), D, A, B)
            a += dr_a
            b += dr_b
        store_row(dx + at * D, a, b, D, A, B)
        store_row(dy + at * D, a * gate_a, b * gate_b, D, A, B)
        y_a, y_b = load_row(y + at * (y_row * 8), D, A, B)
        dgate_a += a * y_a
        dgate_b += b * y_b
    partial += (group.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * (3 * D)
    store_row(partial, dgate_a, dgate_b, D, A, B)
    store_row(partial + D, dscale_a, dscale_b, D, A, B)
    store_row(partial + 2 * D, dshift_a, dshift_b, D, A, B)


@triton.jit
def plain_forward_kernel(
    x, y, gate, residual, n, x_group, x_row, y_group, y_row, gate_group,
    D: tl.constexpr, A: tl.constexpr, B: tl.constexpr, T: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1)
    first = group.to(tl.int64) * n
    x += origin(group, first, x_group, x_row)
    y += origin(group, first, y_group, y_row)
    gate_a, gate_b = load_row(gate + group.to(tl.int64) * (gate_group * 8), D, A, B)
    for row in tl.range(tl.program_id(0), n, tl.num_programs(0), num_stages=STAGES):
        at = first + row
        a, b = load_row(x + at * (x_row * 8), D, A, B)
        y_a, y_b = load_row(y + at * (y_row * 8), D, A, B)
        store_row(residual + at * D, a + gate_a * y_a, b + gate_b * y_b, D, A, B)


@triton.jit
def plain_backward_kernel(
    dr, y, gate, dy, partial, n, dr_group, dr_row, y_group, y_row, gate_group,
    D: tl.constexpr, A: tl.constexpr, B: tl.constexpr, T: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1)
    first = group.to(tl.int64) * n
    dr += origin(group, first, dr_group, dr_row)
    y += origin(group, first, y_group, y_row)
    gate_a, gate_b = load_row(gate + group.to(tl.int64) * (gate_group * 8), D, A, B)
    dgate_a = tl.zeros([A], tl.float32)
    dgate_b = tl.zeros([B], tl.float32)
    for row in tl.range(tl.program_id(0), n, tl.num_programs(0), num_stages=STAGES):
        at = first + row
        a, b = load_row(dr + at * (dr_row * 8), D, A, B)
        y_a, y_b = load_row(y + at * (y_row * 8), D, A, B)
        store_row(dy + at * D, a * gate_a, b * gate_b, D, A, B)
        dgate_a += a * y_a
        dgate_b += b * y_b
    partial += (group.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * D
    store_row(partial, dgate_a, dgate_b, D, A, B)


def _forward(
    x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    residual, z, mean, rstd = _forward_fake(x, y, gate, scale, shift, eps)
    _launch((x, y, gate, scale, shift, eps), residual, z, None, mean, rstd)
    return residual, z, mean, rstd


def _forward_fake(x, y, gate, scale, shift, eps):
    return x.new_empty(x.shape), x.new_empty(x.shape), *passes.empty_statistics(x)


def _forward_fp8(
    x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    residual, values, z_scale, carrier, mean, rstd = _forward_fp8_fake(x, y, gate, scale, shift, eps)
    _launch((x, y, gate, scale, shift, eps), residual, values, z_scale, mean, rstd)
    return residual, values, z_scale, carrier, mean, rstd


def _forward_fp8_fake(x, y, gate, scale, shift, eps):
    return x.new_empty(x.shape), *empty_quantized(x), *passes.empty_statistics(x)


def _launch(inputs, residual, z, z_scale, mean, rstd):
    x, y, gate, scale, shift, eps = inputs
    groups, d = gate.shape
    programs, meta = passes.walk(d, groups, mean.numel(), 2, _FORWARD_WARPS, x)
    forward_kernel[(programs, groups)](
        x, y, gate, scale, shift, residual, z, z_scale, mean, rstd, x.shape[1], *passes.strides(x),
        *passes.strides(y), passes.eights(gate), passes.eights(scale), passes.eights(shift), eps,
        **meta,
    )  # fmt: skip


def _backward(
    dz: Tensor,
    dr: Tensor | None,
    residual: Tensor,
    y: Tensor,
    gate: Tensor,
    scale: Tensor,
    mean: Tensor,
    rstd: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    dz, dr = passes.readable(dz), None if dr is None else passes.readable(dr)
    groups, d = gate.shape
    loads = 3 if dr is None else 4
    programs, meta = passes.walk(d, groups, mean.numel(), loads, _BACKWARD_WARPS, residual)
    dx, dy = residual.new_empty(residual.shape), y.new_empty(y.shape)
    partial = residual.new_empty(groups, programs, 3, d, dtype=torch.float32)
    backward_kernel[(programs, groups)](
        dz, dr, residual, y, gate, scale, mean, rstd, dx, dy, partial, y.shape[1],
        *passes.strides(dz), *passes.strides(dz if dr is None else dr), *passes.strides(y), passes.eights(gate),
        passes.eights(scale), **meta,
    )  # fmt: skip
    return dx, dy, partial.sum(1)


def _backward_fake(dz, dr, residual, y, gate, scale, mean, rstd):
    sums = gate.new_empty(gate.shape[0], 3, gate.shape[1], dtype=torch.float32)
    return residual.new_empty(residual.shape), y.new_empty(y.shape), sums


def _setup(ctx, inputs, output):
    _x, y, gate, scale, shift, _eps = inputs
    residual, *rest, _differentiable, mean, rstd = output
    ctx.mark_non_differentiable(*rest, mean, rstd)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(residual, y, gate, scale, mean, rstd)
    ctx.shift_dtype = shift.dtype


def _gradients(run, ctx, *grads):
    residual, y, gate, scale, mean, rstd = ctx.saved_tensors
    dr, *_, dz, _mean, _rstd = grads
    dz = torch.zeros_like(residual) if dz is None else dz
    dx, dy, sums = run(dz, dr, residual, y, gate, scale, mean, rstd)
    dgate, dscale, dshift = sums.unbind(1)
    tables = dgate.to(gate.dtype), dscale.to(scale.dtype), dshift.to(ctx.shift_dtype)
    return dx, dy, *tables, None


def _plain_forward(x: Tensor, y: Tensor, gate: Tensor) -> tuple[Tensor]:
    groups, d = gate.shape
    programs, meta = passes.walk(d, groups, x.numel() // d, 2, _PLAIN_WARPS, x)
    residual = x.new_empty(x.shape)
    plain_forward_kernel[(programs, groups)](
        x, y, gate, residual, x.shape[1], *passes.strides(x), *passes.strides(y), passes.eights(gate),
        **meta,
    )  # fmt: skip
    return (residual,)


def _plain_forward_fake(x, y, gate):
    return (x.new_empty(x.shape),)


def _plain_backward(dr: Tensor, y: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    dr = passes.readable(dr)
    groups, d = gate.shape
    programs, meta = passes.walk(d, groups, y.numel() // d, 2, _PLAIN_WARPS, y)
    dy = y.new_empty(y.shape)
    partial = y.new_empty(groups, programs, 1, d, dtype=torch.float32)
    plain_backward_kernel[(programs, groups)](
        dr, y, gate, dy, partial, y.shape[1], *passes.strides(dr), *passes.strides(y),
        passes.eights(gate), **meta,
    )  # fmt: skip
    return dy, partial.sum(1)


def _plain_backward_fake(dr, y, gate):
    return y.new_empty(y.shape), gate.new_empty(gate.shape[0], 1, gate.shape[1], dtype=torch.float32)


def _plain_setup(ctx, inputs, output):
    _x, y, gate = inputs
    ctx.save_for_backward(y, gate)


def _plain_gradients(run, ctx, dr):
    y, gate = ctx.saved_tensors
    dy, dgate = run(dr, y, gate)
    return dr, dy, dgate[:, 0].to(gate.dtype)


_backward_op = library_op("gated_residual_layernorm_backward", _backward, _backward_fake)
_op, _op_fp8 = (
    differentiable(library_op(name, forward, fake), _backward_op, _setup, _gradients)
    for name, forward, fake in (
        ("gated_residual_layernorm", _forward, _forward_fake),
        ("gated_residual_layernorm_fp8", _forward_fp8, _forward_fp8_fake),
    )
)
_plain_op = differentiable(
    library_op("gated_residual", _plain_forward, _plain_forward_fake),
    library_op("gated_residual_backward", _plain_backward, _plain_backward_fake),
    _plain_setup,
    _plain_gradients,
)
