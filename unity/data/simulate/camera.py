"""Pinhole cameras, and the move of one through a clip that keeps its subjects in view.

Camera axes: x right, y down, z forward. Pixel (row i, column j) looks through image point (j + 0.5, i + 0.5).
"""

from bisect import bisect_left
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from unity.data.simulate.physics import World
from unity.data.simulate.scene import Scene, Shot

# Part of the picture, at each border, that subjects keep free.
MARGIN = 0.04
_DISTANCES = np.geomspace(1.2, 9.0, 48)
_LOWEST = 0.25


@dataclass(frozen=True)
class Camera:
    """`turn` rows are the camera's axes in the world; `focal` in pixels; the principal point is the centre."""

    position: Float[np.ndarray, " 3"]
    turn: Float[np.ndarray, "3 3"]
    focal: float
    height: int
    width: int

    def to_camera(self, points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        return (points - self.position) @ self.turn.T

    def project(self, points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """World points to image x, y in pixels and depth z in metres along the optical axis."""
        local = self.to_camera(points)
        centre = np.array((self.width / 2, self.height / 2))
        return np.concatenate([self.focal * local[..., :2] / local[..., 2:] + centre, local[..., 2:]], axis=-1)

    def rays(self, samples: int = 1) -> Float[np.ndarray, "n 3"]:
        """World directions of unit depth through a grid of samples x samples per pixel, row by row."""
        x = ((np.arange(self.width * samples) + 0.5) / samples - self.width / 2) / self.focal
        y = ((np.arange(self.height * samples) + 0.5) / samples - self.height / 2) / self.focal
        local = np.stack([*np.meshgrid(x, y), np.ones((len(y), len(x)))], axis=-1)
        return local.reshape(-1, 3) @ self.turn


def look(position: np.ndarray, target: np.ndarray, fov: float, size: tuple[int, int]) -> Camera:
    """A level camera at `position` facing `target`; `fov` vertical, in degrees; size (height, width)."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    turn = np.stack([right, np.cross(forward, right), forward])
    return Camera(position, turn, size[0] / 2 / np.tan(np.radians(fov) / 2), *size)


def film(world: World, size: tuple[int, int], fps: float) -> list[Camera]:
    """The cameras of all frames: the nearest distance from which the scene's subjects stay inside the margins."""
    times = np.arange(world.frames) / fps
    targets, points = _subjects(world)
    shot = world.scene.shot

    def fits(distance: float) -> bool:
        cameras = _path(shot, targets, times, distance, size)
        return all(_inside(camera, cloud) for camera, cloud in zip(cameras, points, strict=True))

    nearest = bisect_left(_DISTANCES, True, hi=len(_DISTANCES) - 1, key=fits)
    return _path(shot, targets, times, _DISTANCES[nearest] * shot.slack, size)


def _subjects(world: World) -> tuple[np.ndarray, np.ndarray]:
    """What to look at [t, 3] and what must stay in view [t, n, 3]: the people, else the things near the middle."""
    if world.scene.people:
        cloud = np.concatenate([*world.vertices[:, :, ::12], _flat(world.keypoints)], axis=1)
    else:
        reach = np.array([thing.radius for thing in world.scene.things])[None, :, None, None]
        corners = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / np.sqrt(3)
        near = np.clip(world.thing_position, (-1.3, -1.3, 0.0), (1.3, 1.3, 1.5))
        cloud = _flat(near[:, :, None] + reach * corners)
    return (cloud.min(1) + cloud.max(1)) / 2, cloud


def _flat(points: np.ndarray) -> np.ndarray:
    return points.reshape(len(points), -1, 3)


def _inside(camera: Camera, points: np.ndarray) -> bool:
    """Whether all points project inside the margins, in front of the camera."""
    x, y, z = np.moveaxis(camera.project(points), -1, 0)
    fits = (np.abs(x / camera.width - 0.5) < 0.5 - MARGIN) & (np.abs(y / camera.height - 0.5) < 0.5 - MARGIN)
    return bool((fits & (z > 0.3)).all())


def _path(
    shot: Shot, targets: np.ndarray, times: np.ndarray, distance: float, size: tuple[int, int]
) -> list[Camera]:
    """The move at a given distance; times count from the middle of the clip, so that the wish holds there."""
    move, t = shot.move, times - times.mean()
    still = (targets.min(0) + targets.max(0)) / 2
    smooth = _smooth(targets)
    anchor = still + move.follow * (smooth - still)
    aim = still + move.aim * (smooth - still)
    azimuth, radius = np.radians(shot.azimuth + move.orbit * t), distance + move.dolly * t
    flat = radius * np.cos(np.radians(shot.elevation))
    rise = radius * np.sin(np.radians(shot.elevation)) + move.crane * t
    position = anchor + np.stack([flat * np.sin(azimuth), -flat * np.cos(azimuth), rise], axis=1)
    position[:, 2] = np.maximum(position[:, 2], _LOWEST)
    shake = move.shake * np.sin(np.outer(times, (2.3, 3.1, 4.0)) + shot.phases)
    return [look(p + s, a + 0.6 * s[::-1], shot.fov, size) for p, a, s in zip(position, aim, shake, strict=True)]


def _smooth(path: np.ndarray) -> np.ndarray:
    """An operator's calm hand: the parabola nearest to the path."""
    t = np.linspace(-1, 1, len(path))
    basis = np.stack([np.ones_like(t), t, t * t], axis=1)
    return basis @ np.linalg.lstsq(basis, path, rcond=None)[0]


def sun(scene: Scene) -> Float[np.ndarray, " 3"]:
    """Unit vector towards the sun; azimuth 0 shines from the camera's side."""
    azimuth, height = np.radians(scene.sun_azimuth), np.radians(scene.sky.height)
    return np.array((np.sin(azimuth) * np.cos(height), -np.cos(azimuth) * np.cos(height), np.sin(height)))


def shadow_camera(
    target: np.ndarray, points: np.ndarray, direction: np.ndarray, distance: float, size: int
) -> Camera:
    """A square camera at the sun, `distance` metres from `target`, that just holds all points."""
    camera = look(target + distance * direction, target, 40.0, (size, size))
    x, y, _ = np.moveaxis(camera.project(points), -1, 0)
    half = max(np.abs(x - size / 2).max(), np.abs(y - size / 2).max())
    return replace(camera, focal=camera.focal * 0.48 * size / half)
