"""Backdrops: seeded builders of the immovable primitives behind the action, by the names in tables.PLACES."""

from dataclasses import dataclass

import numpy as np

from unity.data.simulate.tables import Color, Material

_FACADES: tuple[Color, ...] = (
    (0.62, 0.33, 0.26), (0.7, 0.66, 0.58), (0.5, 0.52, 0.56), (0.72, 0.6, 0.42), (0.42, 0.5, 0.46),
    (0.76, 0.73, 0.7),
)  # fmt: skip
_WALLS: tuple[Color, ...] = (
    (0.8, 0.77, 0.7), (0.62, 0.7, 0.74), (0.74, 0.68, 0.6), (0.66, 0.74, 0.62), (0.78, 0.62, 0.56),
    (0.7, 0.68, 0.78),
)  # fmt: skip


@dataclass(frozen=True)
class Fixture:
    """One immovable primitive: MuJoCo shape, half sizes and position in metres, yaw in degrees."""

    shape: str
    size: tuple[float, ...]
    position: tuple[float, float, float]
    material: Material
    yaw: float = 0.0


def _tint(color: Color, factor: float) -> Color:
    red, green, blue = (min(1.0, factor * c) for c in color)
    return red, green, blue


def _pick(rng: np.random.Generator, rows: tuple):
    return rows[int(rng.integers(len(rows)))]


def buildings(rng: np.random.Generator) -> list[Fixture]:
    rows = []
    for x in np.arange(-12, 12.1, 4.0):
        color, half = _pick(rng, _FACADES), rng.uniform(1.6, 5.0)
        texture = _pick(rng, ("windows", "windows", "brick", "tiles"))
        second = (0.16, 0.2, 0.26) if texture == "windows" else _tint(color, 0.72)
        scale = {"windows": 0.8, "brick": 3.0, "tiles": 1.5}[texture]
        at = (x + rng.uniform(-0.3, 0.3), rng.uniform(6.5, 9.0), half)
        rows.append(
            Fixture("box", (rng.uniform(1.6, 2.0), 1.0, half), at, Material(color, second, texture, scale))
        )
    return rows


def kerb(rng: np.random.Generator) -> list[Fixture]:
    stone = Material((0.6, 0.6, 0.58), (0.5, 0.5, 0.49), "tiles", 1.0)
    paint = Material((0.85, 0.84, 0.8), (0.85, 0.84, 0.8))
    dashes = [Fixture("box", (0.7, 0.06, 0.002), (x, -0.9, 0.0), paint) for x in np.arange(-9, 9.1, 2.6)]
    return [Fixture("box", (20.0, 1.6, 0.07), (0.0, 5.2, 0.07), stone), *dashes]


def trees(rng: np.random.Generator) -> list[Fixture]:
    rows = []
    for x in np.linspace(-8, 8, 6) + rng.uniform(-1.2, 1.2, 6):
        y, tall, wide = rng.uniform(5.0, 10.0), rng.uniform(0.9, 1.4), rng.uniform(0.9, 1.5)
        leaf = np.array((0.13, 0.35, 0.1)) * rng.uniform(0.7, 1.3) + rng.uniform(0, 0.1) * np.array((1, 0.6, 0))
        bark = Material((0.33, 0.22, 0.13), (0.22, 0.14, 0.08), "wood", 4.0)
        crown = Material(tuple(leaf), tuple(1.5 * leaf), "noise", 6.0, 0.0)
        rows.append(Fixture("cylinder", (rng.uniform(0.12, 0.22), tall), (x, y, tall), bark))
        rows.append(Fixture("ellipsoid", (wide, wide, 1.2 * wide), (x, y, 2 * tall + 0.7 * wide), crown))
    return rows


def firs(rng: np.random.Generator) -> list[Fixture]:
    rows = []
    green = Material((0.08, 0.24, 0.14), (0.75, 0.8, 0.84), "noise", 3.0, 0.0)
    bark = Material((0.25, 0.16, 0.1), (0.18, 0.11, 0.07), "wood", 4.0)
    for x in np.linspace(-9, 9, 7) + rng.uniform(-1, 1, 7):
        y, s = rng.uniform(5.5, 11.0), rng.uniform(0.8, 1.4)
        rows.append(Fixture("cylinder", (0.14 * s, 0.5 * s), (x, y, 0.5 * s), bark))
        rows += [
            Fixture("ellipsoid", (w * s, w * s, 0.75 * s), (x, y, z * s), green)
            for w, z in ((0.95, 1.2), (0.72, 2.0), (0.45, 2.8))
        ]
    return rows


def sea(rng: np.random.Generator) -> list[Fixture]:
    water = Material((0.07, 0.34, 0.46), (0.3, 0.58, 0.64), "ripples", 0.7, 0.4)
    rows = [Fixture("box", (80.0, 30.0, 0.02), (0.0, rng.uniform(35.5, 38.0), 0.01), water)]
    return rows + rocks(rng)[:2]


def rocks(rng: np.random.Generator) -> list[Fixture]:
    rows = []
    for x in np.linspace(-8, 8, 6) + rng.uniform(-1.2, 1.2, 6):
        base = np.array((0.46, 0.33, 0.24)) * rng.uniform(0.7, 1.2)
        stone = Material(tuple(base), tuple(0.65 * base), "noise", 2.5, 0.0)
        size = tuple(rng.uniform((0.5, 0.5, 0.3), (1.6, 1.2, 1.7)))
        rows.append(Fixture("ellipsoid", size, (x, rng.uniform(4.5, 9.5), 0.15), stone, rng.uniform(0, 90)))
    return rows


