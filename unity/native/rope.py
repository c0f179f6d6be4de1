"""RMSNorm of queries and keys with 3-D rotary positions."""

import functools

import torch
from torch import Tensor

from unity.kernels.differentiable import differentiable, library_op
from unity.native.library import run
from unity.native.tensors import CHUNK, add_partial_sums, chunks, is_bf16, partial_sums, pointers, readable, rows


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
) -> tuple[Tensor, Tensor]:
    """RMSNorm (full width, or per head) and 3-D rotary positions: q and k [b, l, d] → [b, l, n, k]."""
    return _qk_norm_rope(q, k, q_weight, k_weight, list(grid), streams, num_heads, theta, eps, per_head)


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
    for x, weight, out in zip((q, k), (q_weight, k_weight), outputs, strict=True):
        shape = _heads(out, per_head, eps, grid, streams, theta)
        weight = weight.float().contiguous()
        run("rope_forward", is_bf16(x), *shape, *rows(x), *pointers(weight, out))
    return outputs


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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shapes = (grid, streams, theta, eps, per_head)
    results = _rope_backward_fake(d_q, d_k, q, k, q_weight, k_weight, *shapes)
    pairs = zip((d_q, d_k), (q, k), (q_weight, k_weight), results[:2], results[2:], strict=True)
    for d_out, x, weight, d_x, d_weight in pairs:
        d_out, weight = readable(d_out), weight.float().contiguous()
        partials = partial_sums(1, len(x) * chunks(x.shape[1]), weight.numel())
        shape = _heads(d_out, per_head, eps, grid, streams, theta)
        reads = (*rows(d_out), d_out.stride(2), *rows(x))
        run("rope_backward", is_bf16(x), *shape, *reads, *pointers(weight, d_x, partials))
        add_partial_sums(partials, d_weight)
    return results


def _rope_backward_fake(d_q, d_k, q, k, q_weight, k_weight, grid, streams, theta, eps, per_head):
    weights = (w.new_empty(w.shape, dtype=torch.float32) for w in (q_weight, k_weight))
    return q.new_empty(q.shape), k.new_empty(k.shape), *weights


def _rope_setup(ctx, inputs, output):
    q, k, q_weight, k_weight, grid, streams, _, *numbers = inputs
    ctx.save_for_backward(q, k, q_weight, k_weight)
    ctx.numbers = (grid, streams, *numbers)


def _rope_gradients(run, ctx, d_q, d_k):
    q, k, q_weight, k_weight = ctx.saved_tensors
    d_q, d_k, d_q_weight, d_k_weight = run(d_q, d_k, q, k, q_weight, k_weight, *ctx.numbers)
    weights = (d_q_weight.to(q_weight.dtype), d_k_weight.to(k_weight.dtype))
    return d_q, d_k, *weights, None, None, None, None, None, None


def _heads(x: Tensor, per_head: bool, eps: float, grid: list[int], streams: int, theta: float) -> tuple:
    """The shape arguments of the rotary kernels for x [b, l, n, k]."""
    b, l, n, k = x.shape
    tables = _angles(tuple(grid), streams, k, theta)
    return b, l, n, k, 1 if per_head else n, CHUNK, eps, *grid, *pointers(*tables)


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
