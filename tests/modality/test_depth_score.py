import numpy as np
import pytest

from unity.modality.depth import score, trivial

TRUTH = np.random.default_rng(0).uniform(1, 20, (3, 8, 9)).astype(np.float32)


def test_off_by_a_known_share():
    assert score(0.9 * TRUTH, TRUTH, aligned=False) == pytest.approx({"abs_rel": 0.1, "delta_125": 1}, abs=1e-6)
    assert score(0.7 * TRUTH, TRUTH, aligned=False) == pytest.approx({"abs_rel": 0.3, "delta_125": 0}, abs=1e-6)
    half = np.where(np.arange(9) < 4, 2, 1) * TRUTH
    # four of nine columns are off by 100%, but nothing is farther than the farthest true surface
    expected = np.minimum(half / TRUTH, TRUTH.max() / TRUTH) - 1
    found = score(half, TRUTH, aligned=False)
    assert found["abs_rel"] == pytest.approx(expected.mean(), rel=1e-5)
    assert found["delta_125"] == pytest.approx((expected < 0.25).mean(), abs=1e-9)


def test_scale_and_shift_of_inverse_depth_cost_nothing():
    relative = 1 / (0.05 + 0.3 / TRUTH)
    assert score(relative, TRUTH) == pytest.approx({"abs_rel": 0, "delta_125": 1}, abs=1e-5)
    assert score(relative, TRUTH, aligned=False)["abs_rel"] > 0.3


def test_alignment_is_least_squares():
    noisy = 1 / (1 / TRUTH + np.random.default_rng(1).uniform(0, 0.5, TRUTH.shape))
    design = np.stack([1 / noisy.ravel(), np.ones(noisy.size)], 1)
    solution = np.linalg.lstsq(design, 1 / TRUTH.ravel().astype(np.float64), rcond=None)[0]
    disparity = np.maximum(design @ solution, 1 / TRUTH.max())
    expected = np.abs(1 / disparity - TRUTH.ravel()) / TRUTH.ravel()
    assert score(noisy, TRUTH)["abs_rel"] == pytest.approx(expected.mean(), rel=1e-5)


def test_sky_of_the_truth_is_left_out_and_predicted_sky_is_far():
    truth, prediction = TRUTH.copy(), TRUTH.copy()
    truth[:, 0] = np.inf
    prediction[:, 0] = 3.0
    assert score(prediction, truth, aligned=False)["abs_rel"] == pytest.approx(0, abs=1e-6)
    prediction[0, 1, 0] = np.inf
    far = (truth[np.isfinite(truth)].max() / truth[0, 1, 0] - 1) / np.isfinite(truth).sum()
    assert score(prediction, truth, aligned=False)["abs_rel"] == pytest.approx(far, rel=1e-3)
    assert np.isnan(score(prediction, np.full_like(truth, np.inf))["abs_rel"])


def test_one_depth_is_the_mean_inverse_depth():
    expected = np.abs(1 / (1 / TRUTH).mean() - TRUTH) / TRUTH
    for level in (1.0, 7.3):
        assert score(level * trivial(None, TRUTH), TRUTH)["abs_rel"] == pytest.approx(expected.mean(), rel=1e-4)
