"""Values in the files that other programs read as they are: rows of `EXPORTS`, asked for by `--also`."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8, UInt16

from unity.extras import extra
from unity.files import whole_folder, write_json, write_json_lists
from unity.modality.files import OURS, save_images
from unity.modality.skeleton import COCO_JOINTS, JOINTS

# KITTI's flow: value = 64·pixels + 2^15
_KITTI_SCALE, _KITTI_ZERO = 64.0, 1 << 15
_MOST = 65535


class Export(NamedTuple):
    """One kind of file."""

    modality: str
    # what it is, for people
    words: str
    # ends of the names that it writes behind the modality's
    ends: tuple[str, ...]
    # (values, stem) → paths
    write: Callable[[Any, Path], list[Path]]
    # the extra that it needs
    needs: tuple[str, ...] = ()


def depth_png(depth: Float32[np.ndarray, "t h w"], stem: Path) -> list[Path]:
    """`stem_16/000000.png` of 16 bits, and `stem_16.json` with the `scale`: depth = value / scale, 0 nothing."""
    far = max(float(frame.max(initial=0, where=np.isfinite(frame))) for frame in depth)
    scale = _MOST / far if far else 1.0
    about = {"scale": scale, "meaning": "depth = value / scale; 0: no surface is seen"}
    images = (_levels(frame, scale) for frame in depth)
    return [save_images(_named(stem, "_16"), images), write_json(_named(stem, "_16.json"), about)]


def _levels(depth: Float32[np.ndarray, "h w"], scale: float) -> UInt16[np.ndarray, "h w"]:
    seen = np.isfinite(depth)
    levels = np.where(seen, np.maximum(np.where(seen, depth, 0) * scale + 0.5, 1), 0)
    return np.minimum(levels, _MOST).astype(np.uint16)


def depth_exr(depth: Float32[np.ndarray, "t h w"], stem: Path) -> list[Path]:
    """`stem_exr/000000.exr`: OpenEXR's channel Z in float32 as it is, infinite where nothing is seen."""
    with extra("exr"):
        import OpenEXR
    folder, header = _named(stem, "_exr"), {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    with whole_folder(folder, mine=OURS) as part:
        for index, image in enumerate(depth):
            OpenEXR.File(header, {"Z": np.ascontiguousarray(image)}).write(str(part / f"{index:06d}.exr"))
    return [folder]


def flow_kitti(flow: Float32[np.ndarray, "t h w 2"], stem: Path) -> list[Path]:
    """`stem_kitti/000000.png`: 16 bits, u and v as 64·pixels + 2^15 and 1 for valid (KITTI's devkit, 2015)."""
    images = (
        np.pad(
            np.clip(np.rint(field * _KITTI_SCALE + _KITTI_ZERO), 0, _MOST).astype(np.uint16),
            ((0, 0), (0, 0), (0, 1)),
            constant_values=1,
        )
        for field in flow
    )
    return [save_images(_named(stem, "_kitti"), images)]


def masks_coco(labels: UInt8[np.ndarray, "t h w"], stem: Path) -> list[Path]:
    """`stem_coco.json`: an annotation for each instance of each frame, its mask as COCO's uncompressed RLE."""
    found = ({"image_id": frame} | mask for frame, image in enumerate(labels) for mask in _masks(image))
    categories = [{"id": 1, "name": "object"}]
    return [_coco(_named(stem, "_coco.json"), labels.shape, found, categories)]


def _masks(image: UInt8[np.ndarray, "h w"]) -> Iterator[dict]:
    for instance in np.unique(image[image > 0]).tolist():
        mask = image == instance
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        yield {
            "category_id": 1,
            "instance_id": instance,
            "segmentation": {"size": list(mask.shape), "counts": _runs(mask)},
            "area": int(mask.sum()),
            "bbox": [int(side) for side in box],
            "iscrowd": 1,
        }


def masks_davis(labels: UInt8[np.ndarray, "t h w"], stem: Path) -> list[Path]:
    """`stem_davis/000000.png`: indices of instances with the palette of DAVIS and PASCAL VOC."""
    from PIL import Image

    folder, palette = _named(stem, "_davis"), voc_palette().flatten().tolist()
    with whole_folder(folder, mine=OURS) as part:
        for index, image in enumerate(labels):
            picture = Image.fromarray(image, mode="P")
            picture.putpalette(palette)
            picture.save(part / f"{index:06d}.png")
    return [folder]


def keypoints_coco(people: Float32[np.ndarray, "t p 18 3"], stem: Path) -> list[Path]:
    """`stem_coco.json`: an annotation for each person of each frame, 17 × [x, y, v], v 2 where visible, else 0."""
    found = ({"image_id": frame} | person for frame, row in enumerate(people) for person in _keypoints(row))
    categories = [{"id": 1, "name": "person", "keypoints": COCO_JOINTS}]
    return [_coco(_named(stem, "_coco.json"), (len(people),), found, categories)]


def _keypoints(people: Float32[np.ndarray, "p 18 3"]) -> Iterator[dict]:
    order = [JOINTS.index(name) for name in COCO_JOINTS]
    for person, joints in enumerate(people[:, order]):
        seen = joints[:, 2] > 0
        if not seen.any():
            continue
        listed = np.where(seen[:, None], joints * (1, 1, 2), 0)
        yield {
            "category_id": 1,
            "person_id": person,
            "keypoints": np.round(listed, 2).flatten().tolist(),
            "num_keypoints": int(seen.sum()),
            "score": 1.0,
        }


def voc_palette() -> UInt8[np.ndarray, "256 3"]:
    """The bits of an index, three at a time, as the high bits of red, green and blue (PASCAL VOC's devkit)."""
    index, colours = np.arange(256), np.zeros((256, 3), np.uint8)
    for place in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> (3 * place + channel)) & 1) << (7 - place)).astype(np.uint8)
    return colours


