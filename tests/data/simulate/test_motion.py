"""People: curves, bones that keep their lengths, feet that stay on the ground and do not slide."""

import numpy as np
import pytest

from unity.data.simulate.body import BONE, FACES, PARENTS, PARTS, PEOPLE, WEIGHTS, keypoints, make_body, skin
from unity.data.simulate.motion import ACTS, Style, animate, curve

TIMES = np.arange(161) / 80


@pytest.fixture(scope="module")
def body():
    return make_body(0, 3, 0.2, 1.0, 0.01)


def soles(body, motion):
    feet = WEIGHTS[:, [BONE["foot.R"], BONE["foot.L"]]].max(1) > 0.5
    return skin(body, motion.turns, motion.joints)[:, feet]


def test_curves_pass_through_their_keys_and_close():
    keys = (3.0, -1.0, 4.0, 1.5, -9.0, 2.0)
    np.testing.assert_allclose(curve(keys, np.arange(6) / 6), keys, atol=1e-12)
    phase = np.linspace(0, 1, 50)
    np.testing.assert_allclose(curve(keys, phase), curve(keys, phase + 3), atol=1e-9)
    np.testing.assert_allclose(curve((0, 2, 0, -2), phase), 2 * np.sin(2 * np.pi * phase), atol=1e-12)


def test_rest_pose_skins_to_itself():
    body = make_body(1, 1, 0.0, 1.1, 0.0)
    turns = np.broadcast_to(np.eye(3), (1, 17, 3, 3))
    np.testing.assert_allclose(skin(body, turns, body.joints[None])[0], body.vertices, atol=1e-9)
    np.testing.assert_allclose(keypoints(body, turns, body.joints[None])[0, 14], body.face_points[1], atol=1e-9)


@pytest.mark.parametrize("shape", range(len(PEOPLE)))
def test_bodies_are_closed_upright_and_wear_every_part(shape):
    body = make_body(shape, (shape + 1) % len(PEOPLE), 0.3, 1.0, 0.02)
    edges = np.sort(np.concatenate([FACES[:, [0, 1]], FACES[:, [1, 2]], FACES[:, [2, 0]]]), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] <= 2).all()
    assert 1.2 < body.height < 2.2 and abs(body.vertices[:, 2].min()) < 1e-6
    assert set(body.parts) == {part for pair in PARTS.values() for part in pair} == set(range(1, 25))
    # Left parts are on the left, x > 0, and the nose looks to -y.
    centre = body.vertices[FACES].mean(1)
    assert centre[body.parts == 4, 0].min() > 0 > centre[body.parts == 3, 0].max()
    assert body.face_points[0, 1] < body.face_points[3, 1]


@pytest.mark.parametrize("act", ACTS)
def test_bones_keep_their_lengths(act, body):
    motion = animate(body, Style(act=act, yaw=0.7, turn=0.3), TIMES)
    for bone, parent in enumerate(PARENTS):
        if parent >= 0:
            length = np.linalg.norm(motion.joints[:, bone] - motion.joints[:, parent], axis=1)
            np.testing.assert_allclose(length, np.linalg.norm(body.joints[bone] - body.joints[parent]), rtol=1e-9)
    np.testing.assert_allclose(np.linalg.det(motion.turns), 1.0, atol=1e-9)


@pytest.mark.parametrize("act", ACTS)
def test_feet_touch_the_ground_and_do_not_slide(act, body):
    feet = soles(body, animate(body, Style(act=act, vigour=1.1), TIMES))
    height = feet[..., 2]
    assert -0.006 < height.min() < 0.002
    if "hop" in ACTS[act].curves:
        # Jumpers land, and leave the ground.
        assert height.min(1).min() < 0.01 and height.min(1).max() > 0.03
    else:
        assert height.min(1).max() < 0.012
    standing = (height[1:] < 0.01) & (height[:-1] < 0.01)
    speed = np.linalg.norm(np.diff(feet[..., :2], axis=0), axis=-1) * 80
    assert np.median(speed[standing]) < 0.1


@pytest.mark.parametrize(("act", "least", "most"), [("walk", 0.9, 1.6), ("stroll", 0.4, 1.0), ("jog", 1.6, 3.0)])
def test_walkers_go_forward_at_human_speed(act, least, most, body):
    root = animate(body, Style(act=act), TIMES).joints[:, 0]
    assert least < -(root[-1, 1] - root[0, 1]) / 2 < most
    assert abs(root[-1, 0] - root[0, 0]) < 0.3


@pytest.mark.parametrize("act", [name for name, act in ACTS.items() if not act.travels])
def test_others_stay_where_they_are(act, body):
    root = animate(body, Style(act=act), TIMES).joints[:, 0, :2]
    assert np.linalg.norm(root - root[0], axis=1).max() < 0.45
