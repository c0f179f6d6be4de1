"""People by MediaPipe (BlazePose, Bazarevsky et al., 2020): skeletons, a mask of each, and how many there are.

MediaPipe's package has had no models since 1.0; they are read out of the last wheel that carried them.
"""

import contextlib
import functools
import io
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from unity.data.annotate.base import Annotation, Video, Weights
from unity.data.annotate.people import follow
from unity.data.weights import from_wheel

_DETECTOR = (
    "mediapipe/modules/pose_detection/pose_detection.tflite",
    "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
)
_LANDMARKS = (
    "mediapipe/modules/pose_landmark/pose_landmark_full.tflite",
    "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
)
# OpenPose's joints from BlazePose's 33 landmarks; the neck is between the shoulders
_JOINTS = (0, None, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7)
_SHOULDERS = (11, 12)
_MOST = 4
# names of the two models inside a .task file, and the range of pixels that each reads: (value - mean) / deviation
_TASK = (
    ("pose_detector.tflite", _DETECTOR, 127.5, 127.5),
    ("pose_landmarks_detector.tflite", _LANDMARKS, 0.0, 255.0),
)

Picture = UInt8[np.ndarray, "h w 3"]
Person = tuple[Float32[np.ndarray, "18 3"], Bool[np.ndarray, "h w"]]


def load_skeleton(weights: Weights, settings: Mapping[str, float], device: str) -> Callable[[Video], Annotation]:
    """Skeletons of up to four people, each at its own place throughout the clip."""
    _check(weights["mediapipe"])
    return lambda video: Annotation(_people(weights["mediapipe"], settings["confidence"], video)[0])


def load_masks(weights: Weights, settings: Mapping[str, float], device: str) -> Callable[[Video], Annotation]:
    """The mask of each person as an instance; things are background."""
    _check(weights["mediapipe"])
    return lambda video: Annotation(_people(weights["mediapipe"], settings["confidence"], video)[1])


def people_counter(wheel: Path, confidence: float = 0.5) -> Callable[[Video], list[int]]:
    """How many people each of some pictures shows, four at most."""
    _check(wheel)

    def count(pictures: Video) -> list[int]:
        with _finder(wheel, confidence, video=False) as find:
            return [len(find(picture, 0)) for picture in pictures]

    return count


# skeletons and masks of a clip come from one pass; the last clip is kept
_LAST: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}


def _people(wheel: Path, confidence: float, video: Video) -> tuple[np.ndarray, np.ndarray]:
    key = (wheel, confidence, video.shape, hash(video.tobytes()))
    if key not in _LAST:
        with _finder(wheel, confidence, video=True) as find:
            found = [find(frame, 33 * number) for number, frame in enumerate(video)]
        _LAST.clear()
        _LAST[key] = _placed(found, video.shape[1:3])
    return _LAST[key]


