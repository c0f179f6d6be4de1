"""MuJoCo's primitives met by rays: exact intersections and normals in a primitive's own axes, in float64.

Scalars in, scalars out, so that everything inlines into the loops over pixels. `a, b, c` are a primitive's half
sizes as MuJoCo gives them: radius, half length, or half sides.
"""

import mujoco
import numpy as np

from unity.data.simulate.jit import kernel

PLANE, SPHERE, CAPSULE, ELLIPSOID, CYLINDER, BOX = (
    int(getattr(mujoco.mjtGeom, f"mjGEOM_{name}"))
    for name in ("PLANE", "SPHERE", "CAPSULE", "ELLIPSOID", "CYLINDER", "BOX")
)


@kernel
def meet(kind, a, b, c, x, y, z, u, v, w):
    """The least t > 0 at which the ray (x, y, z) + t (u, v, w) meets the primitive; inf if it misses."""
    if kind == PLANE:
        return -z / w if z * w < 0 else np.inf
    if kind == SPHERE:
        return _quadric(u * u + v * v + w * w, x * u + y * v + z * w, x * x + y * y + z * z - a * a)
    if kind == ELLIPSOID:
        x, y, z, u, v, w = x / a, y / b, z / c, u / a, v / b, w / c
        return _quadric(u * u + v * v + w * w, x * u + y * v + z * w, x * x + y * y + z * z - 1.0)
    if kind == BOX:
        return _box(a, b, c, x, y, z, u, v, w)
    side = _quadric(u * u + v * v, x * u + y * v, x * x + y * y - a * a)
    if side < np.inf and abs(z + side * w) > b:
        side = np.inf
    if kind == CYLINDER:
        return min(side, _cap(a, b, x, y, z, u, v, w))
    square = u * u + v * v + w * w
    for end in (-b, b):
        near = _quadric(square, x * u + y * v + (z - end) * w, x * x + y * y + (z - end) ** 2 - a * a)
        if near < side and (z + near * w) * end >= end * end:
            side = near
    return side


@kernel
def _quadric(square, half, rest):
    """Least positive root of square t^2 + 2 half t + rest, or inf."""
    inside = half * half - square * rest
    if inside < 0 or square == 0:
        return np.inf
    root = np.sqrt(inside)
    # The form without cancellation for each root.
    if half < 0:
        near, far = rest / (root - half), (root - half) / square
    else:
        near, far = -(half + root) / square, -rest / (half + root)
    return near if near > 0 else far if far > 0 else np.inf


@kernel
def _box(a, b, c, x, y, z, u, v, w):
    near, far = -np.inf, np.inf
    for half, start, step in ((a, x, u), (b, y, v), (c, z, w)):
        if step == 0:
            if abs(start) > half:
                return np.inf
            continue
        one, two = (-half - start) / step, (half - start) / step
        near, far = max(near, min(one, two)), min(far, max(one, two))
    if near > far or far <= 0:
        return np.inf
    return near if near > 0 else far


@kernel
def _cap(a, b, x, y, z, u, v, w):
    """Where a ray enters a cylinder through its flat ends."""
    if w == 0:
        return np.inf
    first = np.inf
    for end in (-b, b):
        t = (end - z) / w
        if 0 < t < first and (x + t * u) ** 2 + (y + t * v) ** 2 <= a * a:
            first = t
    return first


@kernel
def outward(kind, a, b, c, x, y, z):
    """Unit normal of the primitive at a point of its surface."""
    if kind == ELLIPSOID:
        x, y, z = x / (a * a), y / (b * b), z / (c * c)
    elif kind == CAPSULE:
        z = z - min(b, max(-b, z))
    elif kind == CYLINDER:
        if abs(z) - b > np.sqrt(x * x + y * y) - a:
            x, y = 0.0, 0.0
        else:
            z = 0.0
    elif kind == BOX:
        p, q, r = abs(x) - a, abs(y) - b, abs(z) - c
        x, y, z = x * (p >= q and p >= r), y * (q > p and q >= r), z * (r > p and r > q)
    elif kind == PLANE:
        return 0.0, 0.0, 1.0
    length = np.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length


def half_extents(kind: int, size: np.ndarray) -> np.ndarray:
    """Half sides of the box, in the primitive's axes, that holds it; inf for the plane."""
    radius, half = size[0], size[1]
    rows = {
        PLANE: (np.inf, np.inf, 0.0),
        SPHERE: (radius, radius, radius),
        CAPSULE: (radius, radius, radius + half),
        CYLINDER: (radius, radius, half),
    }
    return np.array(rows.get(kind, size), dtype=np.float64)
