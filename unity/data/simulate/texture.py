"""Solid textures: how much of a material's second colour shows at a point, and the clouds of the sky."""

import numpy as np

from unity.data.simulate.jit import kernel
from unity.data.simulate.tables import TEXTURES

# The mean of each texture, to which it fades where its cells are smaller than a sample.
MEANS = np.array([0.0, 0.5, 0.27, 0.5, 0.5, 0.5, 0.27, 0.35, 0.3, 0.3, 0.5, 0.45])
assert len(MEANS) == len(TEXTURES)


@kernel
def cell(x, y, z):
    """A hash of three whole numbers to [0, 1]."""
    n = (x * 73856093) ^ (y * 19349663) ^ (z * 83492791)
    n = (n ^ (n >> 13)) * 1274126177
    n = n & 0x7FFFFFFF
    n = n ^ (n >> 16)
    return (n & 0xFFFF) / 65535.0


@kernel
def noise(x, y, z):
    """Value noise in [0, 1] with cells of size one."""
    fi, fj, fk = np.floor(x), np.floor(y), np.floor(z)
    i, j, k = int(fi), int(fj), int(fk)
    u, v, w = x - fi, y - fj, z - fk
    u, v, w = u * u * (3 - 2 * u), v * v * (3 - 2 * v), w * w * (3 - 2 * w)
    near = _face(i, j, k, u, v)
    return near + w * (_face(i, j, k + 1, u, v) - near)


@kernel
def _face(i, j, k, u, v):
    a = cell(i, j, k)
    a += u * (cell(i + 1, j, k) - a)
    b = cell(i, j + 1, k)
    b += u * (cell(i + 1, j + 1, k) - b)
    return a + v * (b - a)


@kernel
def pattern(texture, x, y, z):
    """The share of the second colour, [0, 1]; coordinates in cells; `texture` indexes tables.TEXTURES."""
    if texture == 1:  # checker
        return float((int(np.floor(x)) + int(np.floor(y)) + int(np.floor(z + 0.001))) & 1)
    if texture == 2:  # brick
        row = np.floor(z + y * 0.5)
        along = x + 0.5 * (int(row) & 1)
        if along - np.floor(along) < 0.06 or z + y * 0.5 - row < 0.1:
            return 1.0
        return 0.35 * cell(int(np.floor(along)), int(row), 1)
    if texture == 3:  # wood
        rings = 0.5 + 0.5 * np.sin(6.0 * (x + 1.2 * noise(x * 1.5, y * 0.3, z * 1.5)))
        return 0.7 * rings + 0.3 * noise(x * 9, y * 1.5, z * 9)
    if texture == 4:  # stripes
        return float(int(np.floor(z)) & 1)
    if texture == 5:  # noise
        return 0.6 * noise(x, y, z) + 0.4 * noise(3 * x, 3 * y, 3 * z)
    if texture == 6:  # tiles
        u, v = x - np.floor(x), y + z - np.floor(y + z)
        if u < 0.04 or v < 0.04:
            return 0.85
        return 0.35 * cell(int(np.floor(x)), int(np.floor(y + z)), 5) + 0.15 * noise(x * 6, y * 6, z * 6)
    if texture == 7:  # planks
        board = int(np.floor(4 * x))
        if 4 * x - board < 0.06:
            return 1.0
        grain = noise(30 * x, 1.5 * (y + z) + 7.3 * board, 0.5)
        return 0.5 * cell(board, int(np.floor(0.4 * (y + z) + 0.37 * board)), 3) + 0.25 * grain
    if texture == 8:  # dots
        u, v, w = x - np.floor(x) - 0.5, y - np.floor(y) - 0.5, z - np.floor(z) - 0.5
        return 1.0 if u * u + v * v + w * w < 0.19 else 0.0
    if texture == 9:  # windows
        u, v = x + y - np.floor(x + y), z - np.floor(z)
        return (
            1.0 - 0.5 * cell(int(np.floor(x + y)), int(np.floor(z)), 9)
            if 0.25 < u < 0.75 and 0.3 < v < 0.85
            else 0.0
        )
    if texture == 10:  # ripples
        wave = np.sin(9.0 * (y + 0.5 * noise(0.9 * x, 0.9 * y, 0.0)) + 1.5 * noise(2 * x, 2 * y, 3.0))
        return 0.5 + 0.3 * wave + 0.2 * (noise(7 * x, 7 * y, 1.0) - 0.5)
    if texture == 11:  # weave
        return (
            0.3
            + 0.3 * float((int(np.floor(3 * x)) + int(np.floor(3 * (y + z)))) & 1)
            + 0.25 * (noise(2 * x, 2 * y, 2 * z) - 0.5)
        )
    return 0.0


@kernel
def clouds(x, y, z):
    """How much cloud lies in the direction of a unit vector, [0, 1]."""
    up = max(0.0, z)
    scale = 1.0 / (up + 0.15)
    cover = 0.5 * noise(3 * x * scale, 3 * y * scale, 7.0) + 0.3 * noise(8 * x * scale, 8 * y * scale, 3.0)
    return min(1.0, max(0.0, 3 * (cover - 0.42))) * min(1.0, 6 * up)
