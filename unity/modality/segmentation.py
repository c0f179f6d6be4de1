"""Instance segmentation as flat colours."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from unity.modality.base import Baseline, Measure, Modality, Video
from unity.modality.files import check_video, save_images
from unity.modality.overlap import best_pairs, iou_table
from unity.modality.palette import COLOURS, nearest, paint

Labels = UInt8[np.ndarray, "t h w"]

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


def score(prediction: Labels, truth: Labels) -> dict[str, float]:
    """IoU over the whole clip, one-to-one matched such that the sum is largest (Kuhn, 1955).

    `instance_iou` is the mean over true instances, 0 for one without a match, NaN without any instance; `miou`
    counts the background as one label more, matched to the predicted background.
    """
    overlap = iou_table(prediction, truth)
    instances = overlap[1:, 1:]
    present = np.unique(truth[truth > 0]) - 1
    found, match = best_pairs(instances)
    best = np.zeros(len(instances))
    best[found] = instances[found, match]
    every = best[present]
    if (truth == 0).any():
        every = np.append(every, overlap[0, 0])
    return {
        "miou": float(every.mean()),
        "instance_iou": float(best[present].mean()) if len(present) else float("nan"),
    }


def trivial(rgb: Video, truth: Labels) -> Labels:
    """Background alone."""
    return np.zeros_like(truth)


SEGMENTATION = Modality(
    name="segmentation",
    type_prompt="an instance segmentation, one flat colour for every object",
    meaning="every colour is one object, black is the background",
    pixel_aligned=False,
    flat_colours=True,
    constants=constants,
    unknown_constants=unknown_constants,
    encode=encode,
    decode=decode,
    picture=picture,
    save=save,
    score=score,
    measures={
        "miou": Measure(words="mIoU", more=True),
        "instance_iou": Measure(words="IoU of instances", more=True),
    },
    baselines={"trivial": Baseline(words="background", predict=trivial)},
)
