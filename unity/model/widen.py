"""Weights that are stored in 8 bits, as they were before: with their scale, if one lies beside them."""

from collections.abc import Collection

import torch
from torch import Tensor

from unity.model.stored import Stored

_NARROW = (torch.float8_e4m3fn, torch.float8_e5m2)
# behind the name of a module: what ComfyUI multiplies a weight with, and what it needs for 8-bit products alone
_SCALE, _BESIDE = ".scale_weight", (".scale_weight", ".scale_input")
_MARK = "scaled_fp8"


def widened(stored: Stored) -> Stored:
    """The same with its 8-bit tensors in bfloat16, which holds each of their values, or scaled in float32."""
    narrow = {name for name, value in stored.shapes.items() if value.dtype in _NARROW}
    if not narrow:
        return stored
    scales = {name: name.removesuffix("weight")[:-1] + _SCALE for name in narrow}
    scales = {name: scale for name, scale in scales.items() if scale in stored.shapes}
    shapes = {
        name: value.to(torch.float32 if name in scales else torch.bfloat16) if name in narrow else value
        for name, value in stored.shapes.items()
        if not (name.endswith(_BESIDE) or name == _MARK)
    }

    def read(names: Collection[str]) -> dict[str, Tensor]:
        found = stored.read({*names, *(scales[name] for name in names if name in scales)})
        return {name: _wide(found[name], found.get(scales.get(name, ""))) for name in names}

    return Stored(path=stored.path, shapes=shapes, read=read)


def _wide(value: Tensor, scale: Tensor | None) -> Tensor:
    if scale is not None:
        return value.float() * scale.float()
    return value.to(torch.bfloat16) if value.dtype in _NARROW else value
