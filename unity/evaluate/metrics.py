"""Scores of many clips; how a clip is scored, its modality knows (unity.modality)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unity.modality.base import Facts, Measure
from unity.modality.coco import Detections, average_precision
from unity.modality.table import MODALITIES
from unity.randomness import Purpose, draw

# resamples of the clips behind an interval, and how much of them it holds
RESAMPLES, LEVEL = 1000, 0.95
RESAMPLES_OF_ALL = 200


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over clips with its bootstrap interval (percentiles; Efron, 1979)."""

    mean: float
    low: float
    high: float
    # clips that it is the mean of, and those whose truth leaves the number undefined
    clips: int
    undefined: int


def clip_scores(modality: str, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, list[float]]:
    """Scores of (prediction, truth) pairs, clip by clip.

    NaN where a number is undefined for the truth itself, whatever was predicted; where it is undefined for the
    prediction alone it is the worst there is, so that no broken prediction improves a mean.
    """
    row = MODALITIES[modality]
    scores: dict[str, list[float]] = {name: [] for name in row.measures}
    for prediction, truth in pairs:
        for name, value in _fair(row.measures, row.score(prediction, truth), row.score(truth, truth)).items():
            scores[name].append(value)
    return scores


def measures(modality: str) -> dict[str, Measure]:
    """All that a benchmark says of a modality."""
    row = MODALITIES[modality]
    return {**row.measures, **row.benchmark_measures, **row.detection_measures}


def benchmark_scores(modality: str, prediction: np.ndarray, truth: np.ndarray, facts: Facts) -> dict[str, float]:
    """All numbers of one clip, NaN as in `clip_scores`."""
    row = MODALITIES[modality]

    def every(values: np.ndarray) -> dict[str, float]:
        return row.score(values, truth) | (row.benchmark(values, truth, facts) if row.benchmark else {})

    return _fair({**row.measures, **row.benchmark_measures}, every(prediction), every(truth))


def _fair(rows: Mapping[str, Measure], found: Mapping[str, float], best: Mapping[str, float]) -> dict[str, float]:
    """NaN where the truth against itself has no number, the worst there is where the prediction alone has none."""
    return {
        name: np.nan if np.isnan(best[name]) else measure.worst if np.isnan(found[name]) else found[name]
        for name, measure in rows.items()
    }


def mean_score(modality: str, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Scores of (prediction, truth) pairs, averaged over the clips where the truth defines them."""
    return {name: summary(values).mean for name, values in clip_scores(modality, pairs).items()}


def summary(values: Sequence[float] | np.ndarray, seed: int = 0) -> Mean:
    """The mean of the numbers that are defined; all NaN where none is."""
    numbers = np.asarray(values, np.float64)
    defined = numbers[~np.isnan(numbers)]
    low, high = _interval(defined[None], lambda sums: sums[0], seed)
    return Mean(
        mean=float(defined.mean()) if len(defined) else float("nan"),
        low=low,
        high=high,
        clips=len(defined),
        undefined=len(numbers) - len(defined),
    )


def of_all(modality: str, clips: Sequence[Detections], seed: int = 0) -> dict[str, Mean]:
    """Numbers of all clips as one set, with intervals over fewer resamples: each is judged as a whole."""
    random = np.random.default_rng(draw(Purpose.BOOTSTRAP, seed))
    chosen = random.integers(0, len(clips), (RESAMPLES_OF_ALL, len(clips))).tolist()
    table = average_precision(clips, chosen)
    return {
        name: Mean(mean=float(column[0]), low=low, high=high, clips=len(clips), undefined=0)
        for name, column in zip(MODALITIES[modality].detection_measures, table.T, strict=True)
        for low, high in [_ends(column[1:])]
    }


def ratio(above: Sequence[float] | np.ndarray, below: Sequence[float] | np.ndarray, *, seed: int = 0) -> Mean:
    """Mean of `above` over mean of `below`, of the clips that have both; the clips are resampled in pairs."""
    pairs = np.array([above, below], np.float64)
    both = pairs[:, ~np.isnan(pairs).any(0)]
    low, high = _interval(both, _quotient, seed)
    mean = float(_quotient(both.mean(1))) if both.shape[1] else float("nan")
    return Mean(mean=mean, low=low, high=high, clips=both.shape[1], undefined=pairs.shape[1] - both.shape[1])


def _quotient(means: np.ndarray) -> np.ndarray | np.floating:
    # a perfect score below leaves no ratio
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(means[0], means[1])


def _interval(columns: np.ndarray, value, seed: int) -> tuple[float, float]:
    """Percentiles of `value(means of the rows)` over resamples of the columns."""
    if not columns.shape[1]:
        return float("nan"), float("nan")
    random = np.random.default_rng(draw(Purpose.BOOTSTRAP, seed))
    chosen = random.integers(0, columns.shape[1], (RESAMPLES, columns.shape[1]))
    # the worst score may be inf, and so the ends of an interval
    with np.errstate(invalid="ignore"):
        found = value(columns[:, chosen].mean(-1))
        return _ends(found)


def _ends(resampled: np.ndarray) -> tuple[float, float]:
    defined = resampled[~np.isnan(resampled)]
    ends = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(defined) else (np.nan, np.nan)
    return float(ends[0]), float(ends[1])