def _placed(found: list[list[Person]], size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints [t, p, 18, 3] and instances [t, h, w]; whoever is found first is drawn over."""
    places = follow([[joints for joints, _ in people] for people in found])
    count = 1 + max((place for frame in places for place in frame), default=-1)
    keypoints = np.zeros((len(found), count, 18, 3), np.float32)
    labels = np.zeros((len(found), *size), np.uint8)
    for number, (people, frame) in enumerate(zip(found, places, strict=True)):
        for (joints, mask), place in zip(people, frame, strict=True):
            keypoints[number, place] = joints
            labels[number][mask] = place + 1
    return keypoints, labels


def _check(wheel: Path) -> None:
    """Raises ValueError with the way out where MediaPipe or its models are missing."""
    # it tells of its inner life
    os.environ.setdefault("GLOG_minloglevel", "3")
    try:
        import mediapipe  # pyright: ignore[reportMissingImports]  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is not installed; docs/data.md has the line that installs it") from error
    task(wheel)


@contextlib.contextmanager
def _finder(wheel: Path, confidence: float, video: bool) -> Iterator[Callable[[Picture, int], list[Person]]]:
    """What finds people in a picture at a time in milliseconds, which only grows in a `video`."""
    import mediapipe  # pyright: ignore[reportMissingImports]
    from mediapipe.tasks import python as tasks  # pyright: ignore[reportMissingImports]
    from mediapipe.tasks.python import vision  # pyright: ignore[reportMissingImports]

    options = vision.PoseLandmarkerOptions(
        base_options=tasks.BaseOptions(model_asset_buffer=task(wheel)),
        running_mode=vision.RunningMode.VIDEO if video else vision.RunningMode.IMAGE,
        num_poses=_MOST,
        output_segmentation_masks=True,
        min_pose_detection_confidence=confidence,
    )
    landmarker = vision.PoseLandmarker.create_from_options(options)

    def find(picture: Picture, milliseconds: int) -> list[Person]:
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(picture))
        found = landmarker.detect_for_video(image, milliseconds) if video else landmarker.detect(image)
        masks = found.segmentation_masks or []
        people = zip(found.pose_landmarks, masks, strict=True)
        return [(_joints(marks, picture.shape[:2]), _mask(mask)) for marks, mask in people]

    # left to Python's end, it complains
    with contextlib.closing(landmarker):
        yield find


def _mask(mask) -> Bool[np.ndarray, "h w"]:
    view = mask.numpy_view()
    return (view if view.ndim == 2 else view[..., 0]) > 0.5


def _joints(marks, size: tuple[int, ...]) -> Float32[np.ndarray, "18 3"]:
    """Pixels and visibility of OpenPose's joints; whole numbers at pixel centres."""
    height, width = size
    points = np.array([(m.x * width - 0.5, m.y * height - 0.5, m.visibility) for m in marks], np.float32)
    neck = points[list(_SHOULDERS)]
    middle = np.array([*neck[:, :2].mean(0), neck[:, 2].min()], np.float32)
    joints = np.stack([middle if mark is None else points[mark] for mark in _JOINTS])
    inside = (joints[:, :2] >= -0.5).all(1) & (joints[:, :2] <= [width - 0.5, height - 0.5]).all(1)
    joints[:, 2] = (joints[:, 2] > 0.5) & inside
    return joints


@functools.lru_cache(maxsize=1)
def task(wheel: Path) -> bytes:
    """MediaPipe's bundle of both models, with the notes about their input that its readers want."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_STORED) as bundle:
        for name, (inside, sha256), mean, deviation in _TASK:
            bundle.writestr(name, _described(from_wheel(wheel, inside, sha256), mean, deviation))
    return data.getvalue()


def _described(model: bytes, mean: float, deviation: float) -> bytes:
    """A TFLite model with metadata that says how pixels are to be brought to its range."""
    import flatbuffers  # pyright: ignore[reportMissingImports]
    from mediapipe.tasks.metadata import schema_py_generated as schema  # pyright: ignore[reportMissingImports]

    # its generated classes start with None in all places
    whole: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    buffer = schema.BufferT()
    buffer.data = list(_metadata(mean, deviation, len(whole.subgraphs[0].outputs)))
    whole.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = "TFLITE_METADATA", len(whole.buffers) - 1
    whole.metadata = [*(whole.metadata or []), entry]
    builder = flatbuffers.Builder(len(model) + 4096)
    builder.Finish(whole.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _metadata(mean: float, deviation: float, outputs: int) -> bytes:
    import flatbuffers  # pyright: ignore[reportMissingImports]
    from mediapipe.tasks.metadata import metadata_schema_py_generated as schema  # pyright: ignore[reportMissingImports]

    normal = schema.NormalizationOptionsT()
    normal.mean, normal.std = [mean], [deviation]
    unit = schema.ProcessUnitT()
    unit.optionsType, unit.options = schema.ProcessUnitOptions.NormalizationOptions, normal
    image = schema.ImagePropertiesT()
    image.colorSpace = schema.ColorSpaceType.RGB
    content = schema.ContentT()
    content.contentPropertiesType, content.contentProperties = schema.ContentProperties.ImageProperties, image
    tensor = schema.TensorMetadataT()
    tensor.name, tensor.content, tensor.processUnits = "image", content, [unit]
    graph = schema.SubGraphMetadataT()
    graph.inputTensorMetadata = [tensor]
    graph.outputTensorMetadata = [schema.TensorMetadataT() for _ in range(outputs)]
    model = schema.ModelMetadataT()
    model.name, model.subgraphMetadata = "pose", [graph]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"M001")
    return bytes(builder.Output())
