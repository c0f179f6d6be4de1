"""Worlds and an independent ray caster that the tests of the simulated world share."""

import functools

import mujoco
import numpy as np
import pytest

from unity.data.simulate.camera import Camera, film
from unity.data.simulate.physics import World, run
from unity.data.simulate.scene import draw_scene

SIZE = (64, 80)
FPS = 16.0


@functools.cache
def _filmed(seed: int, source: str, frames: int) -> tuple[World, list[Camera]]:
    world = run(draw_scene(seed, source), frames, FPS)
    return world, film(world, SIZE, FPS)


@pytest.fixture(scope="session")
def filmed():
    """(seed, source, frames) -> the world and its cameras of 64 x 80 pixels."""
    return _filmed


@pytest.fixture(scope="session")
def mujoco_cast():
    """(world, frame, origin, directions [n, 3]) -> MuJoCo's geom (-1: none) and t in units of a direction."""

    def cast(
        world: World, frame: int, origin: np.ndarray, directions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        data = mujoco.MjData(world.model)
        pose = np.concatenate([world.thing_position[frame], world.thing_quaternion[frame]], axis=1)
        data.qpos[:] = pose.ravel()
        mujoco.mj_kinematics(world.model, data)
        count, length = len(directions), np.linalg.norm(directions, axis=1)
        geom, distance = np.empty(count, np.int32), np.empty(count)
        rays, groups = (directions / length[:, None]).reshape(-1), np.array([1, 1, 1, 0, 0, 0], np.uint8)
        mujoco.mj_multiRay(world.model, data, origin, rays, groups, 1, -1, geom, distance, None, count, 1e9)
        return geom, np.where(geom >= 0, distance / length, np.inf)

    return cast


@pytest.fixture(scope="session")
def triangle_cast():
    """(origin, directions [n, 3], vertices, faces) -> nearest t and face (-1: none), by Moeller and Trumbore."""

    def cast(origin: np.ndarray, directions: np.ndarray, vertices: np.ndarray, faces: np.ndarray):
        a = vertices[faces[:, 0]]
        e1, e2, s = vertices[faces[:, 1]] - a, vertices[faces[:, 2]] - a, origin - a
        q = np.cross(s, e1)
        near, face = np.full(len(directions), np.inf), np.full(len(directions), -1)
        for n, direction in enumerate(directions):
            p = np.cross(direction, e2)
            scale = 1 / np.einsum("fc,fc->f", e1, p)
            u, v = np.einsum("fc,fc->f", s, p) * scale, q @ direction * scale
            t = np.where((u >= 0) & (v >= 0) & (u + v <= 1), np.einsum("fc,fc->f", e2, q) * scale, np.inf)
            t[t <= 0] = np.inf
            if np.isfinite(t.min()):
                near[n], face[n] = t.min(), t.argmin()
        return near, face

    return cast
