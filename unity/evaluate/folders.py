"""Ground truth as others keep it: a row for each kind of folder, found by what lies in it.

davis       JPEGImages/*/SEQUENCE/*.jpg, Annotations/*/SEQUENCE/*.png: masks of instances
coco        annotations/*.json beside folders of pictures: masks and people's joints of single pictures
middlebury  *-data/SCENE/frame10.png …, *-gt-flow/SCENE/flow10.flo: flow of one pair
kitti-flow  image_2/*_10.png …, flow_occ/*_10.png of 16 bits: flow of one pair, where a laser saw it
kitti-depth image/*.png, groundtruth_depth/*.png of 16 bits: metres of single pictures, where a laser saw them
tum         rgb.txt, depth.txt with times and files: metres of a moving camera

Pictures are cut to the centre, never resampled, so that truth stays exact; what nobody measured is NaN, which
scores leave out.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from unity.modality.readers import read_flo
from unity.modality.skeleton import COCO_JOINTS, JOINTS

# sides are cut to whole cells of every codec
_CELL = 32
# frames of a sequence that become one clip, and those of a pair with what follows it: 4k + 1
_FRAMES, _PAIR = 17, 5
# Middlebury, KITTI and TUM: raw numbers of a pixel, or of a metre
_KITTI_FLOW, _KITTI_METRE, _TUM_METRE = 64.0, 256.0, 5000.0
# pixels; Middlebury writes more where nobody knows
_UNKNOWN = 1e9
# seconds between a picture and its depth
_APART = 0.02


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Pictures of a clip and what is known of them, of one size."""

    rgb: UInt8[np.ndarray, "t h w 3"]
    values: dict[str, np.ndarray]
    fps: float = 16.0
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A clip that is read when it is asked for."""

    name: str
    read: Callable[[], Truth]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One way to keep truth."""

    words: str
    # (folder) → its scenes; none where it is no such folder
    scenes: Callable[[Path], Iterator[Scene]] = field(repr=False)


def _davis(folder: Path) -> Iterator[Scene]:
    for masks in sorted(path for path in folder.glob("Annotations/*/*") if path.is_dir()):
        pictures = folder / "JPEGImages" / masks.parent.name / masks.name
        pairs = [(p, masks / f"{p.stem}.png") for p in sorted(pictures.glob("*.jpg"))]
        pairs = [(picture, mask) for picture, mask in pairs if mask.is_file()]
        for number, part in enumerate(_runs(pairs)):
            yield Scene(name=f"{masks.name}-{number:02}", read=lambda part=part: _of_davis(part))


def _of_davis(pairs: list[tuple[Path, Path]]) -> Truth:
    labels = np.stack([_labels(mask) for _, mask in pairs])
    return Truth(rgb=_stacked([picture for picture, _ in pairs]), values={"segmentation": labels}, fps=24.0)


def _labels(path: Path) -> UInt8[np.ndarray, "h w"]:
    from PIL import Image

    with Image.open(path) as image:
        # the index in the palette is the instance
        return np.asarray(image if image.mode in ("P", "L") else image.convert("L"), np.uint8)


