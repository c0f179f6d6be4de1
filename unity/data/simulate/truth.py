"""Exact modality values of a world at pixel centres: depth, flow, segmentation, DensePose, keypoints.

A pixel's surface point is known in its own frame (a geom's axes, a triangle's weights), so its place in the next
frame, and with it the flow, is exact, occluded or not. Sky moves as infinitely far points do.
"""

from typing import NamedTuple

import numpy as np

from unity.data.simulate.body import BONE, FACES, MESH, Body
from unity.data.simulate.camera import Camera
from unity.data.simulate.jit import kernel
from unity.data.simulate.physics import World
from unity.data.simulate.raster import (
    Hits,
    Solids,
    View,
    blend,
    first_hits,
    into,
    ray_of,
    solids,
    view_of,
    weights,
)

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

    scenery: Solids
    vertices: np.ndarray
    eye: View


class Labels(NamedTuple):
    """What belongs to surfaces for good: instance of each geom, people's rest vertices, face parts and charts."""

    instance: np.ndarray
    rest: np.ndarray
    parts: np.ndarray
    charts: Charts


class Truth:
    """Measures the frames of one world through its cameras."""

    def __init__(self, world: World, cameras: list[Camera]):
        self.world, self.cameras, self.labels = world, cameras, _labels(world)

    def measure(self, frame: int) -> dict[str, np.ndarray]:
        """float64 values of one frame: depth [h, w], flow to the next frame [h, w, 2] (to itself at the last),
        segmentation uint8 [h, w], densepose [h, w, 3], skeleton [p, 18, 3]."""
        now, then = self._moment(frame), self._moment(min(frame + 1, self.world.frames - 1))
        hits = first_hits(now.eye, now.scenery, now.vertices)
        shape = hits.depth.shape
        flow, segmentation, densepose = np.empty((*shape, 2)), np.empty(shape, np.uint8), np.zeros((*shape, 3))
        _measure(hits, FACES, self.labels, now, then, flow, segmentation, densepose)
        return dict(
            depth=hits.depth,
            flow=flow,
            segmentation=segmentation,
            densepose=densepose,
            skeleton=_skeleton(self.world.keypoints[frame], self.cameras[frame], hits.depth),
        )

    def _moment(self, frame: int) -> Moment:
        vertices = np.ascontiguousarray(self.world.vertices[:, frame])
        return Moment(solids(self.world, frame), vertices, view_of(self.cameras[frame]))


def _labels(world: World) -> Labels:
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
    origin, axis, front, side = (np.ascontiguousarray(rows[..., 3 * k : 3 * k + 3]) for k in range(4))
    return Charts(origin, axis, front, side, rows[..., 12].copy(), rows[..., 13] > 0)


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


@kernel
def _measure(hits: Hits, faces, labels: Labels, now: Moment, then: Moment, flow, segmentation, densepose):
    height, width = segmentation.shape
    for i in range(height):
        for j in range(width):
            u, v, w = ray_of(now.eye, i, j)
            geom, triangle = hits.geom[i, j], hits.triangle[i, j]
            if geom >= 0:
                segmentation[i, j] = labels.instance[geom]
                x, y, z = _carry(geom, hits.depth[i, j], u, v, w, now, then)
            elif triangle >= 0:
                person, face = divmod(triangle, len(faces))
                segmentation[i, j] = 1 + person
                p, q, r = weights(now.vertices[person], faces[face], now.eye.position, u, v, w)
                a, b, c = blend(labels.rest[person], faces[face], p, q, r)
                _unwrap(labels.charts, person, labels.parts[person, face], a, b, c, densepose[i, j])
                x, y, z = blend(then.vertices[person], faces[face], p, q, r)
                x, y, z = _from(then.eye.position, x, y, z)
            else:
                segmentation[i, j] = 0
                x, y, z = u, v, w
            p, q = _project(then.eye, x, y, z)
            flow[i, j, 0], flow[i, j, 1] = p - (j + 0.5), q - (i + 0.5)


@kernel
def _from(position, x, y, z):
    return x - position[0], y - position[1], z - position[2]


@kernel
def _carry(geom, depth, u, v, w, now: Moment, then: Moment):
    """Where a primitive's surface point is in the next frame, seen from the next camera's place."""
    origin, centre = now.eye.position, now.scenery.position[geom]
    x, y, z = _from(centre, origin[0] + depth * u, origin[1] + depth * v, origin[2] + depth * w)
    a, b, c = into(now.scenery.turn[geom], x, y, z)
    turn, centre = then.scenery.turn[geom], then.scenery.position[geom]
    x = centre[0] + turn[0, 0] * a + turn[0, 1] * b + turn[0, 2] * c
    y = centre[1] + turn[1, 0] * a + turn[1, 1] * b + turn[1, 2] * c
    z = centre[2] + turn[2, 0] * a + turn[2, 1] * b + turn[2, 2] * c
    return _from(then.eye.position, x, y, z)


@kernel
def _project(view: View, x, y, z):
    """Image point of a world vector from the camera's place."""
    turn = view.turn
    depth = turn[2, 0] * x + turn[2, 1] * y + turn[2, 2] * z
    across = turn[0, 0] * x + turn[0, 1] * y + turn[0, 2] * z
    down = turn[1, 0] * x + turn[1, 1] * y + turn[1, 2] * z
    return view.focal * across / depth + 0.5 * view.width, view.focal * down / depth + 0.5 * view.height


@kernel
def _unwrap(charts: Charts, person, part, x, y, z, out):
    """Part, U (angle about the part's axis) and V (along it) of a point of the rest pose."""
    x, y, z = _from(charts.origin[person, part], x, y, z)
    along = _dot(charts.axis[person, part], x, y, z)
    front, side = _dot(charts.front[person, part], x, y, z), _dot(charts.side[person, part], x, y, z)
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


@kernel
def _dot(row, x, y, z):
    return row[0] * x + row[1] * y + row[2] * z
