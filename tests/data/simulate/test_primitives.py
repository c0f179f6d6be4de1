"""Intersections and normals against MuJoCo's own ray caster, and against points known to lie on surfaces."""

import mujoco
import numpy as np
import pytest

from unity.data.simulate.primitives import BOX, CAPSULE, CYLINDER, ELLIPSOID, SPHERE, half_extents, meet, outward

KINDS = {"sphere": SPHERE, "capsule": CAPSULE, "ellipsoid": ELLIPSOID, "cylinder": CYLINDER, "box": BOX}
SIZE = np.array((0.7, 0.4, 0.9))


@pytest.fixture(scope="module")
def rays():
    rng = np.random.default_rng(1)
    origins = rng.normal(size=(1500, 3))
    origins *= rng.uniform(1.5, 5, (1500, 1)) / np.linalg.norm(origins, axis=1, keepdims=True)
    directions = rng.uniform(-0.8, 0.8, (1500, 3)) - origins
    # Some rays run along an axis.
    directions[:60] = 0.0
    directions[np.arange(60), np.arange(60) % 3] = -np.sign(origins[np.arange(60), np.arange(60) % 3])
    return origins, directions


@pytest.mark.parametrize("shape", KINDS)
def test_first_hits_and_normals_are_mujocos(shape, rays):
    size = " ".join(str(x) for x in SIZE[: {"sphere": 1, "capsule": 2, "cylinder": 2}.get(shape, 3)])
    xml = f'<mujoco><worldbody><geom type="{shape}" size="{size}"/></worldbody></mujoco>'
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    hits = 0
    for origin, direction in zip(*rays, strict=True):
        normal = np.zeros(3)
        geom = np.zeros(1, np.int32)
        true = mujoco.mj_ray(model, data, origin, direction, None, 1, -1, geom, normal)
        t = meet(KINDS[shape], *SIZE, *origin, *direction)
        assert t == pytest.approx(true if true >= 0 else np.inf, rel=1e-12)
        if true >= 0:
            hits += 1
            point = origin + t * direction
            assert (np.abs(point) <= half_extents(KINDS[shape], SIZE) + 1e-9).all()
            np.testing.assert_allclose(outward(KINDS[shape], *SIZE, *point), normal, atol=1e-6)
    assert 400 < hits < 1500


@pytest.mark.parametrize("shape", KINDS)
def test_a_ray_from_inside_leaves_through_the_far_side(shape):
    rng = np.random.default_rng(2)
    for direction in rng.normal(size=(200, 3)):
        t = meet(KINDS[shape], *SIZE, 0.0, 0.0, 0.0, *direction)
        assert t == pytest.approx(meet(KINDS[shape], *SIZE, 0.0, 0.0, 0.0, *-direction), rel=1e-12)
        # Seen from outside along the same line, that point is the first hit.
        back = meet(KINDS[shape], *SIZE, *(10 * direction), *-direction)
        assert 10 - back == pytest.approx(t, rel=1e-9)
