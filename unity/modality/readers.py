"""Values from files: what `save` of a modality's row writes, and what other programs write for the same.

depth         depth.npz or .npy, float [t, h, w]; a name of its own in the npz, or the only array in it
flow          flow.npz or .npy, float [t, h, w, 2]; a folder flow/ of Middlebury's .flo
densepose     folder densepose/ of png: part, 255·U, 255·V
skeleton      skeleton.json as ours, or skeleton.npy, float [t, p, 18, 3]
segmentation  folder segmentation/ of png, the grey level or palette index is the instance; or .npy, .npz
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from unity.modality.skeleton import JOINTS

# how many axes values have, and the numbers at their ends
_SHAPES = {
    "depth": (3, ()),
    "flow": (4, (2,)),
    "densepose": (4, (3,)),
    "skeleton": (4, (18, 3)),
    "segmentation": (3, ()),
}
_FLO = np.float32(202021.25).astype("<f4").tobytes()


def read_values(folder: Path, modality: str) -> np.ndarray | None:
    """The modality's values of one clip, None where the folder has none; ValueError for what cannot be read."""
    for end, read in _READERS.items():
        path = folder / f"{modality}{end}"
        if path.is_file() if end else path.is_dir():
            try:
                values = read(path, modality)
                _check(values, modality)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path} holds no {modality} that can be read ({error})") from None
            return values.astype(np.uint8 if modality == "segmentation" else np.float32)
    return None


def _check(values: np.ndarray, modality: str) -> None:
    axes, last = _SHAPES.get(modality, (values.ndim, ()))
    if values.ndim != axes or values.shape[axes - len(last) :] != last:
        raise ValueError(f"its shape is {list(values.shape)}")
    if values.dtype.kind not in "fiu" or not len(values):
        raise ValueError("it holds no numbers")
    if modality == "segmentation" and not 0 <= values.min() <= values.max() <= 255:
        raise ValueError("instances are numbered from 0, the background, to 255")


def _npz(path: Path, modality: str) -> np.ndarray:
    with np.load(path, allow_pickle=False) as saved:
        return saved[modality if modality in saved else saved.files[0]]


def _npy(path: Path, modality: str) -> np.ndarray:
    return np.load(path, allow_pickle=False)


def _json(path: Path, modality: str) -> Float32[np.ndarray, "t p 18 3"]:
    """Frames → people → 18 × [x, y, visibility]; frames may have different numbers of people."""
    frames = json.loads(path.read_bytes())["frames"]
    most = max(map(len, frames), default=0)
    people = np.zeros((len(frames), most, len(JOINTS), 3), np.float32)
    for frame, persons in zip(people, frames, strict=True):
        frame[: len(persons)] = np.array(persons, np.float32).reshape(-1, len(JOINTS), 3)
    return people


def _folder(path: Path, modality: str) -> np.ndarray:
    flo, png = sorted(path.glob("*.flo")), sorted(path.glob("*.png"))
    if not flo and not png:
        raise ValueError("it has neither .flo nor .png")
    images = np.stack([read_flo(file) for file in flo] if flo else [_png(file) for file in png])
    # DensePose's pictures hold U and V as 255ths
    return images / np.array([1, 255, 255], np.float32) if modality == "densepose" else images


def read_flo(path: Path) -> Float32[np.ndarray, "h w 2"]:
    """Flow of Middlebury's .flo, as it stands there; ValueError for what is none."""
    data = path.read_bytes()
    width, height = np.frombuffer(data, "<i4", 2, 4) if data[:4] == _FLO and len(data) >= 12 else (0, 0)
    if width < 1 or height < 1 or len(data) != 12 + 8 * int(width) * int(height):
        raise ValueError(f"{path.name} is no .flo")
    return np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2)


def _png(path: Path) -> UInt8[np.ndarray, "h w *rgb"]:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image)


# end of the name → reader; the first that is there
_READERS: dict[str, Callable[[Path, str], np.ndarray]] = {
    ".npz": _npz, ".npy": _npy, ".json": _json, "": _folder,
}  # fmt: skip
