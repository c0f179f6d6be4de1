import numpy as np
import pytest

from unity.evaluate.metrics import mean_score
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


@pytest.mark.parametrize("modality", MODALITIES)
def test_truth_beats_the_trivial_prediction_in_every_number(modality):
    row, truth = MODALITIES[modality], VALUES[modality]
    guess = row.baselines["trivial"].predict(np.zeros((5, 8, 8, 3), np.uint8), truth)
    best, trivial = row.score(truth, truth), row.score(guess, truth)
    assert list(best) == list(row.measures) == list(trivial)
    for name, measure in row.measures.items():
        # a skeleton that claims nobody has no precision
        assert (best[name] > trivial[name]) == measure.more or np.isnan(trivial[name])
    first = next(iter(row.measures))
    assert not np.isnan(trivial[first])


def test_means_leave_out_what_is_undefined():
    truth = VALUES["segmentation"]
    pairs = [(truth, truth), (truth * 0, truth * 0), (truth * 0, truth)]
    assert mean_score("segmentation", pairs) == {"miou": pytest.approx(2 / 3), "instance_iou": 0.5}


def test_psnr_of_a_known_error():
    black = np.zeros((2, 4, 4, 3), np.uint8)
    assert psnr(black + np.uint8(51), black) == pytest.approx(20 * np.log10(5))
    assert psnr(black, black) == float("inf")
