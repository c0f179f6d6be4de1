"""Flat colours for labels, far enough apart to survive a lossy codec."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float32, Integer, UInt8

# The fully bright colours with channels of 0, 128 or 255 whose smallest is 0: any two are at least 127 apart.
# Black is the background; hues lie far apart in the first rows.
COLOURS: UInt8[np.ndarray, "13 3"] = np.array(
    [
        (0, 0, 0),
        (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255),
        (255, 128, 0), (128, 0, 255), (0, 255, 128), (255, 0, 128), (0, 128, 255), (128, 255, 0),
    ],
    dtype=np.uint8,
)  # fmt: skip

# Bits per channel that decide the nearest colour; 5 keep the table of all cells (32³) in the cache.
_BITS = 5


@lru_cache(maxsize=8)
def _nearest_table(palette: bytes) -> UInt8[np.ndarray, "cells"]:
    """Index of the palette's nearest colour to the centre of every cell of the RGB cube."""
    return _nearest(_cells(), np.frombuffer(palette, np.uint8).reshape(-1, 3))


@lru_cache(maxsize=8)
def _hue_table(palette: bytes, dark: float) -> UInt8[np.ndarray, "cells"]:
    """The same for cells made fully bright; 0 for dark ones."""
    cells = _cells()
    brightness = cells.max(1, keepdims=True)
    found = _nearest(cells * (255 / brightness), np.frombuffer(palette, np.uint8).reshape(-1, 3)[1:])
    return np.where(brightness[:, 0] < dark * 255, 0, 1 + found).astype(np.uint8)


def _cells() -> Float32[np.ndarray, "cells 3"]:
    """The centre of every cell of the RGB cube."""
    side = (np.arange(1 << _BITS, dtype=np.float32) + 0.5) * (256 >> _BITS) - 0.5
    return np.stack(np.meshgrid(side, side, side, indexing="ij"), -1).reshape(-1, 3)


def _nearest(
    cells: Float32[np.ndarray, "cells 3"], colours: UInt8[np.ndarray, "n 3"]
) -> UInt8[np.ndarray, "cells"]:
    # |cell - colour|² without the cell's own square, which does not change the minimum
    distance = (colours.astype(np.float32) ** 2).sum(1) - 2 * cells @ colours.T.astype(np.float32)
    return distance.argmin(1).astype(np.uint8)


def paint(labels: Integer[np.ndarray, "t h w"], palette: UInt8[np.ndarray, "n 3"]) -> UInt8[np.ndarray, "t h w 3"]:
    """Colour of every label."""
    return palette.take(labels, axis=0)


def nearest(video: UInt8[np.ndarray, "t h w 3"], palette: UInt8[np.ndarray, "n 3"]) -> UInt8[np.ndarray, "t h w"]:
    """Label of the nearest colour (Euclidean in RGB), decided on the upper 5 bits of each channel."""
    return _nearest_table(palette.tobytes()).take(_cell(video))


def nearest_hue(
    video: UInt8[np.ndarray, "t h w 3"], palette: UInt8[np.ndarray, "n 3"], dark: float = 0.4
) -> UInt8[np.ndarray, "t h w"]:
    """Label of the nearest colour to the pixel made fully bright, 0 below the share `dark` of full brightness.

    For a palette of black and colours whose largest channel is 255: a blend of one of them with black, as at a
    blurred edge, keeps its label as long as there is more of it.
    """
    return _hue_table(palette.tobytes(), dark).take(_cell(video))


def _cell(video: UInt8[np.ndarray, "t h w 3"]) -> Integer[np.ndarray, "t h w"]:
    """Index of every pixel's cell."""
    shift = 8 - _BITS
    red, green, blue = (video[..., channel].astype(np.uint16) >> shift for channel in range(3))
    return (red << 2 * _BITS) | (green << _BITS) | blue
