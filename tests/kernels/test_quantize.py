"""Machine code of the passes to 8 bits at the production shapes, compiled here without a GPU."""

import pytest
import torch

from unity.kernels import aot
from unity.kernels.quantize import launch, launch_widen

TOKENS = 65520
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def compiled(x, rowwise, dtype):
    launches = aot.launches_of(launch, x, rowwise, dtype)
    return [aot.compile_launch(launch) for launch in launches]


def matrix(rows, columns, transposed=False):
    shape = (columns, rows) if transposed else (rows, columns)
    x = torch.empty(shape, dtype=torch.bfloat16, device="meta")
    return x.t() if transposed else x


@pytest.mark.parametrize("rows, columns", [(TOKENS, 4096), (14336, 4096), (4096, 14336)], ids=str)
def test_rows_take_one_pass_without_spills(rows, columns):
    (report,) = compiled(matrix(rows, columns), True, E4M3)
    assert report.name == "row_kernel" and report.spills == 0
    # only the scale of a row moves less than 64 bits a thread: eight numbers of 8 bits
    assert set(report.widths) == {"128", "64", "32"} and report.widths["32"] == 1


@pytest.mark.parametrize("rowwise, dtype", [(True, E4M3), (False, E4M3), (False, E5M2)])
@pytest.mark.parametrize("transposed", [False, True])
def test_tiles_are_read_and_written_side_by_side(rowwise, dtype, transposed):
    if rowwise and not transposed:
        pytest.skip("rows take the other kernel")
    (report,) = compiled(matrix(4096, 14336, transposed), rowwise, dtype)
    assert report.name == "tile_kernel" and report.spills == 0
    assert "128" in report.widths and not {"U16", "U8"} & set(report.widths)


@pytest.mark.parametrize("columns", [1536, 4096, 14336])
def test_the_way_back_moves_128_bits_a_thread(columns):
    values, scale = torch.empty(TOKENS, columns, dtype=E4M3, device="meta"), torch.empty(TOKENS, 1, device="meta")
    (launched,) = aot.launches_of(launch_widen, values, scale, torch.bfloat16)
    report = aot.compile_launch(launched)
    # only the scale of a row moves less
    assert report.name == "widen_kernel" and report.spills == 0
    assert set(report.widths) == {"128", "32"} and report.widths["32"] == 1
