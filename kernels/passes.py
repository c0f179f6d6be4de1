"""What every pass over tokens shares: how a row lies in registers, and how rows are dealt to programs.

Triton tensors have power-of-two sizes. A row of d numbers is therefore held as two of them, A and B: A is the
largest power of two in d and B the rest, so that d = 5120 = 4096 + 1024 wastes no lane (one padded tensor would
waste 37% of them, and with them the registers the backward needs for its sums). Where d is a power of two A is
all of it, and the compiler drops B, whose lanes all lie beyond D. A program has A/8 threads: eight neighbouring
bf16 numbers of A, 128 bits, to a thread.

Rows of one group are dealt to `programs` programs in turn; each walks over its rows with the loads of the next
row in flight (asynchronous copies to shared memory), keeps its sums over rows in float32 registers and writes
them once, as partial sums [groups, programs, sums, d] that `torch.sum` adds up: no atomics, so that two runs
give the same bits.
"""

import functools
import os
from typing import NamedTuple

import torch
from torch import Tensor

from unity.kernels.jit import ABSENT, tl, triton

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
MAX_WIDTH = 8192
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_WIDEST_PART = 4096
# Of one multiprocessor; the shared memory is what one program may fill with rows in flight.
_REGISTERS = 65536
_SHARED_BYTES = 88 * 1024
_INTERPRETED_MULTIPROCESSORS = 3


@triton.jit
def load_row(pointer, D: tl.constexpr, A: tl.constexpr, B: tl.constexpr):
    """Both parts of a row in float32; the lanes of B beyond D are zero."""
    second = A + tl.arange(0, B)
    a = tl.load(pointer + tl.arange(0, A)).to(tl.float32)
    b = tl.load(pointer + second, mask=second < D, other=0.0).to(tl.float32)
    return a, b


@triton.jit
def store_row(pointer, a, b, D: tl.constexpr, A: tl.constexpr, B: tl.constexpr):
    """Both parts of a row, rounded to the dtype of the pointer."""
    second = A + tl.arange(0, B)
    tl.store(pointer + tl.arange(0, A), a.to(pointer.dtype.element_ty))
    tl.store(pointer + second, b.to(pointer.dtype.element_ty), mask=second < D)


