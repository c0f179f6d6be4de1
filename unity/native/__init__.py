"""The ops of kernels/reference.py in C++ (csrc/), for CPUs: float32 or bfloat16 tensors, float32 arithmetic.

`can_run(op, ...)` says why an op cannot take its arguments; the ops themselves assume that it can. Sums over rows
are formed in a fixed order: the same inputs give the same bits on any number of threads.
"""

import torch
from torch import Tensor

from unity.native.layernorm import gated_residual, gated_residual_layernorm, modulated_layernorm
from unity.native.library import missing
from unity.native.pointwise import flow_noise, gelu
from unity.native.rmsnorm import rms_norm
from unity.native.rope import qk_norm_rope
from unity.native.tensors import flattens

__all__ = [
    "can_run",
    "flow_noise",
    "gated_residual",
    "gated_residual_layernorm",
    "gelu",
    "missing",
    "modulated_layernorm",
    "qk_norm_rope",
    "rms_norm",
]

MAX_WIDTH, MAX_HEAD = 8192, 1024


def _takes(rows: int, tables: int = 0, vectors: int = 0) -> tuple[slice, slice, slice]:
    ends = rows, rows + tables, rows + tables + vectors
    return slice(ends[0]), slice(*ends[:2]), slice(*ends[1:])


# The first arguments of an op: rows of one storage type, float32 tables [groups, width], vectors of any dtype.
_TAKES = {
    "modulated_layernorm": _takes(rows=1, tables=2),
    "gated_residual": _takes(rows=2, tables=1),
    "gated_residual_layernorm": _takes(rows=2, tables=3),
    "qk_norm_rope": _takes(rows=2, vectors=2),
    "rms_norm": _takes(rows=1, vectors=1),
    "gelu": _takes(rows=1),
    "flow_noise": _takes(rows=2, vectors=1),
}


def can_run(op: str, *args, offsets: Tensor | None = None, **options) -> str | None:
    """Why the C++ form of `op` cannot take these arguments (tensors by position), or None if it can."""
    if op not in _TAKES:
        return f"{op} has no C++ form"
    rows, tables, vectors = [args[part] for part in _TAKES[op]]
    # no op takes both
    vectors = vectors if offsets is None else (offsets,)
    return (
        _refuse_devices(*rows, *tables, *vectors)
        or _refuse_rows(rows)
        or _refuse_tables(tables, rows[0], offsets)
        or _refuse_shape(op, *args, **options)
        or missing()
    )


# In every call of every op: plain loops, no generators.


def _refuse_devices(*tensors: Tensor) -> str | None:
    for x in tensors:
        if not x.is_cpu:
            return f"a tensor is on {x.device.type}, not on the CPU"
    return None


def _refuse_rows(rows: tuple[Tensor, ...]) -> str | None:
    dtype, shape = rows[0].dtype, rows[0].shape
    if dtype is not torch.float32 and dtype is not torch.bfloat16:
        return f"dtype {dtype} is neither float32 nor bfloat16"
    for x in rows:
        if x.dtype is not dtype:
            return f"mixed dtypes {dtype} and {x.dtype}"
        if x.shape != shape:
            return f"unequal shapes {tuple(shape)} and {tuple(x.shape)}"
        if x.stride(-1) != 1:
            return "the last axis is not dense"
    return None


def _refuse_tables(tables: tuple[Tensor, ...], row: Tensor, offsets: Tensor | None) -> str | None:
    if not tables:
        return None
    groups, *_, width = row.shape
    shape = (groups if offsets is None else len(offsets) - 1, width)
    for x in tables:
        if x.dtype is not torch.float32:
            return "scale, shift and gate must be float32"
        if x.shape != shape:
            return f"scale, shift and gate must be {list(shape)}, not {list(x.shape)}"
        if x.stride(-1) != 1:
            return "the last axis is not dense"
    return None


def _refuse_shape(op: str, *args, num_heads: int | None = None, **_) -> str | None:
    x = args[0]
    if op in ("gelu", "rms_norm"):
        return None if flattens(x) else f"strides {x.stride()} are not those of evenly spaced rows"
    if op == "flow_noise":
        if any(x.requires_grad for x in args):
            return "noising has no gradient in C++"
        return None if all(x.is_contiguous() for x in args[:2]) else "data or noise is not contiguous"
    if x.shape[-1] > MAX_WIDTH:
        return f"width {x.shape[-1]} exceeds {MAX_WIDTH}"
    if op == "qk_norm_rope" and x.shape[-1] // (num_heads or args[6]) > MAX_HEAD:
        return f"heads are larger than {MAX_HEAD}"
    return None
