"""RMSNorm of queries and keys with 3-D rotary positions."""

import functools

import torch
from torch import Tensor

from unity.kernels import reference
from unity.kernels.differentiable import differentiable, library_op
from unity.native.library import run
from unity.native.tensors import dense_like, pointers, readable, rows, shape, vector


def qk_norm_rope(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    grid: tuple[int, int, int],
    streams: int,
    num_heads: int,
    theta: float = 1e4,
    eps: float = 1e-6,
    per_head: bool = False,
    inplace: bool = False,
) -> tuple[Tensor, Tensor]:
    """RMSNorm (full width, or per head) and 3-D rotary positions: q and k [b, l, d] → [b, l, n, k].

    `inplace` writes the results over q and k and returns views of them, except under torch.compile.
    """
    arguments = (q, k, q_weight, k_weight, list(grid), streams, num_heads, theta, eps, per_head)
    if inplace:
        reference.refuse_gradients(*arguments[:4])
        if not torch.compiler.is_compiling():
            return _turn(*(x.unflatten(2, (num_heads, -1)) for x in (q, k)), *arguments)
    return _qk_norm_rope(*arguments)


def _rope_forward(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    grid: list[int],
    streams: int,
    num_heads: int,
    theta: float,
    eps: float,
    per_head: bool,
) -> tuple[Tensor, Tensor]:
    outputs = _rope_forward_fake(q, k, q_weight, k_weight, grid, streams, num_heads, theta, eps, per_head)
    return _turn(*outputs, q, k, q_weight, k_weight, grid, streams, num_heads, theta, eps, per_head)


def _turn(q_out, k_out, q, k, q_weight, k_weight, grid, streams, num_heads, theta, eps, per_head):
    """Write queries and keys to q_out and k_out [b, l, n, k], which may lie where q and k lie, and return them."""
    q_weight, k_weight = vector(q_weight), vector(k_weight)
    sides = (*rows(q), q_weight.data_ptr(), *rows(q_out), *rows(k), k_weight.data_ptr(), *rows(k_out))
    run("rope_forward", *shape(q), *_turns(q_out, grid, streams, theta, eps, per_head), *sides)
    return q_out, k_out


def _rope_forward_fake(q, k, q_weight, k_weight, grid, streams, num_heads, theta, eps, per_head):
    return tuple(x.new_empty(*x.shape[:2], num_heads, x.shape[2] // num_heads) for x in (q, k))


def _rope_backward(
    d_q: Tensor,
    d_k: Tensor,
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    grid: list[int],
    streams: int,
    theta: float,
    eps: float,
    per_head: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    outputs = _rope_backward_fake(d_q, d_k, q, k, q_weight, k_weight, grid, streams, theta, eps, per_head)
    weights, sides = (vector(q_weight), vector(k_weight)), []
    d_outs = readable(d_q), readable(d_k)
    for d_out, x, weight, d_x in zip(d_outs, (q, k), weights, outputs[:2], strict=True):
        sides += (*rows(d_out), d_out.stride(2), *rows(x), *pointers(weight, d_x))
    turns = _turns(d_q, grid, streams, theta, eps, per_head)
    run("rope_backward", *shape(q), *turns, *sides, outputs[2].data_ptr())
    return outputs


def _rope_backward_fake(d_q, d_k, q, k, q_weight, k_weight, grid, streams, theta, eps, per_head):
    return dense_like(q), dense_like(k), q.new_empty(2, q_weight.shape[0], dtype=torch.float32)


def _rope_setup(ctx, inputs, output):
    q, k, q_weight, k_weight, grid, streams, _, *numbers = inputs
    ctx.save_for_backward(q, k, q_weight, k_weight)
    ctx.numbers = (grid, streams, *numbers)


def _rope_gradients(run, ctx, d_q, d_k):
    q, k, q_weight, k_weight = ctx.saved_tensors
    d_q, d_k, d_weights = run(d_q, d_k, q, k, q_weight, k_weight, *ctx.numbers)
    d_q_weight, d_k_weight = d_weights.unbind(0)
    weights = (d_q_weight.to(q_weight.dtype), d_k_weight.to(k_weight.dtype))
    return d_q, d_k, *weights, None, None, None, None, None, None


def _turns(x: Tensor, grid: list[int], streams: int, theta: float, eps: float, per_head: bool) -> tuple:
    """The grid and its angles for x [b, l, n, k], and the heads that one norm covers."""
    heads, head = x.shape[2:]
    return *grid, *pointers(*_angles(tuple(grid), streams, head, theta)), head, 1 if per_head else heads, eps


@functools.lru_cache(maxsize=16)
def _angles(grid: tuple[int, int, int], streams: int, head: int, theta: float) -> tuple[Tensor, ...]:
    """Per axis, float32 [positions, 2, part]: cosines doubled, and sines doubled with alternating sign."""
    side = 2 * (head // 6)
    t, h, w = grid
    return tuple(
        _axis_angles(positions, part, theta)
        for positions, part in ((t, head - 2 * side), (h, side), (streams * w, side))
    )


def _axis_angles(positions: int, part: int, theta: float) -> Tensor:
    numbers = functools.partial(torch.arange, dtype=torch.float64, device="cpu")
    angle = numbers(positions)[:, None] * theta ** -(numbers(0, part, 2) / part)
    cos, sin = angle.cos(), angle.sin()
    rows = (torch.stack((cos, cos), -1).flatten(1), torch.stack((-sin, sin), -1).flatten(1))
    return torch.stack(rows, 1).float().contiguous()


_qk_norm_rope = differentiable(
    library_op("native_qk_norm_rope", _rope_forward, _rope_forward_fake),
    library_op("native_qk_norm_rope_backward", _rope_backward, _rope_backward_fake),
    _rope_setup,
    _rope_gradients,
)
