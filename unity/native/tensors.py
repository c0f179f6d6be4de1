"""How tensors are handed to C: the parts of the structs of csrc/rows.h."""

import torch
from torch import Tensor

# Rows whose sums one task forms. Fixed, because the bits of a sum depend on it.
CHUNK = 32


def shape(x: Tensor, offsets: Tensor | None = None) -> tuple:
    """Of [groups, rows, width], or of [rows, width] cut at int32 offsets [groups + 1]."""
    if offsets is None:
        return x.dtype is torch.bfloat16, *x.shape, CHUNK, 0
    return x.dtype is torch.bfloat16, len(offsets) - 1, *x.shape, CHUNK, offsets.data_ptr()


def flat_shape(x: Tensor, chunk: int = CHUNK) -> tuple:
    """Of [..., width], whose rows are one group."""
    width = x.shape[-1]
    return x.dtype is torch.bfloat16, 1, x.numel() // max(1, width), width, chunk, 0


def rows(x: Tensor | None) -> tuple[int, int, int]:
    """Address and strides of [groups, rows, ..., width] or [rows, width]; an absent tensor is all zeros."""
    if x is None:
        return 0, 0, 0
    strides = x.stride()
    return (x.data_ptr(), 0, strides[0]) if len(strides) == 2 else (x.data_ptr(), *strides[:2])


def flat_rows(x: Tensor) -> tuple[int, int, int]:
    """Of [..., width] whose rows are evenly spaced."""
    outer = zip(x.shape[-2::-1], x.stride()[-2::-1], strict=True)
    return x.data_ptr(), 0, next((stride for size, stride in outer if size != 1), 0)


def table(x: Tensor | None) -> tuple[int, int]:
    """Address and stride of [groups, width]."""
    return (0, 0) if x is None else (x.data_ptr(), x.stride(0))


def pointers(*tensors: Tensor) -> list[int]:
    """Addresses of dense tensors."""
    return [x.data_ptr() for x in tensors]


def vector(weight: Tensor) -> Tensor:
    """A weight as C reads it: dense float32."""
    return weight.float().contiguous()


def bounds(offsets: Tensor | None, x: Tensor) -> Tensor | None:
    """Offsets as C reads them: dense int32. C trusts that they cut the rows of x into groups."""
    if offsets is None:
        return None
    found = offsets.tolist()
    if found[0] != 0 or found[-1] != len(x) or sorted(found) != found:
        raise ValueError(f"offsets {found} do not rise from 0 to the {len(x)} rows that they cut into groups")
    return offsets.int().contiguous()


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
