import math

import cv2
import numpy as np
import pytest

from unity.modality.flow import score, trivial
from unity.modality.table import MODALITIES


def test_a_known_offset_is_its_length():
    truth = np.random.default_rng(0).normal(0, 2, (4, 5, 6, 2)).astype(np.float32)
    off = truth.copy()
    off[2, :, :3] += (3, -4)
    # half of one of the three maps that count
    assert score(off, truth) == pytest.approx({"epe": 5 / 6, "off_1px": 1 / 6}, rel=1e-6)
    assert score(truth, truth) == {"epe": 0, "off_1px": 0}


def test_first_map_does_not_count():
    truth = np.zeros((3, 2, 2, 2), np.float32)
    off = truth.copy()
    off[0] = 100
    assert score(off, truth)["epe"] == 0


def test_no_motion_errs_by_the_speed():
    truth = np.full((3, 4, 4, 2), (0.6, 0.8), np.float32)
    assert score(trivial(None, truth), truth) == pytest.approx({"epe": 1.0, "off_1px": 1.0}, rel=1e-6)


def test_against_a_second_implementation():
    random = np.random.default_rng(3)
    truth, prediction = random.normal(0, 2, (2, 4, 7, 9, 2)).astype(np.float32)
    truth[1, 0, 0] = np.nan
    truth[2, 3, :2, 0] = np.inf
    lengths = [
        math.dist(prediction[i, y, x].tolist(), truth[i, y, x].tolist())
        for i, y, x in np.ndindex(truth.shape[:3])
        if i and all(math.isfinite(part) for part in truth[i, y, x])
    ]
    assert len(lengths) == 3 * 63 - 3
    expected = {"epe": sum(lengths) / len(lengths), "off_1px": sum(n >= 1 for n in lengths) / len(lengths)}
    assert score(prediction, truth) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_no_number_is_off_by_the_diagonal(bad):
    truth = np.ones((2, 3, 4, 2), np.float32)
    prediction = truth.copy()
    prediction[1, 0, 0, 1] = bad
    assert score(prediction, truth) == pytest.approx({"epe": 5 / 12, "off_1px": 1 / 12})


def test_one_frame_has_no_motion_to_score():
    one = np.ones((1, 16, 20, 2), np.float32)
    assert np.isnan(list(score(one, one).values())).all()
    still = MODALITIES["flow"].baselines["classical"].predict(np.zeros((1, 16, 20, 3), np.uint8), one)
    np.testing.assert_array_equal(still, np.zeros_like(one))


def test_the_classical_baseline_sees_motion():
    """A texture that moves 2 pixels right and 1 up a frame."""
    random = np.random.default_rng(0)
    texture = cv2.GaussianBlur(random.integers(0, 256, (96, 96)).astype(np.uint8), (0, 0), 2)
    frames = [np.roll(texture, (-i, 2 * i), (0, 1))[16:80, 16:80] for i in range(4)]
    rgb = np.repeat(cv2.normalize(np.stack(frames), None, 0, 255, cv2.NORM_MINMAX)[..., None], 3, -1)
    truth = np.broadcast_to(np.float32((2, -1)), (4, 64, 64, 2))
    found = MODALITIES["flow"].baselines["classical"].predict(rgb, truth)
    assert score(found, truth)["epe"] < 0.25 < score(trivial(None, truth), truth)["epe"]
    np.testing.assert_array_equal(found[0], found[1])
