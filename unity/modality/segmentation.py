"""Instance segmentation as flat colours."""

from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt8

from unity.modality.base import Baseline, Measure, Modality, Video
from unity.modality.files import check_video, save_images
from unity.modality.overlap import best_pairs, iou_table
from unity.modality.palette import COLOURS, nearest, paint

Labels = UInt8[np.ndarray, "t h w"]

# The bright colours only: a blurred edge towards the black background is then no third instance.
INSTANCES = 12
# share of a clip below which a false instance is a speck: four pixels of a frame of 64 x 64
SPECK = 1e-3
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


def score(prediction: Integer[np.ndarray, "t h w"], truth: Integer[np.ndarray, "t h w"]) -> dict[str, float]:
    """IoU of instances over the whole clip, matched one-to-one such that its sum is largest (Kuhn, 1955).

    `instance_iou` is the mean over the matched pairs, the true instances without a match, and the predicted ones
    without a match, the latter two as 0; a pair that does not overlap is no match. Predicted instances without a
    match that cover less than a share SPECK of the clip are specks of noise and not counted. 1 where neither has
    an instance (as in DAVIS, Perazzi et al., 2016). `miou` counts the background as one instance more, matched to
    the predicted background; it is left out where neither has it.
    """
    overlap = iou_table(prediction, truth)
    sizes = np.bincount(prediction.ravel(), minlength=len(overlap))
    rows, columns = best_pairs(overlap[1:, 1:])
    matched = overlap[1:, 1:][rows, columns] > 0
    rows, columns = 1 + rows[matched], 1 + columns[matched]
    missed = len(np.setdiff1d(np.unique(truth[truth > 0]), rows))
    false = len(np.setdiff1d(np.flatnonzero(sizes[1:] >= SPECK * prediction.size) + 1, columns))
    every = [*overlap[rows, columns], *[0.0] * (missed + false)]
    background = [overlap[0, 0]] if (truth == 0).any() or sizes[0] else []
    return {"miou": float(np.mean(every + background)), "instance_iou": float(np.mean(every)) if every else 1.0}


def trivial(rgb: Video | None, truth: Labels) -> Labels:
    """Background alone."""
    return np.zeros_like(truth)


def agree(earlier: UInt8[np.ndarray, "shared h w"], later: Labels) -> Labels:
    """The later clip's instances under the numbers of the earlier ones that they cover best in what both show.

    New ones get numbers that the shared frames do not use, and when those run out, any.
    """
    gain = iou_table(later[: len(earlier)], earlier)[1:, 1:]
    rows, columns = best_pairs(gain)
    number = {int(c) + 1: int(r) + 1 for r, c in zip(rows, columns, strict=True) if gain[r, c] > 0}
    taken = {*number.values(), *np.unique(earlier).tolist()}
    free = [label for label in range(1, INSTANCES + 1) if label not in taken]
    free += [label for label in range(1, INSTANCES + 1) if label not in free and label not in number.values()]
    new = iter(free)
    table = np.zeros(256, np.uint8)
    for label in np.unique(later[later > 0]).tolist():
        table[label] = number[label] if label in number else next(new)
    return table[later]


SEGMENTATION = Modality(
    name="segmentation",
    type_prompt="an instance segmentation, one flat colour for every object",
    meaning="every colour is one object, black is the background",
    pixel_aligned=False,
    flat_colours=True,
    spread=(-0.925, 0.38),
    constants=constants,
    unknown_constants=unknown_constants,
    encode=encode,
    decode=decode,
    picture=picture,
    save=save,
    agree=agree,
    score=score,
    measures={
        "miou": Measure(words="mIoU", more=True),
        "instance_iou": Measure(words="IoU of instances", more=True),
    },
    baselines={"trivial": Baseline(words="background", predict=trivial)},
)
