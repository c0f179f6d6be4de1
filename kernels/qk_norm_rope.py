"""RMSNorm and 3-D rotary positions of queries and keys in one pass, forward and backward.

With r = rsqrt(mean(x²) + eps), over the full width or per head: y = rotate(x·r·weight). Backward, with g the
gradient turned back by the same angles and h = x·r: dweight = Σ g·h over tokens, and
dx = r·(g·weight - h·mean(g·weight·h)). Nothing is saved but the inputs: r is one sum away in the same pass.

A program holds a token's full width, of q or of k. The angles of a token, one per pair of a head, come from a
table made once per grid in float64 and kept: it adds 512 bytes to the 40 KB that a token of width 5120 moves,
and q and k share them in the L2 cache. Finding positions and angles in the kernel cost a third of its
instructions (README).
"""

import functools

import torch
from torch import Tensor

from unity.kernels import reference, rows
from unity.kernels.differentiable import differentiable, library_op
from unity.kernels.jit import tl, triton
from unity.kernels.rows import load_row, origin, store_row, sum_both, thread_sums

_FORWARD_WARPS = 32
_BACKWARD_WARPS = 16


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
    """Queries and keys [b, l, d] → [b, l, n, k] in the dtype of q, l = streams·t·h·w for grid (t, h, w).

    weight [d] for the norm over the full width (Wan), [k] for the norm per head. Stream s lies at the column
    positions s·w … s·w + w - 1. `inplace` writes the results over q and k and returns views of them, except under
    torch.compile.
    """
    arguments = (q, k, q_weight, k_weight, list(grid), streams, num_heads, theta, eps, per_head)
    if inplace:
        reference.refuse_gradients(*arguments[:4])
        if not torch.compiler.is_compiling():
            return _launch(*arguments, inplace=True)
    return _op(*arguments)


def refusal(
    q, k, q_weight, k_weight, grid, streams, num_heads, theta=1e4, eps=1e-6, per_head=False, inplace=False
):
    """Why this implementation cannot run on these tensors, or None."""
    head_dim = q.shape[-1] // num_heads
    if per_head and (head_dim & (head_dim - 1) or head_dim > rows.row_parts(q.shape[-1])["A"]):
        return f"a norm per head needs several heads of a power of two, not {num_heads} of {head_dim}"
    return rows.refusal({"q": q, "k": k}, {"q_weight": q_weight[None], "k_weight": k_weight[None]})


