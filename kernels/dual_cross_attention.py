"""Cross-attention to a few keys with a logit bias per key, forward and backward, all keys on chip.

With s = q·kᵀ/√k + bias, p = softmax(s): o = p·v. Backward, with dp = do·vᵀ: ds = p·(dp - Σ_m p·dp),
dq = ds·k/√k, dk = Σ dsᵀ·q/√k, dv = Σ pᵀ·do. Both directions are parallel over queries: a program owns a range of
queries of one (group, head), whose keys and values it reads once. Seeing all keys, the backward forms p again and
needs neither statistics nor the output: it reads q and do and writes dq, once. dk and dv of a program stay in
registers until it ends; then `torch.sum` adds up what the programs wrote: no atomics, so that two runs give
the same bits.

Optionally the queries are normalised on the way in, q = x·rstd·weight with rstd = rsqrt(mean(x²) + eps), an
RMSNorm over the full width: one pass reads the statistics, and the normalised queries exist nowhere. Its
backward, with g the gradient that takes rstd as given, is dx = g - x·rstd²·mean(g·x), formed in place.
"""

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unity.kernels import passes
from unity.kernels.differentiable import differentiable, library_op
from unity.kernels.jit import tl, triton
from unity.kernels.passes import load_row, origin, store_row, thread_sums

MAX_KEYS = 128
MAX_HEAD = 128
_DTYPES = (torch.bfloat16, torch.float16)
_LOG2E = 1 / math.log(2)
_NORM_WARPS = 32


class Tuning(NamedTuple):
    """Queries in a tile, warps, programs that share a multiprocessor, tiles read ahead; the sums it forms."""

    tile: int
    warps: int
    resident: int
    stages: int
    sums: dict = {}


# By padded number of keys. One launch of the backward has registers for the sums of 64 keys; 128 take two.
_FORWARD = {size: Tuning(64, 4, resident, 2) for size, resident in ((16, 3), (32, 3), (64, 3), (128, 2))}
_BACKWARD = {
    64: (Tuning(128, 8, 1, 2, {"KEYS": True, "VALUES": True}),),
    128: (
        Tuning(128, 8, 1, 1, {"KEYS": True, "VALUES": False}),
        Tuning(128, 8, 1, 2, {"KEYS": False, "VALUES": True}),
    ),
}


def dual_cross_attention(
    q: Tensor, key: Tensor, value: Tensor, bias: Tensor, weight: Tensor | None = None, eps: float = 1e-6
) -> Tensor:
    """Attention of queries [g, l, n, k] to keys and values [g, m, n, k] with a bias [g, m] on the logits.

    The float32 bias is 0 for a key, -inf for an absent one, log(count) for one that stands for `count` equal
    ones; it gets no gradient. A group whose keys are all absent gives zeros. With `weight` [n·k], the queries are
    RMSNorm(q)·weight over all heads.
    """
    if weight is None:
        return _op(q, key, value, bias, None, None)
    statistics = _rstd.traced if torch.compiler.is_compiling() else _rstd.direct
    return _op(q, key, value, bias, statistics(q.detach(), eps), weight)


def refusal(
    q: Tensor, key: Tensor, value: Tensor, bias: Tensor, weight: Tensor | None = None, eps: float = 1e-6
) -> str | None:
    """Why this implementation cannot run on these tensors, or None."""
    tensors = {"queries": q, "keys": key, "values": value}
    elsewhere = passes.device_refusal("queries", q)
    if elsewhere is not None:
        return elsewhere
    if q.is_cuda and torch.cuda.get_device_capability(q.device)[0] != 9:
        # elsewhere the backward's tiles exceed the shared memory (10.0, 8.9) or the registers (8.0)
        return "its tiles are cut for compute capability 9"
    if key.shape[1] > MAX_KEYS:
        return f"{key.shape[1]} keys do not stay on chip, at most {MAX_KEYS} do"
    if q.shape[-1] > MAX_HEAD or q.shape[-1] % 8:
        return f"head size {q.shape[-1]} is not a multiple of 8 up to {MAX_HEAD}"
    if q.dtype not in _DTYPES and not passes.INTERPRETED:
        return f"queries are {q.dtype}, tensor cores take bfloat16 and float16"
    if not q.dtype == key.dtype == value.dtype:
        return f"queries are {q.dtype}, keys {key.dtype}, values {value.dtype}"
    for name, x in tensors.items():
        if not _side_by_side(x):
            return f"{name} have strides {x.stride()}, heads do not lie side by side"
    return passes.refusal({name: x.flatten(2) for name, x in tensors.items()})


