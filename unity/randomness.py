"""Randomness by position: every draw is a pure function of what it is for, a seed, and where it is used."""

from enum import IntEnum

import numpy as np

_MASK = (1 << 64) - 1


class Purpose(IntEnum):
    """What a draw is for. It opens every position, so that no two purposes ever share a number.

    The numbers are part of what a seed means: a new purpose gets a new one.
    """

    # of a run's data (unity.data.plan)
    EPOCH = 0
    ORDER = 1
    MODALITY = 2
    WINDOW = 3
    BUCKET = 13
    # of a training step (unity.routing, unity.flow_matching)
    TASK = 4
    TIME = 5
    CAPTION = 6
    PROMPT = 7
    NOISE = 8
    DISTURB = 12
    # the noise that sampling starts from, and that of its steps (unity.sampler)
    SAMPLE = 9
    STEP = 15
    # of exams (unity.evaluate)
    EXAM_NOISE = 10
    BOOTSTRAP = 11
    # what raters of a study see (unity.apps.study)
    STUDY = 14


def draw(purpose: Purpose, seed: int, *position: int) -> int:
    """63 random bits for a position, such as (step, slot)."""
    return fold(seed, purpose, *position)


def uniform(purpose: Purpose, seed: int, *position: int) -> float:
    """A number in [0, 1) for a position."""
    return draw(purpose, seed, *position) / float(1 << 63)


def generator(purpose: Purpose, seed: int, *position: int) -> np.random.Generator:
    """A generator of its own for a position."""
    return np.random.Generator(np.random.Philox(draw(purpose, seed, *position)))


def fold(seed: int, *numbers: int) -> int:
    """Hash a seed and numbers to 63 bits: the seed of something that draws for itself, such as a simulated clip.

    Each number passes through the finaliser of SplitMix64 (Steele, Lea & Flood, 2014), so neighbouring
    positions give unrelated values, and a resumed run draws exactly what the unbroken one would have drawn.
    """
    state = seed & _MASK
    for number in numbers:
        state = _mix((state ^ _mix(number & _MASK)) + 0x9E3779B97F4A7C15)
    return _mix(state) >> 1


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
