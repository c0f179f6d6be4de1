"""RMSNorm and 3-D rotary positions of queries and keys in one pass, forward and backward.

With r = rsqrt(mean(x²) + eps) over the full width: y = rotate(x·r·weight). Backward, with g the
gradient turned back by the same angles and h = x·r: dweight = Σ g·h over tokens, and
dx = r·(g·weight - h·mean(g·weight·h)). Nothing is saved but the inputs: r is one sum away in the same pass.

A program holds a token's full width, of q or of k. The angles of a token, one per pair of a head, come from a
table made once per `Rotary` in float64 and kept: it adds 512 bytes to the 40 KB that a token of width 5120 moves,
and q and k share them in the L2 cache. Finding positions and angles in the kernel cost a third of its
instructions (README).
"""

import functools

import torch
from torch import Tensor

from unity.kernels import passes, reference
from unity.kernels.differentiable import differentiable, library_op
from unity.kernels.jit import tl, triton
from unity.kernels.passes import load_row, origin, store_row, sum_both, thread_sums
from unity.kernels.rotary import Rotary

_FORWARD_WARPS = 32
_BACKWARD_WARPS = 16


def qk_norm_rope(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    rotary: Rotary,
    eps: float = 1e-6,
    inplace: bool = False,
) -> tuple[Tensor, Tensor]:
    """Queries and keys [b, l, d] → [b, l, n, k] in the dtype of q, normalised over the full width: weights [d].

    `inplace` writes the results over q and k and returns views of them, except under torch.compile.
    """
    arguments = (q, k, q_weight, k_weight, rotary.sizes, rotary.theta, eps)
    if inplace:
        reference.refuse_gradients(*arguments[:4])
        if not torch.compiler.is_compiling():
            return _launch(arguments, inplace=True)
    return _op(*arguments)


def refusal(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    rotary: Rotary,
    eps: float = 1e-6,
    inplace: bool = False,
) -> str | None:
    """Why this implementation cannot run on these tensors, or None."""
    return passes.refusal({"q": q, "k": k}, {"q_weight": q_weight[None], "k_weight": k_weight[None]})


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
def forward_kernel(
    q, k, q_weight, k_weight, q_out, k_out, table, tokens, q_batch, q_row, k_batch, k_row,
    eps, HEAD: tl.constexpr, INPLACE: tl.constexpr,
    D: tl.constexpr, A: tl.constexpr, B: tl.constexpr, T: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    x, y, weight, x_batch, x_row = q, q_out, q_weight, q_batch, q_row
    if tl.program_id(2) == 1:
        x, y, weight, x_batch, x_row = k, k_out, k_weight, k_batch, k_row
    first = batch * tokens
    x += origin(batch, first, x_batch, x_row)
    weight_a, weight_b = load_row(weight, D, A, B)
    for token in tl.range(tl.program_id(0), tokens, tl.num_programs(0), num_stages=STAGES):
        at = first + token
        a, b = load_row(x + at * (x_row * 8), D, A, B)
        cos_a, sin_a = _angles(table, token, tokens, 0, A // 2, HEAD)
        cos_b, sin_b = _angles(table, token, tokens, A // 2, B // 2, HEAD)
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
    HEAD: tl.constexpr, D: tl.constexpr, A: tl.constexpr, B: tl.constexpr, T: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    x, dy, dx, weight = q, dq_out, dq, q_weight
    x_batch, x_row, dy_batch, dy_row = q_batch, q_row, dq_batch, dq_row
    if tl.program_id(2) == 1:
        x, dy, dx, weight = k, dk_out, dk, k_weight
        x_batch, x_row, dy_batch, dy_row = k_batch, k_row, dk_batch, dk_row
    first = batch * tokens
    x += origin(batch, first, x_batch, x_row)
    dy += origin(batch, first, dy_batch, dy_row)
    weight_a, weight_b = load_row(weight, D, A, B)
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
    sizes: list[int],
    theta: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    return _launch((q, k, q_weight, k_weight, sizes, theta, eps), inplace=False)


def _forward_fake(q, k, q_weight, k_weight, sizes, theta, eps):
    heads = Rotary.of(sizes, theta).num_heads
    shape = (*q.shape[:-1], heads, q.shape[-1] // heads)
    return q.new_empty(shape), k.new_empty(shape)


def _launch(inputs, inplace):
    q, k, q_weight, k_weight, sizes, theta, eps = inputs
    rotary, (batch, tokens, d) = Rotary.of(sizes, theta), q.shape
    rotary.check(q)
    head_dim = d // rotary.num_heads
    if inplace:
        q_out, k_out = (x.unflatten(2, (rotary.num_heads, head_dim)) for x in (q, k))
    else:
        q_out, k_out = _forward_fake(*inputs)
    table = _table(rotary, head_dim, q.device)
    programs, meta = passes.walk(d, 2 * batch, 2 * batch * tokens, 1, _FORWARD_WARPS, q)
    forward_kernel[(programs, batch, 2)](
        q, k, q_weight, k_weight, q_out, k_out, table, tokens, *passes.strides(q), *passes.strides(k), eps,
        HEAD=head_dim, INPLACE=inplace, **meta,
    )  # fmt: skip
    return q_out, k_out


def _backward(
    dq_out: Tensor,
    dk_out: Tensor,
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    sizes: list[int],
    theta: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    dq_out, dk_out = passes.readable(dq_out.flatten(2)), passes.readable(dk_out.flatten(2))
    batch, tokens, d = q.shape
    rotary = Rotary.of(sizes, theta)
    head_dim = d // rotary.num_heads
    table = _table(rotary, head_dim, q.device)
    programs, meta = passes.walk(d, 2 * batch, 2 * batch * tokens, 2, _BACKWARD_WARPS, q)
    dq, dk = q.new_empty(q.shape), k.new_empty(k.shape)
    partial = q.new_empty(batch * programs, 2, d, dtype=torch.float32)
    backward_kernel[(programs, batch, 2)](
        dq_out, dk_out, q, k, q_weight, k_weight, dq, dk, partial, table, tokens, *passes.strides(dq_out),
        *passes.strides(dk_out), *passes.strides(q), *passes.strides(k), eps,
        HEAD=head_dim, **meta,
    )  # fmt: skip
    return dq, dk, partial.sum(0)


def _backward_fake(dq_out, dk_out, q, k, q_weight, k_weight, sizes, theta, eps):
    dweight = q.new_empty(2, q_weight.shape[0], dtype=torch.float32)
    return q.new_empty(q.shape), k.new_empty(k.shape), dweight


# a captured CUDA graph reads its table for as long as it lives
@functools.lru_cache(maxsize=64)
def _table(rotary: Rotary, head_dim: int, device: torch.device) -> Tensor:
    """Cosines and sines of every token's angles in float32, [2, l, k/2]: 34 MB for 65,520 tokens."""
    return torch.stack(rotary.angles(head_dim, device)).float()


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