@triton.jit
def _inside(count, D: tl.constexpr, R: tl.constexpr, K: tl.constexpr):
    """True for the first `count` rows and D columns of a tile [R, K]."""
    inside = (tl.arange(0, R) < count)[:, None]
    if D < K:
        inside = inside & (tl.arange(0, K) < D)[None, :]
    return inside


@triton.jit
def _tile(pointer, row_stride, count, D: tl.constexpr, R: tl.constexpr, K: tl.constexpr):
    """Rows of a head, [R, K]; what lies beyond `count` rows or D columns is zero."""
    at = pointer + tl.arange(0, R)[:, None] * (row_stride * 8) + tl.arange(0, K)[None, :]
    return tl.load(at, mask=_inside(count, D, R, K), other=0.0)


@triton.jit
def _put(pointer, row_stride, count, tile, D: tl.constexpr, R: tl.constexpr, K: tl.constexpr):
    at = pointer + tl.arange(0, R)[:, None] * (row_stride * 8) + tl.arange(0, K)[None, :]
    tl.store(at, tile.to(pointer.dtype.element_ty), mask=_inside(count, D, R, K))


@triton.jit
def _key_bias(bias, M: tl.constexpr):
    """Biases of a group's keys in units of log 2."""
    return tl.load(bias + tl.arange(0, M)) * 1.4426950408889634


@triton.jit
def _weighted(key, weight, D: tl.constexpr, K: tl.constexpr):
    """The norm's weight belongs to the keys as well as to the queries: q·w·k = q·(w·k)."""
    column = tl.arange(0, K)
    return (key * tl.load(weight + column, mask=column < D, other=0.0).to(tl.float32)[None, :]).to(key.dtype)


@triton.jit
def _softmax(logits):
    """exp2(s - max s) and one over its sum, row by row; 0 and 0 where every key is absent."""
    top = tl.max(logits, 1)
    top = tl.where(top == float("-inf"), 0.0, top)
    weights = tl.exp2(logits - top[:, None])
    total = tl.sum(weights, 1)
    return weights, tl.where(total > 0.0, 1.0 / total, 0.0)


@triton.jit
def forward_kernel(
    q, key, value, bias, rstd, weight, out, l, m, each, scale, q_group, q_row: tl.constexpr, key_group, key_row,
    value_group, value_row, out_row: tl.constexpr, NORM: tl.constexpr, D: tl.constexpr, K: tl.constexpr,
    M: tl.constexpr, R: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0)
    group = tl.program_id(2).to(tl.int64)
    key_tile = _tile(key + group * (key_group * 8) + head * D, key_row, m, D, M, K)
    value_tile = _tile(value + group * (value_group * 8) + head * D, value_row, m, D, M, K)
    key_bias = _key_bias(bias + group * M, M)
    if NORM:
        key_tile = _weighted(key_tile, weight + head * D, D, K)
    # transposed out here: inside the loop it would be written to shared memory anew for every tile
    key_t = tl.trans(key_tile)
    q += group * (q_group * 8) + head * D
    out += head * D
    row0 = group * l
    begin = tl.program_id(1) * each
    for first in tl.range(begin, min(begin + each, l), R, num_stages=STAGES):
        at = row0 + first
        q_tile = _tile(q + (at - row0) * (q_row * 8), q_row, l - first, D, R, K)
        logits = tl.dot(q_tile, key_t, input_precision="ieee") * scale
        if NORM:
            row = tl.arange(0, R)
            logits *= tl.load(rstd + at + row, mask=row < l - first, other=0.0)[:, None]
        weights, inverse = _softmax(logits + key_bias[None, :])
        result = tl.dot(weights.to(value_tile.dtype), value_tile, input_precision="ieee") * inverse[:, None]
        _put(out + at * (out_row * 8), out_row, l - first, result, D, R, K)


