"""Who is who from frame to frame, for detectors that look at each frame alone; and DWPose, one of them."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Float32

from unity.data.annotate.base import Annotation, Video, Weights
from unity.modality.overlap import best_pairs

# a person moves less than this share of their height between frames
_REACH = 0.5

Joints = Float[np.ndarray, "18 3"]


def follow(frames: Sequence[Sequence[Joints]]) -> list[list[int]]:
    """A place for every person in every frame, the same one as long as they move steadily."""
    last: dict[int, Joints] = {}
    places = []
    for people in frames:
        near = np.array([[_near(person, other) for other in last.values()] for person in people])
        here: dict[int, int] = {}
        if near.size:
            names = list(last)
            rows, columns = best_pairs(near)
            here = {int(r): names[c] for r, c in zip(rows, columns, strict=True) if near[r, c] > 0}
        free = iter(place for place in range(len(last) + len(people)) if place not in last)
        found = [here[number] if number in here else next(free) for number in range(len(people))]
        last |= dict(zip(found, people, strict=True))
        places.append(found)
    return places


def _near(a: Joints, b: Joints) -> float:
    """1 for the same joints, 0 from where they could not be one person's."""
    both = (a[:, 2] > 0.5) & (b[:, 2] > 0.5)
    if not both.any():
        return 0.0
    height = max(float(np.ptp(b[both, 1])), float(np.ptp(b[both, 0])), 1.0)
    return max(0.0, 1 - float(np.linalg.norm(a[both, :2] - b[both, :2], axis=-1).mean()) / (_REACH * height))


def load_dwpose(weights: Weights, settings: Mapping[str, float], device: str) -> Callable[[Video], Annotation]:
    """DWPose (Yang et al., 2023) through rtmlib, from a folder with its two ONNX files det.onnx and pose.onnx."""
    try:
        from rtmlib import Wholebody  # pyright: ignore[reportMissingImports]  of no extra: it brings a second OpenCV
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is not installed; pip install --no-deps rtmlib") from error
    folder = weights["dwpose"]
    files = [folder / name for name in ("det.onnx", "pose.onnx")]
    if missing := [file for file in files if not file.is_file()]:
        raise ValueError(f"there is no {missing[0]}; put DWPose's detector and pose model there under these names")
    where = {"backend": "onnxruntime", "device": device.partition(":")[0]}
    model = Wholebody(det=str(files[0]), pose=str(files[1]), to_openpose=True, **where)

    def find(frame: np.ndarray) -> list[Float32[np.ndarray, "18 3"]]:
        points, sure = model(np.ascontiguousarray(frame[..., ::-1]))
        return openpose(points, sure, settings["confidence"])

    return lambda video: Annotation(placed([find(frame) for frame in video]))


def openpose(
    points: Float[np.ndarray, "p j 2"], sure: Float[np.ndarray, "p j"], least: float
) -> list[Float32[np.ndarray, "18 3"]]:
    """The first 18 of whole-body keypoints in OpenPose's order, visible where the detector is sure enough."""
    return [
        np.concatenate([xy[:18], (s[:18, None] >= least).astype(np.float32)], 1).astype(np.float32)
        for xy, s in zip(points, sure, strict=True)
    ]


def placed(frames: Sequence[Sequence[Joints]]) -> Float32[np.ndarray, "t p 18 3"]:
    """All people of all frames, each at a place of their own."""
    places = follow(frames)
    count = 1 + max((place for frame in places for place in frame), default=-1)
    keypoints = np.zeros((len(frames), count, 18, 3), np.float32)
    for number, (people, frame) in enumerate(zip(frames, places, strict=True)):
        for person, place in zip(people, frame, strict=True):
            keypoints[number, place] = person
    return keypoints
