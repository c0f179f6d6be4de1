"""Machine code of dual_cross_attention at the production shapes, compiled here without a GPU."""

import pytest
import torch

from unity.kernels import aot
from unity.kernels import dual_cross_attention as attention
from unity.kernels.dual_cross_attention import _tiles_each

SHARED_LIMIT = 227 * 1024
TOKENS = 32760


def launches(direction, heads, k, keys, norm):
    def meta(*shape, dtype=torch.bfloat16):
        return torch.empty(shape, dtype=dtype, device="meta")

    q, key, bias = meta(2, TOKENS, heads, k), meta(2, keys, heads, k), meta(2, keys, dtype=torch.float32)
    inputs = (
        q,
        key,
        key,
        bias,
        *((meta(2, TOKENS, dtype=torch.float32), meta(heads * k)) if norm else (None, None)),
    )
    if direction == "forward":
        return aot.launches_of(attention._forward, *inputs)
    return aot.launches_of(attention._backward, q, *inputs)


def check(direction, heads, k, keys, norm):
    found = [aot.compile_launch(launch) for launch in launches(direction, heads, k, keys, norm)]
    for report in found:
        assert report.spills == 0, f"{report.spills} spilled loads and stores"
        assert report.shared <= SHARED_LIMIT
        narrow = {
            op: n for op, n in report.accesses.items() if op.startswith(("LDGSTS", "STG")) and ".128" not in op
        }
        # only the statistics of rows move less than 128 bits a thread
        assert sum(narrow.values()) <= 2 * norm
    return found


@pytest.mark.parametrize(
    "direction, keys, passes", [("forward", 64, 1), ("backward", 64, 1), ("backward", 128, 2)]
)
def test_10b_on_hopper(direction, keys, passes):
    found = check(direction, 32, 128, keys, norm=False)
    assert len(found) == passes


@pytest.mark.slow
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("keys", [16, 32, 64, 128])
@pytest.mark.parametrize("heads, k", [(12, 128), (24, 128), (40, 128), (12, 64), (16, 96)])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_every_shape_on_hopper(direction, heads, k, keys, norm):
    check(direction, heads, k, keys, norm)


@pytest.mark.parametrize("pairs, tiles, slots", [(64, 256, 132), (80, 256, 132), (24, 256, 264), (1, 3, 132)])
def test_the_work_is_dealt_in_full_waves(pairs, tiles, slots):
    each = _tiles_each(pairs, tiles, slots, overhead=1.0)
    programs = pairs * -(-tiles // each)
    rounds = -(-programs // slots)
    ideal = pairs * tiles / slots
    # within a quarter of a perfect split, where there is more than one tile a slot
    assert rounds * each <= max(1.25 * ideal, 1)
