"""Randomness by position: every draw is a pure function of a seed and where it is used."""

import torch

_MASK = (1 << 64) - 1


def fold(seed: int, *position: int) -> int:
    """Hash a seed and a position such as (step, slot) to 63 bits.

    Each number passes through the finaliser of SplitMix64 (Steele, Lea & Flood, 2014), so neighbouring
    positions give unrelated values, and a resumed run draws exactly what the unbroken one would have drawn.
    """
    state = seed & _MASK
    for number in position:
        state = _mix((state ^ _mix(number & _MASK)) + 0x9E3779B97F4A7C15)
    return _mix(state) >> 1


def uniform(seed: int, *position: int) -> float:
    """A number in [0, 1) for a position."""
    return fold(seed, *position) / float(1 << 63)


def generator(seed: int, *position: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator for a position."""
    return torch.Generator(device).manual_seed(fold(seed, *position))


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
