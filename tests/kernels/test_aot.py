"""The kernels' machine code, compiled here without a GPU: registers, spills, shared memory, width of accesses."""

import pytest

from unity.kernels import aot

KERNELS = tuple(aot.production(64, 64, 1, 21))
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}


def check(name, size, capability):
    d, ffn, heads = aot.SHAPES[size]
    launch = aot.production(d, ffn, heads)[name]
    report = aot.compile_launch(launch, capability)
    limit = launch.options.get("maxnreg", 255)
    assert report.spills == 0, f"{report.spills} spilled loads and stores"
    assert report.registers <= limit
    assert report.shared <= SHARED_LIMIT[capability]
    # Part A of a row, at least three quarters of it, moves 128 bits a thread; part B and 8-bit results less.
    assert report.widths["128"] > 0 and report.widths["U16"] <= report.widths["128"]
    if capability == 90:
        assert report.programs * report.warps >= 16, "too few warps to hide the memory's latency"
    return report


@pytest.mark.parametrize("name", KERNELS)
def test_14b_on_hopper(name):
    check(name, "14b", 90)


def test_a_width_of_a_power_of_two_moves_only_128_bits():
    widths = check("gated_residual_layernorm backward", "10b", 90).widths
    # What is left are the two statistics of a row, fetched twice ahead of the loop and once inside.
    assert widths["64"] == 0 and widths["32"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("size", aot.SHAPES)
@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_at_every_size(name, size, capability):
    if capability == 80 and name.endswith("fp8"):
        pytest.skip("compute capability 8.0 has no e4m3")
    check(name, size, capability)


def test_spills_are_seen():
    """The same kernel squeezed into 32 registers must be caught."""
    launch = aot.production(4096, 14336, 32)["gated_residual_layernorm backward"]
    launch.options["maxnreg"] = 32
    assert aot.compile_launch(launch).spills > 0
