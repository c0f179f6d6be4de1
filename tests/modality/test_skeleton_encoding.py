import json

import cv2
import numpy as np
import pytest

from unity.modality import skeleton
from unity.modality.people import JOINT_COLOURS, LIMBS

SIZE = (256, 256)
CONSTANTS = skeleton.unknown_constants(*SIZE)
# A standing person about 200 px tall, OpenPose's order.
STANDING = np.array(
    [
        (0, -64), (0, -45), (-22, -45), (-36, -14), (-42, 12), (22, -45), (36, -14), (42, 12),
        (-13, 20), (-15, 58), (-17, 98), (13, 20), (15, 58), (17, 98), (-6, -71), (6, -71), (-14, -66), (14, -66),
    ],
    dtype=np.float32,
)  # fmt: skip


def walk(frames, starts, speeds, scale=1.0, seed=0):
    """People who walk along x, each joint swaying on its own."""
    rng = np.random.default_rng(seed)
    people = np.ones((frames, len(starts), 18, 3), np.float32)
    for index, (start, speed) in enumerate(zip(starts, speeds, strict=True)):
        phase = rng.uniform(0, 6.3, (18, 2))
        for frame in range(frames):
            sway = 3 * scale * np.sin(phase + 0.5 * frame)
            people[frame, index, :, :2] = STANDING * scale + sway + (start + speed * frame, 120)
    return people


def noisy(video, sigma, seed=0):
    noise = np.random.default_rng(seed).normal(0, sigma, video.shape)
    return (video + noise).round().clip(0, 255).astype(np.uint8)


def distances(found, truth):
    """Pixels between joints seen in both, with the people in the order of their first x."""
    order = np.argsort([np.min(person[0, :, 0]) for person in found.swapaxes(0, 1)])
    found = found[:, order]
    both = (found[..., 2] > 0) & (truth[..., 2] > 0)
    return np.linalg.norm(found[..., :2] - truth[..., :2], axis=-1)[both], both


@pytest.mark.parametrize("sigma", [0.0, 2.0, 5.0])
def test_two_people_come_back_within_a_pixel(sigma):
    truth = walk(6, starts=(70, 180), speeds=(2, -2))
    found = skeleton.decode(noisy(skeleton.encode(truth, CONSTANTS), sigma), CONSTANTS)
    assert found.shape == truth.shape
    error, both = distances(found, truth)
    assert both.mean() > 0.99
    assert error.mean() < 0.5 and error.max() < 2


def test_people_keep_their_place_while_they_pass_each_other():
    truth = walk(30, starts=(60, 190), speeds=(4.5, -4.5), scale=0.6)
    found = skeleton.decode(skeleton.encode(truth, CONSTANTS), CONSTANTS)
    assert found.shape == truth.shape
    error, both = distances(found, truth)
    # those who cover each other hide joints, and where they coincide nobody could tell them apart
    assert both.mean() > 0.93
    assert np.quantile(error, 0.9) < 1.5


def test_hidden_joints_stay_hidden():
    truth = walk(3, starts=(128,), speeds=(0,))
    truth[:, :, [3, 4, 14, 16], 2] = 0
    found = skeleton.decode(skeleton.encode(truth, CONSTANTS), CONSTANTS)
    np.testing.assert_array_equal(found[..., 2], truth[..., 2])


def test_parts_without_a_limb_join_their_person():
    truth = walk(2, starts=(128,), speeds=(0,))
    truth[:, :, [1, 8], 2] = 0
    found = skeleton.decode(skeleton.encode(truth, CONSTANTS), CONSTANTS)
    np.testing.assert_array_equal(found[..., 2], truth[..., 2])


def test_a_small_person_at_128_pixels():
    constants = skeleton.unknown_constants(128, 128)
    truth = walk(4, starts=(110,), speeds=(1,), scale=0.5)
    truth[..., 1] -= 55
    truth[..., 0] -= 50
    found = skeleton.decode(noisy(skeleton.encode(truth, constants), 5.0), constants)
    error, both = distances(found, truth)
    assert both.mean() > 0.95 and error.mean() < 0.6 and error.max() < 2


def test_blurred_joints_are_found_at_64_pixels():
    constants = skeleton.unknown_constants(64, 64)
    truth = walk(3, starts=(30,), speeds=(0,), scale=0.27)
    truth[..., 1] += 28 - 120
    video = np.stack([cv2.GaussianBlur(frame, (0, 0), 1.0) for frame in skeleton.encode(truth, constants)])
    found = skeleton.score(skeleton.decode(video, constants), truth)
    # limbs are two pixels wide, and the nose hides the eyes
    assert found["pck"] > 0.75 and found["precision"] > 0.9


def test_nobody_and_noise_only():
    empty = np.zeros((2, 3, 18, 3), np.float32)
    video = skeleton.encode(empty, CONSTANTS)
    assert not video.any()
    assert skeleton.decode(noisy(video, 10.0), CONSTANTS).shape == (2, 0, 18, 3)


def test_coloured_noise_is_no_crowd():
    rng = np.random.default_rng(0)
    blocks = JOINT_COLOURS[rng.integers(0, 18, (2, 32, 32))]
    video = blocks.repeat(8, axis=1).repeat(8, axis=2)
    found = skeleton.decode(video, CONSTANTS)
    assert (found[..., 2].any(-1).sum(-1) <= 8).all()


def test_someone_outside_the_picture_is_cut_off():
    truth = walk(2, starts=(0,), speeds=(0,))
    found = skeleton.decode(skeleton.encode(truth, CONSTANTS), CONSTANTS)
    inside = truth[..., 0] > 4
    np.testing.assert_array_equal(found[..., 2][inside], 1)
    assert (found[..., :2] >= 0).all()


def test_colours_are_openposes():
    truth = walk(1, starts=(128,), speeds=(0,))
    frame = skeleton.encode(truth, CONSTANTS)[0]
    for joint in range(18):
        x, y = np.rint(truth[0, 0, joint, :2]).astype(int)
        np.testing.assert_array_equal(frame[y, x], JOINT_COLOURS[joint])
    # right upper arm, limb (2, 3) in the third colour
    assert LIMBS[2] == (2, 3)
    x, y = np.rint(truth[0, 0, [2, 3], :2].mean(0)).astype(int)
    np.testing.assert_array_equal(frame[y, x], [153, 102, 0])


def test_undefined_positions_are_refused():
    with pytest.raises(ValueError, match="visibility 0"):
        skeleton.encode(np.full((1, 1, 18, 3), np.nan, np.float32), CONSTANTS)


def test_saved_keypoints(tmp_path):
    truth = walk(2, starts=(100,), speeds=(3,))
    (path,) = skeleton.save(truth, tmp_path / "skeleton", 16.0)
    record = json.loads(path.read_text())
    assert record["joints"][4] == "right_wrist" and record["fps"] == 16
    np.testing.assert_allclose(record["frames"], truth, atol=6e-4)
