"""Machine code of dual_cross_attention at the production shapes, compiled here without a GPU."""

import pytest

from unity.kernels import aot
from unity.kernels.dual_cross_attention import _tiles_each

SHARED_LIMIT = 227 * 1024


def check(direction, heads, k, keys, norm):
    launches = aot.cross_attention(direction, heads, k, keys, norm)
    found = [aot.compile_launch(launch) for launch in launches]
    for launch, report in zip(launches, found, strict=True):
        assert report.spills == 0, f"{report.spills} spilled loads and stores"
        assert report.registers <= launch.options.get("maxnreg", 255)
        assert report.shared <= SHARED_LIMIT
        # tiles are copied and written with 128 bits a thread; only the norm's own pass has rows with a part B
        if "A" not in launch.arguments:
            assert _narrow(report) <= 2 * norm
    return found


def _narrow(report):
    """Copies to shared memory and stores of less than 128 bits: statistics of rows, at most."""
    copies = {op: n for op, n in report.accesses.items() if op.startswith(("LDGSTS", "STG"))}
    return sum(n for op, n in copies.items() if ".128" not in op)


@pytest.mark.parametrize(
    "direction, keys, passes", [("forward", 64, 1), ("backward", 64, 1), ("backward", 128, 2)]
)
def test_10b_on_hopper(direction, keys, passes):
    found = check(direction, 32, 128, keys, norm=False)
    assert len(found) == passes


@pytest.mark.slow
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("keys", [16, 32, 64, 128])
@pytest.mark.parametrize("heads, k", [(12, 128), (24, 128), (32, 128), (40, 128), (12, 64), (16, 96)])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_every_shape_on_hopper(direction, heads, k, keys, norm):
    check(direction, heads, k, keys, norm)


@pytest.mark.slow
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("keys", [20, 50, 65, 100])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_any_number_of_keys_on_hopper(direction, keys, norm):
    """A caption of 64 tokens has 65 keys: no alignment follows from their number."""
    check(direction, 32, 128, keys, norm)


@pytest.mark.parametrize("pairs, tiles, slots", [(64, 256, 132), (80, 256, 132), (24, 256, 264), (1, 3, 132)])
def test_the_work_is_dealt_in_full_waves(pairs, tiles, slots):
    each = _tiles_each(pairs, tiles, slots, overhead=1.0)
    programs = pairs * -(-tiles // each)
    rounds = -(-programs // slots)
    ideal = pairs * tiles / slots
    # within a quarter of a perfect split, where there is more than one tile a slot
    assert rounds * each <= max(1.25 * ideal, 1)
