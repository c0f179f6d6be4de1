"""GELU (tanh form) fused with the cast that follows it, to e4m3 with a float32 scale a token, and the backward.

y = x·s(u), s the logistic function and u = 2·sqrt(2/π)·(x + 0.044715·x³), which is the tanh form written with
one exponential; dx = dy·(s + x·s·(1 - s)·u'). GELU alone is one pass in torch already, forward and backward:
there is nothing to fuse, so the plain op stays torch's.
"""

from torch import Tensor

from unity.kernels import fp8, passes
from unity.kernels.differentiable import differentiable, library_op
from unity.kernels.fp8 import divide
from unity.kernels.jit import tl, triton
from unity.kernels.passes import load_row, origin, store_row
from unity.kernels.quantized import Quantized, empty_quantized

_WARPS = 32
_WIDEST = 16384


def gelu_fp8(x: Tensor) -> Quantized:
    """GELU of x [g, n, d] in e4m3 with a float32 scale a token, rounded once."""
    return Quantized(*_op(x))


def refusal_fp8(x: Tensor) -> str | None:
    """Why this implementation cannot run on x, or None."""
    return passes.refusal({"x": x}, widest=_WIDEST) or fp8.refusal(x)


@triton.jit
def _gelu(x):
    inner = 1.5957691216057308 * (x + 0.044715 * x * x * x)
    return x / (1.0 + tl.exp(-inner))


@triton.jit
def _gelu_slope(x):
    inner = 1.5957691216057308 * (x + 0.044715 * x * x * x)
    slope = 1.5957691216057308 * (1.0 + 3 * 0.044715 * x * x)
    s = 1.0 / (1.0 + tl.exp(-inner))
    return s + x * s * (1.0 - s) * slope


@triton.jit
def forward_kernel(
    x, y, y_scale, n, x_group, x_row,
    D: tl.constexpr, A: tl.constexpr, B: tl.constexpr, T: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1).to(tl.int64)
    first = group * n
    x += origin(group, first, x_group, x_row)
    for row in tl.range(tl.program_id(0), n, tl.num_programs(0), num_stages=STAGES):
        at = first + row
        a, b = load_row(x + at * (x_row * 8), D, A, B)
        a, b, row_scale = divide(_gelu(a), _gelu(b), A, B, T)
        tl.store(y_scale + at, row_scale)
        store_row(y + at * D, a, b, D, A, B)


@triton.jit
def backward_kernel(
    dy, x, dx, n, dy_group, dy_row, x_group, x_row,
    D: tl.constexpr, A: tl.constexpr, B: tl.constexpr, T: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1).to(tl.int64)
    first = group * n
    x += origin(group, first, x_group, x_row)
    dy += origin(group, first, dy_group, dy_row)
    for row in tl.range(tl.program_id(0), n, tl.num_programs(0), num_stages=STAGES):
        at = first + row
        a, b = load_row(x + at * (x_row * 8), D, A, B)
        g_a, g_b = load_row(dy + at * (dy_row * 8), D, A, B)
        store_row(dx + at * D, g_a * _gelu_slope(a), g_b * _gelu_slope(b), D, A, B)


def _forward(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    quantized = _forward_fake(x)
    groups, n, d = x.shape
    programs, meta = passes.walk(d, groups, groups * n, 1, _WARPS, x)
    forward_kernel[(programs, groups)](x, quantized[0], quantized[1], n, *passes.strides(x), **meta)
    return quantized


def _forward_fake(x):
    return tuple(empty_quantized(x))


def _backward(dy: Tensor, x: Tensor) -> Tensor:
    dy = passes.readable(dy)
    groups, n, d = x.shape
    programs, meta = passes.walk(d, groups, groups * n, 2, _WARPS, x)
    dx = x.new_empty(x.shape)
    backward_kernel[(programs, groups)](dy, x, dx, n, *passes.strides(dy), *passes.strides(x), **meta)
    return dx


def _backward_fake(dy, x):
    return x.new_empty(x.shape)


def _setup(ctx, inputs, output):
    values, scale, _carrier = output
    ctx.mark_non_differentiable(values, scale)
    ctx.save_for_backward(*inputs)


def _gradients(run, ctx, _values, _scale, dy):
    return run(dy, *ctx.saved_tensors)


_op = differentiable(
    library_op("gelu_fp8", _forward, _forward_fake),
    library_op("gelu_fp8_backward", _backward, _backward_fake),
    _setup,
    _gradients,
)
