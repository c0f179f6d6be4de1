"""How many frames, rows and columns one place of a latent stands for, by codec; known without torch."""

Stride = tuple[int, int, int]

STRIDES: dict[str, Stride] = {"cells": (4, 4, 4), "dct": (4, 8, 8), "wan2.1": (4, 8, 8), "wan2.2": (4, 16, 16)}


def extent(stride: Stride, frames: int, size: tuple[int, int]) -> tuple[int, int, int]:
    """Places (t, h, w) of the latent of a clip with `frames` frames of `size` (h, w); what is over is left out."""
    t, h, w = stride
    return 1 + (frames - 1) // t, size[0] // h, size[1] // w
