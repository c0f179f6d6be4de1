"""First hits of a camera's rays: primitives are met in the rectangles they cover, people are a z-buffered mesh.

Everything is float64 and exact at sample centres, so that depth, flow and masks are truth, not a rendering of it.
"""

from typing import NamedTuple

import numpy as np

from unity.data.simulate.body import FACES
from unity.data.simulate.camera import Camera
from unity.data.simulate.jit import kernel
from unity.data.simulate.physics import World
from unity.data.simulate.primitives import half_extents, meet

_NEAR = 0.05


class View(NamedTuple):
    """A camera at sample resolution, as kernels take it; fields as in camera.Camera."""

    position: np.ndarray
    turn: np.ndarray
    focal: float
    height: int
    width: int


class Solids(NamedTuple):
    """Primitives at one frame: MuJoCo type, half sizes, bounding box, centre and axes (columns of `turn`)."""

    kind: np.ndarray
    size: np.ndarray
    extent: np.ndarray
    position: np.ndarray
    turn: np.ndarray


class Hits(NamedTuple):
    """First hits at samples [h, w]: depth along the optical axis (inf: sky), and primitive or triangle (else -1).

    `triangle` is person * len(FACES) + face.
    """

    depth: np.ndarray
    geom: np.ndarray
    triangle: np.ndarray


def view_of(camera: Camera, samples: int = 1) -> View:
    """The camera with samples x samples rays a pixel."""
    size = camera.height * samples, camera.width * samples
    return View(camera.position, np.ascontiguousarray(camera.turn), camera.focal * samples, *size)


def solids(world: World, frame: int) -> Solids:
    """All primitives that are seen; people's capsules come last and are left out."""
    seen = world.model.geom_group != 3
    kind, size = world.model.geom_type[seen].astype(np.int64), world.model.geom_size[seen]
    extent = np.array([half_extents(*row) for row in zip(kind.tolist(), size, strict=True)])
    return Solids(kind, size, extent, world.geom_position[frame][seen], world.geom_turn[frame][seen])


def first_hits(view: View, scenery: Solids, people: np.ndarray) -> Hits:
    """What each sample sees of primitives and of people's vertices [p, v, 3]."""
    shape = (view.height, view.width)
    hits = Hits(np.full(shape, np.inf), np.full(shape, -1, np.int32), np.full(shape, -1, np.int32))
    _meet_all(view, scenery, hits)
    draw_people(view, people, hits)
    return hits


def draw_people(view: View, people: np.ndarray, hits: Hits) -> None:
    """Put people's triangles into `hits` where they are nearer."""
    for person, vertices in enumerate(people):
        points = (vertices - view.position) @ view.turn.T
        _draw(points, FACES, view.focal, hits, person * len(FACES))


@kernel
def ray_of(view: View, i, j):
    """World direction of unit depth through the centre of sample (i, j)."""
    x = (j + 0.5 - 0.5 * view.width) / view.focal
    y = (i + 0.5 - 0.5 * view.height) / view.focal
    turn = view.turn
    return (
        turn[0, 0] * x + turn[1, 0] * y + turn[2, 0],
        turn[0, 1] * x + turn[1, 1] * y + turn[2, 1],
        turn[0, 2] * x + turn[1, 2] * y + turn[2, 2],
    )


@kernel
def into(turn, x, y, z):
    """A world vector in the axes that are the columns of `turn`."""
    return (
        turn[0, 0] * x + turn[1, 0] * y + turn[2, 0] * z,
        turn[0, 1] * x + turn[1, 1] * y + turn[2, 1] * z,
        turn[0, 2] * x + turn[1, 2] * y + turn[2, 2] * z,
    )


@kernel
def _meet_all(view: View, scenery: Solids, hits: Hits):
    """Meet every primitive with the rays through the rectangle of samples it can cover."""
    for geom in range(len(scenery.kind)):
        turn, centre, size = scenery.turn[geom], scenery.position[geom], scenery.size[geom]
        kind, a, b, c = scenery.kind[geom], size[0], size[1], size[2]
        x, y, z = into(
            turn, view.position[0] - centre[0], view.position[1] - centre[1], view.position[2] - centre[2]
        )
        left, right, top, bottom = _rectangle(view, turn, centre, scenery.extent[geom])
        for i in range(top, bottom + 1):
            for j in range(left, right + 1):
                p, q, r = ray_of(view, i, j)
                u, v, w = into(turn, p, q, r)
                depth = meet(kind, a, b, c, x, y, z, u, v, w)
                if depth < hits.depth[i, j]:
                    hits.depth[i, j] = depth
                    hits.geom[i, j] = geom


@kernel
def _rectangle(view: View, turn, centre, extent):
    """Samples (left, right, top, bottom) that a box can cover; all of them if it reaches behind the camera."""
    low_x = low_y = np.inf
    high_x = high_y = -np.inf
    for corner in range(8):
        a = extent[0] if corner & 1 else -extent[0]
        b = extent[1] if corner & 2 else -extent[1]
        c = extent[2] if corner & 4 else -extent[2]
        p = centre[0] + turn[0, 0] * a + turn[0, 1] * b + turn[0, 2] * c - view.position[0]
        q = centre[1] + turn[1, 0] * a + turn[1, 1] * b + turn[1, 2] * c - view.position[1]
        r = centre[2] + turn[2, 0] * a + turn[2, 1] * b + turn[2, 2] * c - view.position[2]
        depth = view.turn[2, 0] * p + view.turn[2, 1] * q + view.turn[2, 2] * r
        if not depth > _NEAR:
            return 0, view.width - 1, 0, view.height - 1
        x = (view.turn[0, 0] * p + view.turn[0, 1] * q + view.turn[0, 2] * r) / depth
        y = (view.turn[1, 0] * p + view.turn[1, 1] * q + view.turn[1, 2] * r) / depth
        low_x, high_x, low_y, high_y = min(low_x, x), max(high_x, x), min(low_y, y), max(high_y, y)
    return _samples(low_x, high_x, low_y, high_y, view.focal, view.width, view.height)


