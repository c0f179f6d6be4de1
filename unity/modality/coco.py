"""Average precision as COCO's own tools compute it; they come with the extra `evaluate`."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from unity.extras import extra

Kind = Literal["segm", "keypoints"]


def average_precision(
    kind: Kind, images: Sequence[dict], truths: list[dict], found: list[dict]
) -> dict[str, float]:
    """`ap`, the mean over the thresholds 0.50 to 0.95, and `ap50`, of annotations in COCO's words.

    NaN where the truth has nothing, 0 where only the prediction has none (Lin et al., 2014; 101 recalls).
    """
    if not truths:
        return {"ap": float("nan"), "ap50": float("nan")}
    with extra("evaluate"):
        from pycocotools.cocoeval import COCOeval

    # it prints what it does
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(_dataset(images, truths), _dataset(images, found), kind)
        judge.evaluate()
        judge.accumulate()
    # thresholds, recalls, categories, areas (all of them first), most detections
    precision = judge.eval["precision"][:, :, 0, 0, -1]
    return {"ap": float(precision.mean()), "ap50": float(precision[0].mean())}


def mask_of(mask: Bool[np.ndarray, "h w"]) -> Any:
    """A mask as COCO's compressed runs."""
    with extra("evaluate"):
        from pycocotools import mask as runs

    return runs.encode(np.asfortranarray(mask, np.uint8))


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
