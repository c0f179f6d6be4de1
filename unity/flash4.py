"""FlashAttention 4 (the extra `flash`) as an op of torch, which it is not by itself.

So a traced graph has it as one node, and recomputation that keeps attention's outputs finds them. Forward and
backward are called as torch's own adapter calls them (torch.nn.attention.activate_flash_attention_impl), which
would put them in the place of torch's flash attention everywhere in the process.
"""

import functools
import importlib
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of queries [b, m, n, k] to keys and values [b, l, n, k], in 16 bits on a CUDA GPU."""
    return _forward(q, k, v)[0]


@functools.cache
def _package() -> ModuleType:
    # its compiler says this of every kernel, and nobody can change it
    warnings.filterwarnings("ignore", "Argument aux_data", UserWarning)
    return importlib.import_module("flash_attn.cute.interface")


@torch.library.custom_op("unity::flash_attention_4", mutates_args=())
def _forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The output, and the logarithms of the sums [b, n, m] in float32."""
    # versions differ in what they return behind these two
    out, sums, *_ = _package()._flash_attn_fwd(q, k, v, return_lse=True)
    return out, sums


@torch.library.custom_op("unity::flash_attention_4_backward", mutates_args=())
def _backward(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    dq, dk, dv, *_ = _package()._flash_attn_bwd(q, k, v, out, dy, sums, deterministic=deterministic)
    return dq, dk, dv


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    b, m, n, _ = q.shape
    return q.new_empty(q.shape), q.new_empty(b, n, m, dtype=torch.float32)


@_backward.register_fake
def _(dy: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.save_for_backward(*inputs, *output)


def _gradients(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _backward(dy, *ctx.saved_tensors)


_forward.register_autograd(_gradients, setup_context=_save)