@kernel
def _samples(low_x, high_x, low_y, high_y, focal, width, height):
    """Samples whose centres lie between image bounds at unit depth."""
    left = max(0.0, np.floor(focal * low_x + 0.5 * width - 0.5))
    right = min(width - 1.0, np.ceil(focal * high_x + 0.5 * width - 0.5))
    top = max(0.0, np.floor(focal * low_y + 0.5 * height - 0.5))
    bottom = min(height - 1.0, np.ceil(focal * high_y + 0.5 * height - 0.5))
    return int(left), int(right), int(top), int(bottom)


@kernel
def _draw(points, faces, focal, hits: Hits, base):
    """Nearest triangle at sample centres; points in camera axes.

    With corners a, b, c and ray d = (x, y, 1), the signed volumes d.(b x c), d.(c x a), d.(a x b) have one sign
    inside; they are the barycentric weights, and a.(b x c) over their sum is the depth. Neighbours share edge
    volumes to the last bit, so there are no cracks.
    """
    height, width = hits.depth.shape
    for face in range(len(faces)):
        a, b, c = points[faces[face, 0]], points[faces[face, 1]], points[faces[face, 2]]
        if min(a[2], b[2], c[2]) < _NEAR:
            continue
        xa, xb, xc, ya, yb, yc = a[0] / a[2], b[0] / b[2], c[0] / c[2], a[1] / a[2], b[1] / b[2], c[1] / c[2]
        left, right, top, bottom = _samples(
            min(xa, xb, xc), max(xa, xb, xc), min(ya, yb, yc), max(ya, yb, yc), focal, width, height
        )
        p0, p1, p2 = b[1] * c[2] - b[2] * c[1], b[2] * c[0] - b[0] * c[2], b[0] * c[1] - b[1] * c[0]
        q0, q1, q2 = c[1] * a[2] - c[2] * a[1], c[2] * a[0] - c[0] * a[2], c[0] * a[1] - c[1] * a[0]
        r0, r1, r2 = a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]
        volume = a[0] * p0 + a[1] * p1 + a[2] * p2
        for i in range(top, bottom + 1):
            y = (i + 0.5 - 0.5 * height) / focal
            for j in range(left, right + 1):
                x = (j + 0.5 - 0.5 * width) / focal
                u, v, w = x * p0 + y * p1 + p2, x * q0 + y * q1 + q2, x * r0 + y * r1 + r2
                if (u >= 0 and v >= 0 and w >= 0) or (u <= 0 and v <= 0 and w <= 0):
                    depth = volume / (u + v + w)
                    if 0 < depth < hits.depth[i, j]:
                        hits.depth[i, j] = depth
                        hits.geom[i, j] = -1
                        hits.triangle[i, j] = base + face


@kernel
def weights(vertices, corners, origin, u, v, w):
    """Barycentric weights of where the ray origin + t (u, v, w) meets a triangle's plane, all in world axes."""
    a, b, c = vertices[corners[0]], vertices[corners[1]], vertices[corners[2]]
    ax, ay, az = a[0] - origin[0], a[1] - origin[1], a[2] - origin[2]
    bx, by, bz = b[0] - origin[0], b[1] - origin[1], b[2] - origin[2]
    cx, cy, cz = c[0] - origin[0], c[1] - origin[1], c[2] - origin[2]
    p = u * (by * cz - bz * cy) + v * (bz * cx - bx * cz) + w * (bx * cy - by * cx)
    q = u * (cy * az - cz * ay) + v * (cz * ax - cx * az) + w * (cx * ay - cy * ax)
    r = u * (ay * bz - az * by) + v * (az * bx - ax * bz) + w * (ax * by - ay * bx)
    total = p + q + r
    return p / total, q / total, r / total


@kernel
def blend(rows, corners, p, q, r):
    """The weighted mean of three rows of [v, 3]."""
    a, b, c = rows[corners[0]], rows[corners[1]], rows[corners[2]]
    return p * a[0] + q * b[0] + r * c[0], p * a[1] + q * b[1] + r * c[1], p * a[2] + q * b[2] + r * c[2]


@kernel
def vertex_normals(vertices, faces):
    """Area-weighted unit normals of a mesh [v, 3]."""
    normals = np.zeros_like(vertices)
    for face in range(len(faces)):
        a, b, c = vertices[faces[face, 0]], vertices[faces[face, 1]], vertices[faces[face, 2]]
        e, f, g = b[0] - a[0], b[1] - a[1], b[2] - a[2]
        k, m, n = c[0] - a[0], c[1] - a[1], c[2] - a[2]
        x, y, z = f * n - g * m, g * k - e * n, e * m - f * k
        for corner in range(3):
            row = normals[faces[face, corner]]
            row[0] += x
            row[1] += y
            row[2] += z
    for row in normals:
        row /= np.sqrt(row[0] ** 2 + row[1] ** 2 + row[2] ** 2) + 1e-12
    return normals
