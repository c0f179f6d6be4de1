"""The rows of kernel_bench: every op with its inputs and the bytes it must move, the shapes, and the peers.

A peer is what a user would install instead: the norm or rotary function of another library, and eager torch for
the part of the op that this library does not have.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor

from unity.config import MODELS
from unity.kernels import reference
from unity.kernels.rotary import Rotary

STREAMS = 2
# Tokens of a sample → grid of one stream. 65520 is 480x832 and 81 frames, 32760 half its width.
GRIDS = {1152: (4, 12, 12), 4096: (8, 16, 16), 32760: (21, 30, 26), 65520: (21, 30, 52)}
NOISED_SAMPLES = 8
# A caption of 64 tokens, and one key for all of its padding.
KEYS = 65


@dataclass(frozen=True)
class Shape:
    """A size of the model (or any width, for checks) and the grid of tokens of one stream."""

    name: str
    dim: int
    ffn_dim: int
    heads: int
    grid: tuple[int, int, int]

    @property
    def tokens(self) -> int:
        return STREAMS * self.grid[0] * self.grid[1] * self.grid[2]


def model_shape(name: str, tokens: int) -> Shape:
    model = MODELS[name]
    return Shape(name, model.dim, model.ffn_dim, model.num_heads, GRIDS[tokens])


class Inputs(NamedTuple):
    """Arguments of one call: tensors that may want a gradient, then the rest."""

    tensors: tuple[Tensor, ...]
    rest: tuple = ()


Make = Callable[[Shape, torch.dtype, str], Inputs]


@dataclass(frozen=True)
class Op:
    """An op, and how often it must move a tensor of activations (its first argument), forward and backward."""

    make: Make
    forward: float
    backward: int | None


def _normal(shape: tuple[int, ...], dtype: torch.dtype, device: str, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape, device=device) * scale).to(dtype)


def _rows_and_tables(rows: int, tables: int, shape: Shape, dtype: torch.dtype, device: str) -> Inputs:
    row = (STREAMS, shape.tokens // STREAMS, shape.dim)
    table = (STREAMS, shape.dim)
    found = [_normal(row, dtype, device) for _ in range(rows)]
    return Inputs((*found, *(_normal(table, torch.float32, device, 0.5) for _ in range(tables))))


def _queries(shape: Shape, dtype: torch.dtype, device: str) -> Inputs:
    q, k = (_normal((1, shape.tokens, shape.dim), dtype, device) for _ in range(2))
    weights = (1 + _normal((shape.dim,), torch.float32, device, 0.1) for _ in range(2))
    return Inputs((q, k, *weights), (Rotary(shape.grid, STREAMS, shape.heads), 1e-6))


def _hidden(shape: Shape, dtype: torch.dtype, device: str) -> Inputs:
    return Inputs((_normal((1, shape.tokens, shape.ffn_dim), dtype, device, 2.0),))


def _latents(shape: Shape, dtype: torch.dtype, device: str) -> Inputs:
    t, h, w = shape.grid
    size = (NOISED_SAMPLES, STREAMS, 16, t, 2 * h, 2 * w)
    data, noise = (_normal(size, dtype, device) for _ in range(2))
    return Inputs((), (data, noise, torch.rand(size[:2], device=device)))


def _attention(shape: Shape, dtype: torch.dtype, device: str) -> Inputs:
    head = shape.dim // shape.heads
    q = _normal((STREAMS, shape.tokens // STREAMS, shape.heads, head), dtype, device)
    key, value = (_normal((STREAMS, KEYS, shape.heads, head), dtype, device) for _ in range(2))
    bias = torch.zeros(STREAMS, KEYS, device=device)
    bias[:, -1] = math.log(512 - KEYS + 1)
    return Inputs((q, key, value), (bias,))


def _without_gradients(make: Make) -> Make:
    return lambda *about: Inputs((), sum(make(*about), ()))


OPS = {
    "modulated_layernorm": Op(partial(_rows_and_tables, 1, 2), 2, 3),
    "gated_residual": Op(partial(_rows_and_tables, 2, 1), 3, 3),
    "gated_residual_layernorm": Op(partial(_rows_and_tables, 2, 3), 4, 6),
    "qk_norm_rope": Op(_queries, 4, 6),
    "gelu": Op(_hidden, 2, 3),
    "flow_noise": Op(_latents, 4, None),
    "dual_cross_attention": Op(_attention, 2, 4),
    # 8 bits written for 16 read
    "modulated_layernorm_fp8": Op(_without_gradients(partial(_rows_and_tables, 1, 2)), 1.5, None),
    "gated_residual_layernorm_fp8": Op(_without_gradients(partial(_rows_and_tables, 2, 3)), 3.5, None),
    "gelu_fp8": Op(_without_gradients(_hidden), 1.5, None),
}


class Library(NamedTuple):
    """What a library offers for these ops: layernorm(x, eps), rmsnorm(x, weight, eps), rotate(x, cos, sin)."""

    layernorm: Callable
    rmsnorm: Callable
    rotate: Callable


def _diffusers(device: str) -> Library:
    from diffusers.models.embeddings import apply_rotary_emb
    from diffusers.models.normalization import FP32LayerNorm

    def rotate(x, cos, sin):
        return apply_rotary_emb(x, [repeat(a, "l k -> l (k two)", two=2) for a in (cos, sin)], sequence_dim=1)

    return Library(
        lambda x, eps: FP32LayerNorm(x.shape[-1], eps=eps, elementwise_affine=False)(x),
        lambda x, weight, eps: torch.nn.functional.rms_norm(x, weight.shape, weight.to(x.dtype), eps),
        rotate,
    )


def _liger(device: str) -> Library:
    if device == "cpu":
        raise ImportError("its kernels need a GPU")
    from liger_kernel.ops.layer_norm import LigerLayerNormFunction
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction

    def layernorm(x, eps):
        ones = x.new_ones(x.shape[-1])
        return LigerLayerNormFunction.apply(x, ones, torch.zeros_like(ones), eps)

    def rmsnorm(x, weight, eps):
        return LigerRMSNormFunction.apply(x, weight.to(x.dtype), eps, 0.0, "llama", False)

    return Library(layernorm, rmsnorm, reference.rotate)


def _transformer_engine(device: str) -> Library:
    if device == "cpu":
        raise ImportError("its kernels need a GPU")
    import transformer_engine.pytorch as te

    def apply(module, x, weight, eps):
        norm = module(x.shape[-1], eps=eps, device=x.device, dtype=x.dtype)
        norm.weight = torch.nn.Parameter(weight.to(x.dtype))
        return norm(x)

    return Library(
        lambda x, eps: apply(te.LayerNorm, x, x.new_ones(x.shape[-1]), eps),
        lambda x, weight, eps: apply(te.RMSNorm, x, weight, eps),
        reference.rotate,
    )


LIBRARIES = {"diffusers": _diffusers, "liger": _liger, "transformer_engine": _transformer_engine}
_TORCH = Library(
    lambda x, eps: torch.nn.functional.layer_norm(x, x.shape[-1:], eps=eps),
    lambda x, weight, eps: torch.nn.functional.rms_norm(x.float(), weight.shape, weight, eps).to(x.dtype),
    reference.rotate,
)
# Like a model, every form but ours forms the rotary table once and keeps it.
_kept_table = lru_cache(maxsize=4)(Rotary.angles)


def eager(op: str, wrap: Callable = lambda form: form) -> Callable:
    """The op in plain torch; `wrap` (torch.compile) is applied to its arithmetic."""
    if op == "qk_norm_rope":
        return _queries_form(_TORCH, wrap)
    return wrap(getattr(reference, op))


def peer(library: Library, op: str) -> Callable | None:
    """The op as a user of this library writes it, or None where the library has nothing for it."""

    def modulated(x, scale, shift, eps=1e-6):
        return (library.layernorm(x, eps).float() * (1 + scale[:, None]) + shift[:, None]).to(x.dtype)

    def boundary(x, y, gate, scale, shift, eps=1e-6):
        kept = (x.float() + y * gate[:, None]).to(x.dtype)
        return kept, modulated(kept, scale, shift, eps)

    forms = {
        "modulated_layernorm": modulated,
        "gated_residual_layernorm": boundary,
        "qk_norm_rope": _queries_form(library, lambda form: form),
    }
    return forms.get(op)


def _queries_form(library: Library, wrap: Callable) -> Callable:
    @wrap
    def inner(q, k, q_weight, k_weight, table, heads, eps):
        def one(x, weight):
            return library.rotate(
                rearrange(library.rmsnorm(x, weight, eps), "b l (n k) -> b l n k", n=heads), *table
            )

        return one(q, q_weight), one(k, k_weight)

    def form(q, k, q_weight, k_weight, rotary, eps):
        table = _kept_table(rotary, q.shape[-1] // rotary.num_heads, q.device)
        return inner(q, k, q_weight, k_weight, table, rotary.num_heads, eps)

    return form
