import numpy as np
import pytest

from unity.evaluate.metrics import METRICS, mean_score
from unity.evaluate.video import psnr
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


def test_a_row_for_every_modality():
    assert list(METRICS) == list(MODALITIES)


@pytest.mark.parametrize("modality", METRICS)
def test_truth_beats_the_trivial_prediction_in_every_number(modality):
    metric, truth = METRICS[modality], VALUES[modality]
    best, trivial = metric.score(truth, truth), metric.score(metric.trivial(truth), truth)
    assert list(best) == list(metric.words) == list(trivial)
    for name, (_, more_is_better) in metric.words.items():
        # a skeleton that claims nobody has no precision
        assert (best[name] > trivial[name]) == more_is_better or np.isnan(trivial[name])
    first = next(iter(metric.words))
    assert not np.isnan(trivial[first])


def test_means_leave_out_what_is_undefined():
    truth = VALUES["segmentation"]
    pairs = [(truth, truth), (truth * 0, truth * 0), (truth * 0, truth)]
    assert mean_score("segmentation", pairs) == {"miou": pytest.approx(2 / 3), "instance_iou": 0.5}


def test_psnr_of_a_known_error():
    black = np.zeros((2, 4, 4, 3), np.uint8)
    assert psnr(black + np.uint8(51), black) == pytest.approx(20 * np.log10(5))
    assert psnr(black, black) == float("inf")