@triton.jit
def backward_kernel(
    d_out, q, key, value, bias, rstd, weight, d_q, partial, l, m, each, scale, head_scale, d_out_group,
    d_out_row: tl.constexpr, q_group, q_row: tl.constexpr, key_group, key_row, value_group, value_row,
    d_q_row: tl.constexpr, NORM: tl.constexpr, KEYS: tl.constexpr,
    VALUES: tl.constexpr, D: tl.constexpr, K: tl.constexpr, M: tl.constexpr, R: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0)
    heads = tl.num_programs(0)
    group = tl.program_id(2).to(tl.int64)
    key_tile = _tile(key + group * (key_group * 8) + head * D, key_row, m, D, M, K)
    value_tile = _tile(value + group * (value_group * 8) + head * D, value_row, m, D, M, K)
    key_bias = _key_bias(bias + group * M, M)
    if NORM:
        key_tile = _weighted(key_tile, weight + head * D, D, K)
    key_t = tl.trans(key_tile)
    value_t = tl.trans(value_tile)
    # transposed sums take the tiles of q and d_out from shared memory as they lie there
    d_key_t = tl.zeros([K, M], tl.float32)
    d_value_t = tl.zeros([K, M], tl.float32)
    q += group * (q_group * 8) + head * D
    d_out += group * (d_out_group * 8) + head * D
    d_q += head * D
    row0 = group * l
    begin = tl.program_id(1) * each
    for first in tl.range(begin, min(begin + each, l), R, num_stages=STAGES):
        at = row0 + first
        q_tile = _tile(q + (at - row0) * (q_row * 8), q_row, l - first, D, R, K)
        d_out_tile = _tile(d_out + (at - row0) * (d_out_row * 8), d_out_row, l - first, D, R, K)
        logits = tl.dot(q_tile, key_t, input_precision="ieee") * scale
        if NORM:
            row = tl.arange(0, R)
            row_rstd = tl.load(rstd + at + row, mask=row < l - first, other=0.0)
            logits *= row_rstd[:, None]
        if M > 64:
            # read again for every tile, from cache: kept, the biases would take a register for every fourth key
            weights, inverse = _softmax(logits + _key_bias(bias + group * M, M)[None, :])
        else:
            weights, inverse = _softmax(logits + key_bias[None, :])
        weights *= inverse[:, None]
        if VALUES:
            rounded = weights.to(q_tile.dtype)
            d_value_t = tl.dot(tl.trans(d_out_tile), rounded, d_value_t, input_precision="ieee")
        if KEYS:
            d_weights = tl.dot(d_out_tile, value_t, input_precision="ieee")
            if VALUES:
                # the rounded weights wait for d_weights in half the registers
                weights = rounded.to(tl.float32)
            d_logits = weights * d_weights
            d_logits -= weights * tl.sum(d_logits, 1)[:, None]
            if NORM:
                d_logits *= row_rstd[:, None]
            d_logits = d_logits.to(q_tile.dtype)
            d_key_t = tl.dot(tl.trans(q_tile), d_logits, d_key_t, input_precision="ieee")
            d_tile = tl.dot(d_logits, key_tile, input_precision="ieee") * head_scale
            _put(d_q + at * (d_q_row * 8), d_q_row, l - first, d_tile, D, R, K)
    width = heads * D
    partial += (group * tl.num_programs(1) + tl.program_id(1)) * (2 * m * width) + head * D
    if KEYS:
        _put(partial, width // 8, m, tl.trans(d_key_t) * head_scale, D, M, K)
    if VALUES:
        _put(partial + m * width, width // 8, m, tl.trans(d_value_t), D, M, K)


@triton.jit
def rstd_kernel(
    x, rstd, n, x_group, x_row, eps, D: tl.constexpr, A: tl.constexpr, B: tl.constexpr, T: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1)
    first = group.to(tl.int64) * n
    x += origin(group, first, x_group, x_row)
    for row in tl.range(tl.program_id(0), n, tl.num_programs(0), num_stages=STAGES):
        at = first + row
        a, b = load_row(x + at * (x_row * 8), D, A, B)
        tl.store(rstd + at, tl.rsqrt(tl.sum(thread_sums(a * a, b * b, A, B, T)) / D + eps))


@triton.jit
def norm_backward_kernel(
    d_x, x, rstd, n, x_group, x_row, D: tl.constexpr, A: tl.constexpr, B: tl.constexpr, T: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1)
    first = group.to(tl.int64) * n
    x += origin(group, first, x_group, x_row)
    for row in tl.range(tl.program_id(0), n, tl.num_programs(0), num_stages=STAGES):
        at = first + row
        row_rstd = tl.load(rstd + at)
        a, b = load_row(x + at * (x_row * 8), D, A, B)
        g_a, g_b = load_row(d_x + at * D, D, A, B)
        along = tl.sum(thread_sums(g_a * a, g_b * b, A, B, T)) * row_rstd * row_rstd / D
        store_row(d_x + at * D, g_a - a * along, g_b - b * along, D, A, B)


def _statistics(q: Tensor, eps: float) -> Tensor:
    """1/root-mean-square of every query over all heads, float32 [g, l]."""
    rstd = _statistics_fake(q, eps)
    x = q.flatten(2)
    programs, meta = _walk(x, 1)
    rstd_kernel[(programs, len(x))](x, rstd, x.shape[1], *passes.strides(x), eps, **meta)
    return rstd


def _statistics_fake(q, eps):
    return q.new_empty(q.shape[:2], dtype=torch.float32)


def _walk(x: Tensor, loads: int) -> passes.Walk:
    return passes.walk(x.shape[2], len(x), x.shape[0] * x.shape[1], loads, _NORM_WARPS, x)


def _forward(
    q: Tensor, key: Tensor, value: Tensor, bias: Tensor, rstd: Tensor | None, weight: Tensor | None
) -> Tensor:
    out = _forward_fake(q, key, value, bias, rstd, weight)
    keys = _padded(_FORWARD, key)
    tuning = _FORWARD[keys]
    # what a program does beside its tiles, in tiles: it reads keys and values
    each = _queries_each(q, tuning, keys / tuning.tile)
    forward_kernel[_grid(q, each)](
        q, key, value, _padded_bias(bias, keys), rstd, weight, out, q.shape[1], key.shape[1], each,
        _LOG2E / math.sqrt(q.shape[-1]), *_strides(q, key, value), out.stride(1) // 8,
        **_meta(q, keys, tuning, rstd),
    )  # fmt: skip
    return out


def _forward_fake(q, key, value, bias, rstd, weight):
    return q.new_empty(q.shape)


def _backward(
    d_out: Tensor,
    q: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    rstd: Tensor | None,
    weight: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """dq, and the sums over queries [g, 2, m, n, k]: d(weight·key) and dv in float32."""
    d_out = passes.readable(d_out) if _side_by_side(d_out) else d_out.contiguous()
    d_q, sums = _backward_fake(d_out, q, key, value, bias, rstd, weight)
    keys = _padded(_BACKWARD, key)
    # its float32 sums go out and come in again, where a tile is read twice and written once in 16 bits
    each = _queries_each(q, _BACKWARD[keys][0], 8 * keys / (3 * _BACKWARD[keys][0].tile))
    grid = _grid(q, each)
    partial = sums.new_empty(len(q), grid[1], *sums.shape[1:])
    head_scale, key_bias = 1 / math.sqrt(q.shape[-1]), _padded_bias(bias, keys)
    for tuning in _BACKWARD[keys]:
        backward_kernel[grid](
            d_out, q, key, value, key_bias, rstd, weight, d_q, partial, q.shape[1], key.shape[1], each,
            _LOG2E * head_scale, head_scale, *_strides(d_out, q, key, value), d_q.stride(1) // 8,
            **_meta(q, keys, tuning, rstd),
        )  # fmt: skip
    if rstd is not None:
        x, wide = q.flatten(2), d_q.flatten(2)
        programs, meta = _walk(x, 2)
        norm_backward_kernel[(programs, len(x))](wide, x, rstd, x.shape[1], *passes.strides(x), **meta)
    return d_q, partial.sum(1)


def _backward_fake(d_out, q, key, value, bias, rstd, weight):
    return q.new_empty(q.shape), key.new_empty(len(key), 2, *key.shape[1:], dtype=torch.float32)


def _setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _gradients(run, ctx, d_out):
    q, key, value, bias, rstd, weight = ctx.saved_tensors
    d_q, sums = run(d_out, q, key, value, bias, rstd, weight)
    d_key, d_value = sums.unbind(1)
    if rstd is None:
        return d_q, d_key.to(key.dtype), d_value.to(value.dtype), None, None, None
    d_weight = (d_key * key).sum((0, 1)).flatten().to(weight.dtype)
    d_key = d_key * weight.float().view(key.shape[2:])
    return d_q, d_key.to(key.dtype), d_value.to(value.dtype), None, None, d_weight


def _side_by_side(x: Tensor) -> bool:
    """Whether the heads of a row follow each other, as the kernels read them."""
    return x.stride(3) == 1 and (x.stride(2) == x.shape[3] or x.shape[2] == 1)


def _strides(*tensors: Tensor) -> tuple[int, ...]:
    """Group and row strides in units of eight numbers, as the kernels take them."""
    return tuple(x.stride(axis) // 8 for x in tensors for axis in (0, 1))


def _padded(table: dict[int, object], key: Tensor) -> int:
    return max(min(table), triton.next_power_of_2(key.shape[1]))


def _padded_bias(bias: Tensor, keys: int) -> Tensor:
    """Filled up with absent keys: rows of a size that is known are read in whole vectors."""
    return F.pad(bias, (0, keys - bias.shape[1]), value=-math.inf).contiguous()


def _grid(q: Tensor, each: int) -> tuple[int, int, int]:
    """Heads, ranges of queries, groups: programs that run together read whole rows."""
    return q.shape[2], triton.cdiv(q.shape[1], each), q.shape[0]


def _meta(q: Tensor, keys: int, tuning: Tuning, rstd: Tensor | None) -> dict:
    k = q.shape[-1]
    sizes = {"D": k, "K": max(16, triton.next_power_of_2(k)), "M": keys, "R": tuning.tile}
    options = {"STAGES": tuning.stages, "num_warps": tuning.warps, "enable_fp_fusion": True}
    return sizes | options | tuning.sums | {"NORM": rstd is not None}


def _queries_each(q: Tensor, tuning: Tuning, overhead: float) -> int:
    """Queries that a program owns, whole tiles of them."""
    groups, l, heads, _ = q.shape
    slots = tuning.resident * passes._multiprocessors(q.device)
    return tuning.tile * _tiles_each(groups * heads, triton.cdiv(l, tuning.tile), slots, overhead)


@functools.lru_cache(maxsize=1024)
def _tiles_each(pairs: int, tiles: int, slots: int, overhead: float) -> int:
    """Tiles of queries a program takes, so that full waves of programs end the soonest."""

    def time(each: int) -> float:
        return math.ceil(pairs * math.ceil(tiles / each) / slots) * (each + overhead)

    return min((math.ceil(tiles / programs) for programs in range(1, min(tiles, 64) + 1)), key=time)


_rstd = library_op("dual_cross_attention_statistics", _statistics, _statistics_fake)
_op = differentiable(
    library_op("dual_cross_attention", _forward, _forward_fake),
    library_op("dual_cross_attention_backward", _backward, _backward_fake),
    _setup,
    _gradients,
)
