"""Exact modality values of a world at pixel centres: depth, flow, segmentation, DensePose, keypoints.

A pixel's surface point is known in its own frame (a geom's axes, a triangle's weights), so its place in the next
frame, and with it the flow, is exact, occluded or not. Sky moves as infinitely far points do.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from unity.data.simulate.body import BONE, FACES, MESH, Body
from unity.data.simulate.camera import Camera
from unity.data.simulate.physics import World
from unity.data.simulate.raster import Caster, Hits, weights

# DensePose charts: part numbers -> bone and where its axis ends (a bone, or a rule of _axis_end).
_CHARTS = {
    (1, 2): ("pelvis", "neck"), (3,): ("hand.R", "fingers"), (4,): ("hand.L", "fingers"), (5,): ("foot.L", "toes"),
    (6,): ("foot.R", "toes"), (7, 9): ("thigh.R", "shin.R"), (8, 10): ("thigh.L", "shin.L"),
    (11, 13): ("shin.R", "foot.R"), (12, 14): ("shin.L", "foot.L"), (15, 17): ("uarm.L", "farm.L"),
    (16, 18): ("uarm.R", "farm.R"), (19, 21): ("farm.L", "hand.L"), (20, 22): ("farm.R", "hand.R"),
    (23, 24): ("neck", "crown"),
}  # fmt: skip
# Parts whose chart goes all the way round; the others cover half a turn.
_ROUND = (3, 4, 5, 6, 23, 24)
# How deep below the skin each OpenPose keypoint lies at most, in metres, before it counts as hidden.
_DEPTHS = np.array(
    [0.06, 0.2, 0.18, 0.12, 0.1, 0.18, 0.12, 0.1, 0.25, 0.16, 0.13, 0.25, 0.16, 0.13, 0.06, 0.06, 0.06, 0.06]
)


class Charts(NamedTuple):
    """A DensePose chart per person and part of the rest pose: origin; unit axis, front, side; length; round?"""

    origin: np.ndarray
    axis: np.ndarray
    front: np.ndarray
    side: np.ndarray
    length: np.ndarray
    round: np.ndarray


class Moment(NamedTuple):
    """Poses of all surfaces and the camera at one frame."""

    geom_position: np.ndarray
    geom_turn: np.ndarray
    vertices: np.ndarray
    position: np.ndarray
    turn: np.ndarray


class Labels(NamedTuple):
    """What belongs to surfaces for good: instance of each geom, people's rest vertices, face parts and charts."""

    instance: np.ndarray
    rest: np.ndarray
    parts: np.ndarray
    charts: Charts


def measure(world: World, cameras: list[Camera], caster: Caster, frame: int) -> dict[str, np.ndarray]:
    """float64 truth of one frame, the caster posed at it: depth [h, w], flow to the next frame [h, w, 2],
    segmentation uint8 [h, w], densepose [h, w, 3], skeleton [p, 18, 3]. The last frame's flow is zero."""
    camera, after = cameras[frame], min(frame + 1, world.frames - 1)
    hits = caster.hits(camera, frame)
    shape = (camera.height, camera.width)
    depth = hits.depth.reshape(shape)
    flow, segmentation, densepose = np.empty((*shape, 2)), np.empty(shape, np.uint8), np.zeros((*shape, 3))
    now, then = _moment(world, cameras, frame), _moment(world, cameras, after)
    _measure(hits, FACES, labels(world), now, then, camera.focal, flow, segmentation, densepose)
    return dict(
        depth=depth,
        flow=flow,
        segmentation=segmentation,
        densepose=densepose,
        skeleton=_skeleton(world.keypoints[frame], camera, depth),
    )


def _moment(world: World, cameras: list[Camera], frame: int) -> Moment:
    vertices, camera = np.ascontiguousarray(world.vertices[:, frame]), cameras[frame]
    return Moment(world.geom_position[frame], world.geom_turn[frame], vertices, camera.position, camera.turn)


def labels(world: World) -> Labels:
    bodies = [person.body for person in world.scene.people]
    rest = np.array([body.vertices for body in bodies]).reshape(-1, *MESH)
    parts = np.array([body.parts for body in bodies], np.int64).reshape(-1, len(FACES))
    return Labels(world.instance, rest, parts, _charts(bodies))


def _charts(bodies: list[Body]) -> Charts:
    rows = np.zeros((len(bodies), 25, 14))
    for person, body in enumerate(bodies):
        for parts, (bone, end) in _CHARTS.items():
            for part in parts:
                rows[person, part] = _chart(body, bone, end, part in _ROUND)
    return Charts(
        *(np.ascontiguousarray(rows[..., 3 * k : 3 * k + 3]) for k in range(4)),
        rows[..., 12].copy(),
        rows[..., 13] > 0,
    )


def _chart(body: Body, bone: str, end: str, whole: bool) -> np.ndarray:
    origin = body.joints[BONE[bone]]
    axis = _axis_end(body, bone, end) - origin
    length = np.linalg.norm(axis)
    axis = axis / length
    # Angles count from the front (-y), or from above for axes that point there.
    front = next(f - axis * (f @ axis) for f in np.array(((0, -1.0, 0), (0, 0, 1.0))) if abs(f @ axis) < 0.98)
    front /= np.linalg.norm(front)
    return np.concatenate([origin, axis, front, np.cross(axis, front), [length, whole]])


