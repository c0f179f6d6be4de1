"""The frozen Linears of the blocks in fewer bits than they compute with: rows of `unity.config.STORAGE`.

A packed weight holds the codes of a row and behind them its scales, as bytes under the name of everyone's dtype:
to ZeRO-3, which cuts and gathers it, it is a smaller matrix like any other. It is widened where it is multiplied,
forward and backward, and nothing but the packed one is kept in between.
"""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unity import ops
from unity.config import STORAGE, StorageConfig
from unity.extras import extra
from unity.model.layers import Block, Linear

_E4M3 = torch.float8_e4m3fn
_TOP = torch.finfo(_E4M3).max
# of a row of zeros
_SMALLEST = 1e-12


class PackedLinear(Linear):
    """A Linear that is not trained, whose weight is packed."""

    def __init__(self, d_in: int, d_out: int, row: StorageConfig):
        # its own parameters in place of a Linear's
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.row = d_in, d_out, row
        bias = torch.zeros(d_out)
        width = row.row_bytes(d_in) // bias.element_size()
        self.weight = nn.Parameter(torch.zeros(d_out, width), requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, input: Float[Tensor, "... i"]) -> Float[Tensor, "... o"]:
        return _Product.apply(input, self.weight, self.bias, self.row)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, bias: Tensor, row: StorageConfig) -> Tensor:
        ctx.row = row
        # itself and no copy: ZeRO-3 takes its values away, and brings them back
        ctx.save_for_backward(packed)
        return F.linear(x, widen(packed, row).to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple:
        (slope,), (packed,) = gradients, ctx.saved_tensors
        return slope @ widen(packed, ctx.row).to(slope.dtype), None, None, None


def packing(storage: str) -> Callable[[Block], Block]:
    """What gives a block, as soon as it is made, packed Linears in place of its own, which wait for their weights.

    Those whose rows do not divide stay wide. Raises ValueError where a package is missing.
    """
    row = STORAGE[storage]
    if row and row.bits == 4:
        _functional()

    def change(block: Block) -> Block:
        if row is None:
            return block
        for name, module in list(block.named_modules()):
            if type(module) is Linear and row.packs(module.in_features):
                block.set_submodule(name, PackedLinear(module.in_features, module.out_features, row))
        return block

    return change


def packed_rows(model: nn.Module) -> Mapping[str, StorageConfig]:
    """Name of a packed weight → how it is packed."""
    modules = model.named_modules()
    return {f"{name}.weight": module.row for name, module in modules if isinstance(module, PackedLinear)}


def saved_numbers(model: nn.Module) -> int:
    """How many more numbers the weights stand for than their parameters hold; those may be cut up by ZeRO-3."""
    pairs = ((module, module.weight) for module in model.modules() if isinstance(module, PackedLinear))
    return sum(m.in_features * m.out_features - getattr(w, "ds_numel", w.numel()) for m, w in pairs)


def pack(weight: Float[Tensor, "o i"], row: StorageConfig, dtype: torch.dtype) -> Float[Tensor, "o w"]:
    """Rounded; the bytes bear the name of `dtype`."""
    if row.bits == 4:
        codes, state = _functional().quantize_4bit(
            weight.float().contiguous(), blocksize=row.block, quant_type="nf4"
        )
        parts = codes.view(len(weight), -1), state.absmax.view(len(weight), -1)
    else:
        wide = weight.float()
        scale = wide.abs().amax(1, keepdim=True).clamp_min(_SMALLEST) / _TOP
        parts = (wide / scale).clamp(-_TOP, _TOP).to(_E4M3), scale
    return torch.cat([part.view(torch.uint8) for part in parts], dim=1).view(dtype)


def widen(packed: Float[Tensor, "o w"], row: StorageConfig) -> Float[Tensor, "o i"]:
    """The weight again, in the dtype whose name its bytes bear."""
    stored = packed.detach().view(torch.uint8)
    inside = _columns(stored.shape[1], row)
    scales = stored[:, inside * row.bits // 8 :].contiguous().view(torch.float32)
    codes = stored[:, : inside * row.bits // 8]
    if row.bits == 8:
        return ops.widen(codes.view(_E4M3), scales, packed.dtype)
    _functional()
    shape = [len(stored), inside]
    return torch.ops.bitsandbytes.dequantize_4bit(
        codes.reshape(-1, 1), scales.flatten(), row.block, "nf4", shape, packed.dtype
    )


def _columns(stored: int, row: StorageConfig) -> int:
    """Of the weight whose rows take so many bytes."""
    if not row.block:
        return (stored - 4) * 8 // row.bits
    return stored * row.block // (row.block * row.bits // 8 + 4)


def _functional() -> ModuleType:
    with extra("lowbit"):
        import bitsandbytes.functional
    return bitsandbytes.functional