def _coco(folder: Path) -> Iterator[Scene]:
    tables = [json.loads(path.read_bytes()) for path in sorted(folder.glob("annotations/*.json"))]
    found: dict[str, list[dict]] = {}
    for table in tables:
        names = {image["id"]: image["file_name"] for image in table.get("images", ())}
        for row in table.get("annotations", ()):
            # a crowd is no instance
            if row.get("image_id") in names and not row.get("iscrowd"):
                found.setdefault(names[row["image_id"]], []).append(row)
    places = {path.name: path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")}
    for name in sorted(found):
        if path := places.get(Path(name).name):
            yield Scene(name=path.stem, read=lambda path=path, rows=found[name]: _of_coco(path, rows))


def _of_coco(path: Path, rows: list[dict]) -> Truth:
    rgb, values = _stacked([path]), {}
    if masks := [row["segmentation"] for row in rows if row.get("segmentation")]:
        values["segmentation"] = _painted(masks, rgb.shape[1:3])[None]
    if joints := [row["keypoints"] for row in rows if any(row.get("keypoints", ())[2::3])]:
        values["skeleton"] = np.stack([_person(numbers) for numbers in joints])[None]
    return Truth(rgb=rgb, values=values)


def _painted(masks: list, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Instances from 1 on, the largest first, so that what lies on it is seen."""
    from pycocotools import mask as runs

    drawn = []
    for mask in masks:
        coded = (
            runs.frPyObjects(mask, *size) if isinstance(mask, list) or isinstance(mask["counts"], list) else mask
        )
        drawn.append(runs.decode(runs.merge(coded) if isinstance(coded, list) else coded).astype(bool))
    labels = np.zeros(size, np.uint8)
    for number, mask in enumerate(sorted(drawn, key=lambda m: -int(m.sum()))[:255], 1):
        labels[mask] = number
    return labels


def _person(numbers: list[float]) -> Float32[np.ndarray, "18 3"]:
    """COCO's 17 joints in OpenPose's order; the neck lies between the shoulders, where both are marked."""
    joints = np.zeros((len(JOINTS), 3), np.float32)
    for name, (x, y, seen) in zip(COCO_JOINTS, np.reshape(numbers, (-1, 3)), strict=True):
        joints[JOINTS.index(name)] = (x, y, seen > 0) if seen > 0 else (0, 0, 0)
    shoulders = joints[[JOINTS.index(f"{side}_shoulder") for side in ("left", "right")]]
    if shoulders[:, 2].all():
        joints[JOINTS.index("neck")] = shoulders.mean(0)
    return joints


def _middlebury(folder: Path) -> Iterator[Scene]:
    for path in sorted(folder.glob("*gt-flow/*/flow10.flo")):
        scene = path.parent.name
        frames = sorted(folder.glob(f"*data*/{scene}/frame*.png"))
        first = [frame for frame in frames if frame.stem >= "frame10"]
        if len(first) > 1:
            yield Scene(name=scene, read=lambda path=path, first=first: _pair(first, _known(read_flo(path))))


def _known(flow: Float32[np.ndarray, "h w 2"]) -> Float32[np.ndarray, "h w 2"]:
    return np.where((np.abs(flow) > _UNKNOWN).any(-1, keepdims=True), np.nan, flow).astype(np.float32)


def _kitti_flow(folder: Path) -> Iterator[Scene]:
    here = folder / "training" if (folder / "training").is_dir() else folder
    for path in sorted(here.glob("flow_occ/*_10.png")):
        drive = path.stem.removesuffix("_10")
        frames = [frame for frame in sorted(here.glob(f"image_2/{drive}_*.png")) if frame.stem >= path.stem]
        if len(frames) > 1:
            yield Scene(name=drive, read=lambda path=path, frames=frames: _pair(frames, _sparse_flow(path)))


def _sparse_flow(path: Path) -> Float32[np.ndarray, "h w 2"]:
    raw = _raw(path).astype(np.float32)
    # OpenCV's channel order: valid, v, u
    flow = (raw[..., [2, 1]] - (1 << 15)) / _KITTI_FLOW
    return np.where(raw[..., :1] > 0, flow, np.nan).astype(np.float32)


def _pair(frames: list[Path], flow: Float32[np.ndarray, "h w 2"]) -> Truth:
    """A pair and what follows it, the last picture repeated where there is none; only the first step is known."""
    shown = (frames + frames[-1:] * _PAIR)[:_PAIR]
    maps = np.full((_PAIR, *flow.shape), np.nan, np.float32)
    maps[:2] = flow
    return Truth(rgb=_stacked(shown), values={"flow": maps}, fps=10.0)


def _kitti_depth(folder: Path) -> Iterator[Scene]:
    for path in sorted(folder.glob("**/groundtruth_depth/*.png")):
        picture = path.parent.with_name("image") / path.name.replace("groundtruth_depth", "image")
        if picture.is_file():
            yield Scene(name=path.stem, read=lambda path=path, picture=picture: _of_laser(picture, path))


def _of_laser(picture: Path, path: Path) -> Truth:
    return Truth(rgb=_stacked([picture]), values={"depth": _metres(path, _KITTI_METRE)[None]})


def _tum(folder: Path) -> Iterator[Scene]:
    for table in sorted(folder.glob("**/rgb.txt")):
        pairs = _at_one_time(table, table.with_name("depth.txt"))
        for number, part in enumerate(_runs(pairs)):
            yield Scene(name=f"{table.parent.name}-{number:03}", read=lambda part=part: _of_sensor(part))


def _of_sensor(pairs: list[tuple[Path, Path]]) -> Truth:
    depth = np.stack([_metres(path, _TUM_METRE) for _, path in pairs])
    return Truth(rgb=_stacked([picture for picture, _ in pairs]), values={"depth": depth}, fps=30.0)


def _at_one_time(pictures: Path, depths: Path) -> list[tuple[Path, Path]]:
    """Each picture with the depth that is nearest in time, and no depth twice."""
    shown, known = _timed(pictures), _timed(depths)
    if not known:
        return []
    times, pairs, last = np.array([time for time, _ in known]), [], -1
    for time, path in shown:
        near = int(np.abs(times - time).argmin())
        if near > last and abs(times[near] - time) < _APART:
            pairs.append((path, known[near][1]))
            last = near
    return pairs


def _timed(table: Path) -> list[tuple[float, Path]]:
    if not table.is_file():
        return []
    lines = (line.split() for line in table.read_text().splitlines() if line.strip() and line[0] != "#")
    return [(float(time), table.parent / name) for time, name, *_ in lines]


def _runs(pairs: list) -> list[list]:
    """Clips of `_FRAMES` frames one after the other; a shorter sequence is one of the 4k + 1 that it has."""
    length = min(_FRAMES, (len(pairs) - 1) // 4 * 4 + 1)
    return [pairs[i : i + length] for i in range(0, len(pairs) - length + 1, length)] if pairs else []


def _metres(path: Path, one: float) -> Float32[np.ndarray, "h w"]:
    raw = _raw(path).astype(np.float32)
    return np.where(raw > 0, raw / one, np.nan).astype(np.float32)


def _raw(path: Path) -> np.ndarray:
    import cv2

    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if found is None or found.dtype != np.uint16:
        raise ValueError(f"{path} is no picture of 16 bits; fetch it again")
    return found


def _stacked(paths: list[Path]) -> UInt8[np.ndarray, "t h w 3"]:
    from PIL import Image

    frames = []
    for path in paths:
        with Image.open(path) as image:
            frames.append(np.asarray(image.convert("RGB")))
    return np.stack(frames)


def cut(truth: Truth) -> Truth:
    """The centre, of sides that every codec takes; joints move with it."""
    height, width = (side // _CELL * _CELL for side in truth.rgb.shape[1:3])
    if not height or not width:
        raise ValueError(f"its pictures are {truth.rgb.shape[1:3]}; they need {_CELL} pixels a side")
    top, left = (truth.rgb.shape[1] - height) // 2, (truth.rgb.shape[2] - width) // 2
    rows, columns = slice(top, top + height), slice(left, left + width)
    values = {}
    for name, array in truth.values.items():
        if name == "skeleton":
            moved = array - np.array([left, top, 0], np.float32)
            inside = ((moved[..., :2] >= 0) & (moved[..., :2] < (width, height))).all(-1) & (array[..., 2] > 0)
            values[name] = np.where(inside[..., None], moved, 0).astype(np.float32)
        else:
            values[name] = np.ascontiguousarray(array[:, rows, columns])
    return Truth(
        rgb=np.ascontiguousarray(truth.rgb[:, rows, columns]), values=values, fps=truth.fps, caption=truth.caption
    )


KINDS: dict[str, Kind] = {
    "davis": Kind(words="JPEGImages and Annotations", scenes=_davis),
    "coco": Kind(words="annotations/*.json beside pictures", scenes=_coco),
    "middlebury": Kind(words="*-data and *-gt-flow", scenes=_middlebury),
    "kitti-flow": Kind(words="image_2 and flow_occ", scenes=_kitti_flow),
    "kitti-depth": Kind(words="image and groundtruth_depth", scenes=_kitti_depth),
    "tum": Kind(words="rgb.txt and depth.txt", scenes=_tum),
}
