"""How each modality is scored, as a table beside unity.modality.table.MODALITIES."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from unity.evaluate import densepose, depth, flow, segmentation, skeleton


@dataclass(frozen=True, kw_only=True)
class Metric:
    """`score(prediction, truth)` gives numbers by name; `trivial(truth)` is what knowing nothing would predict."""

    score: Callable[..., dict[str, float]]
    trivial: Callable[[np.ndarray], np.ndarray]
    # what the trivial prediction is, in words
    guess: str
    # name in score → (words, whether more is better); the first is the one to look at
    words: dict[str, tuple[str, bool]]


def _row(module, guess: str, **words: tuple[str, bool]) -> Metric:
    return Metric(score=module.score, trivial=module.trivial, guess=guess, words=words)


METRICS: dict[str, Metric] = {
    "depth": _row(depth, "one depth", abs_rel=("AbsRel", False), delta_125=("δ<1.25", True)),
    "flow": _row(flow, "no motion", epe=("EPE, pixels", False), off_1px=("off by ≥ 1 pixel", False)),
    "densepose": _row(
        densepose, "nobody", part_miou=("mIoU of parts", True), part_accuracy=("accuracy on people", True)
    ),
    "skeleton": _row(skeleton, "nobody", pck=("PCK@0.1", True), precision=("precision", True)),
    "segmentation": _row(segmentation, "background", miou=("mIoU", True), instance_iou=("IoU of instances", True)),
}


def mean_score(modality: str, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Scores of (prediction, truth) pairs, averaged over the clips where they are defined."""
    metric = METRICS[modality]
    scores = [metric.score(prediction, truth) for prediction, truth in pairs]
    return {name: _mean([score[name] for score in scores]) for name in metric.words}


def _mean(numbers: list[float]) -> float:
    defined = [number for number in numbers if not np.isnan(number)]
    return float(np.mean(defined)) if defined else float("nan")