def _runs(mask: np.ndarray) -> list[int]:
    """Lengths of runs down the columns, that of zeros first, even where it is none."""
    flat = np.concatenate(([0], mask.flatten(order="F").astype(np.int8)))
    edges = np.concatenate(([0], np.flatnonzero(np.diff(flat)), [len(flat) - 1]))
    return np.diff(edges).tolist()


def _coco(path: Path, shape: tuple[int, ...], found: Iterator[dict], categories: list[dict]) -> Path:
    frames, *sides = shape
    size = dict(zip(("height", "width"), sides, strict=False))
    images = ({"id": frame, "file_name": f"{frame:06d}.png", **size} for frame in range(frames))
    numbered = ({"id": number} | annotation for number, annotation in enumerate(found, 1))
    return write_json_lists(path, {"images": images, "annotations": numbered, "categories": categories})


def _named(stem: Path, end: str) -> Path:
    return stem.with_name(stem.name + end)


# name → kinds of files, each of one modality
EXPORTS: dict[str, list[Export]] = {
    "png16": [Export("depth", "16-bit PNG with its scale", ("_16", "_16.json"), depth_png)],
    "exr": [Export("depth", "OpenEXR in float32", ("_exr",), depth_exr, ("exr",))],
    "kitti": [Export("flow", "KITTI's 16-bit PNG", ("_kitti",), flow_kitti)],
    "coco": [
        Export("segmentation", "masks as COCO's RLE", ("_coco.json",), masks_coco),
        Export("skeleton", "keypoints in COCO's order", ("_coco.json",), keypoints_coco),
    ],
    "davis": [Export("segmentation", "indexed PNG with DAVIS's palette", ("_davis",), masks_davis)],
}


def exports(also: tuple[str, ...], modality: str) -> list[Export]:
    """The kinds of files that are asked for of a modality."""
    return [row for name in also for row in EXPORTS[name] if row.modality == modality]
