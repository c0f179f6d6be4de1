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


def by_hand(prediction, truth):
    """Mean IoU over pairs, misses and false instances, under the best of all one-to-one matchings."""
    found, wanted = ([k for k in np.unique(labels) if k] for labels in (prediction, truth))

    def pair(k, p):
        return 0.0 if p is None else iou(prediction == p, truth == k)

    trials = permutations([*found, *[None] * len(wanted)], len(wanted))
    best = max(([pair(k, p) for k, p in zip(wanted, chosen, strict=True)] for chosen in trials), key=sum)
    matched = [value for value in best if value > 0]
    return sum(matched) / (len(wanted) + len(found) - len(matched))


def test_matching_is_the_best_of_all():
    """Up to four predicted masks and three true ones."""
    for _ in range(20):
        truth, prediction = RANDOM.integers(0, 4, (1, 5, 6)), RANDOM.integers(0, 5, (1, 5, 6))
        assert segmentation.score(prediction, truth)["instance_iou"] == pytest.approx(by_hand(prediction, truth))
    for _ in range(20):
        # of fewer true ones, so that some are false
        truth, prediction = RANDOM.integers(0, 2, (1, 5, 6)), RANDOM.integers(0, 4, (1, 5, 6))
        assert segmentation.score(prediction, truth)["instance_iou"] == pytest.approx(by_hand(prediction, truth))


def test_missing_instances_count():
    merged = np.minimum(TRUTH, 1)
    assert segmentation.score(merged, TRUTH)["instance_iou"] == pytest.approx(0.5 * 9 / 18)


def test_false_instances_count():
    only = np.where(TRUTH == 1, 1, 0).astype(np.uint8)
    found = segmentation.score(TRUTH, only)
    assert found == {"miou": pytest.approx((1 + 30 / 39 + 0) / 3), "instance_iou": 0.5}
    eight = only.copy()
    eight[:, 5, :] = np.arange(2, 10)
    # one right mask and eight false ones
    assert segmentation.score(eight, only)["instance_iou"] == pytest.approx(1 / 9)
    assert segmentation.score(TRUTH, np.zeros_like(TRUTH))["instance_iou"] == 0


def test_specks_are_no_false_instances_but_may_be_right():
    truth = np.zeros((4, 64, 64), np.uint8)
    truth[:, :32, :32] = 1
    specks = truth.copy()
    specks[0, 60, 40:56] = 2
    assert segmentation.score(specks, truth)["instance_iou"] == 1
    specks[0, 60, 56] = 2
    assert segmentation.score(specks, truth)["instance_iou"] == 0.5
    small = np.zeros_like(truth)
    small[0, 0, 0] = 1
    assert segmentation.score(small, small)["instance_iou"] == 1


def test_background_alone():
    found = segmentation.score(segmentation.trivial(None, TRUTH), TRUTH)
    assert found == pytest.approx({"miou": 30 / 48 / 3, "instance_iou": 0})
    empty = np.zeros_like(TRUTH)
    found = segmentation.score(empty, empty)
    assert found == {"miou": 1, "instance_iou": 1}
    full = np.ones_like(TRUTH)
    assert segmentation.score(full, full) == {"miou": 1, "instance_iou": 1}


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


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0, 25.0, 1e9])
def test_a_part_that_is_none_is_wrong(bad):
    spoilt = surface(TRUTH)
    spoilt[0, :, :, 0] = bad
    assert densepose.score(spoilt, surface(TRUTH)) == pytest.approx({"part_miou": 0.5, "part_accuracy": 0.5})
