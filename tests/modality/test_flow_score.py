import numpy as np
import pytest

from unity.modality.flow import score, trivial


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
