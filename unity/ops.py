"""The one door to the fast ops: by device, dtype and shape it picks an implementation, best first.

Every op has a row of implementations in `IMPLEMENTATIONS`, each with a function that says why it cannot take
the given tensors, or None if it can; the reference in plain torch takes whatever is left. The first time an op
runs in some way, one line on stderr says in which, and why the faster ones were refused.

Letters: g groups (a sample's stream each), b samples, s streams, l and m tokens, d width, n heads, k head size.
Every op raises ValueError for tensors whose sizes do not fit it and each other, whatever would run.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unity import attention
from unity.kernels import dual_cross_attention as triton_attention
from unity.kernels import flow_noise as triton_noise
from unity.kernels import gated_residual as triton_residual
from unity.kernels import gelu as triton_gelu
from unity.kernels import linear_fp8 as scaled
from unity.kernels import modulated_layernorm as triton_layernorm
from unity.kernels import qk_norm_rope as triton_rope
from unity.kernels import quantize, reference
from unity.kernels.arguments import check, check_attention, check_product
from unity.kernels.quantized import Quantized
from unity.kernels.rotary import Rotary
from unity.native import layernorm, pointwise, residual, rmsnorm, rope


class Implementation(NamedTuple):
    """One way to run an op. `refusal(*args)` is None where `run` may be called on the same."""

    name: str
    refusal: Callable[..., str | None]
    run: Callable


_native = partial(Implementation, "c++")
_triton = partial(Implementation, "triton")


def _never(*_) -> None:
    """The refusal of what takes everything."""


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
        _native(layernorm.refusal, layernorm.modulated_layernorm),
    ),
    "modulated_layernorm_fp8": (_triton(triton_layernorm.refusal_fp8, triton_layernorm.modulated_layernorm_fp8),),
    "gated_residual": (
        _triton(triton_residual.plain_refusal, triton_residual.gated_residual),
        _native(residual.refusal, residual.gated_residual),
    ),
    "gated_residual_layernorm": (
        _triton(triton_residual.refusal, triton_residual.gated_residual_layernorm),
        _native(layernorm.gated_refusal, layernorm.gated_residual_layernorm),
    ),
    "gated_residual_layernorm_fp8": (
        _triton(triton_residual.refusal_fp8, triton_residual.gated_residual_layernorm_fp8),
    ),
    "qk_norm_rope": (
        _triton(triton_rope.refusal, triton_rope.qk_norm_rope),
        _native(rope.refusal, rope.qk_norm_rope),
    ),
    "rms_norm": (_native(rmsnorm.refusal, rmsnorm.rms_norm), Implementation("torch", _never, _torch_rms_norm)),
    # One pass over any dtype, in float32 inside: nothing is left to fuse.
    "gelu": (
        _native(pointwise.gelu_refusal, pointwise.gelu),
        Implementation("torch", _never, partial(F.gelu, approximate="tanh")),
    ),
    "gelu_fp8": (_triton(triton_gelu.refusal_fp8, triton_gelu.gelu_fp8),),
    "linear_fp8": (
        Implementation("tensor cores", scaled.refusal, scaled.linear_fp8),
        Implementation("float32 emulation", _never, scaled.linear_fp8),
    ),
    "flow_noise": (
        _triton(triton_noise.refusal, triton_noise.flow_noise),
        _native(pointwise.noise_refusal, pointwise.flow_noise),
    ),
    "self_attention": tuple(Implementation(*backend) for backend in attention.BACKENDS),
    "dual_cross_attention": (
        _triton(triton_attention.refusal, triton_attention.dual_cross_attention),
        Implementation("torch", _never, _torch_cross_attention),
    ),
}
_said: set[tuple] = set()


def choose(op: str, *args) -> tuple[Implementation, list[tuple[str, str]]]:
    """The implementation that will run on these arguments, and who was refused and why."""
    refused = []
    for row in IMPLEMENTATIONS[op]:
        reason = row.refusal(*args)
        if reason is None:
            return row, refused
        refused.append((row.name, reason))
    return Implementation("reference", _never, getattr(reference, op)), refused


def attends(tokens: int, heads: int, head: int, dtype: torch.dtype, device: torch.device) -> str:
    """The name of the back end of unity.attention for so many tokens among themselves."""
    q = torch.empty(1, 1, heads, head, dtype=dtype, device=device).expand(-1, tokens, -1, -1)
    return choose("self_attention", q, q, q)[0].name


def modulated_layernorm(
    x: Float[Tensor, "g l d"], scale: Float[Tensor, "g d"], shift: Float[Tensor, "g d"], eps: float = 1e-6
) -> Float[Tensor, "g l d"]:
    """LayerNorm(x)·(1 + scale) + shift in the dtype of x."""
    check("modulated_layernorm", x, scale, shift, eps=eps)
    return _run("modulated_layernorm", x, scale, shift, eps)


def modulated_layernorm_fp8(
    x: Float[Tensor, "g l d"], scale: Float[Tensor, "g d"], shift: Float[Tensor, "g d"], eps: float = 1e-6
) -> Quantized:
    """The same in e4m3 with a float32 scale a token; see `Quantized`."""
    check("modulated_layernorm_fp8", x, scale, shift, eps=eps)
    return _run("modulated_layernorm_fp8", x, scale, shift, eps)


def gated_residual(
    x: Float[Tensor, "g l d"], y: Float[Tensor, "g l d"], gate: Float[Tensor, "g d"]
) -> Float[Tensor, "g l d"]:
    """x + gate·y in the dtype of x."""
    check("gated_residual", x, y, gate)
    return _run("gated_residual", x, y, gate)


def gated_residual_layernorm(
    x: Float[Tensor, "g l d"],
    y: Float[Tensor, "g l d"],
    gate: Float[Tensor, "g d"],
    scale: Float[Tensor, "g d"],
    shift: Float[Tensor, "g d"],
    eps: float = 1e-6,
) -> tuple[Float[Tensor, "g l d"], Float[Tensor, "g l d"]]:
    """r = x + gate·y and LayerNorm(r)·(1 + scale) + shift: one pass at the boundary between two sublayers."""
    check("gated_residual_layernorm", x, y, gate, scale, shift, eps=eps)
    return _run("gated_residual_layernorm", x, y, gate, scale, shift, eps)


def gated_residual_layernorm_fp8(
    x: Float[Tensor, "g l d"],
    y: Float[Tensor, "g l d"],
    gate: Float[Tensor, "g d"],
    scale: Float[Tensor, "g d"],
    shift: Float[Tensor, "g d"],
    eps: float = 1e-6,
) -> tuple[Float[Tensor, "g l d"], Quantized]:
    """The same with the second result in e4m3 with a float32 scale a token; see `Quantized`."""
    check("gated_residual_layernorm_fp8", x, y, gate, scale, shift, eps=eps)
    return _run("gated_residual_layernorm_fp8", x, y, gate, scale, shift, eps)


def qk_norm_rope(
    q: Float[Tensor, "b l d"],
    k: Float[Tensor, "b l d"],
    q_weight: Float[Tensor, " d"],
    k_weight: Float[Tensor, " d"],
    rotary: Rotary,
    eps: float = 1e-6,
    inplace: bool = False,
) -> tuple[Float[Tensor, "b l n k"], Float[Tensor, "b l n k"]]:
    """RMSNorm over the full width, as in Wan, and 3-D rotary positions of queries and keys.

    `inplace`, for calls without gradients, lets the results take the place of q and k, of which they are then
    views; under torch.compile they are new tensors all the same.
    """
    check("qk_norm_rope", q, k, q_weight, k_weight, eps=eps)
    if not isinstance(rotary, Rotary):
        raise ValueError(f"qk_norm_rope: rotary is {type(rotary).__name__}, not a Rotary")
    rotary.check(q)
    return _run("qk_norm_rope", q, k, q_weight, k_weight, rotary, eps, inplace)


def rms_norm(
    x: Float[Tensor, "*any d"], weight: Float[Tensor, " d"], eps: float = 1e-6
) -> Float[Tensor, "*any d"]:
    """RMSNorm(x)·weight over the last axis in the dtype of x, in float32 inside."""
    check("rms_norm", x, weight, eps=eps)
    return _run("rms_norm", x, weight, eps)


def gelu(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """GELU, tanh form, in float32 inside."""
    check("gelu", x)
    return _run("gelu", x)


def gelu_fp8(x: Float[Tensor, "g l d"]) -> Quantized:
    """GELU in e4m3 with a float32 scale a token; see `Quantized`."""
    check("gelu_fp8", x)
    return _run("gelu_fp8", x)


def linear_fp8(
    x: Float[Tensor, "*any i"] | Quantized,
    weight: Float[Tensor, "o i"],
    bias: Float[Tensor, " o"] | None,
    rowwise: bool = True,
) -> Float[Tensor, "*any o"]:
    """x·weightᵀ + bias in 8 bits (sizes: multiples of 16); a scale per token and row of weight, or per tensor."""
    check("linear_fp8", x.carrier if isinstance(x, Quantized) else x, weight, bias)
    check_product(weight)
    return _run("linear_fp8", x, weight, bias, rowwise)


def widen(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """values [r, c] in e4m3, whose rows may lie apart, times a float32 scale [r, 1] of each, in a wide dtype."""
    return quantize.widen(values, scale, dtype)


def flow_noise(
    data: Float[Tensor, "b s *any"], noise: Float[Tensor, "b s *any"], time: Float[Tensor, "b s"]
) -> tuple[Float[Tensor, "b s *any"], Float[Tensor, "b s *any"]]:
    """(1 - time)·data + time·noise and its target noise - data, in one pass."""
    check("flow_noise", data, noise, time)
    return _run("flow_noise", data, noise, time)


def self_attention(
    q: Float[Tensor, "b m n k"], k: Float[Tensor, "b l n k"], v: Float[Tensor, "b l n k"]
) -> Float[Tensor, "b m n k"]:
    """Attention of m tokens of a sample, often all, to all of its l tokens."""
    check("self_attention", q, k, v)
    check_attention("self_attention", q, k, v)
    return _run("self_attention", q, k, v)


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
    check("dual_cross_attention", q, key, value, bias, weight, eps=eps)
    check_attention("dual_cross_attention", q, key, value)
    return _run("dual_cross_attention", q, key, value, bias, weight, eps)


def _run(op: str, *args):
    row, refused = choose(op, *args)
    if not torch.compiler.is_compiling():
        _say(op, row.name, refused)
    return row.run(*args)


def _say(op: str, name: str, refused: list[tuple[str, str]]) -> None:
    key = (op, name, *refused)
    if key in _said or os.environ.get("RANK", "0") != "0":
        return
    _said.add(key)
    why = "; ".join(f"{other} refused: {reason}" for other, reason in refused)
    print(f"unity.ops: {op} runs on {name}" + (f" ({why})" if why else ""), file=sys.stderr)