def _axis_end(body: Body, bone: str, end: str) -> np.ndarray:
    start = body.joints[BONE[bone]]
    if end == "fingers":
        return start + 0.75 * (start - body.joints[BONE["farm" + bone[-2:]]])
    if end == "toes":
        return start + np.array((0.0, -0.22, -0.05))
    if end == "crown":
        return np.array((start[0], body.joints[BONE["head"], 1], body.height))
    return body.joints[BONE[end]]


def _skeleton(keypoints: np.ndarray, camera: Camera, depth: np.ndarray) -> np.ndarray:
    """x, y in pixels and visibility [p, 18, 3]: inside the picture, and nothing nearer than its own flesh."""
    rows = camera.project(keypoints)
    x, y, z = np.moveaxis(rows, -1, 0)
    inside = (x >= 0) & (x < camera.width) & (y >= 0) & (y < camera.height) & (z > 0)
    column = np.clip(np.floor(x), 0, camera.width - 1).astype(int)
    row = np.clip(np.floor(y), 0, camera.height - 1).astype(int)
    rows[..., 2] = inside & (depth[row, column] > z - _DEPTHS)
    return rows


@njit(cache=True, error_model="numpy")
def _measure(hits: Hits, faces, labels: Labels, now: Moment, then: Moment, focal, flow, segmentation, densepose):
    height, width = segmentation.shape
    point = np.empty(3)
    for i in range(height):
        for j in range(width):
            n = i * width + j
            ray, far = hits.rays[n], 1.0
            if hits.triangle[n] >= 0:
                person, face = divmod(hits.triangle[n], len(faces))
                share = weights(now.vertices[person], faces[face], now.position, ray)
                _blend(then.vertices[person], faces[face], share, point)
                segmentation[i, j] = 1 + person
                rest = np.empty(3)
                _blend(labels.rest[person], faces[face], share, rest)
                _unwrap(labels.charts, person, labels.parts[person, face], rest, densepose[i, j])
            elif hits.geom[n] >= 0:
                _carry(hits.geom[n], hits.depth[n], ray, now, then, point)
                segmentation[i, j] = labels.instance[hits.geom[n]]
            else:
                point[:] = ray
                far = 0.0
                segmentation[i, j] = 0
            _project(point, far, then, focal, flow[i, j])
            flow[i, j, 0] += 0.5 * width - (j + 0.5)
            flow[i, j, 1] += 0.5 * height - (i + 0.5)


@njit(cache=True, error_model="numpy")
def _blend(vertices, corners, share, point):
    for axis in range(3):
        point[axis] = (
            share[0] * vertices[corners[0], axis]
            + share[1] * vertices[corners[1], axis]
            + share[2] * vertices[corners[2], axis]
        )


@njit(cache=True, error_model="numpy")
def _carry(geom, depth, ray, now: Moment, then: Moment, point):
    """Where a geom's surface point is in the next frame."""
    local = np.empty(3)
    turn, centre = now.geom_turn[geom], now.geom_position[geom]
    for axis in range(3):
        local[axis] = 0.0
        for k in range(3):
            local[axis] += turn[k, axis] * (now.position[k] + depth * ray[k] - centre[k])
    turn, centre = then.geom_turn[geom], then.geom_position[geom]
    for axis in range(3):
        point[axis] = centre[axis] + turn[axis, 0] * local[0] + turn[axis, 1] * local[1] + turn[axis, 2] * local[2]


@njit(cache=True, error_model="numpy")
def _project(point, far, then: Moment, focal, out):
    """Image offset from the principal point; far 0 projects a direction, as of an infinitely far point."""
    x, y, z = (
        point[0] - far * then.position[0],
        point[1] - far * then.position[1],
        point[2] - far * then.position[2],
    )
    turn = then.turn
    depth = turn[2, 0] * x + turn[2, 1] * y + turn[2, 2] * z
    out[0] = focal * (turn[0, 0] * x + turn[0, 1] * y + turn[0, 2] * z) / depth
    out[1] = focal * (turn[1, 0] * x + turn[1, 1] * y + turn[1, 2] * z) / depth


@njit(cache=True, error_model="numpy")
def _unwrap(charts: Charts, person, part, rest, out):
    """Part, U (angle about the part's axis) and V (along it) of a point of the rest pose."""
    along = front = side = 0.0
    for axis in range(3):
        offset = rest[axis] - charts.origin[person, part, axis]
        along += offset * charts.axis[person, part, axis]
        front += offset * charts.front[person, part, axis]
        side += offset * charts.side[person, part, axis]
    length = charts.length[person, part]
    angle = np.arctan2(side, front)
    if charts.round[person, part]:
        turn = angle % (2 * np.pi) / (2 * np.pi)
    elif abs(angle) > 0.5 * np.pi:
        turn = (angle - 0.5 * np.pi) % (2 * np.pi) / np.pi
    else:
        turn = (angle + 0.5 * np.pi) / np.pi
    out[0] = part
    out[1] = min(1.0, max(0.0, turn))
    out[2] = min(1.0, max(0.0, (along + 0.08 * length) / (1.16 * length)))
