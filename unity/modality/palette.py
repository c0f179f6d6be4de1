"""Flat colours for labels, far enough apart to survive a lossy codec."""

from functools import lru_cache

import numpy as np
from jaxtyping import Integer, UInt8

# All colours with channels of 0, 128 or 255: a cubic lattice, so any two are at least 127 apart, as far as 27
# colours can be in a regular grid. Black is the background; hues lie far apart in the first rows, and the
# two greys, which real footage confuses most easily with shade and light, come last.
COLOURS: UInt8[np.ndarray, "27 3"] = np.array(
    [
        (0, 0, 0),
        (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255),
        (255, 128, 0), (128, 0, 255), (0, 255, 128), (255, 0, 128), (0, 128, 255), (128, 255, 0),
        (128, 0, 0), (0, 128, 0), (0, 0, 128), (128, 128, 0), (128, 0, 128), (0, 128, 128),
        (255, 128, 128), (128, 255, 128), (128, 128, 255), (255, 255, 128), (255, 128, 255), (128, 255, 255),
        (255, 255, 255), (128, 128, 128),
    ],
    dtype=np.uint8,
)  # fmt: skip

# Bits per channel that decide the nearest colour; 5 keep the table of all cells (32³) in the cache.
_BITS = 5


@lru_cache(maxsize=8)
def _nearest_table(palette: bytes) -> UInt8[np.ndarray, "cells"]:
    """Index of the palette's nearest colour to the centre of every cell of the RGB cube."""
    colours = np.frombuffer(palette, np.uint8).reshape(-1, 3).astype(np.float32)
    side = (np.arange(1 << _BITS, dtype=np.float32) + 0.5) * (256 >> _BITS) - 0.5
    cells = np.stack(np.meshgrid(side, side, side, indexing="ij"), -1).reshape(-1, 3)
    # |cell - colour|² without the cell's own square, which does not change the minimum
    distance = (colours**2).sum(1) - 2 * cells @ colours.T
    return distance.argmin(1).astype(np.uint8)


def paint(labels: Integer[np.ndarray, "t h w"], palette: UInt8[np.ndarray, "n 3"]) -> UInt8[np.ndarray, "t h w 3"]:
    """Colour of every label."""
    return palette.take(labels, axis=0)


def nearest(video: UInt8[np.ndarray, "t h w 3"], palette: UInt8[np.ndarray, "n 3"]) -> UInt8[np.ndarray, "t h w"]:
    """Label of the nearest colour (Euclidean in RGB), decided on the upper 5 bits of each channel."""
    shift = 8 - _BITS
    red, green, blue = (video[..., channel].astype(np.uint16) >> shift for channel in range(3))
    cell = (red << 2 * _BITS) | (green << _BITS) | blue
    return _nearest_table(palette.tobytes()).take(cell)
