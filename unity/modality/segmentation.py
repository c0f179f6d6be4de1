"""Instance segmentation as flat colours."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from unity.modality.base import Modality
from unity.modality.files import check_video, save_images
from unity.modality.palette import COLOURS, nearest, paint

Labels = UInt8[np.ndarray, "t h w"]
Video = UInt8[np.ndarray, "t h w 3"]

# The bright colours only: a blurred edge towards the black background is then no third instance.
INSTANCES = 12
_PALETTE = COLOURS[: INSTANCES + 1]


def constants(labels: Labels, size: tuple[int, int]) -> dict[str, float]:
    """None: the palette is fixed."""
    return {}


def unknown_constants(height: int, width: int) -> dict[str, float]:
    return {}


def encode(labels: Labels, constants: dict[str, float]) -> Video:
    """Colour of each instance 1..12, background 0 black."""
    if labels.size and labels.max() > INSTANCES:
        raise ValueError(
            f"instance {labels.max()} has no colour, the palette ends at {INSTANCES}; "
            f"keep the largest instances, numbered from 1"
        )
    return paint(labels, _PALETTE)


def decode(video: Video, constants: dict[str, float]) -> Labels:
    """Instance of the nearest colour."""
    check_video(video)
    return nearest(video, _PALETTE)


def picture(labels: Labels, constants: dict[str, float]) -> Video:
    return encode(labels, constants)


def save(labels: Labels, stem: Path, fps: float) -> list[Path]:
    """Folder `stem` with one png per frame whose grey level is the instance."""
    return [save_images(stem, labels)]


SEGMENTATION = Modality(
    name="segmentation",
    type_prompt="an instance segmentation, one flat colour for every object",
    pixel_aligned=False,
    constants=constants,
    unknown_constants=unknown_constants,
    encode=encode,
    decode=decode,
    picture=picture,
    save=save,
)
