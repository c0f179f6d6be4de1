import math
from itertools import permutations

import numpy as np
import pytest

from unity.modality.skeleton import score, trivial


def people(*boxes):
    """One frame; joints of each person evenly along the diagonal of a box (x, y, width, height)."""
    along = np.linspace(0, 1, 18)
    frame = [np.stack([x + w * along, y + h * along, np.ones(18)], -1) for x, y, w, h in boxes]
    return np.stack(frame)[None].astype(np.float32)


TRUTH = people((10, 10, 20, 40), (60, 10, 20, 40))


@pytest.mark.parametrize("shift, found", [(3.9, 1.0), (4.1, 0.0)])
def test_the_border_is_a_tenth_of_the_longer_side(shift, found):
    moved = TRUTH + np.array([shift, 0, 0], np.float32)
    assert score(moved, TRUTH) == {"pck": found, "precision": found}


def test_order_of_people_means_nothing():
    assert score(TRUTH[:, ::-1], TRUTH) == {"pck": 1, "precision": 1}


def test_missing_and_surplus_people():
    assert score(TRUTH[:, :1], TRUTH) == {"pck": 0.5, "precision": 1}
    assert score(TRUTH, TRUTH[:, 1:]) == {"pck": 1, "precision": 0.5}
    # the same person claimed twice is right once
    assert score(np.concatenate([TRUTH[:, :1]] * 2, 1), TRUTH) == {"pck": 0.5, "precision": 0.5}


def test_only_visible_joints_count_and_size_the_person():
    truth, moved = TRUTH.copy(), TRUTH.copy()
    truth[0, 0, 9:, 2] = 0
    moved[0, :, :, 0] += 2.5
    # the first person's visible half is 40·8/17 = 18.8 pixels high, so 2.5 is too far; the second's is not
    assert score(moved, truth) == {"pck": 18 / 27, "precision": 18 / 36}
    moved[0, 1, :6, 2] = 0
    assert score(moved, truth) == {"pck": 12 / 27, "precision": 12 / 30}


def test_nobody():
    assert score(trivial(None, TRUTH), TRUTH) == {"pck": 0, "precision": 0}
    unseen = TRUTH * np.array([1, 1, 0], np.float32)
    found = score(TRUTH, unseen)
    assert np.isnan(found["pck"]) and found["precision"] == 0
    for nobody in (unseen, trivial(None, unseen)):
        found = score(trivial(None, unseen), nobody)
        assert np.isnan(found["pck"]) and found["precision"] == 1


def test_people_keep_who_they_are():
    """Two people change places half-way through: one matching cannot serve both halves."""
    truth = np.concatenate([TRUTH] * 4)
    swapped = np.concatenate([truth[:2], truth[2:, ::-1]])
    assert score(swapped, truth) == {"pck": 0.5, "precision": 0.5}
    assert score(truth[:, ::-1], truth) == {"pck": 1, "precision": 1}


def by_hand(prediction, truth, threshold=0.1):
    """Every matching of people tried, every joint looked at alone."""

    def right(i, person, other):
        seen = [joint for joint in truth[i, person] if joint[2] > 0.5]
        if not seen:
            return 0
        side = max(max(max(j[a] for j in seen) - min(j[a] for j in seen) for a in (0, 1)), 1)
        return sum(
            t[2] > 0.5 and p[2] > 0.5 and math.dist(t[:2], p[:2]) <= threshold * side
            for t, p in zip(truth[i, person], prediction[i, other], strict=True)
        )

    frames, people, found = len(truth), truth.shape[1], prediction.shape[1]
    slots = [*range(found), *[None] * people]
    best = max(
        sum(right(i, a, b) for i in range(frames) for a, b in enumerate(chosen) if b is not None)
        for chosen in set(permutations(slots, people))
    )
    return {"pck": best / (truth[..., 2] > 0.5).sum(), "precision": best / (prediction[..., 2] > 0.5).sum()}


@pytest.mark.parametrize("seed", range(4))
def test_against_a_second_implementation(seed):
    random = np.random.default_rng(seed)
    truth = random.uniform(0, 64, (3, 2, 18, 3))
    truth[..., 2] = random.random(truth.shape[:3]) < 0.8
    prediction = np.concatenate([truth[:, ::-1], truth[:, :1]], 1)
    prediction[..., :2] += random.normal(0, 4, prediction[..., :2].shape)
    prediction[..., 2] = random.random(prediction.shape[:3]) < 0.8
    assert score(prediction, truth) == pytest.approx(by_hand(prediction, truth))


def test_a_place_that_is_no_number_is_never_right():
    for bad in (np.nan, np.inf):
        prediction = TRUTH.copy()
        prediction[0, 0, :9, 0] = bad
        assert score(prediction, TRUTH) == {"pck": 0.75, "precision": 0.75}
