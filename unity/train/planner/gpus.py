"""GPUs as rows, with their makers' figures, and what of them training was measured to reach.

Makers print peaks with sparsity (H100 SXM: 1,979 and 3,958 TFLOP/s), of which half is dense, links in both
directions (NVLink 4: 900 GB/s), and memory in decimal; drivers report 81,559 MiB of an H100, 143,771 of an H200,
and of a B200 in an HGX 180 of its 192 GB. A network is a port of 400 Gbit/s a GPU (A100, L40S: 200; RTX4090: 100).
"""

from dataclasses import dataclass, replace
from typing import Literal

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """Dense peaks in FLOP/s, memory in bytes, bandwidths in bytes/s; links are a GPU's in one direction."""

    memory: float
    bandwidth: float
    bf16: float
    # None: it multiplies no 8-bit floats
    fp8: float | None
    # to the GPUs of the same machine, and of others
    link: float
    network: float
    # from its host's memory: PCIe 5, or 4
    bus: float
    # in one machine
    together: int = 8


GPUS = {
    "H100": Gpu(
        memory=80 * GIB, bandwidth=3.35e12, bf16=989.5e12, fp8=1979e12, link=450e9, network=50e9, bus=64e9
    ),
    "H200": Gpu(
        memory=140 * GIB, bandwidth=4.8e12, bf16=989.5e12, fp8=1979e12, link=450e9, network=50e9, bus=64e9
    ),
    "B200": Gpu(memory=179 * GIB, bandwidth=8e12, bf16=2250e12, fp8=4500e12, link=900e9, network=50e9, bus=64e9),
    "A100": Gpu(memory=80 * GIB, bandwidth=2.04e12, bf16=312e12, fp8=None, link=300e9, network=25e9, bus=32e9),
    "L40S": Gpu(memory=48 * GIB, bandwidth=0.864e12, bf16=362e12, fp8=733e12, link=32e9, network=25e9, bus=32e9),
    "RTX4090": Gpu(
        memory=24 * GIB, bandwidth=1.01e12, bf16=165.2e12, fp8=330.3e12, link=32e9, network=12.5e9, bus=32e9
    ),
}

# of a card; the rest is the driver's, and lies unused between allocations
USABLE = 0.92
# Of the dense peaks, as measured inside steps of 10b's layers on an H100, 65,520 tokens (benchmarks/README.md):
# Linears in bf16 both ways, and in 8 bits the forward and the gradient of the input.
LINEAR, LINEAR_8 = 0.77, 0.70
# Self-attention forward, and backward by the FLOPs counted here, twice the forward's, though it computes 2.5 times
# as much: by FlashAttention 3 or 4, and by cuDNN.
Attention = Literal["flash", "cudnn"]
ATTENTION: dict[Attention, tuple[float, float]] = {"flash": (0.71, 0.50), "cudnn": (0.577, 0.43)}
# of the memory's bandwidth, by all that only passes over activations
PASSED = 0.55
# seconds in which Python starts the ops of a block, forward and backward: assumed, not measured here
STARTED = 1.5e-3
# bytes/s of a host's memory that an update there reaches for each GPU: assumed, not measured here
HOST = 3e10
# of a link's, a network's or a bus's, by large collectives and copies: assumed, not measured here
COLLECTIVE = 0.8


def card(name: str, memory: float) -> Gpu | None:
    """The row of a card by its full name, with the memory that it was found to have."""
    row = next((row for key, row in GPUS.items() if key in name.replace(" ", "")), None)
    return row and replace(row, memory=memory)