@triton.jit
def _angles(table, token, tokens, FIRST: tl.constexpr, PAIRS: tl.constexpr, HEAD: tl.constexpr):
    """Cosines and sines of `PAIRS` pairs of a token, from pair `FIRST` on; every head turns alike."""
    at = token * (HEAD // 2) + (FIRST + tl.arange(0, PAIRS)) % (HEAD // 2)
    cos = tl.zeros([PAIRS], tl.float32)
    sin = tl.zeros([PAIRS], tl.float32)
    # Always true. Inside a branch the loads are not turned into asynchronous copies, which pass the L1 cache by:
    # every head of a token reads the same 512 bytes.
    if token >= 0:
        cos = tl.load(table + at)
        sin = tl.load(table + tokens * (HEAD // 2) + at)
    return cos, sin


@triton.jit
def _rotate(x, cos, sin, SIZE: tl.constexpr):
    even, odd = tl.split(tl.reshape(x, [SIZE // 2, 2]))
    return tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), [SIZE])


@triton.jit
def _over_heads(x, SIZE: tl.constexpr, HEAD: tl.constexpr):
    """Every number replaced by the sum over its head."""
    heads = tl.reshape(x, [SIZE // HEAD, HEAD])
    return tl.reshape(tl.broadcast_to(tl.sum(heads, 1)[:, None], [SIZE // HEAD, HEAD]), [SIZE])


@triton.jit
def _load_weight(
    weight, D: tl.constexpr, A: tl.constexpr, B: tl.constexpr, HEAD: tl.constexpr, PER_HEAD: tl.constexpr
):
    if PER_HEAD:
        a = tl.load(weight + tl.arange(0, A) % HEAD).to(tl.float32)
        b = tl.load(weight + tl.arange(0, B) % HEAD).to(tl.float32)
    else:
        a, b = load_row(weight, D, A, B)
    return a, b


@triton.jit
def forward_kernel(
    q, k, q_weight, k_weight, q_out, k_out, table, tokens, q_batch, q_row, k_batch, k_row,
    eps, HEAD: tl.constexpr, PER_HEAD: tl.constexpr, INPLACE: tl.constexpr,
    D: tl.constexpr, A: tl.constexpr, B: tl.constexpr, T: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    x, y, weight, x_batch, x_row = q, q_out, q_weight, q_batch, q_row
    if tl.program_id(2) == 1:
        x, y, weight, x_batch, x_row = k, k_out, k_weight, k_batch, k_row
    first = batch * tokens
    x += origin(batch, first, x_batch, x_row, False)
    weight_a, weight_b = _load_weight(weight, D, A, B, HEAD, PER_HEAD)
    for token in tl.range(tl.program_id(0), tokens, tl.num_programs(0), num_stages=STAGES):
        at = first + token
        a, b = load_row(x + at * (x_row * 8), D, A, B)
        cos_a, sin_a = _angles(table, token, tokens, 0, A // 2, HEAD)
        cos_b, sin_b = _angles(table, token, tokens, A // 2, B // 2, HEAD)
        if PER_HEAD:
            a *= tl.rsqrt(_over_heads(a * a, A, HEAD) / HEAD + eps)
            b *= tl.rsqrt(_over_heads(b * b, B, HEAD) / HEAD + eps)
        else:
            inverse = tl.rsqrt(tl.sum(thread_sums(a * a, b * b, A, B, T)) / D + eps)
            a *= inverse
            b *= inverse
        a = _rotate(a * weight_a, cos_a, sin_a, A)
        b = _rotate(b * weight_b, cos_b, sin_b, B)
        # in place, only this program reads the row, and it has
        y_row = x + at * (x_row * 8) if INPLACE else y + at * D
        store_row(y_row, a, b, D, A, B)


@triton.jit
def backward_kernel(
    dq_out, dk_out, q, k, q_weight, k_weight, dq, dk, partial, table, tokens,
    dq_batch, dq_row, dk_batch, dk_row, q_batch, q_row, k_batch, k_row, eps,
    HEAD: tl.constexpr, PER_HEAD: tl.constexpr,
    D: tl.constexpr, A: tl.constexpr, B: tl.constexpr, T: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    x, dy, dx, weight = q, dq_out, dq, q_weight
    x_batch, x_row, dy_batch, dy_row = q_batch, q_row, dq_batch, dq_row
    if tl.program_id(2) == 1:
        x, dy, dx, weight = k, dk_out, dk, k_weight
        x_batch, x_row, dy_batch, dy_row = k_batch, k_row, dk_batch, dk_row
    first = batch * tokens
    x += origin(batch, first, x_batch, x_row, False)
    dy += origin(batch, first, dy_batch, dy_row, False)
    weight_a, weight_b = _load_weight(weight, D, A, B, HEAD, PER_HEAD)
    dweight_a = tl.zeros([A], tl.float32)
    dweight_b = tl.zeros([B], tl.float32)
    for token in tl.range(tl.program_id(0), tokens, tl.num_programs(0), num_stages=STAGES):
        at = first + token
        a, b = load_row(x + at * (x_row * 8), D, A, B)
        g_a, g_b = load_row(dy + at * (dy_row * 8), D, A, B)
        cos_a, sin_a = _angles(table, token, tokens, 0, A // 2, HEAD)
        cos_b, sin_b = _angles(table, token, tokens, A // 2, B // 2, HEAD)
        g_a = _rotate(g_a, cos_a, -sin_a, A)
        g_b = _rotate(g_b, cos_b, -sin_b, B)
        w_a = g_a * weight_a
        w_b = g_b * weight_b
        if PER_HEAD:
            inverse_a = tl.rsqrt(_over_heads(a * a, A, HEAD) / HEAD + eps)
            inverse_b = tl.rsqrt(_over_heads(b * b, B, HEAD) / HEAD + eps)
            a *= inverse_a
            b *= inverse_b
            along_a = _over_heads(w_a * a, A, HEAD) / HEAD
            along_b = _over_heads(w_b * b, B, HEAD) / HEAD
            dx_a = (w_a - a * along_a) * inverse_a
            dx_b = (w_b - b * along_b) * inverse_b
        else:
            square, along = sum_both(thread_sums(a * a, b * b, A, B, T), thread_sums(w_a * a, w_b * b, A, B, T))
            inverse = tl.rsqrt(square / D + eps)
            a *= inverse
            b *= inverse
            along *= inverse / D
            dx_a = (w_a - a * along) * inverse
            dx_b = (w_b - b * along) * inverse
        dweight_a += g_a * a
        dweight_b += g_b * b
        store_row(dx + at * D, dx_a, dx_b, D, A, B)
    partial += ((batch * tl.num_programs(0) + tl.program_id(0)) * 2 + tl.program_id(2)) * D
    store_row(partial, dweight_a, dweight_b, D, A, B)


def _forward(
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
    return _launch(q, k, q_weight, k_weight, grid, streams, num_heads, theta, eps, per_head, inplace=False)


def _forward_fake(q, k, q_weight, k_weight, grid, streams, num_heads, theta, eps, per_head):
    shape = (*q.shape[:-1], num_heads, q.shape[-1] // num_heads)
    return q.new_empty(shape), k.new_empty(shape)


def _launch(q, k, q_weight, k_weight, grid, streams, num_heads, theta, eps, per_head, inplace):
    batch, tokens, d = q.shape
    if tokens != streams * grid[0] * grid[1] * grid[2]:
        raise ValueError(f"{tokens} tokens are not {streams} streams of a {tuple(grid)} grid")
    if inplace:
        q_out, k_out = (x.unflatten(2, (num_heads, -1)) for x in (q, k))
    else:
        q_out, k_out = _forward_fake(q, k, q_weight, k_weight, grid, streams, num_heads, theta, eps, per_head)
    table = _table(tuple(grid), streams, d // num_heads, theta, q.device)
    programs, meta = rows.walk(d, 2 * batch, 2 * batch * tokens, 1, _FORWARD_WARPS, q)
    forward_kernel[(programs, batch, 2)](
        q, k, q_weight, k_weight, q_out, k_out, table, tokens, *rows.strides(q), *rows.strides(k), eps,
        HEAD=d // num_heads, PER_HEAD=per_head, INPLACE=inplace, **meta,
    )  # fmt: skip
    return q_out, k_out


def _backward(
    dq_out: Tensor,
    dk_out: Tensor,
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
) -> tuple[Tensor, Tensor, Tensor]:
    dq_out, dk_out = rows.readable(dq_out.flatten(2)), rows.readable(dk_out.flatten(2))
    batch, tokens, d = q.shape
    table = _table(tuple(grid), streams, d // num_heads, theta, q.device)
    programs, meta = rows.walk(d, 2 * batch, 2 * batch * tokens, 2, _BACKWARD_WARPS, q)
    dq, dk = q.new_empty(q.shape), k.new_empty(k.shape)
    partial = q.new_empty(batch * programs, 2, d, dtype=torch.float32)
    backward_kernel[(programs, batch, 2)](
        dq_out, dk_out, q, k, q_weight, k_weight, dq, dk, partial, table, tokens, *rows.strides(dq_out),
        *rows.strides(dk_out), *rows.strides(q), *rows.strides(k), eps,
        HEAD=d // num_heads, PER_HEAD=per_head, **meta,
    )  # fmt: skip
    dweight = partial.sum(0)
    return dq, dk, dweight.view(2, num_heads, -1).sum(1) if per_head else dweight


def _backward_fake(dq_out, dk_out, q, k, q_weight, k_weight, grid, streams, num_heads, theta, eps, per_head):
    dweight = q.new_empty(2, q_weight.shape[0], dtype=torch.float32)
    return q.new_empty(q.shape), k.new_empty(k.shape), dweight


# a captured CUDA graph reads its table for as long as it lives
@functools.lru_cache(maxsize=64)
def _table(grid: tuple[int, int, int], streams: int, head_dim: int, theta: float, device: torch.device) -> Tensor:
    """Cosines and sines of every token's angles in float32, [2, l, k/2]: 34 MB for 65,520 tokens."""
    return torch.stack(reference.rope_table(grid, streams, head_dim, theta, device)).float()


def _setup(ctx, inputs, output):
    q, k, q_weight, k_weight, *ctx.rest = inputs
    ctx.save_for_backward(q, k, q_weight, k_weight)


def _gradients(run, ctx, dq_out, dk_out):
    q, k, q_weight, k_weight = ctx.saved_tensors
    dq, dk, dweight = run(dq_out, dk_out, q, k, q_weight, k_weight, *ctx.rest)
    return dq, dk, dweight[0].to(q_weight.dtype), dweight[1].to(k_weight.dtype), *(None,) * len(ctx.rest)


_op = differentiable(
    library_op("qk_norm_rope", _forward, _forward_fake),
    library_op("qk_norm_rope_backward", _backward, _backward_fake),
    _setup,
    _gradients,
)
