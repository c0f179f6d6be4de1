"""LayerNorm with a scale and a shift per group: y = (x - mean)·rstd·(1 + scale) + shift, forward and backward.

With h = (x - mean)·rstd and w = dy·(1 + scale), averages taken over the width and sums over the rows of a group:
dx = rstd·(w - mean(w) - h·mean(w·h)), dscale = Σ dy·h, dshift = Σ dy.
"""

import torch
from torch import Tensor

from unity.kernels import fp8, passes
from unity.kernels.differentiable import differentiable, library_op
from unity.kernels.fp8 import divide
from unity.kernels.jit import tl, triton
from unity.kernels.passes import load_row, origin, standardize, store_row, sum_both, thread_sums
from unity.kernels.quantized import Quantized, empty_quantized

_FORWARD_WARPS = 32
_BACKWARD_WARPS = 16


def modulated_layernorm(x: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-6) -> Tensor:
    """LayerNorm(x)·(1 + scale) + shift in the dtype of x; statistics and modulation in float32.

    x is [g, n, d], scale and shift are [g, d].
    """
    return _op(x, scale, shift, eps)[0]


def modulated_layernorm_fp8(x: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-6) -> Quantized:
    """The same in e4m3 with a float32 scale a token, rounded once from float32."""
    return Quantized(*_op_fp8(x, scale, shift, eps)[:3])


def refusal(x: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-6) -> str | None:
    """Why this implementation cannot run on these tensors, or None."""
    return passes.refusal({"x": x}, {"scale": scale, "shift": shift})


def refusal_fp8(x: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-6) -> str | None:
    """As `refusal`, for the 8-bit form."""
    return refusal(x, scale, shift) or fp8.refusal(x)


@triton.jit
def forward_kernel(
    x, scale, shift, y, y_scale, mean, rstd, n, x_group, x_row, scale_group, shift_group, eps,
    D: tl.constexpr, A: tl.constexpr, B: tl.constexpr, T: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1)
    first = group.to(tl.int64) * n
    x += origin(group, first, x_group, x_row)
    scale_a, scale_b = load_row(scale + group.to(tl.int64) * (scale_group * 8), D, A, B)
    shift_a, shift_b = load_row(shift + group.to(tl.int64) * (shift_group * 8), D, A, B)
    scale_a += 1.0
    scale_b += 1.0
    for row in tl.range(tl.program_id(0), n, tl.num_programs(0), num_stages=STAGES):
        at = first + row
        a, b = load_row(x + at * (x_row * 8), D, A, B)
        a, b, row_mean, row_rstd = standardize(a, b, eps, D, A, B, T)
        a = a * scale_a + shift_a
        b = b * scale_b + shift_b
        if y_scale is not None:
            a, b, row_scale = divide(a, b, A, B, T)
            tl.store(y_scale + at, row_scale)
        store_row(y + at * D, a, b, D, A, B)
        tl.store(mean + at, row_mean)
        tl.store(rstd + at, row_rstd)


@triton.jit
def backward_kernel(
    dy, x, scale, mean, rstd, dx, partial, n, dy_group, dy_row, x_group, x_row, scale_group,
    D: tl.constexpr, A: tl.constexpr, B: tl.constexpr, T: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1)
    first = group.to(tl.int64) * n
    x += origin(group, first, x_group, x_row)
    dy += origin(group, first, dy_group, dy_row)
    scale_a, scale_b = load_row(scale + group.to(tl.int64) * (scale_group * 8), D, A, B)
    scale_a += 1.0
    scale_b += 1.0
    dscale_a = tl.zeros([A], tl.float32)
    dscale_b = tl.zeros([B], tl.float32)
    dshift_a = tl.zeros([A], tl.float32)
    dshift_b = tl.zeros([B], tl.float32)
    for row in tl.range(tl.program_id(0), n, tl.num_programs(0), num_stages=STAGES):
        at = first + row
        row_mean = tl.load(mean + at)
        row_rstd = tl.load(rstd + at)
        a, b = load_row(x + at * (x_row * 8), D, A, B)
        g_a, g_b = load_row(dy + at * (dy_row * 8), D, A, B)
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
        store_row(dx + at * D, a, b, D, A, B)
    partial += (group.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * (2 * D)
    store_row(partial, dscale_a, dscale_b, D, A, B)
    store_row(partial + D, dshift_a, dshift_b, D, A, B)


def _forward(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    y, mean, rstd = _forward_fake(x, scale, shift, eps)
    _launch((x, scale, shift, eps), y, None, mean, rstd)
    return y, mean, rstd


def _forward_fake(x, scale, shift, eps):
    return x.new_empty(x.shape), *passes.empty_statistics(x)


def _forward_fp8(
    x: Tensor, scale: Tensor, shift: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    values, y_scale, carrier, mean, rstd = _forward_fp8_fake(x, scale, shift, eps)
    _launch((x, scale, shift, eps), values, y_scale, mean, rstd)
    return values, y_scale, carrier, mean, rstd


def _forward_fp8_fake(x, scale, shift, eps):
    return *empty_quantized(x), *passes.empty_statistics(x)


def _launch(inputs, y, y_scale, mean, rstd):
    x, scale, shift, eps = inputs
    groups, d = scale.shape
    programs, meta = passes.walk(d, groups, mean.numel(), 1, _FORWARD_WARPS, x)
    forward_kernel[(programs, groups)](
        x, scale, shift, y, y_scale, mean, rstd, x.shape[1], *passes.strides(x), passes.eights(scale),
        passes.eights(shift), eps, **meta,
    )  # fmt: skip


def _backward(dy: Tensor, x: Tensor, scale: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    dy = passes.readable(dy)
    groups, d = scale.shape
    programs, meta = passes.walk(d, groups, mean.numel(), 2, _BACKWARD_WARPS, x)
    dx = x.new_empty(x.shape)
    partial = x.new_empty(groups, programs, 2, d, dtype=torch.float32)
    backward_kernel[(programs, groups)](
        dy, x, scale, mean, rstd, dx, partial, x.shape[1], *passes.strides(dy), *passes.strides(x),
        passes.eights(scale), **meta,
    )  # fmt: skip
    return dx, partial.sum(1)


def _backward_fake(dy, x, scale, mean, rstd):
    return x.new_empty(x.shape), x.new_empty(scale.shape[0], 2, scale.shape[1], dtype=torch.float32)


def _setup(ctx, inputs, output):
    x, scale, shift, _ = inputs
    *rest, _differentiable, mean, rstd = output
    ctx.mark_non_differentiable(*rest, mean, rstd)
    ctx.save_for_backward(x, scale, mean, rstd)
    ctx.shift_dtype = shift.dtype


def _gradients(run, ctx, *grads):
    x, scale, mean, rstd = ctx.saved_tensors
    *_, dy, _mean, _rstd = grads
    dx, sums = run(dy, x, scale, mean, rstd)
    dscale, dshift = sums.unbind(1)
    return dx, dscale.to(scale.dtype), dshift.to(ctx.shift_dtype), None


_backward_op = library_op("modulated_layernorm_backward", _backward, _backward_fake)
_op, _op_fp8 = (
    differentiable(library_op(name, forward, fake), _backward_op, _setup, _gradients)
    for name, forward, fake in (
        ("modulated_layernorm", _forward, _forward_fake),
        ("modulated_layernorm_fp8", _forward_fp8, _forward_fp8_fake),
    )
)
