"""Instance segmentation as flat colours."""

import math
from pathlib import Path

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float, Integer, UInt8

from unity.modality.base import Baseline, Facts, Measure, Modality, Video
from unity.modality.coco import Detections, average_precision, mask_of
from unity.modality.files import check_video, save_images
from unity.modality.overlap import best_pairs, iou_table
from unity.modality.palette import COLOURS, nearest, paint

Labels = UInt8[np.ndarray, "t h w"]
Masks = Bool[np.ndarray, "found t h w"]
TrueMasks = Bool[np.ndarray, "true t h w"]

# The bright colours only: a blurred edge towards the black background is then no third instance.
INSTANCES = len(COLOURS) - 1
# share of a clip below which a false instance is a speck: four pixels of a frame of 64 x 64
SPECK = 1e-3


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
    return paint(labels, COLOURS)


def decode(video: Video, constants: dict[str, float]) -> Labels:
    """Instance of the nearest colour."""
    check_video(video)
    return nearest(video, COLOURS)


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


def benchmark(prediction: Labels, truth: Labels, facts: Facts) -> dict[str, float]:
    """Instances as detections, and as objects that are followed.

    `ap` and `ap50`: an instance is its mask in all frames, so that IoU is one of volumes (YouTube-VIS, Yang et
    al., 2019), by COCO's tools; as label maps have no confidence, larger predictions come first. NaN where the
    truth has no instance. `j_and_f` is the mean of region similarity `j`, IoU per frame, and contour accuracy `f`
    (DAVIS, Perazzi et al., 2016), over frames and true instances, matched one-to-one such that it is largest
    (DAVIS 2019 unsupervised: false instances do not count); 1 in a frame where neither shows the instance, 0
    without a match, and NaN where the truth has no instance.
    """
    true, found = (_masks(labels) for labels in (truth, prediction))
    regions, contours = region_similarity(found, true), contour_accuracy(found, true)
    rows, columns = best_pairs((regions + contours) / 2)
    # an instance without a match is as one that is never shown
    j, f = (table[rows, columns].sum() / len(true) if len(true) else np.nan for table in (regions, contours))
    ((ap, ap50),) = average_precision([detections(prediction, truth)])
    return {"ap": float(ap), "ap50": float(ap50), "j_and_f": float(j + f) / 2, "j": float(j), "f": float(f)}


def detections(prediction: Labels, truth: Labels) -> Detections:
    """Instances as COCO has them: a clip is one image, with all frames one below the other."""
    image = {"id": 1, "height": len(truth) * truth.shape[1], "width": truth.shape[2]}
    true, found = (_annotations(_masks(labels)) for labels in (truth, prediction))
    return {"kind": "segm", "images": [image], "true": true, "found": found}


def region_similarity(found: Masks, true: TrueMasks) -> Float[np.ndarray, "true found"]:
    """IoU of a frame, averaged over the frames, of every pair."""
    both = np.einsum("mthw,nthw->mnt", true.astype(np.float64), found.astype(np.float64))
    sizes = [masks.sum((2, 3)) for masks in (true, found)]
    either = sizes[0][:, None] + sizes[1] - both
    return np.divide(both, either, out=np.ones_like(both), where=either > 0).mean(-1)


def contour_accuracy(found: Masks, true: TrueMasks) -> Float[np.ndarray, "true found"]:
    """F-measure of a frame's contours, averaged over the frames, of every pair.

    A contour's pixel is right within 0.008 of the picture's diagonal, rounded up, of the other's.
    """
    radius = math.ceil(0.008 * math.hypot(*true.shape[2:]))
    edges = [_contours(masks) for masks in (true, found)]
    wide = [_widened(masks, radius) for masks in edges]
    recall, precision = _share(edges[0], wide[1]), _share(edges[1], wide[0]).swapaxes(0, 1)
    total = precision + recall
    return np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0).mean(-1)


def _share(edges: Bool[np.ndarray, "m t h w"], wide: Bool[np.ndarray, "n t h w"]) -> Float[np.ndarray, "m n t"]:
    """Of each contour's pixels those inside the other; of none: 1 if the other has none either."""
    inside = np.einsum("mthw,nthw->mnt", edges.astype(np.float64), wide.astype(np.float64))
    count = np.broadcast_to(edges.sum((2, 3))[:, None], inside.shape)
    empty = np.broadcast_to(~wide.any((2, 3)), inside.shape).astype(np.float64)
    return np.divide(inside, count, out=empty, where=count > 0)


def _contours(masks: Masks) -> Masks:
    """Pixels that differ from the one to the right, below or diagonally below (as in DAVIS's code)."""
    padded = np.pad(masks, ((0, 0), (0, 0), (0, 1), (0, 1)), mode="edge")
    here = padded[..., :-1, :-1]
    return (here != padded[..., :-1, 1:]) | (here != padded[..., 1:, :-1]) | (here != padded[..., 1:, 1:])


def _widened(masks: Masks, radius: int) -> Masks:
    # only scores need it
    import cv2

    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = (x * x + y * y <= radius * radius).astype(np.uint8)
    pictures = masks.astype(np.uint8).reshape(-1, *masks.shape[2:])
    wide = [cv2.dilate(picture, disc, borderType=cv2.BORDER_CONSTANT, borderValue=0) for picture in pictures]
    return np.array(wide, bool).reshape(masks.shape)


def _masks(labels: Integer[np.ndarray, "t h w"]) -> Masks:
    """Masks of the instances, in the order of their labels."""
    present = np.unique(labels[labels > 0])
    return labels[None] == present[:, None, None, None]


def _annotations(masks: Masks) -> list[dict]:
    """COCO's, of one image with all frames one below the other."""
    sizes = masks.sum((1, 2, 3)).tolist()
    flat = rearrange(masks, "n t h w -> n (t h) w")
    return [
        {"image_id": 1, "segmentation": mask_of(mask), "area": size, "score": size / mask.size}
        for mask, size in zip(flat, sizes, strict=True)
    ]


def background_subtraction(rgb: Video, truth: Labels) -> Labels:
    """What differs from the clip's median picture, its connected volumes as instances, the largest INSTANCES.

    A pixel differs by more than a tenth of the range in its most different channel; volumes below SPECK are noise.
    """
    from scipy.ndimage import label

    still = np.median(rgb, axis=0)
    moved = np.abs(rgb - still).max(-1) > 25.5
    volumes = np.asarray(label(moved, np.ones((3, 3, 3)))[0])  # pyright: ignore[reportIndexIssue]
    sizes = np.bincount(volumes.ravel())[1:]
    largest = [i for i in np.argsort(-sizes, kind="stable")[:INSTANCES] if sizes[i] >= SPECK * moved.size]
    table = np.zeros(1 + len(sizes), np.uint8)
    table[1 + np.array(largest, int)] = 1 + np.arange(len(largest))
    return table[volumes]


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
    benchmark=benchmark,
    detections=detections,
    detection_measures={
        "ap_of_all": Measure(words="mAP of all clips as one set", more=True),
        "ap50_of_all": Measure(words="AP50 of all clips as one set", more=True),
    },
    benchmark_measures={
        "ap": Measure(words="mAP", more=True),
        "ap50": Measure(words="AP50", more=True),
        "j_and_f": Measure(words="J&F", more=True),
        "j": Measure(words="J", more=True),
        "f": Measure(words="F of boundaries", more=True),
    },
    baselines={
        "trivial": Baseline(words="background", predict=trivial),
        "classical": Baseline(words="background subtraction", looks=True, predict=background_subtraction),
    },
)
