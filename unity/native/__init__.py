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

# How many arguments of an op are rows of one storage type, how many float32 tables [groups, width] follow, and how
# many vectors of any dtype.
_TAKES = {
    "modulated_layernorm": (1, 2, 0),
    "gated_residual": (2, 1, 0),
    "gated_residual_layernorm": (2, 3, 0),
    "qk_norm_rope": (2, 0, 2),
    "rms_norm": (1, 0, 1),
    "gelu": (1, 0, 0),
    "flow_noise": (2, 0, 1),
}


def can_run(op: str, *args, offsets: Tensor | None = None, **options) -> str | None:
    """Why the C++ form of `op` cannot take these arguments (tensors by position), or None if it can."""
    if op not in _TAKES:
        return f"{op} has no C++ form"
    first_table, tables, vectors = _TAKES[op]
    first_vector = first_table + tables
    rows, tables = args[:first_table], args[first_table:first_vector]
    vectors = args[first_vector : first_vector + vectors] if offsets is None else (offsets,)
    groups = len(rows[0]) if offsets is None else len(offsets) - 1
    return (
        _refuse_devices(*rows, *tables, *vectors)
        or _refuse_rows(rows)
        or _refuse_tables(tables, (groups, rows[0].shape[-1]))
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


def _refuse_tables(tables: tuple[Tensor, ...], shape: tuple[int, int]) -> str | None:
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