def columns(rng: np.random.Generator) -> list[Fixture]:
    marble = Material((0.84, 0.81, 0.76), (0.7, 0.66, 0.62), "wood", 1.2, 0.2)
    rows, y = [], rng.uniform(3.6, 4.0)
    for x in np.arange(-5.4, 5.5, 1.8) + rng.uniform(-0.6, 0.6):
        rows.append(Fixture("cylinder", (0.24, 1.5), (x, y, 1.5), marble))
        rows.append(Fixture("box", (0.34, 0.34, 0.09), (x, y, 0.09), marble))
    return [*rows, Fixture("box", (7.0, 0.4, 0.22), (0.0, y, 3.2), marble)]


def fence(rng: np.random.Generator) -> list[Fixture]:
    tone = rng.uniform(0.7, 1.15)
    wood = Material(_tint((0.52, 0.36, 0.22), tone), _tint((0.38, 0.25, 0.14), tone), "planks", 3.5)
    return [Fixture("box", (12.0, 0.05, rng.uniform(0.6, 1.0)), (0.0, 4.2, 0.6), wood)]


def _room(color: Color, texture: str, scale: float, depth: float) -> list[Fixture]:
    back = Material(color, _tint(color, 0.9), texture, scale)
    side = Material(_tint(color, 0.92), _tint(color, 0.84), texture, scale)
    skirting = Material((0.85, 0.84, 0.8), (0.85, 0.84, 0.8))
    return [
        Fixture("box", (8.0, 0.1, 4.0), (0.0, depth, 4.0), back),
        Fixture("box", (0.1, 10.0, 4.0), (-7.5, depth - 9.8, 4.0), side),
        Fixture("box", (0.1, 10.0, 4.0), (7.5, depth - 9.8, 4.0), side),
        Fixture("box", (8.0, 0.02, 0.06), (0.0, depth - 0.12, 0.06), skirting),
    ]


def walls(rng: np.random.Generator) -> list[Fixture]:
    rows = _room(_pick(rng, _WALLS), _pick(rng, ("plain", "stripes", "plain")), 4.0, 4.4)
    for x in rng.uniform((-4, 0.5), (-0.5, 4)):
        frame = Material((0.2, 0.13, 0.08), (0.2, 0.13, 0.08))
        picture = Material(
            tuple(rng.uniform(0.1, 0.8, 3)), tuple(rng.uniform(0.1, 0.9, 3)), "noise", rng.uniform(2, 5)
        )
        half = rng.uniform(0.25, 0.5)
        rows.append(Fixture("box", (half, 0.03, 0.4), (x, 4.28, 1.9), frame))
        rows.append(Fixture("box", (half - 0.06, 0.035, 0.34), (x, 4.27, 1.9), picture))
    return rows


def brick_walls(rng: np.random.Generator) -> list[Fixture]:
    color = _pick(rng, ((0.55, 0.28, 0.2), (0.6, 0.5, 0.42), (0.62, 0.62, 0.62)))
    return _room(color, "brick", 3.5, 4.2)


def furniture(rng: np.random.Generator) -> list[Fixture]:
    wood = Material((0.42, 0.27, 0.15), (0.33, 0.2, 0.1), "wood", 2.0, 0.15)
    cloth = Material(tuple(rng.uniform(0.15, 0.7, 3)), tuple(rng.uniform(0.15, 0.7, 3)), "weave", 6.0)
    side = _pick(rng, (-1.0, 1.0))
    x, far = side * rng.uniform(1.6, 2.8), -side * rng.uniform(1.2, 2.8)
    return [
        Fixture("box", (0.7, 0.35, 0.45), (x, 3.8, 0.45), wood),
        Fixture("box", (1.0, 0.4, 0.22), (far, 3.6, 0.22), cloth),
        Fixture("box", (1.0, 0.12, 0.45), (far, 4.0, 0.45), cloth),
    ]


def mats(rng: np.random.Generator) -> list[Fixture]:
    rows = []
    for x in (-2.4, 0.0, 2.4):
        vinyl = Material(tuple(rng.uniform(0.1, 0.8, 3)), (0.1, 0.1, 0.1), "plain", 1.0, 0.2)
        rows.append(Fixture("box", (0.9, 0.5, 0.05), (x + rng.uniform(-0.3, 0.3), 3.2, 0.05), vinyl))
    rack = Material((0.2, 0.21, 0.23), (0.3, 0.3, 0.3), "plain", 1.0, 0.4)
    return [*rows, *(Fixture("cylinder", (0.05, 1.1), (x, 3.9, 1.1), rack) for x in (-3.5, -2.5, 2.5, 3.5))]


def crates(rng: np.random.Generator) -> list[Fixture]:
    wood = Material((0.6, 0.44, 0.26), (0.42, 0.28, 0.14), "planks", 4.0)
    rows = []
    for x in np.linspace(-4.5, 4.5, 5) + rng.uniform(-0.7, 0.7, 5):
        half = rng.uniform(0.25, 0.55)
        rows.append(
            Fixture("box", (half, half, half), (x, rng.uniform(3.2, 3.5), half), wood, rng.uniform(-20, 20))
        )
    return rows


SCENERY = {
    "buildings": buildings, "kerb": kerb, "trees": trees, "firs": firs, "sea": sea, "rocks": rocks,
    "columns": columns,
    "fence": fence, "walls": walls, "brick walls": brick_walls, "furniture": furniture, "mats": mats,
    "crates": crates,
}  # fmt: skip
