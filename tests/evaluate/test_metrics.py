from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import bootstrap

from unity.evaluate.metrics import benchmark_scores, clip_scores, mean_score, measures, ratio, summary
from unity.evaluate.video import psnr
from unity.modality.base import Measure
from unity.modality.table import MODALITIES

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(1, 4, (5, 8, 8)).astype(np.uint8)
VALUES = {
    "depth": RANDOM.uniform(1, 9, (5, 8, 8)).astype(np.float32),
    "flow": RANDOM.normal(0, 1, (5, 8, 8, 2)).astype(np.float32),
    "densepose": np.stack([LABELS, LABELS / 9, LABELS / 9], -1).astype(np.float32),
    "skeleton": np.concatenate([RANDOM.uniform(0, 64, (5, 2, 18, 2)), np.ones((5, 2, 18, 1))], -1).astype("f4"),
    "segmentation": LABELS,
}


@pytest.mark.parametrize("modality", MODALITIES)
def test_truth_beats_the_trivial_prediction_in_every_number(modality):
    row, truth = MODALITIES[modality], VALUES[modality]
    guess = row.baselines["trivial"].predict(np.zeros((5, 8, 8, 3), np.uint8), truth)
    best, trivial = row.score(truth, truth), row.score(guess, truth)
    assert list(best) == list(row.measures) == list(trivial)
    for name, measure in row.measures.items():
        assert (best[name] > trivial[name]) == measure.more


def test_means_leave_out_what_the_truth_does_not_define():
    truth = VALUES["depth"]
    sky = np.full_like(truth, np.inf)
    scores = clip_scores("depth", [(truth, truth), (truth, sky), (sky, sky)])
    assert scores["abs_rel"][0] < 1e-5 and np.isnan(scores["abs_rel"][1:]).all()
    found = summary(scores["delta_125"])
    assert (found.mean, found.low, found.high, found.clips, found.undefined) == (1, 1, 1, 1, 2)
    nothing = summary([np.nan, np.nan])
    assert np.isnan([nothing.mean, nothing.low, nothing.high]).all() and nothing.undefined == 2


@pytest.mark.parametrize("modality", MODALITIES)
def test_no_broken_prediction_improves_a_mean(modality):
    """Every clip whose truth has a score counts, and none better than a right one."""
    row, truth = MODALITIES[modality], VALUES[modality]
    kinds = [0] if truth.dtype == np.uint8 else [0, np.nan, np.inf, -np.inf, -1]
    broken = [np.full_like(truth, kind) for kind in kinds]
    if modality == "skeleton":
        broken.append(truth[:, :0])
    alone = mean_score(modality, [(truth, truth)])
    for prediction in broken:
        scores = clip_scores(modality, [(truth, truth), (prediction, truth)])
        for name, measure in row.measures.items():
            assert summary(scores[name]).undefined == 0 and np.isfinite(scores[name]).all()
            assert measure.error(np.mean(scores[name])) > measure.error(alone[name])


@pytest.mark.parametrize("modality", MODALITIES)
def test_no_broken_prediction_betters_a_benchmark(modality):
    pytest.importorskip("pycocotools", reason="needs pip install pycocotools")
    truth, rows = VALUES[modality], measures(modality)
    right = benchmark_scores(modality, truth, truth, {})
    kinds = [0] if truth.dtype == np.uint8 else [0, np.nan, np.inf, -np.inf, -1]
    for kind in kinds:
        broken = benchmark_scores(modality, np.full_like(truth, kind), truth, {})
        assert [*broken, *MODALITIES[modality].detection_measures] == list(rows)
        for name, value in broken.items():
            # undefined by the truth, or worse than right
            assert np.isnan(right[name]) == np.isnan(value)
            assert np.isnan(value) or rows[name].error(value) > rows[name].error(right[name])


def test_a_score_that_fails_is_the_worst_there_is(monkeypatch):
    def fails(prediction, truth):
        return {
            "error": float(prediction.mean() / truth.mean() - 1),
            "hit": float(prediction.mean() / truth.mean()),
        }

    measures = {"error": Measure(words="", more=False), "hit": Measure(words="", more=True)}
    row = replace(MODALITIES["depth"], score=fails, measures=measures)
    monkeypatch.setitem(MODALITIES, "depth", row)
    one, nan = np.ones((1, 2, 2)), np.full((1, 2, 2), np.nan)
    assert mean_score("depth", [(one, one), (nan, one)]) == {"error": np.inf, "hit": 0.5}
    assert clip_scores("depth", [(one, nan)])["error"] == [pytest.approx(np.nan, nan_ok=True)]


def test_intervals_are_the_bootstrap_s():
    values = RANDOM.gamma(2, 1, 80)
    found = summary([*values, np.nan])
    expected = bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
    assert (found.clips, found.undefined) == (80, 1) and found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=0.03)
    assert summary(values) == summary(values)


def test_a_ratio_resamples_clips_in_pairs():
    below = RANDOM.gamma(2, 1, 60)
    exact = ratio([*(0.5 * below), 7.0, np.nan], [*below, np.nan, 1.0])
    assert (exact.mean, exact.low, exact.high) == pytest.approx((0.5, 0.5, 0.5))
    assert (exact.clips, exact.undefined) == (60, 2)
    above = RANDOM.gamma(2, 1, 60)

    def quotient(a, b, axis=-1):
        return a.mean(axis) / b.mean(axis)

    expected = bootstrap((above, below), quotient, paired=True, n_resamples=4000, method="percentile", rng=1)
    found = ratio(above, below)
    interval = expected.confidence_interval
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=0.05)


def test_psnr_of_a_known_error():
    black = np.zeros((2, 4, 4, 3), np.uint8)
    assert psnr(black + np.uint8(51), black) == pytest.approx(20 * np.log10(5))
    assert psnr(black, black) == float("inf")
