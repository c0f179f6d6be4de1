"""The one door to the fast ops: by device, dtype and shape it picks an implementation, best first.

Every op has a row of implementations in `IMPLEMENTATIONS`, each with a function that says why it cannot take
the given tensors, or None if it can; the reference in plain torch takes whatever is left. The first time an op
runs in some way, one line on stderr says in which, and why the faster ones were refused.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unity import attention, native
from unity.kernels import dual_cross_attention as triton_attention
from unity.kernels import flow_noise as triton_noise
from unity.kernels import gated_residual as triton_residual
from unity.kernels import gelu as triton_gelu
from unity.kernels import linear_fp8 as scaled
from unity.kernels import modulated_layernorm as triton_layernorm
from unity.kernels import qk_norm_rope as triton_rope
from unity.kernels import reference
from unity.kernels.fp8 import Quantized


class Implementation(NamedTuple):
    """One way to run an op. `refusal(*args, **kwargs)` is None where `run` may be called on the same."""

    name: str
    refusal: Callable[..., str | None]
    run: Callable


def _native(op: str) -> Implementation:
    return Implementation("c++", partial(native.can_run, op), getattr(native, op))


def _triton(refusal: Callable, run: Callable) -> Implementation:
    return Implementation("triton", refusal, run)


def _torch_rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    # torch has a fused form for equal dtypes only
    return F.rms_norm(x, weight.shape, weight.to(x.dtype), eps)


def _torch_cross_attention(
    q: Tensor, key: Tensor, value: Tensor, bias: Tensor, weight: Tensor | None = None, eps: float = 1e-6
) -> Tensor:
    if weight is not None:
        q = rms_norm(q.flatten(2), weight, eps).view_as(q)
    return attention.cross_attention(q, key, value, bias)


IMPLEMENTATIONS: dict[str, tuple[Implementation, ...]] = {
    "modulated_layernorm": (
        _triton(triton_layernorm.refusal, triton_layernorm.modulated_layernorm),
        _native("modulated_layernorm"),
    ),
    "modulated_layernorm_fp8": (_triton(triton_layernorm.refusal_fp8, triton_layernorm.modulated_layernorm_fp8),),
    "gated_residual": (
        _triton(triton_residual.plain_refusal, triton_residual.gated_residual),
        _native("gated_residual"),
    ),
    "gated_residual_layernorm": (
        _triton(triton_residual.refusal, triton_residual.gated_residual_layernorm),
        _native("gated_residual_layernorm"),
    ),
    "gated_residual_layernorm_fp8": (
        _triton(triton_residual.refusal_fp8, triton_residual.gated_residual_layernorm_fp8),
    ),
    "qk_norm_rope": (_triton(triton_rope.refusal, triton_rope.qk_norm_rope), _native("qk_norm_rope")),
    "rms_norm": (_native("rms_norm"), Implementation("torch", lambda *_: None, _torch_rms_norm)),
    # One pass over any dtype, in float32 inside: nothing is left to fuse.
    "gelu": (_native("gelu"), Implementation("torch", lambda x: None, partial(F.gelu, approximate="tanh"))),
    "gelu_fp8": (_triton(triton_gelu.refusal_fp8, triton_gelu.gelu_fp8),),
    "linear_fp8": (
        Implementation("tensor cores", scaled.refusal, scaled.linear_fp8),
        Implementation("float32 emulation", lambda *_: None, scaled.linear_fp8),
    ),
    "flow_noise": (_triton(triton_noise.refusal, triton_noise.flow_noise), _native("flow_noise")),
    "self_attention": tuple(Implementation(*backend) for backend in attention.BACKENDS),
    "dual_cross_attention": (
        _triton(triton_attention.refusal, triton_attention.dual_cross_attention),
        Implementation("torch", lambda *_: None, _torch_cross_attention),
    ),
}
_ROW_ARGUMENTS = {"modulated_layernorm": 1, "gated_residual": 2, "gated_residual_layernorm": 2}
_said: set[tuple] = set()


def choose(op: str, *args, **kwargs) -> tuple[Implementation, list[tuple[str, str]]]:
    """The implementation that will run on these arguments, and who was refused and why."""
    refused = []
    for row in IMPLEMENTATIONS[op]:
        reason = row.refusal(*args, **kwargs)
        if reason is None:
            return row, refused
        refused.append((row.name, reason))
    return Implementation("reference", lambda *_, **__: None, partial(_reference, op)), refused


def modulated_layernorm(
    x: Float[Tensor, "*rows d"],
    scale: Float[Tensor, "g d"],
    shift: Float[Tensor, "g d"],
    eps: float = 1e-6,
    offsets: Int[Tensor, " bounds"] | None = None,
) -> Float[Tensor, "*rows d"]:
    """LayerNorm(x)·(1 + scale) + shift in the dtype of x: x [g, n, d]; or [total, d] with offsets [g + 1]."""
    return _run("modulated_layernorm", x, scale, shift, eps, **_given(offsets))


def modulated_layernorm_fp8(
    x: Float[Tensor, "g n d"], scale: Float[Tensor, "g d"], shift: Float[Tensor, "g d"], eps: float = 1e-6
) -> Quantized:
    """The same as e4m3 rows with a float32 scale each; see `Quantized`."""
    return _run("modulated_layernorm_fp8", x, scale, shift, eps)


def gated_residual(
    x: Float[Tensor, "*rows d"],
    y: Float[Tensor, "*rows d"],
    gate: Float[Tensor, "g d"],
    offsets: Int[Tensor, " bounds"] | None = None,
) -> Float[Tensor, "*rows d"]:
    """x + gate·y in the dtype of x: x and y [g, n, d]; or [total, d] with offsets [g + 1]."""
    return _run("gated_residual", x, y, gate, **_given(offsets))


def gated_residual_layernorm(
    x: Float[Tensor, "*rows d"],
    y: Float[Tensor, "*rows d"],
    gate: Float[Tensor, "g d"],
    scale: Float[Tensor, "g d"],
    shift: Float[Tensor, "g d"],
    eps: float = 1e-6,
    offsets: Int[Tensor, " bounds"] | None = None,
) -> tuple[Float[Tensor, "*rows d"], Float[Tensor, "*rows d"]]:
    """r = x + gate·y and LayerNorm(r)·(1 + scale) + shift: one pass at the boundary between two sublayers."""
    return _run("gated_residual_layernorm", x, y, gate, scale, shift, eps, **_given(offsets))


def gated_residual_layernorm_fp8(
    x: Float[Tensor, "g n d"],
    y: Float[Tensor, "g n d"],
    gate: Float[Tensor, "g d"],
    scale: Float[Tensor, "g d"],
    shift: Float[Tensor, "g d"],
    eps: float = 1e-6,
) -> tuple[Float[Tensor, "g n d"], Quantized]:
    """The same with the second result as e4m3 rows with a float32 scale each; see `Quantized`."""
    return _run("gated_residual_layernorm_fp8", x, y, gate, scale, shift, eps)


def qk_norm_rope(
    q: Float[Tensor, "b l d"],
    k: Float[Tensor, "b l d"],
    q_weight: Float[Tensor, " w"],
    k_weight: Float[Tensor, " w"],
    grid: tuple[int, int, int],
    streams: int,
    num_heads: int,
    theta: float = 1e4,
    eps: float = 1e-6,
    per_head: bool = False,
    inplace: bool = False,
) -> tuple[Float[Tensor, "b l n k"], Float[Tensor, "b l n k"]]:
    """RMSNorm and 3-D rotary positions of queries and keys, l = streams·t·h·w for grid (t, h, w).

    weight [d] for the norm over the full width (Wan), [k] for the norm per head. Stream s lies at the column
    positions s·w … s·w + w - 1. `inplace`, for calls without gradients, lets the results take the place of q and
    k, of which they are then views; under torch.compile they are new tensors all the same.
    """
    return _run("qk_norm_rope", q, k, q_weight, k_weight, grid, streams, num_heads, theta, eps, per_head, inplace)


def rms_norm(
    x: Float[Tensor, "*rows d"], weight: Float[Tensor, " d"], eps: float = 1e-6
) -> Float[Tensor, "*rows d"]:
    """RMSNorm(x)·weight over the last axis in the dtype of x, in float32 inside."""
    return _run("rms_norm", x, weight, eps)


def gelu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """GELU, tanh form, in float32 inside."""
    return _run("gelu", x)


def gelu_fp8(x: Float[Tensor, "g n d"]) -> Quantized:
    """GELU as e4m3 rows with a float32 scale each; see `Quantized`."""
    return _run("gelu_fp8", x)


def linear_fp8(
    x: Tensor | Quantized,
    weight: Float[Tensor, "o i"],
    bias: Float[Tensor, " o"] | None,
    rows: bool = True,
    wide_gradient: bool = True,
) -> Float[Tensor, "... o"]:
    """x·weightᵀ + bias in 8 bits: x [..., i] or already quantised; a scale per row, or (not `rows`) per tensor.

    `wide_gradient`: the weight's gradient is a product of wide numbers.
    """
    return _run("linear_fp8", x, weight, bias, rows, wide_gradient)


def flow_noise(
    data: Float[Tensor, "b s ..."], noise: Float[Tensor, "b s ..."], time: Float[Tensor, "b s"]
) -> tuple[Float[Tensor, "b s ..."], Float[Tensor, "b s ..."]]:
    """(1 - time)·data + time·noise and its target noise - data, in one pass."""
    return _run("flow_noise", data, noise, time)


def self_attention(
    q: Float[Tensor, "*tokens n k"],
    k: Float[Tensor, "*tokens n k"],
    v: Float[Tensor, "*tokens n k"],
    offsets: Int[Tensor, " bounds"] | None = None,
    longest: int | None = None,
) -> Float[Tensor, "*tokens n k"]:
    """Attention over all tokens of a sample: [b, l, n, k]; or packed, [total, n, k] with int32 offsets [b + 1].

    Packed samples need `longest`, the length of the longest one.
    """
    packed = {} if offsets is None else {"offsets": offsets, "longest": longest}
    return _run("self_attention", q, k, v, **packed)


def dual_cross_attention(
    q: Float[Tensor, "g l n k"],
    key: Float[Tensor, "g m n k"],
    value: Float[Tensor, "g m n k"],
    bias: Float[Tensor, "g m"],
    weight: Float[Tensor, " d"] | None = None,
    eps: float = 1e-6,
) -> Float[Tensor, "g l n k"]:
    """Both branches in one call; logit bias 0: a real key, -inf: absent, log(count): `count` equal keys.

    Only the last key of a group should stand for several. With `weight` [n·k], the queries pass through RMSNorm
    over all heads first.
    """
    return _run("dual_cross_attention", q, key, value, bias, weight, eps)


def _run(op: str, *args, **kwargs):
    row, refused = choose(op, *args, **kwargs)
    if not torch.compiler.is_compiling():
        _say(op, row.name, refused)
    return row.run(*args, **kwargs)


def _reference(op: str, *args, offsets: Tensor | None = None):
    function = getattr(reference, op)
    if op.endswith("_fp8"):
        *wide, values, scale, carrier = function(*args)
        return (*wide, Quantized(values, scale, carrier)) if wide else Quantized(values, scale, carrier)
    if offsets is None:
        return function(*args)
    rows = _ROW_ARGUMENTS[op]
    tables = [x for x in args[rows:] if isinstance(x, Tensor)]
    return reference.unequal_groups(function, args[:rows], tables, offsets, *args[rows + len(tables) :])


def _given(offsets: Tensor | None) -> dict[str, Tensor]:
    return {} if offsets is None else {"offsets": offsets}


def _say(op: str, name: str, refused: list[tuple[str, str]]) -> None:
    key = (op, name, *refused)
    if key in _said or os.environ.get("RANK", "0") != "0":
        return
    _said.add(key)
    why = "; ".join(f"{other} refused: {reason}" for other, reason in refused)
    print(f"unity.ops: {op} runs on {name}" + (f" ({why})" if why else ""), file=sys.stderr)
