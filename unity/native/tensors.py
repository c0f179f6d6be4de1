"""How tensors are handed to C: the parts of the structs of csrc/rows.h.

C reads as far as the first tensor of an op reaches. What is handed over beside it must therefore have its sizes,
and is refused with a ValueError here, at the last place that knows them.
"""

import torch
from torch import Tensor

# Rows whose sums one task forms. Fixed, because the bits of a sum depend on it.
CHUNK = 32


def shape(x: Tensor, *beside: Tensor | None) -> tuple:
    """Of [groups, rows, width, ...], which the tensors `beside` it have too, some perhaps with the width split."""
    for other in beside:
        if other is not None and (other.shape[:2] != x.shape[:2] or other.numel() != x.numel()):
            raise ValueError(f"a tensor beside one of {list(x.shape)} is {list(other.shape)}")
    groups, rows, *rest = x.shape
    width = rest[0] if len(rest) == 1 else rest[0] * rest[1]
    return x.dtype is torch.bfloat16, groups, rows, width, CHUNK


def flat_shape(x: Tensor, *beside: Tensor, chunk: int = CHUNK) -> tuple:
    """Of [..., width], whose rows are one group, and of the tensors `beside` it."""
    for other in beside:
        if other.shape != x.shape:
            raise ValueError(f"a tensor beside one of {list(x.shape)} is {list(other.shape)}")
    width = x.shape[-1]
    return x.dtype is torch.bfloat16, 1, x.numel() // max(1, width), width, chunk


def rows(x: Tensor | None) -> tuple[int, int, int]:
    """Address and strides of [groups, rows, ..., width]; an absent tensor is all zeros."""
    return (0, 0, 0) if x is None else (x.data_ptr(), x.stride(0), x.stride(1))


def flat_rows(x: Tensor) -> tuple[int, int, int]:
    """Of [..., width] whose rows are evenly spaced."""
    outer = zip(x.shape[-2::-1], x.stride()[-2::-1], strict=True)
    return x.data_ptr(), 0, next((stride for size, stride in outer if size != 1), 0)


def table(x: Tensor | None, of: Tensor) -> tuple[int, int]:
    """Address and stride of [groups, width], for `of` [groups, rows, width]."""
    if x is None:
        return 0, 0
    if x.shape != (of.shape[0], of.shape[-1]):
        raise ValueError(f"a table for {list(of.shape)} is {list(x.shape)}")
    return x.data_ptr(), x.stride(0)


def pointers(*tensors: Tensor) -> list[int]:
    """Addresses of dense tensors."""
    return [x.data_ptr() for x in tensors]


def vector(weight: Tensor, size: int) -> Tensor:
    """So many weights as C reads them: dense float32."""
    if weight.numel() != size:
        raise ValueError(f"{weight.numel()} weights for {size} numbers")
    return weight.float().contiguous()


def dense_like(x: Tensor) -> Tensor:
    """An empty tensor of the same shape and dtype, dense whatever the strides of x."""
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def readable(gradient: Tensor) -> Tensor:
    """A gradient as C reads it: copied only where autograd hands over one whose last axis is not dense."""
    return gradient if gradient.stride(-1) == 1 else gradient.contiguous()


def flat_readable(gradient: Tensor) -> Tensor:
    """The same for evenly spaced rows [..., width]."""
    return gradient if gradient.stride(-1) == 1 and flattens(gradient) else gradient.contiguous()


def flattens(x: Tensor) -> bool:
    """Whether all axes but the last are one evenly spaced axis."""
    outer = [pair for pair in zip(x.shape[:-1], x.stride()[:-1], strict=True) if pair[0] != 1]
    return all(a[1] == b[0] * b[1] for a, b in zip(outer, outer[1:], strict=False))
