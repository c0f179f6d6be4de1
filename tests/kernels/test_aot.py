"""The kernels' machine code, compiled here without a GPU: registers, spills, shared memory, width of accesses."""

import pytest

from unity.kernels import aot

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
SIZES = list(aot.SHAPES)
# Global accesses of 128/64/32 bits (and 16, 8) on Hopper, by triton 3.6 to 3.9, at 1.3b, 5b, 10b and 14b. Part A
# of a row moves 128 bits, or 64 where eight numbers become eight bytes; part B 64 at 1.3b and 5b and 32 at 14b;
# 10b has none. What is left at 10b are the statistics of a row, fetched twice ahead of the loop and once inside.
WIDTHS = {
    "modulated_layernorm": "10/4/2 10/4/2 8/0/2 8/2/6",
    "modulated_layernorm backward": "16/7/6 16/7/6 13/0/6 13/3/13",
    "modulated_layernorm_fp8": "9/4/4 9/4/4 7/1/3 7/3/6/1",
    "gated_residual_layernorm": "17/8/2 17/8/2 14/0/2 14/3/10",
    "gated_residual_layernorm backward": "29/14/6 29/14/6 24/0/6 24/5/20",
    "gated_residual_layernorm_fp8": "16/8/4 16/8/4 13/1/3 13/4/10/1",
    "gated_residual": "10/7/0 10/7/0 9/0/0 9/1/7",
    "gated_residual backward": "13/7/0 13/7/0 11/0/0 11/2/7",
    "qk_norm_rope": "7/7/0 7/7/0 7/0/2 7/0/7",
    "qk_norm_rope backward": "13/10/0 13/10/0 12/0/2 12/1/10",
    "gelu_fp8": "3/1/1/1/1 6/2/1 6/2/1 6/2/1",
    "gelu_fp8 backward": "7/0/0/3 10/0/0 10/0/0 10/0/0",
    "quantize": "3/4/2 3/4/2 3/1/1 3/1/4/1",
    "quantize, transposed": "6/0/2 6/0/2 6/0/2 6/0/2",
    "flow_noise": "4/0/1 4/0/1 4/0/1 4/0/1",
    "flow_noise backward": "6/0/2 6/0/2 6/0/2 6/0/2",
    "dual_cross_attention, statistics": "3/3/1 3/3/1 3/0/1 3/0/4",
    "dual_cross_attention backward, norm": "7/7/3 7/7/3 7/0/3 7/0/10",
}


def check(name, size, capability):
    d, ffn, heads = aot.SHAPES[size]
    launch = aot.production(d, ffn, heads)[name]
    report = aot.compile_launch(launch, capability)
    limit = launch.options.get("maxnreg", 255)
    assert report.spills == 0, f"{report.spills} spilled loads and stores"
    assert report.registers <= limit
    assert report.shared <= SHARED_LIMIT[capability]
    if capability == 90:
        assert report.programs * report.warps >= 16, "too few warps to hide the memory's latency"
        assert report.moved == WIDTHS[name].split()[SIZES.index(size)]
    return report


def test_every_launch_has_a_row():
    """The tiles of cross-attention have their own test."""
    tiles = {name for name in aot.production(64, 64, 1, 21) if name.endswith(("attention", "dq and dk", "dv"))}
    assert aot.production(64, 64, 1, 21).keys() - tiles == WIDTHS.keys() and len(tiles) == 3


@pytest.mark.parametrize("name", WIDTHS)
def test_14b_on_hopper(name):
    check(name, "14b", 90)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", WIDTHS)
def test_every_kernel_at_every_size(name, size, capability):
    if capability == 80 and ("fp8" in name or "quantize" in name):
        pytest.skip("compute capability 8.0 has no e4m3")
    check(name, size, capability)


def test_spills_are_seen():
    """The same kernel squeezed into 32 registers must be caught."""
    launch = aot.production(4096, 14336, 32)["gated_residual_layernorm backward"]
    launch.options["maxnreg"] = 32
    assert aot.compile_launch(launch).spills > 0
