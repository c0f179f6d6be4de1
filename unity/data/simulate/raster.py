"""First hits of a camera's rays: MuJoCo casts the primitives, a z-buffer of exact ray-triangle hits adds people.

Everything is float64 and exact at sample centres, so that depth, flow and masks are truth, not a rendering of it.
"""

from typing import NamedTuple

import mujoco
import numpy as np
from numba import njit

from unity.data.simulate.body import FACES
from unity.data.simulate.camera import Camera
from unity.data.simulate.physics import World

# Geoms of MuJoCo group 3, people's capsules, are never seen.
_SEEN = np.array([1, 1, 1, 0, 0, 0], np.uint8)
_NEAR = 0.05
_FAR = 1e9


class Hits(NamedTuple):
    """First hits, one row a ray: depth along the optical axis (inf: sky), primitive or -1, normal of a primitive.

    `triangle` is person * len(FACES) + face, or -1; a ray hits a primitive, a triangle or nothing.
    """

    rays: np.ndarray
    depth: np.ndarray
    geom: np.ndarray
    triangle: np.ndarray
    normal: np.ndarray


class Caster:
    """Casts rays into one world, reusing MuJoCo's state."""

    def __init__(self, world: World):
        self.world = world
        self.data = mujoco.MjData(world.model)

    def pose(self, frame: int) -> None:
        """Put all primitives where they are at a frame."""
        self.data.qpos[:] = self.world.qpos[frame]
        mujoco.mj_kinematics(self.world.model, self.data)

    def first(self, origin: np.ndarray, directions: np.ndarray, normals: bool = True) -> tuple[np.ndarray, ...]:
        """Primitive (or -1), distance in metres and normal along unit directions [n, 3] from one point."""
        count = len(directions)
        geom, distance = np.empty(count, np.int32), np.empty(count)
        normal = np.zeros((count, 3)) if normals else None
        flat = None if normal is None else normal.reshape(-1)
        rays = directions.reshape(-1)
        mujoco.mj_multiRay(
            self.world.model, self.data, origin, rays, _SEEN, 1, -1, geom, distance, flat, count, _FAR
        )
        return geom, distance, normal

    def hits(self, camera: Camera, frame: int, samples: int = 1) -> Hits:
        """First hits of samples x samples rays a pixel at the frame that `pose` set."""
        rays = camera.rays(samples)
        length = np.linalg.norm(rays, axis=1)
        geom, distance, normal = self.first(camera.position, rays / length[:, None])
        inverse, triangle = self.people(camera, frame, samples)
        depth = np.empty(len(rays))
        _merge(length, distance, inverse.reshape(-1), triangle.reshape(-1), geom, depth)
        return Hits(rays, depth, geom, triangle.reshape(-1), normal)

    def people(self, camera: Camera, frame: int, samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Inverse depth (0: none) and triangle (-1: none) of the nearest person at each sample, [h, w]."""
        shape = (camera.height * samples, camera.width * samples)
        inverse, triangle = np.zeros(shape), np.full(shape, -1, np.int32)
        for person, vertices in enumerate(self.world.vertices[:, frame]):
            points = camera.to_camera(vertices)
            _raster(points, FACES, camera.focal * samples, inverse, triangle, person * len(FACES))
        return inverse, triangle


@njit(cache=True, error_model="numpy")
def _merge(length, distance, inverse, triangle, geom, depth):
    """Keep the nearer of primitive and person at each sample."""
    for n in range(len(depth)):
        depth[n] = distance[n] / length[n] if geom[n] >= 0 else np.inf
        if triangle[n] >= 0:
            if 1.0 / inverse[n] < depth[n]:
                depth[n] = 1.0 / inverse[n]
                geom[n] = -1
            else:
                triangle[n] = -1


@njit(cache=True, error_model="numpy")
def _raster(points, faces, focal, inverse, triangle, base):
    """Nearest triangle at sample centres; points in camera axes.

    With corners a, b, c and ray d = (x, y, 1), the signed volumes d.(b x c), d.(c x a), d.(a x b) have one sign
    inside; they are the barycentric weights, and their sum over a.(b x c) is the inverse depth. Neighbours share
    edge volumes to the last bit, so there are no cracks.
    """
    height, width = inverse.shape
    for face in range(len(faces)):
        a, b, c = points[faces[face, 0]], points[faces[face, 1]], points[faces[face, 2]]
        if min(a[2], b[2], c[2]) < _NEAR:
            continue
        left, right, top, bottom = _bounds(a, b, c, focal, width, height)
        if left > right or top > bottom:
            continue
        p0, p1, p2 = b[1] * c[2] - b[2] * c[1], b[2] * c[0] - b[0] * c[2], b[0] * c[1] - b[1] * c[0]
        q0, q1, q2 = c[1] * a[2] - c[2] * a[1], c[2] * a[0] - c[0] * a[2], c[0] * a[1] - c[1] * a[0]
        r0, r1, r2 = a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]
        volume = a[0] * p0 + a[1] * p1 + a[2] * p2
        if volume == 0.0:
            continue
        for i in range(top, bottom + 1):
            y = (i + 0.5 - 0.5 * height) / focal
            for j in range(left, right + 1):
                x = (j + 0.5 - 0.5 * width) / focal
                u, v, w = x * p0 + y * p1 + p2, x * q0 + y * q1 + q2, x * r0 + y * r1 + r2
                if (u >= 0 and v >= 0 and w >= 0) or (u <= 0 and v <= 0 and w <= 0):
                    near = (u + v + w) / volume
                    if near > inverse[i, j]:
                        inverse[i, j] = near
                        triangle[i, j] = base + face


@njit(cache=True, error_model="numpy")
def _bounds(a, b, c, focal, width, height):
    """Samples (left, right, top, bottom) whose centres a triangle can cover."""
    xa, xb, xc = a[0] / a[2], b[0] / b[2], c[0] / c[2]
    ya, yb, yc = a[1] / a[2], b[1] / b[2], c[1] / c[2]
    left = int(np.floor(focal * min(xa, xb, xc) + 0.5 * width - 0.5))
    right = int(np.ceil(focal * max(xa, xb, xc) + 0.5 * width - 0.5))
    top = int(np.floor(focal * min(ya, yb, yc) + 0.5 * height - 0.5))
    bottom = int(np.ceil(focal * max(ya, yb, yc) + 0.5 * height - 0.5))
    return max(0, left), min(width - 1, right), max(0, top), min(height - 1, bottom)


@njit(cache=True, error_model="numpy")
def weights(vertices, corners, origin, ray):
    """Barycentric weights of the point where a ray meets the plane of a triangle, all in world axes."""
    a = vertices[corners[0]] - origin
    b = vertices[corners[1]] - origin
    c = vertices[corners[2]] - origin
    u = _triple(ray, b, c)
    v = _triple(ray, c, a)
    w = _triple(ray, a, b)
    total = u + v + w
    return u / total, v / total, w / total


@njit(cache=True, error_model="numpy")
def _triple(d, b, c):
    return (
        d[0] * (b[1] * c[2] - b[2] * c[1])
        + d[1] * (b[2] * c[0] - b[0] * c[2])
        + d[2] * (b[0] * c[1] - b[1] * c[0])
    )


@njit(cache=True, error_model="numpy")
def vertex_normals(vertices, faces):
    """Area-weighted unit normals of a mesh [v, 3]."""
    normals = np.zeros_like(vertices)
    for face in range(len(faces)):
        a, b, c = vertices[faces[face, 0]], vertices[faces[face, 1]], vertices[faces[face, 2]]
        e, f = b - a, c - a
        x, y, z = e[1] * f[2] - e[2] * f[1], e[2] * f[0] - e[0] * f[2], e[0] * f[1] - e[1] * f[0]
        for corner in range(3):
            row = normals[faces[face, corner]]
            row[0] += x
            row[1] += y
            row[2] += z
    for row in normals:
        length = np.sqrt(row[0] ** 2 + row[1] ** 2 + row[2] ** 2) + 1e-12
        row /= length
    return normals
