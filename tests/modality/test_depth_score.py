import numpy as np
import pytest

from unity.modality.depth import score, trivial
from unity.modality.table import MODALITIES

TRUTH = np.random.default_rng(0).uniform(1, 20, (3, 8, 9)).astype(np.float32)


def by_hand(prediction, truth):
    """Both numbers pixel by pixel, the fit by numpy's least squares; for predictions that are depths."""
    pixels = [(float(p), float(t)) for p, t in zip(prediction.flat, truth.flat, strict=True) if 0 < t <= 80]
    design = np.array([(1 / p, 1.0) for p, _ in pixels])
    scale, shift = np.linalg.lstsq(design, np.array([1 / t for _, t in pixels]), rcond=None)[0]
    depths = [min(max(1 / max(scale / p + shift, 1e-9), 1e-3), 80.0) for p, _ in pixels]
    pairs = [(depth, t) for depth, (_, t) in zip(depths, pixels, strict=True)]
    return {
        "abs_rel": sum(abs(p - t) / t for p, t in pairs) / len(pairs),
        "delta_125": sum(max(p / t, t / p) < 1.25 for p, t in pairs) / len(pairs),
    }


def test_off_by_a_known_share():
    assert score(0.9 * TRUTH, TRUTH, aligned=False) == pytest.approx({"abs_rel": 0.1, "delta_125": 1}, abs=1e-6)
    assert score(0.7 * TRUTH, TRUTH, aligned=False) == pytest.approx({"abs_rel": 0.3, "delta_125": 0}, abs=1e-6)
    half = np.where(np.arange(9) < 4, 2, 1) * TRUTH
    found = score(half, TRUTH, aligned=False)
    # four of nine columns are off by 100%
    assert found == pytest.approx({"abs_rel": 4 / 9, "delta_125": 5 / 9}, rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_the_protocol_against_a_second_implementation(seed):
    random = np.random.default_rng(seed)
    truth = np.exp(random.uniform(-1, 6, (4, 9, 11))).astype(np.float32)
    truth[random.random(truth.shape) < 0.2] = np.inf
    truth[0, 0] = (0, -3, np.nan, 80.01, 9682, 1, 2, 3, 4, 5, 6)
    noisy = 1 / (0.3 / np.nan_to_num(truth, posinf=1e6).clip(0.1) + random.uniform(0.01, 0.4, truth.shape))
    assert score(noisy.astype(np.float32), truth) == pytest.approx(
        by_hand(noisy.astype(np.float32), truth), rel=1e-6
    )


def test_what_lies_beyond_the_cap_changes_nothing():
    truth = TRUTH.copy()
    expected = score(1 / (1 / TRUTH[:, 1:] + 0.1 * TRUTH[:, 1:]), TRUTH[:, 1:])
    for far in (81.0, 9682.0, np.inf, np.nan, 0.0, -1.0):
        truth[:, 0] = far
        prediction = 1 / (1 / TRUTH + 0.1 * TRUTH)
        assert score(prediction, truth) == pytest.approx(expected)


@pytest.mark.parametrize("bad", [0.0, np.inf, np.nan, -2.0, -np.inf, 1e-45, 3e38])
@pytest.mark.parametrize("aligned", [True, False])
def test_no_prediction_gives_a_number_that_is_none(bad, aligned):
    good = score(TRUTH, TRUTH, aligned)
    prediction = TRUTH.copy()
    for spoilt in (np.s_[1, 2, 3], np.s_[0], np.s_[:]):
        prediction[spoilt] = bad
        found = score(prediction, TRUTH, aligned)
        assert all(np.isfinite(value) for value in found.values())
        assert found["abs_rel"] > good["abs_rel"] and found["delta_125"] < good["delta_125"]


def test_a_depth_that_is_none_counts_as_the_worse_bound():
    truth = np.array([1.0, 2.0, 4.0, 80.0], np.float32).reshape(1, 2, 2)
    prediction = truth.copy()
    prediction[0, 0, 0] = np.nan
    assert score(prediction, truth) == pytest.approx({"abs_rel": 79 / 4, "delta_125": 3 / 4}, rel=1e-5)
    prediction[0, 0, 0], prediction[0, 1, 1] = 1.0, 0.0
    assert score(prediction, truth)["abs_rel"] == pytest.approx((1 - 1e-3 / 80) / 4, rel=1e-4)


def test_scale_and_shift_of_inverse_depth_cost_nothing():
    relative = 1 / (0.05 + 0.3 / TRUTH)
    assert score(relative, TRUTH) == pytest.approx({"abs_rel": 0, "delta_125": 1}, abs=1e-5)
    assert score(relative, TRUTH, aligned=False)["abs_rel"] > 0.3


def test_predicted_sky_is_at_the_cap():
    prediction = TRUTH.copy()
    prediction[0, 1, 0] = np.inf
    far = (80 / TRUTH[0, 1, 0] - 1) / TRUTH.size
    assert score(prediction, TRUTH, aligned=False)["abs_rel"] == pytest.approx(far, rel=1e-5)


def test_all_sky_has_no_score_and_one_frame_has():
    assert np.isnan(list(score(TRUTH, np.full_like(TRUTH, np.inf)).values())).all()
    assert score(TRUTH[:1], TRUTH[:1]) == pytest.approx({"abs_rel": 0, "delta_125": 1}, abs=1e-5)


def test_one_depth_is_the_mean_inverse_depth():
    expected = np.abs(1 / (1 / TRUTH).mean() - TRUTH) / TRUTH
    for level in (1.0, 7.3):
        assert score(level * trivial(None, TRUTH), TRUTH)["abs_rel"] == pytest.approx(expected.mean(), rel=1e-4)


def test_lower_is_nearer():
    """The gradient is right about a floor: its inverse depth rises with the row."""
    rows = np.arange(8, dtype=np.float64)[:, None]
    floor = np.broadcast_to(1 / (0.02 + 0.03 * rows), TRUTH.shape).astype(np.float32)
    classical = MODALITIES["depth"].baselines["classical"].predict(None, floor)
    assert score(classical, floor) == pytest.approx({"abs_rel": 0, "delta_125": 1}, abs=1e-5)
    assert score(trivial(None, floor), floor)["abs_rel"] > 0.3
