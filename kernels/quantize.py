"""A matrix in 8 bits: the largest number of each row, or of all, becomes the largest that 8 bits hold.

An 8-bit product sums along the rows of both its factors, so that the backward of a linear layer rounds the weight
and the gradients anew along their other axis: half of the matrices come as transposed views. Rows whose numbers
lie side by side take one pass, 1.5u. For the others, and for one scale for all, torch finds the largest numbers,
and a pass over tiles rounds and transposes: 2.5u. The way back is one pass, 1.5u, where torch takes ten times as
long. Elsewhere than on a GPU, torch does it all.
"""

import torch
from torch import Tensor

from unity.kernels import fp8, passes
from unity.kernels.differentiable import library_op
from unity.kernels.fp8 import divide
from unity.kernels.jit import tl, triton
from unity.kernels.passes import load_row, store_row

_WARPS = 32
_WIDEST = 16384
_TILE = 64
_BLOCK = 4096
_SMALLEST = 1e-12


def quantize(x: Tensor, rowwise: bool, dtype: torch.dtype = torch.float8_e4m3fn) -> tuple[Tensor, Tensor]:
    """x [r, c] over the largest number of each row, or of all, rounded once; and float32 scales [r or 1, 1]."""
    if refusal(x) is None:
        return launch(x, rowwise, dtype)
    wide, top = x.float(), torch.finfo(dtype).max
    largest = wide.abs().amax(1, keepdim=True) if rowwise else wide.abs().amax().view(1, 1)
    largest = largest.clamp_min(_SMALLEST)
    values = (wide * (top / largest)).clamp(-top, top)
    return values.to(dtype, memory_format=torch.contiguous_format), largest / top


def widen(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """values [r, c] in 8 bits, of strides (any, 1), times float32 scale [r or 1, 1], in a wide dtype."""
    return (_WIDEN.traced if torch.compiler.is_compiling() else _WIDEN.direct)(values, scale, dtype)


def _widen(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    if values.stride(1) == 1 and refusal(values) is None:
        return launch_widen(values, scale, dtype)
    return values.to(dtype).mul_(scale)


_WIDEN = library_op("widen", _widen, lambda values, _, dtype: values.new_empty(values.shape, dtype=dtype))


def refusal(x: Tensor) -> str | None:
    """Why the kernels cannot take x, or None."""
    if 1 not in x.stride():
        return f"x has strides {x.stride()}"
    return passes.device_refusal("x", x) or fp8.refusal(x)


def launch(x: Tensor, rowwise: bool, dtype: torch.dtype = torch.float8_e4m3fn) -> tuple[Tensor, Tensor]:
    """The same by the kernels below."""
    values = torch.empty(x.shape, dtype=dtype, device=x.device)
    aligned = x.stride(1) == 1 and x.stride(0) % 8 == 0 and x.shape[1] % 8 == 0 and x.shape[1] <= _WIDEST
    if rowwise and aligned and dtype == torch.float8_e4m3fn:
        scale = x.new_empty(len(x), 1, dtype=torch.float32)
        programs, meta = passes.walk(x.shape[1], 1, len(x), 1, _WARPS, x)
        row_kernel[(programs,)](x, values, scale, len(x), x.stride(0) // 8, **meta)
        return values, scale
    top = torch.finfo(dtype).max
    largest = torch.linalg.vector_norm(x, torch.inf, 1 if rowwise else None, dtype=torch.float32).view(-1, 1)
    largest = largest.clamp_min(_SMALLEST)
    grid = tuple(triton.cdiv(size, _TILE) for size in x.shape)
    tile_kernel[grid](
        x, values, largest, *x.shape, *x.stride(), top, ROWWISE=rowwise, TILE=_TILE, enable_fp_fusion=True
    )
    return values, largest / top


def launch_widen(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """`widen` by the kernel below."""
    rows, columns = values.shape
    wide = torch.empty(values.shape, dtype=dtype, device=values.device)
    block = min(_BLOCK, triton.next_power_of_2(columns))
    # sixteen numbers, 128 bits of them, to a thread
    meta = {"BLOCK": block, "num_warps": max(1, block // 512), "enable_fp_fusion": True}
    grid = rows, triton.cdiv(columns, block)
    widen_kernel[grid](values, wide, scale, columns, values.stride(0), ROWWISE=len(scale) == rows, **meta)
    return wide


@triton.jit
def row_kernel(
    x, y, scale, n, x_row, D: tl.constexpr, A: tl.constexpr, B: tl.constexpr, T: tl.constexpr, STAGES: tl.constexpr
):
    first = tl.program_id(1).to(tl.int64)
    for row in tl.range(tl.program_id(0), n, tl.num_programs(0), num_stages=STAGES):
        at = first + row
        a, b = load_row(x + at * (x_row * 8), D, A, B)
        a, b, row_scale = divide(a, b, A, B, T)
        tl.store(scale + at, row_scale)
        store_row(y + at * D, a, b, D, A, B)


@triton.jit
def tile_kernel(
    x, y, largest, r, c, x_row, x_column, top, ROWWISE: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    column = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = (row < r)[:, None] & (column < c)[None, :]
    # whichever stride is 1 decides how the tile is read; it is written row by row
    tile = tl.load(x + row[:, None] * x_row + column[None, :] * x_column, mask=inside, other=0.0).to(tl.float32)
    if ROWWISE:
        tile *= (top / tl.load(largest + row, mask=row < r, other=1.0))[:, None]
    else:
        tile *= top / tl.load(largest)
    tile = tl.minimum(tl.maximum(tile, -top), top)
    tl.store(y + row[:, None] * c + column[None, :], tile.to(y.dtype.element_ty), mask=inside)


@triton.jit
def widen_kernel(x, y, scale, c, x_row, ROWWISE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < c
    factor = tl.load(scale + row) if ROWWISE else tl.load(scale)
    wide = tl.load(x + row * x_row + column, mask=inside, other=0.0).to(tl.float32) * factor
    tl.store(y + row * c + column, wide.to(y.dtype.element_ty), mask=inside)
