"""What videos say of themselves, on videos of known motion."""

import cv2
import numpy as np
import pytest

from unity.evaluate.video import scores, warp_error

RANDOM = np.random.default_rng(0)
TEXTURE = cv2.GaussianBlur(RANDOM.integers(0, 256, (160, 160, 3)).astype(np.uint8), (0, 0), 3)


def sliding(*steps):
    """A texture that moves right by so many pixels from frame to frame."""
    places = np.cumsum([0, *steps])
    return np.stack([np.roll(TEXTURE, place, axis=1)[32:96, 32:96] for place in places])


def test_a_still_is_perfect_and_does_not_move():
    still = sliding(0, 0, 0, 0)
    assert scores(still) == pytest.approx({"flicker": 1, "smoothness": 1, "dynamic": 0, "warp_error": 0}, abs=1e-4)
    assert scores(still[:1]) == {"flicker": 1, "smoothness": 1, "dynamic": 0, "warp_error": 0}


def test_flicker_is_the_mean_difference():
    dark = np.full((4, 32, 32, 3), 50, np.uint8)
    dark[1::2] += 51
    found = scores(dark)
    assert found["flicker"] == pytest.approx(0.8)
    # the middle of two equal frames is off by the whole difference
    assert found["smoothness"] == pytest.approx(0.8)


def test_even_motion_is_smoother_than_a_jerk():
    even, jerk = sliding(2, 2, 2, 2), sliding(1, 3, 1, 3)
    assert scores(even)["smoothness"] > scores(jerk)["smoothness"] + 0.003


def test_fast_motion_is_dynamic():
    # 6 of 256 pixels are 1.5 of 64
    assert scores(sliding(*[3] * 7))["dynamic"] == 1 and scores(sliding(*[1] * 7))["dynamic"] == 0


def test_what_is_carried_along_does_not_err():
    video, flow = sliding(2, 2, 2), np.broadcast_to(np.float32((2, 0)), (3, 64, 64, 2))
    error = warp_error(video, flow)
    assert error < 1e-4 < np.square(np.diff(video / 255.0, axis=0)).mean()
    noisy = np.clip(video + RANDOM.normal(0, 12, video.shape), 0, 255).astype(np.uint8)
    assert warp_error(noisy, flow) > 10 * error
