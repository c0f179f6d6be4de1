"""Simulated clips in which much moves: the camera, and things of themselves, by exact depth and flow."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from unity.modality.base import Facts
from unity.modality.depth import seen_from
from unity.randomness import fold

# least speeds of the camera and of the fastest thing, in shares of the shorter side a frame (see `speeds`): at 16
# frames a second a quarter of the picture and a half of it each second
CAMERA, THINGS = 1 / 64, 1 / 32
# pixels of the shorter side at which a clip is looked at: its speeds hardly depend on them
_SIDE = 16
# seeds that are tried; of ordinary clips of people one in eight is fast enough
_TRIES = 256


def lively_seed(seed: int, source: str, frames: int, size: tuple[int, int], fps: float) -> int:
    """The first of the seeds that follow from `seed` whose clip is as fast as CAMERA and THINGS say."""
    # it compiles its kernels, and a light install lacks it
    from unity.data.simulate.clip import facts

    height, width = (round(side * _SIDE / min(size)) for side in size)
    tried = (fold(seed, number) for number in range(_TRIES))
    return next(
        (one for one in tried if is_lively(facts(one, source, frames, (height, width), fps), source)),
        fold(seed, _TRIES),
    )


def is_lively(facts: Facts, source: str) -> bool:
    """Whether both are fast; round a still subject it is the camera's part alone."""
    camera, thing = speeds(facts)
    return camera >= CAMERA and (thing >= THINGS or source == "subject")


def speeds(facts: Facts) -> tuple[float, float]:
    """How fast the camera and the fastest thing are, in shares of the shorter side a frame: means over steps.

    The camera's speed is the mean length of the flow that it alone would make, over all surfaces; a thing's is
    that of what its flow is beyond it, over its pixels. `facts`: exact depth, flow, segmentation, and the camera.
    """
    steps = [(float(alone.mean()), max(things, default=0.0)) for alone, things in _steps(facts)]
    camera, thing = np.mean(steps, axis=0) / min(facts["flow"].shape[1:3])
    return float(camera), float(thing)


def _steps(facts: Facts) -> Iterator[tuple[Float[np.ndarray, " n"], list[float]]]:
    """Of every step the lengths of the flow of the camera alone, and how fast each instance is beyond it."""
    flow, labels = facts["flow"], facts["segmentation"]
    rows, columns = np.mgrid[: flow.shape[1], : flow.shape[2]] + 0.5
    for frame in range(len(flow) - 1):
        # nobody sees how far the sky is
        depth = np.where(np.isfinite(facts["depth"][frame]), facts["depth"][frame], np.nan).astype(np.float64)
        _, there = seen_from(depth, facts["camera"], frame, frame + 1)
        alone = there[..., ::-1] - np.stack([columns, rows], -1)
        seen, beyond = np.isfinite(alone).all(-1), _length(flow[frame + 1] - alone)
        each = [beyond[seen & (labels[frame] == number)] for number in np.unique(labels[frame]) if number]
        yield _length(alone[seen]), [float(lengths.mean()) for lengths in each if len(lengths)]


def _length(vectors: Float[np.ndarray, "*any 2"]) -> Float[np.ndarray, "*any"]:
    return np.linalg.norm(vectors.astype(np.float64), axis=-1)
