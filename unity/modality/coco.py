"""Average precision as COCO's own tools compute it; they come with the extra `evaluate`."""

import contextlib
import io
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal, TypedDict

import numpy as np
from jaxtyping import Bool, Float

from unity.extras import extra


class Detections(TypedDict):
    """Of one clip, in COCO's words and as JSON has them: its images, who is there, and who was found."""

    kind: Literal["segm", "keypoints"]
    images: list[dict]
    true: list[dict]
    found: list[dict]


def average_precision(
    clips: Sequence[Detections], resamples: Iterable[Sequence[int]] = ()
) -> Float[np.ndarray, "sets 2"]:
    """AP, the mean over the thresholds 0.50 to 0.95, and AP50, of all clips as one set of images.

    After that of all clips that of each resample, which names clips by their places, some of them repeatedly. NaN
    where the truth has nothing, 0 where only the prediction has none (Lin et al., 2014; 101 recalls).
    """
    with extra("evaluate"):
        from pycocotools.cocoeval import COCOeval

    if not any(clip["true"] for clip in clips):
        return np.full((1 + sum(1 for _ in resamples), 2), np.nan)
    images, true, found = _one_set(clips)
    # it prints what it does
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(_dataset(images, true), _dataset(images, found), clips[0]["kind"])
        judge.params.areaRng, judge.params.areaRngLbl = judge.params.areaRng[:1], judge.params.areaRngLbl[:1]
        judge.params.maxDets = judge.params.maxDets[-1:]
        judge.evaluate()
        first = np.cumsum([0, *(len(clip["images"]) for clip in clips)])
        judged = [judge.evalImgs[start:end] for start, end in pairwise(first)]
        every = [_accumulated(judge, judged)]
        return np.array(every + [_accumulated(judge, [judged[place] for place in one]) for one in resamples])


def _accumulated(judge: Any, judged: Sequence[list]) -> tuple[float, float]:
    """Of what COCO's tools found of each image of each clip."""
    judge.evalImgs = [image for images in judged for image in images]
    judge._paramsEval.imgIds = judge.params.imgIds = list(range(len(judge.evalImgs)))
    judge.accumulate()
    # thresholds, recalls, categories, areas, most detections
    precision = judge.eval["precision"][:, :, 0, 0, 0]
    # -1 where no true one is among them
    return (np.nan, np.nan) if precision.min() < 0 else (float(precision.mean()), float(precision[0].mean()))


def _one_set(clips: Sequence[Detections]) -> tuple[list[dict], list[dict], list[dict]]:
    """Images, true and found annotations, the images numbered through."""
    images, true, found = [], [], []
    for clip in clips:
        number = {image["id"]: len(images) + place for place, image in enumerate(clip["images"])}
        images += [image | {"id": number[image["id"]]} for image in clip["images"]]
        for rows, name in ((true, "true"), (found, "found")):
            rows += [row | {"image_id": number[row["image_id"]]} for row in clip[name]]
    return images, true, found


def mask_of(mask: Bool[np.ndarray, "h w"]) -> Any:
    """A mask as COCO's compressed runs, as text."""
    with extra("evaluate"):
        from pycocotools import mask as runs

    found: Any = runs.encode(np.asfortranarray(mask, np.uint8))
    return found | {"counts": found["counts"].decode()}


def _dataset(images: Sequence[dict], annotations: list[dict]) -> Any:
    from pycocotools.coco import COCO

    base: Any = COCO()
    numbered = [{"id": 1 + i, "category_id": 1, "iscrowd": 0} | row for i, row in enumerate(annotations)]
    base.dataset = {
        "images": list(images),
        "categories": [{"id": 1, "name": "instance"}],
        "annotations": numbered,
    }
    base.createIndex()
    return base
