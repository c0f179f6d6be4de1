"""Scores of many clips; how a clip is scored, its modality knows (unity.modality)."""

from collections.abc import Iterable

import numpy as np

from unity.modality.table import MODALITIES


def mean_score(modality: str, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Scores of (prediction, truth) pairs, averaged over the clips where they are defined."""
    row = MODALITIES[modality]
    scores = [row.score(prediction, truth) for prediction, truth in pairs]
    return {name: _mean([score[name] for score in scores]) for name in row.measures}


def _mean(numbers: list[float]) -> float:
    defined = [number for number in numbers if not np.isnan(number)]
    return float(np.mean(defined)) if defined else float("nan")
