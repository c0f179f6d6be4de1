"""GELU, and the noising of flow matching."""

import torch
from torch import Tensor

from unity.kernels.differentiable import differentiable, library_op
from unity.native import refusals
from unity.native.library import run
from unity.native.tensors import dense_like, flat_readable, flat_rows, flat_shape, pointers, vector

# Values of one task.
BLOCK = 16384


def gelu(x: Tensor) -> Tensor:
    """GELU, tanh form."""
    return _gelu(x)


def gelu_refusal(x: Tensor) -> str | None:
    """Why `gelu` cannot take x, or None."""
    return refusals.common(x) or refusals.storage(x) or refusals.spacing(x)


def flow_noise(data: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """(1 - time)·data + time·noise, and noise - data: data and noise [b, s, ...], time [b, s]. No gradient."""
    run_op = _flow_noise.traced if torch.compiler.is_compiling() else _flow_noise.direct
    return run_op(data, noise, time)


def noise_refusal(data: Tensor, noise: Tensor, time: Tensor) -> str | None:
    """Why `flow_noise` cannot take these, or None."""
    if data.requires_grad or noise.requires_grad or time.requires_grad:
        return "noising has no gradient in C++"
    if not (data.is_contiguous() and noise.is_contiguous()):
        return "data or noise is not contiguous"
    return refusals.common(data, noise, time) or refusals.storage(data, noise)


def _flow_noise_forward(data: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    outputs = _flow_noise_fake(data, noise, time)
    streams = data.shape[0] * data.shape[1]
    time = vector(time, streams)
    flat_shape(data, noise)
    shape = (data.dtype is torch.bfloat16, streams, 1, data.numel() // max(1, streams), BLOCK)
    run("flow_noise", *shape, *pointers(data, noise, time, *outputs))
    return outputs


def _flow_noise_fake(data, noise, time):
    return dense_like(data), dense_like(data)


def _gelu_forward(x: Tensor) -> Tensor:
    out = dense_like(x)
    run("gelu_forward", *flat_shape(x, chunk=_chunk(x)), *flat_rows(x), out.data_ptr())
    return out


def _gelu_forward_fake(x):
    return dense_like(x)


def _gelu_backward(d_out: Tensor, x: Tensor) -> Tensor:
    d_out, d_x = flat_readable(d_out), dense_like(x)
    shape = flat_shape(x, d_out, chunk=_chunk(x))
    run("gelu_backward", *shape, *flat_rows(d_out), *flat_rows(x), d_x.data_ptr())
    return d_x


def _gelu_backward_fake(d_out, x):
    return dense_like(x)


def _chunk(x: Tensor) -> int:
    """Rows of one task."""
    return max(1, BLOCK // max(1, x.shape[-1]))


def _gelu_setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _gelu_gradients(run, ctx, d_out):
    return run(d_out, *ctx.saved_tensors)


_gelu = differentiable(
    library_op("native_gelu", _gelu_forward, _gelu_forward_fake),
    library_op("native_gelu_backward", _gelu_backward, _gelu_backward_fake),
    _gelu_setup,
    _gelu_gradients,
)
_flow_noise = library_op("native_flow_noise", _flow_noise_forward, _flow_noise_fake)
