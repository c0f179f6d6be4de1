"""RMSNorm of queries and keys with 3-D rotary positions."""

import functools

import torch
from torch import Tensor

from unity.kernels import reference
from unity.kernels.differentiable import differentiable, library_op
from unity.kernels.rotary import Rotary
from unity.native import refusals
from unity.native.library import run
from unity.native.tensors import dense_like, pointers, readable, rows, shape, vector


def qk_norm_rope(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    rotary: Rotary,
    eps: float = 1e-6,
    inplace: bool = False,
) -> tuple[Tensor, Tensor]:
    """RMSNorm over the full width and 3-D rotary positions: q and k [b, l, d] → [b, l, n, k].

    `inplace` writes the results over q and k and returns views of them, except under torch.compile.
    """
    arguments = (q, k, q_weight, k_weight, rotary.sizes, rotary.theta, eps)
    if inplace:
        reference.refuse_gradients(*arguments[:4])
        if not torch.compiler.is_compiling():
            q_out, k_out = (x.unflatten(2, (rotary.num_heads, -1)) for x in (q, k))
            return _turn((q_out, k_out), (q, k), (q_weight, k_weight), *arguments[4:])
    return _qk_norm_rope(*arguments)


def refusal(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    rotary: Rotary,
    eps: float = 1e-6,
    inplace: bool = False,
) -> str | None:
    """Why it cannot take these, or None."""
    if q.shape[2] // rotary.num_heads > refusals.MAX_HEAD:
        return f"heads are larger than {refusals.MAX_HEAD}"
    return refusals.common(q, k, q_weight, k_weight) or refusals.storage(q, k) or refusals.width(q)


def _forward(
    q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, sizes: list[int], theta: float, eps: float
) -> tuple[Tensor, Tensor]:
    outputs = _forward_fake(q, k, q_weight, k_weight, sizes, theta, eps)
    return _turn(outputs, (q, k), (q_weight, k_weight), sizes, theta, eps)


def _turn(outputs, inputs, weights, sizes, theta, eps):
    """Write queries and keys to `outputs` [b, l, n, k], which may lie where the inputs lie, and return them."""
    weights, sides = [vector(weight, inputs[0].shape[2]) for weight in weights], []
    for x, weight, out in zip(inputs, weights, outputs, strict=True):
        sides += (*rows(x), weight.data_ptr(), *rows(out))
    run("rope_forward", *shape(*inputs), *_grid(inputs[0], sizes, theta), eps, *sides)
    return outputs


def _forward_fake(q, k, q_weight, k_weight, sizes, theta, eps):
    heads = Rotary.of(sizes, theta).num_heads
    return tuple(x.new_empty(*x.shape[:2], heads, x.shape[2] // heads) for x in (q, k))


def _backward(
    d_q: Tensor,
    d_k: Tensor,
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    sizes: list[int],
    theta: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    outputs = _backward_fake(d_q, d_k, q, k, q_weight, k_weight, sizes, theta, eps)
    weights, sides = [vector(weight, q.shape[2]) for weight in (q_weight, k_weight)], []
    d_outs = readable(d_q), readable(d_k)
    for d_out, x, weight, d_x in zip(d_outs, (q, k), weights, outputs[:2], strict=True):
        sides += (*rows(d_out), d_out.stride(2), *rows(x), *pointers(weight, d_x))
    run("rope_backward", *shape(q, k, *d_outs), *_grid(q, sizes, theta), eps, *sides, outputs[2].data_ptr())
    return outputs


def _backward_fake(d_q, d_k, q, k, q_weight, k_weight, sizes, theta, eps):
    return dense_like(q), dense_like(k), q.new_empty(2, q_weight.shape[0], dtype=torch.float32)


def _setup(ctx, inputs, output):
    q, k, q_weight, k_weight, *ctx.rest = inputs
    ctx.save_for_backward(q, k, q_weight, k_weight)


def _gradients(run, ctx, d_q, d_k):
    q, k, q_weight, k_weight = ctx.saved_tensors
    d_q, d_k, d_weights = run(d_q, d_k, q, k, q_weight, k_weight, *ctx.rest)
    d_q_weight, d_k_weight = d_weights.unbind(0)
    return d_q, d_k, d_q_weight.to(q_weight.dtype), d_k_weight.to(k_weight.dtype), None, None, None


def _grid(x: Tensor, sizes: list[int], theta: float) -> tuple:
    """The struct Grid for x [b, l, d]: the sizes of the grid and the slice, its angles, and the size of a head."""
    rotary = Rotary.of(sizes, theta)
    rotary.check(x)
    *grid, streams, heads, first, count = sizes
    head = x.shape[2] // heads
    return *grid, first, count, *pointers(*_angles(tuple(grid), streams, head, theta)), head


@functools.lru_cache(maxsize=16)
def _angles(grid: tuple[int, int, int], streams: int, head: int, theta: float) -> tuple[Tensor, ...]:
    """Per axis, float32 [positions, 2, part]: cosines doubled, and sines doubled with alternating sign."""
    t, h, w = grid
    places = (t, h, streams * w)
    return tuple(_axis_angles(*axis, theta) for axis in zip(places, Rotary.split(head), strict=True))


def _axis_angles(positions: int, part: int, theta: float) -> Tensor:
    numbers = functools.partial(torch.arange, dtype=torch.float64, device="cpu")
    angle = numbers(positions)[:, None] * theta ** -(numbers(0, part, 2) / part)
    cos, sin = angle.cos(), angle.sin()
    rows = (torch.stack((cos, cos), -1).flatten(1), torch.stack((-sin, sin), -1).flatten(1))
    return torch.stack(rows, 1).float().contiguous()


_qk_norm_rope = differentiable(
    library_op("native_qk_norm_rope", _forward, _forward_fake),
    library_op("native_qk_norm_backward", _backward, _backward_fake),
    _setup,
    _gradients,
)
