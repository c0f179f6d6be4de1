from itertools import permutations

import numpy as np
import pytest

from unity.modality import densepose, segmentation

RANDOM = np.random.default_rng(0)
TRUTH = np.zeros((2, 6, 8), np.uint8)
TRUTH[:, 1:4, 1:4] = 1
TRUTH[:, 3:6, 5:8] = 2


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_numbers_of_instances_mean_nothing():
    renamed = np.array([0, 17, 5], np.uint8)[TRUTH]
    assert segmentation.score(renamed, TRUTH) == {"miou": 1, "instance_iou": 1}


def test_a_shift_costs_what_sets_say():
    shifted = np.roll(TRUTH, 1, axis=2)
    first, second = (iou(shifted == k, k == TRUTH) for k in range(1, 3))
    background = iou(shifted == 0, TRUTH == 0)
    found = segmentation.score(shifted, TRUTH)
    assert found["instance_iou"] == pytest.approx((first + second) / 2)
    assert found["miou"] == pytest.approx((first + second + background) / 3)


def test_matching_is_the_best_of_all():
    """Every assignment of up to four predicted masks to three true ones, tried by hand."""
    for _ in range(20):
        truth, prediction = RANDOM.integers(0, 4, (1, 5, 6)), RANDOM.integers(0, 5, (1, 5, 6))
        best = max(
            sum(iou(prediction == p, truth == k) for k, p in zip((1, 2, 3), chosen, strict=True))
            for chosen in permutations((1, 2, 3, 4), 3)
        )
        assert segmentation.score(prediction, truth)["instance_iou"] == pytest.approx(best / 3)


def test_missing_and_surplus_instances():
    merged = np.minimum(TRUTH, 1)
    assert segmentation.score(merged, TRUTH)["instance_iou"] == pytest.approx(0.5 * 9 / 18)
    only = segmentation.score(TRUTH, np.where(TRUTH == 1, 1, 0).astype(np.uint8))
    assert only["instance_iou"] == 1 and only["miou"] == pytest.approx((1 + 30 / 39) / 2)


def test_background_alone():
    found = segmentation.score(segmentation.trivial(None, TRUTH), TRUTH)
    assert found == pytest.approx({"miou": 30 / 48 / 3, "instance_iou": 0})
    empty = np.zeros_like(TRUTH)
    found = segmentation.score(empty, empty)
    assert found["miou"] == 1 and np.isnan(found["instance_iou"])


def surface(parts):
    return np.stack([parts, np.full(parts.shape, 0.3), np.full(parts.shape, 0.9)], -1).astype(np.float32)


def test_parts_keep_their_numbers():
    swapped = surface(np.array([0, 2, 1])[TRUTH])
    assert densepose.score(swapped, surface(TRUTH)) == {"part_miou": pytest.approx(1 / 3), "part_accuracy": 0}
    assert densepose.score(surface(TRUTH), surface(TRUTH)) == {"part_miou": 1, "part_accuracy": 1}


def test_parts_against_sets():
    truth, prediction = RANDOM.integers(0, 25, (2, 2, 16, 16)) // 2 * 2
    expected = np.mean([iou(prediction == k, truth == k) for k in np.unique(truth)])
    found = densepose.score(surface(prediction), surface(truth))
    assert found["part_miou"] == pytest.approx(expected)
    assert found["part_accuracy"] == pytest.approx(((prediction == truth) & (truth > 0)).sum() / (truth > 0).sum())


def test_nobody():
    found = densepose.score(densepose.trivial(None, surface(TRUTH)), surface(TRUTH))
    assert found == pytest.approx({"part_miou": 30 / 48 / 3, "part_accuracy": 0})
    empty = surface(np.zeros_like(TRUTH))
    assert np.isnan(densepose.score(surface(TRUTH), empty)["part_accuracy"])
