"""How well DensePose's colours bear blends: the share of body pixels whose part is still read.

    python benchmarks/palette_bench.py [--clips 24] [--search 3]

A model trained by squared error paints, where it is not sure, the mean of the colours that it holds possible; a
codec blends them at edges. So parts of simulated people are blurred, mixed with their other side (front and back,
left and right) in shares drawn per clip, and noise is added. `likeliest` is what could be read of the shares
themselves. `--search` looks for a better table by annealing: an order of the fully bright colours with channels of
0, 85, 170 or 255; the one in unity/modality/densepose.py was found so, on seed 91 with three starts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from harness import write_result
from scipy.ndimage import gaussian_filter

from unity.data.clips import SOURCES
from unity.data.simulate.clip import simulate
from unity.modality import densepose
from unity.modality.palette import nearest, nearest_hue
from unity.randomness import fold

# the other side of the body: front and back of a part, right and left of it
_BACKS = ((1, 2), (7, 9), (8, 10), (11, 13), (12, 14), (15, 17), (16, 18), (19, 21), (20, 22))
_SIDES = tuple((first, first + 1) for first in range(3, 25, 2))
# what this project drew before: any two are 127 apart, but black between, or two of them, make a third
_LATTICE = np.array(
    [
        (0, 0, 0),
        (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255),
        (255, 128, 0), (128, 0, 255), (0, 255, 128), (255, 0, 128), (0, 128, 255), (128, 255, 0),
        (128, 0, 0), (0, 128, 0), (0, 0, 128), (128, 128, 0), (128, 0, 128), (0, 128, 128),
        (255, 128, 128), (128, 255, 128), (128, 128, 255), (255, 255, 128), (255, 128, 255), (128, 255, 255),
    ],
    np.uint8,
)  # fmt: skip
_NOISE, _PIXELS, _STEPS, _HEAT = 10.0, 1500, 5000, 0.004


@dataclass(frozen=True, kw_only=True)
class Options:
    # of one person and of two, each
    clips: int = 24
    seed: int = 91
    # starts of a search for a better table
    search: int = 0
    # where to write the JSON; benchmarks/results by default
    out: Path | None = None


class Blends(NamedTuple):
    """Body pixels: the share of every label in them, their true part, noise to add; whether inside a part."""

    shares: np.ndarray
    truth: np.ndarray
    noise: np.ndarray
    inner: np.ndarray


def blends(options: Options) -> Blends:
    rng = np.random.default_rng(options.seed)
    parts = []
    for source, index in product(("single_person", "two_persons"), range(options.clips)):
        clip = simulate(fold(options.seed, SOURCES.index(source), index), source, 17, (64, 64))
        parts.append(_pixels(clip.values["densepose"][..., 0].round().astype(int), rng))
    shares, truth, inner = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Blends(shares, truth, rng.normal(0, _NOISE, (len(truth), 3)), inner)


def _pixels(labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    sigma = rng.choice((0.7, 1.1, 1.6))
    shares = gaussian_filter(np.eye(densepose.PARTS + 1)[labels], (0.5, sigma, sigma, 0))
    for pairs, spread in ((_BACKS, 0.25), (_SIDES, 0.2)):
        doubt = min(abs(rng.normal(0, spread)), 0.49)
        shares = (1 - doubt) * shares + doubt * shares[..., _swapped(pairs)]
    inner = np.all([np.roll(labels, by, axis) == labels for by in (-1, 1) for axis in (1, 2)], axis=0)
    body = np.flatnonzero(labels)
    some = rng.choice(body, min(len(body), _PIXELS), replace=False)
    return shares.reshape(-1, shares.shape[-1])[some], labels.ravel()[some], inner.ravel()[some]


def _swapped(pairs: tuple[tuple[int, int], ...]) -> np.ndarray:
    order = np.arange(densepose.PARTS + 1)
    for a, b in pairs:
        order[a], order[b] = b, a
    return order


def accuracy(blends: Blends, palette: np.ndarray, read: Callable[..., np.ndarray]) -> dict[str, float]:
    """Share of the pixels read right: of all, of those inside their part, of those at its edge."""
    video = (blends.shares @ palette + blends.noise).round().clip(0, 255).astype(np.uint8)
    right = read(video[None, None], palette)[0, 0] == blends.truth
    return {"all": right.mean(), "inner": right[blends.inner].mean(), "edge": right[~blends.inner].mean()}


def search(blends: Blends, starts: int, seed: int) -> np.ndarray:
    """The best palette of so many annealings."""
    rng = np.random.default_rng(seed)
    bright = np.array([c for c in product((0, 85, 170, 255), repeat=3) if max(c) == 255], np.uint8)
    found = [_anneal(blends, bright, rng) for _ in range(starts)]
    return min(found, key=lambda pair: pair[0])[1]


def _anneal(blends: Blends, bright: np.ndarray, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    some = rng.choice(len(blends.truth), min(12_000, len(blends.truth)), replace=False)
    part = Blends(*(column[some] for column in blends))

    def palette(order: np.ndarray) -> np.ndarray:
        return np.concatenate([np.zeros((1, 3), np.uint8), bright[order[: densepose.PARTS]]])

    order = rng.permutation(len(bright))
    cost = 1 - accuracy(part, palette(order), nearest_hue)["all"]
    for step in range(_STEPS):
        other, i, j = order.copy(), rng.integers(densepose.PARTS), rng.integers(len(bright))
        other[[i, j]] = other[[j, i]]
        new = 1 - accuracy(part, palette(other), nearest_hue)["all"]
        if new < cost or rng.random() < np.exp((cost - new) / max(_HEAT * (1 - step / _STEPS) ** 2, 1e-9)):
            order, cost = other, new
    return float(cost), palette(order)


def main(options: Options) -> None:
    found = blends(options)
    rows = {
        "likeliest": accuracy(found, np.zeros((25, 3)), lambda *_: found.shares.argmax(-1)[None, None]),
        "lattice, nearest": accuracy(found, _LATTICE, nearest),
        "lattice, nearest hue": accuracy(found, _LATTICE, nearest_hue),
        "ours, nearest": accuracy(found, densepose.PALETTE, nearest),
        "ours, nearest hue": accuracy(found, densepose.PALETTE, nearest_hue),
    }
    if options.search:
        palette = search(found, options.search, options.seed)
        rows["found"] = accuracy(found, palette, nearest_hue)
        print(palette.tolist())
    for name, row in rows.items():
        print(f"{name:22}" + "".join(f"  {where} {share:.3f}" for where, share in row.items()))
    table = [
        {"read": name} | {where: round(float(share), 4) for where, share in row.items()}
        for name, row in rows.items()
    ]
    print(write_result("palette_bench", table, folder=options.out, clips=options.clips, pixels=len(found.truth)))


if __name__ == "__main__":
    main(tyro.cli(Options))
