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
    found = score(trivial(None, TRUTH), TRUTH)
    assert found["pck"] == 0 and np.isnan(found["precision"])
    unseen = TRUTH * np.array([1, 1, 0], np.float32)
    found = score(TRUTH, unseen)
    assert np.isnan(found["pck"]) and found["precision"] == 0
