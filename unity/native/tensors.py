"""How tensors are handed to C: addresses and strides, and the sums over rows."""

import torch
from torch import Tensor

from unity.native.library import run

# Rows whose sums one task forms. Fixed, because the bits of a sum depend on it.
CHUNK = 32


def is_bf16(x: Tensor) -> bool:
    """The storage type as C is told it: bfloat16, or else float32."""
    return x.dtype == torch.bfloat16


def rows(x: Tensor | None) -> tuple:
    """Address and strides of [groups, rows, ..., width]; an absent tensor is a null address."""
    return (None, 0, 0) if x is None else (x.data_ptr(), x.stride(0), x.stride(1))


def flat_rows(x: Tensor) -> tuple[int, int]:
    """Address and distance of the rows of [..., width], evenly spaced."""
    outer = reversed(list(zip(x.shape, x.stride(), strict=True))[:-1])
    return x.data_ptr(), next((stride for size, stride in outer if size != 1), 0)


def flat_shape(x: Tensor) -> tuple[int, int]:
    """Number and width of the rows of [..., width]."""
    width = x.shape[-1]
    return x.numel() // max(1, width), width


def table(x: Tensor | None) -> tuple:
    """Address and stride of [groups, width]."""
    return (None, 0) if x is None else (x.data_ptr(), x.stride(0))


def pointers(*tensors: Tensor) -> list[int]:
    """Addresses of dense tensors."""
    return [x.data_ptr() for x in tensors]


def readable(gradient: Tensor) -> Tensor:
    """A gradient as C reads it: copied only where autograd hands over one whose last axis is not dense."""
    return gradient if gradient.stride(-1) == 1 else gradient.contiguous()


def flat_readable(gradient: Tensor) -> Tensor:
    """The same for evenly spaced rows [..., width]."""
    return gradient if gradient.stride(-1) == 1 and flattens(gradient) else gradient.contiguous()


def chunks(length: int) -> int:
    """Tasks that `length` rows make."""
    return -(-length // CHUNK)


def partial_sums(groups: int, count: int, size: int) -> Tensor:
    """Room for `size` sums over each of `count` chunks: float32 [groups, count, size]."""
    return torch.empty(groups, count, size, dtype=torch.float32, device="cpu")


def add_partial_sums(partials: Tensor, sums: Tensor) -> Tensor:
    """Write the sums over chunks into `sums`, always in the same order."""
    run("add_partials", *partials.shape, *pointers(partials, sums))
    return sums


def flattens(x: Tensor) -> bool:
    """Whether all axes but the last are one evenly spaced axis."""
    outer = [pair for pair in zip(x.shape[:-1], x.stride()[:-1], strict=True) if pair[0] != 1]
    return all(a[1] == b[0] * b[1] for a, b in zip(outer, outer[1:], strict=False))
