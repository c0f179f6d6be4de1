"""Why C++ cannot take a tensor: parts that the refusals of the ops are put together from.

Plain loops, no generators: they run in every call of every op.
"""

from torch import Tensor, bfloat16, float32

from unity.native.library import missing
from unity.native.tensors import flattens

MAX_WIDTH, MAX_HEAD = 8192, 1024


def common(*tensors: Tensor | None) -> str | None:
    """For any tensor: it must be on the CPU, and there must be a library."""
    for x in tensors:
        if x is not None and not x.is_cpu:
            return f"a tensor is on {x.device.type}, not on the CPU"
    return missing()


def storage(*rows: Tensor) -> str | None:
    """For rows [..., d]: one of two dtypes, the same for all, and dense along d."""
    dtype = rows[0].dtype
    if dtype is not float32 and dtype is not bfloat16:
        return f"dtype {dtype} is neither float32 nor bfloat16"
    for x in rows:
        if x.dtype is not dtype:
            return f"mixed dtypes {dtype} and {x.dtype}"
        if x.ndim == 0 or x.stride(-1) != 1:
            return "the last axis is not dense"
    return None


def tables(*given: Tensor) -> str | None:
    """For scale, shift and gate [g, d]: float32, and dense along d."""
    for x in given:
        if x.dtype is not float32:
            return "scale, shift and gate must be float32"
        if x.stride(-1) != 1:
            return "the last axis is not dense"
    return None


def width(x: Tensor) -> str | None:
    """For rows [..., d] that are held while they are worked on."""
    return f"width {x.shape[-1]} exceeds {MAX_WIDTH}" if x.shape[-1] > MAX_WIDTH else None


def spacing(x: Tensor) -> str | None:
    """For rows [..., d] that are taken as one group."""
    return None if flattens(x) else f"strides {x.stride()} are not those of evenly spaced rows"