@triton.jit
def thread_sums(a, b, A: tl.constexpr, B: tl.constexpr, T: tl.constexpr):
    """Sums inside each of T threads, so that one exchange between threads serves both parts."""
    return tl.sum(tl.reshape(a, [T, A // T]), 1) + tl.sum(tl.reshape(b, [T, B // T]), 1)


@triton.jit
def _add_both(a, b, c, d):
    return a + c, b + d


@triton.jit
def sum_both(x, y):
    """Two sums in one exchange between threads."""
    return tl.reduce((x, y), 0, _add_both)


@triton.jit
def standardize(a, b, eps, D: tl.constexpr, A: tl.constexpr, B: tl.constexpr, T: tl.constexpr):
    """(row - mean) / deviation in two passes over registers: both parts, the mean and 1/deviation."""
    mean = tl.sum(thread_sums(a, b, A, B, T)) / D
    a -= mean
    b = tl.where(A + tl.arange(0, B) < D, b - mean, 0.0)
    rstd = tl.rsqrt(tl.sum(thread_sums(a * a, b * b, A, B, T)) / D + eps)
    return a * rstd, b * rstd, mean, rstd


@triton.jit
def origin(group, first, group_stride, row_stride):
    """Where row 0 of all rows would lie for the rows of this group, counted from `first`, to be found.

    Strides come in units of eight numbers, which tells the compiler the alignment.
    """
    return (group.to(tl.int64) * group_stride - first * row_stride) * 8


class Walk(NamedTuple):
    """How one launch walks over the rows: its grid (programs, groups) and the kernel's meta-parameters."""

    programs: int
    meta: dict


def walk(d: int, groups: int, rows: int, loads: int, resident: int, like: Tensor) -> Walk:
    """Deal `rows` rows of d numbers in `groups` groups to programs that stay resident.

    `loads` rows are read per step, `resident` is the number of warps that share a multiprocessor: it bounds
    the registers of a thread.
    """
    return _walk(d, groups, rows, loads, resident, like.element_size(), like.device)


# of a small launch, arithmetic in Python is a large part
@functools.lru_cache(maxsize=1024)
def _walk(d: int, groups: int, rows: int, loads: int, resident: int, size: int, device: torch.device) -> Walk:
    parts = row_parts(d)
    warps = parts["num_warps"]
    neighbours = triton.cdiv(resident, warps)
    at_once = _multiprocessors(device) * neighbours
    programs = max(1, min(at_once // groups, triton.cdiv(rows, groups)))
    stages = 1 + min(2, _SHARED_BYTES // (loads * (parts["A"] + parts["B"]) * size))
    registers = min(255, _REGISTERS // (32 * warps * neighbours))
    return Walk(programs, {**parts, "STAGES": stages, "maxnreg": registers, "enable_fp_fusion": True})


def row_parts(d: int) -> dict[str, int]:
    """Sizes of the two parts of a row and the threads that hold it: 5120 → A 4096, B 1024, T 512, 16 warps."""
    a = 1 << (d if d <= _WIDEST_PART else d - 1).bit_length() - 1
    warps = min(32, max(1, a // 256))
    threads = min(a, 32 * warps)
    b = max(triton.next_power_of_2(max(d - a, 1)), threads)
    return {"D": d, "A": a, "B": b, "T": threads, "num_warps": warps}


def eights(table: Tensor) -> int:
    """Stride between the rows of a table [g, d] in units of eight numbers, as the kernels take it."""
    return table.stride(0) // 8


def strides(x: Tensor) -> tuple[int, int]:
    """Strides between the groups and between the rows of [g, n, d], in units of eight numbers."""
    return x.stride(0) // 8, x.stride(1) // 8


def empty_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Room for a float32 mean and 1/deviation of every row."""
    return tuple(x.new_empty(x.shape[:-1], dtype=torch.float32) for _ in range(2))


def readable(x: Tensor) -> Tensor:
    """A gradient as the kernels can read it: copied only if autograd hands over an expanded or odd layout."""
    return x if _layout_refusal("gradient", x) is None else x.contiguous()


def refusal(
    rows: dict[str, Tensor], tables: dict[str, Tensor] | None = None, widest: int = MAX_WIDTH
) -> str | None:
    """Why the passes cannot take these tensors, or None. Rows are [g, n, d], tables [g, d]."""
    tensors = {**rows, **(tables or {})}
    width = next(iter(rows.values())).shape[-1]
    if width % 8 or not 8 <= width <= widest:
        return f"width {width} is not a multiple of 8 up to {widest}"
    for name, x in tensors.items():
        reason = device_refusal(name, x) or _layout_refusal(name, x)
        if reason:
            return reason
    for name, x in rows.items():
        if x.dtype not in _DTYPES:
            return f"{name} is {x.dtype}"
    return None


def device_refusal(name: str, x: Tensor) -> str | None:
    """Why the kernels cannot run where x lies, or None."""
    if ABSENT:
        return ABSENT
    if x.is_cuda:
        capable = torch.cuda.get_device_capability(x.device) >= (8, 0)
        return None if capable else f"{name} is on a GPU older than compute capability 8.0"
    if x.device.type == "cpu" and INTERPRETED:
        return None
    return f"{name} is on {x.device.type}, not on a CUDA GPU"


def _layout_refusal(name: str, x: Tensor) -> str | None:
    if x.stride(-1) != 1:
        return f"{name} has stride {x.stride(-1)} along the width"
    if any(stride % 8 for stride in x.stride()[:-1]):
        return f"{name} has strides {x.stride()}, not multiples of 8"
    return None


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return _INTERPRETED_MULTIPROCESSORS
