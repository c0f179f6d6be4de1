"""The gated residual without a norm."""

from torch import Tensor

from unity.kernels.differentiable import differentiable, library_op
from unity.native import refusals
from unity.native.library import run
from unity.native.tensors import dense_like, pointers, readable, rows, shape, table


def gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """x + gate·y: x and y [g, n, d], gate float32 [g, d]."""
    return _residual(x, y, gate)


def refusal(x: Tensor, y: Tensor, gate: Tensor) -> str | None:
    """Why it cannot take these, or None."""
    return refusals.common(x, y, gate) or refusals.storage(x, y) or refusals.tables(gate) or refusals.width(x)


def _forward(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    out = dense_like(x)
    run("residual_forward", *shape(x, y), *rows(x), *rows(y), *table(gate, x), out.data_ptr())
    return out


def _forward_fake(x, y, gate):
    return dense_like(x)


def _backward(d_out: Tensor, y: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    outputs = _backward_fake(d_out, y, gate)
    d_out = readable(d_out)
    run("residual_backward", *shape(y, d_out), *rows(d_out), *rows(y), *table(gate, y), *pointers(*outputs))
    return outputs


def _backward_fake(d_out, y, gate):
    return dense_like(y), dense_like(gate)


def _setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs[1:])


def _gradients(run, ctx, d_out):
    return d_out, *run(d_out, *ctx.saved_tensors)


_residual = differentiable(
    library_op("native_residual", _forward, _forward_fake),
    library_op("native_residual_backward", _backward, _backward_fake),
    _setup,
    _gradients,
)
