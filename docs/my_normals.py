"""A modality of one's own: surface normals, for `--modalities docs/my_normals.py` (see docs/data.md).

Values are float32 [t, h, w, 3]: unit vectors in the camera's axes (x right, y down, z forward) that point out of
the surface towards the camera; zero where no surface is seen.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from unity.modality.base import Baseline, Measure, Modality
from unity.modality.files import check_video, save_arrays


def derive(values: Mapping[str, np.ndarray], focal: float) -> np.ndarray:
    """Normals of exact depth: the cross product of the surface's steps to the right and down.

    Of the two neighbours on a line the one that is nearer in depth counts, so that edges stay sharp.
    """
    depth = values["depth"].astype(np.float64)
    height, width = depth.shape[1:]
    seen = np.isfinite(depth)
    z = np.where(seen, depth, 1e6)
    x, y = (np.arange(width) + 0.5 - width / 2) / focal, (np.arange(height) + 0.5 - height / 2) / focal
    points = np.stack((x * z, y[:, None] * z, z), axis=-1)
    normal = np.cross(_step(points, z, 2), _step(points, z, 1))
    # towards the camera
    normal *= -np.sign((normal * points).sum(-1, keepdims=True))
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
    return (normal * seen[..., None]).astype(np.float32)


def _step(points: np.ndarray, z: np.ndarray, axis: int) -> np.ndarray:
    """The difference to the next point or from the one before."""
    there = np.diff(points, axis=axis)
    last, first = np.take(there, [-1], axis), np.take(there, [0], axis)
    after, before = np.concatenate((there, last), axis), np.concatenate((first, there), axis)
    nearer = np.abs(after[..., 2:]) <= np.abs(before[..., 2:])
    return np.where(nearer, after, before)


def encode(values: np.ndarray, constants: Mapping[str, float]) -> np.ndarray:
    """The usual colours: (n + 1) / 2; grey where there is no surface."""
    return np.clip((values + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)


def decode(video: np.ndarray, constants: Mapping[str, float]) -> np.ndarray:
    check_video(video)
    values = video.astype(np.float32) / 127.5 - 1
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    # a vector that is nearer to none than to one of unit length
    return np.where(length > 0.5, values / np.maximum(length, 1e-6), 0).astype(np.float32)


def save(values: np.ndarray, stem: Path, fps: float) -> list[Path]:
    """`stem.npz` with `normals` float32 [t, h, w, 3] and `fps`."""
    return [save_arrays(stem.with_name(stem.name + ".npz"), normals=values, fps=np.array(fps))]


def score(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Mean angle in degrees, and the share within 30 of them, where the truth has a surface."""
    seen = np.linalg.norm(truth, axis=-1) > 0.5
    if not seen.any():
        return {"angle": float("nan"), "within_30": float("nan")}
    cosine = np.clip((prediction[seen] * truth[seen]).sum(-1), -1, 1)
    angle = np.degrees(np.arccos(cosine))
    return {"angle": float(angle.mean()), "within_30": float((angle < 30).mean())}


def facing(rgb: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Every surface looks into the camera."""
    return np.broadcast_to(np.array((0, 0, -1), np.float32), truth.shape)


NORMALS = Modality(
    name="normals",
    like="depth",
    derive=derive,
    type_prompt="surface normals, red to the right, green down, blue away from the camera",
    meaning="red points right, green down, blue away from the camera",
    pixel_aligned=True,
    spread=(-0.2, 0.5),
    constants=lambda values, size: {},
    unknown_constants=lambda height, width: {},
    encode=encode,
    decode=decode,
    picture=encode,
    save=save,
    score=score,
    measures={
        "angle": Measure(words="mean angle", more=False),
        "within_30": Measure(words="within 30°", more=True),
    },
    baselines={"trivial": Baseline(words="facing the camera", predict=facing)},
)
