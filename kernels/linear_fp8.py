"""A linear layer whose matrix products run in 8 bits, forward and backward.

y = s_x·s_w·(x8·w8ᵀ) + bias, each factor rounded to e4m3 over its largest number: rowwise (one scale per token
and per row of the weight), or of the whole tensor. The backward rounds anew along the axis it sums over,
dx = dy8·w8; dw is a product of wide numbers, dyᵀ·x with x8 widened again (in 8 bits, what rounding and transposing
both takes is more than the product gains: benchmarks/README.md). Between the two directions nothing is kept but
x8, its scale and the weight itself: no 8-bit copy and no transpose of a weight, which under ZeRO-3 would undo its
partition.
"""

import torch
from torch import Tensor

from unity.kernels.differentiable import differentiable, library_op
from unity.kernels.quantize import quantize, widen
from unity.kernels.quantized import Carrier, Quantized

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def linear_fp8(x: Tensor | Quantized, weight: Tensor, bias: Tensor | None, rowwise: bool = True) -> Tensor:
    """x·weightᵀ + bias in the dtype of x (of its carrier): x [..., i], weight [o, i], i and o multiples of 16.

    `rowwise`: a scale per token and per row of the weight, otherwise one per tensor. An x that comes quantised has
    a scale per token.
    """
    x = x if isinstance(x, Quantized) else quantized(x, rowwise)
    return _linear(*x, weight, bias, rowwise)


def quantized(x: Tensor, rowwise: bool) -> Quantized:
    """x in 8 bits, one scale per token or for all; its gradient comes through the carrier unchanged."""
    values, scale = quantize(x.detach().flatten(0, -2), rowwise)
    scale = scale.view(*x.shape[:-1], 1) if rowwise else scale
    return Quantized(values.view(x.shape), scale, Carrier.apply(x, x.dtype))


def refusal(x: Tensor | Quantized, weight: Tensor, *_, **__) -> str | None:
    """Why the tensor cores cannot take this product, or None."""
    if not weight.is_cuda:
        return f"the weight is on {weight.device.type}, not on a CUDA GPU"
    capability = torch.cuda.get_device_capability(weight.device)
    return None if capability >= (8, 9) else f"compute capability {capability[0]}.{capability[1]} is below 8.9"


def product(
    a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """(a·bᵀ)·a_scale·b_scaleᵀ + bias of 8-bit a [m, k] and b [n, k]; without tensor cores exactly, in float32.

    Tensor cores keep their own short sums: of the norm of a dx of 10b's Linears (k 4,096 to 14,336) that is 0.2 to
    0.3% on an H100, where rounding is 3.7%, and up to 1.4 times as fast as sums in float32.
    """
    if not a.is_cuda:
        exact = (a.float() @ b.float().t()) * a_scale * b_scale.t()
        return (exact if bias is None else exact + bias.float()).to(dtype)
    out = torch._scaled_mm(
        a, b.t(), scale_a=a_scale, scale_b=b_scale.t(), out_dtype=torch.bfloat16, use_fast_accum=True,
        bias=None if bias is None else bias.bfloat16(),
    )  # fmt: skip
    return out.to(dtype)


def _forward(
    values: Tensor,
    scale: Tensor,
    carrier: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rowwise: bool,
) -> Tensor:
    weight8, weight_scale = quantize(weight, rowwise)
    flat = values.flatten(0, -2), weight8, scale.flatten(0, -2), weight_scale
    return product(*flat, bias, carrier.dtype).view(*values.shape[:-1], len(weight))


def _forward_fake(values, scale, carrier, weight, bias, rowwise):
    return carrier.new_empty(*values.shape[:-1], weight.shape[0])


def _backward(
    dy: Tensor,
    values: Tensor,
    scale: Tensor,
    weight: Tensor,
    rowwise: bool,
    x_wanted: bool,
    weight_wanted: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; empty where they are not wanted."""
    dx, dw, db = (dy.new_empty(0) for _ in range(3))
    flat = dy.flatten(0, -2)
    kind = E4M3 if rowwise else E5M2
    if x_wanted:
        dy8, dy_scale = quantize(flat, rowwise, kind)
        weight8, weight_scale = quantize(weight.t(), rowwise)
        dx = product(dy8, weight8, dy_scale, weight_scale, None, dy.dtype).view(values.shape)
    if weight_wanted:
        dw = flat.t() @ widen(values.flatten(0, -2), scale.flatten(0, -2), dy.dtype)
        dw, db = dw.to(weight.dtype), flat.sum(0, dtype=torch.float32).to(weight.dtype)
    return dx, dw, db


def _backward_fake(dy, values, scale, weight, rowwise, x_wanted, weight_wanted):
    return (
        dy.new_empty(values.shape if x_wanted else 0),
        weight.new_empty(weight.shape if weight_wanted else 0),
        weight.new_empty(weight.shape[0] if weight_wanted else 0),
    )


def _setup(ctx, inputs, output):
    values, scale, _, weight, _bias, ctx.rowwise = inputs
    ctx.save_for_backward(values, scale, weight)


def _gradients(run, ctx, dy):
    _, _, x_wanted, weight_wanted, bias_wanted, _ = ctx.needs_input_grad
    wanted = x_wanted, weight_wanted or bias_wanted
    dx, dw, db = run(dy, *ctx.saved_tensors, ctx.rowwise, *wanted)
    given = dx if x_wanted else None, dw if weight_wanted else None, db if bias_wanted else None
    return None, None, *given, None


_linear = differentiable(
    library_op("linear_fp8", _forward, _forward_fake),
    library_op("linear_fp8_backward", _backward, _backward_fake),
    _setup,
    _gradients,
)
