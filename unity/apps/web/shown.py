"""Results as the page shows them: which files there are, what the values are, all of them in one archive."""

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from unity.modality.skeleton import JOINTS

RECORD = "run.json"
# DensePose's parts (Guler et al., 2018), 0 the background
PARTS = (
    "background", "torso, back", "torso, front", "right hand", "left hand", "left foot", "right foot",
    "right upper leg, back", "left upper leg, back", "right upper leg, front", "left upper leg, front",
    "right lower leg, back", "left lower leg, back", "right lower leg, front", "left lower leg, front",
    "left upper arm, back", "right upper arm, back", "left upper arm, front", "right upper arm, front",
    "left lower arm, back", "right lower arm, back", "left lower arm, front", "right lower arm, front",
    "right side of the head", "left side of the head",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a modality's values go to the page: as one array [t, h, w, c], float32 or uint8, and in which words."""

    read: Callable[[Path], np.ndarray]
    # what a number means: "ratio", "vector", "label" or "joints"
    kind: str
    unit: str = ""
    labels: tuple[str, ...] = ()


def _array(name: str) -> Callable[[Path], np.ndarray]:
    def read(folder: Path) -> np.ndarray:
        with np.load(folder / f"{name}.npz", allow_pickle=False) as saved:
            values = saved[name].astype("<f4")
        return values if values.ndim == 4 else values[..., None]

    return read


def _first_channel(name: str) -> Callable[[Path], np.ndarray]:
    def read(folder: Path) -> np.ndarray:
        pictures = [np.asarray(Image.open(path)) for path in sorted((folder / name).glob("*.png"))]
        values = np.stack(pictures)
        return values[..., :1] if values.ndim == 4 else values[..., None]

    return read


def _people(folder: Path) -> np.ndarray:
    """x, y and visibility of [frames, people, joints]."""
    frames = json.loads((folder / "skeleton.json").read_bytes())["frames"]
    return np.array(frames, "<f4").reshape(len(frames), -1, len(JOINTS), 3)


READINGS: Mapping[str, Reading] = {
    "depth": Reading(read=_array("depth"), kind="ratio", unit="× the nearest"),
    "flow": Reading(read=_array("flow"), kind="vector", unit="pixels a frame"),
    "densepose": Reading(read=_first_channel("densepose"), kind="label", labels=PARTS),
    "skeleton": Reading(read=_people, kind="joints", labels=JOINTS),
    "segmentation": Reading(read=_first_channel("segmentation"), kind="label", unit="object"),
}


def results(folder: Path) -> dict[str, dict]:
    """The record of every modality of a job's folder, and the bytes of its files."""
    found = {}
    for path in sorted(folder.glob(f"*/{RECORD}")):
        record = json.loads(path.read_bytes())
        sizes = {name: (path.parent / name).stat().st_size for name in (*record["files"], RECORD)}
        found[path.parent.name] = record | {"sizes": sizes, "valued": has_values(record)}
    return found


def has_values(record: Mapping) -> bool:
    """Whether the modality was sampled, so that there are values of it."""
    stems = {name.partition("/")[0].partition(".")[0] for name in record["files"] if not name.endswith(".mp4")}
    return record["modality"] in stems and record["modality"] in READINGS


def file(folder: Path, modality: str, name: str) -> Path:
    """A file that a record lists; KeyError for any other, so that no name becomes a path unread."""
    record = results_of(folder, modality)
    if name != RECORD and name not in record["files"]:
        raise KeyError(name)
    return folder / modality / name


def results_of(folder: Path, modality: str) -> dict:
    """The record of one modality; KeyError where there is none."""
    if modality not in READINGS or not (folder / modality / RECORD).is_file():
        raise KeyError(modality)
    return json.loads((folder / modality / RECORD).read_bytes())


def values(folder: Path, modality: str) -> tuple[bytes, dict]:
    """Bytes of the values as numpy lays them out, and what they are; KeyError where there are none."""
    if not has_values(results_of(folder, modality)):
        raise KeyError(modality)
    reading = READINGS[modality]
    array = np.ascontiguousarray(reading.read(folder / modality))
    about = {"shape": array.shape, "dtype": array.dtype.name, "kind": reading.kind, "unit": reading.unit}
    return array.tobytes(), about | {"labels": reading.labels}


def archive(folder: Path, target: Path) -> None:
    """All files of a job as a zip, as they are: videos and pictures do not shrink."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as out:
        for modality, record in results(folder).items():
            for name in record["sizes"]:
                out.write(folder / modality / name, f"{modality}/{name}")
