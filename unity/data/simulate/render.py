"""The RGB stream: shadowed, textured, 2 x 2 supersampled pictures of a world."""

from typing import NamedTuple

import numpy as np
from numba import njit

from unity.data.simulate.body import FACES, MESH, WEAR
from unity.data.simulate.camera import Camera, shadow_camera, sun
from unity.data.simulate.physics import World
from unity.data.simulate.raster import Caster, Hits, vertex_normals, weights
from unity.data.simulate.tables import TEXTURES, Material
from unity.data.simulate.texture import MEANS, clouds, pattern

SAMPLES = 2
_SUN_DISTANCE = 30.0
_SHADOW_MAP = 512
_FOG = 0.012
_GAMMA = 1 / 1.6
_WEARS = len(WEAR)


class Light(NamedTuple):
    """Rows of `colors`: sun, zenith, horizon; `sun` points to the light."""

    sun: np.ndarray
    colors: np.ndarray
    ambient: float
    clouds: float


class Surfaces(NamedTuple):
    """One frame's things to shade: MuJoCo's geom poses, people's vertices (world, normal, rest) and materials.

    A material row: two colours, texture, cells a metre, shine; primitives come first, then people's WEAR.
    """

    geom_position: np.ndarray
    geom_turn: np.ndarray
    vertices: np.ndarray
    normals: np.ndarray
    rest: np.ndarray
    wear: np.ndarray
    materials: np.ndarray


class Renderer:
    """Renders the frames of one world."""

    def __init__(self, world: World, caster: Caster):
        self.world, self.caster = world, caster
        sky = world.scene.sky
        colors = np.array((sky.sun, sky.zenith, sky.horizon))
        self.light = Light(sun(world.scene), colors, sky.ambient, sky.clouds)
        self.materials = _materials(world)
        people = world.scene.people
        self.rest = np.array([person.body.vertices for person in people]).reshape(-1, *MESH)
        self.wear = np.array([person.body.wear for person in people], np.int64).reshape(-1, len(FACES))

    def picture(self, camera: Camera, frame: int) -> np.ndarray:
        """RGB uint8 [h, w, 3] at the frame that the caster is posed at."""
        hits = self.caster.hits(camera, frame, SAMPLES)
        surfaces = self._surfaces(frame)
        points, facing = _points(hits, camera.position, FACES, surfaces, self.light.sun)
        lit = self._lit(points, facing, frame)
        picture = np.empty((camera.height, camera.width, 3), np.uint8)
        contact = self._contacts(frame)
        footprint = 1.0 / (camera.focal * SAMPLES)
        _shade(
            hits, camera.position, FACES, surfaces, self.light, points, lit, contact, footprint, SAMPLES, picture
        )
        return picture

    def _surfaces(self, frame: int) -> Surfaces:
        world = self.world
        vertices = np.ascontiguousarray(world.vertices[:, frame])
        normals = np.array([vertex_normals(mesh, FACES) for mesh in vertices]).reshape(vertices.shape)
        pose = world.geom_position[frame], world.geom_turn[frame]
        return Surfaces(*pose, vertices, normals, self.rest, self.wear, self.materials)

    def _lit(self, points: np.ndarray, facing: np.ndarray, frame: int) -> np.ndarray:
        """How much sun reaches each point, [n] in [0, 1]; only those facing it are asked."""
        centre = np.array((0.0, 0.0, 0.8))
        lamp = centre + _SUN_DISTANCE * self.light.sun
        lit = np.zeros(len(points))
        asked = np.flatnonzero(facing)
        way = points[asked] - lamp
        length = np.linalg.norm(way, axis=1)
        _, distance, _ = self.caster.first(lamp, way / length[:, None], normals=False)
        lit[asked] = (distance < 0) | (distance > length * (1 - 1e-4))
        if self.world.scene.people:
            cloud = self.world.vertices[:, frame].reshape(-1, 3)
            camera = shadow_camera(cloud.mean(0), cloud, self.light.sun, _SUN_DISTANCE, _SHADOW_MAP)
            inverse, _ = self.caster.people(camera, frame)
            _dim(points, asked, camera.position, camera.turn, camera.focal, inverse, lit)
        return lit

    def _contacts(self, frame: int) -> np.ndarray:
        """Soft dark discs on the ground under things and feet: rows x, y, radius, strength."""
        world = self.world
        rows = [
            (x, y, 1.1 * thing.radius, 0.5 * np.exp(-max(0.0, z - thing.radius) / 0.25))
            for (x, y, z), thing in zip(world.thing_position[frame], world.scene.things, strict=True)
        ]
        for person in world.keypoints[frame]:
            rows += [(x, y, 0.2, 0.45 * np.exp(-max(0.0, z - 0.1) / 0.12)) for x, y, z in person[[10, 13]]]
        return np.array(rows, dtype=np.float64).reshape(-1, 4)


def _materials(world: World) -> np.ndarray:
    scene = world.scene
    rows = [scene.ground, *(fixture.material for fixture in scene.fixtures)]
    rows += [thing.materials[part.color] for thing in scene.things for part in thing.parts]
    rows += [scene.ground] * (world.model.ngeom - len(rows))
    rows += [material for person in scene.people for material in person.materials]
    return np.array([_row(material) for material in rows])


def _row(material: Material) -> tuple[float, ...]:
    texture = float(TEXTURES.index(material.texture))
    return (*material.color, *material.second, texture, material.scale, material.shine)


@njit(cache=True, error_model="numpy")
def _points(hits: Hits, origin, faces, surfaces: Surfaces, sun):
    """Hit points a millimetre off their surface [n, 3], whether they face the sun; fills in people's normals."""
    points = np.zeros_like(hits.rays)
    facing = np.zeros(len(points), np.bool_)
    for n in range(len(points)):
        if hits.geom[n] < 0 and hits.triangle[n] < 0:
            continue
        ray, normal = hits.rays[n], hits.normal[n]
        if hits.triangle[n] >= 0:
            _smooth_normal(hits.triangle[n], origin, ray, faces, surfaces, normal)
        for axis in range(3):
            points[n, axis] = origin[axis] + hits.depth[n] * ray[axis] + 1e-3 * normal[axis]
        facing[n] = normal[0] * sun[0] + normal[1] * sun[1] + normal[2] * sun[2] > 0
    return points, facing


@njit(cache=True, error_model="numpy")
def _smooth_normal(triangle, origin, ray, faces, surfaces: Surfaces, normal):
    person, face = divmod(triangle, len(faces))
    corners = faces[face]
    share = weights(surfaces.vertices[person], corners, origin, ray)
    length = towards = 0.0
    for axis in range(3):
        value = 0.0
        for corner in range(3):
            value += share[corner] * surfaces.normals[person, corners[corner], axis]
        normal[axis] = value
        length += value * value
        towards += value * ray[axis]
    scale = (1.0 if towards < 0 else -1.0) / (np.sqrt(length) + 1e-12)
    for axis in range(3):
        normal[axis] *= scale


@njit(cache=True, error_model="numpy")
def _dim(points, asked, position, turn, focal, inverse, lit):
    """Multiply in the people's shadow map, seen from the sun, softened over 2 x 2 texels."""
    size = len(inverse)
    for n in asked:
        x, y, z = points[n, 0] - position[0], points[n, 1] - position[1], points[n, 2] - position[2]
        depth = turn[2, 0] * x + turn[2, 1] * y + turn[2, 2] * z
        u = focal * (turn[0, 0] * x + turn[0, 1] * y + turn[0, 2] * z) / depth + 0.5 * size - 0.5
        v = focal * (turn[1, 0] * x + turn[1, 1] * y + turn[1, 2] * z) / depth + 0.5 * size - 0.5
        i, j = int(np.floor(v)), int(np.floor(u))
        if i < 0 or j < 0 or i + 1 >= size or j + 1 >= size:
            continue
        free = 0.0
        for di in range(2):
            for dj in range(2):
                share = (v - i if di else 1 - (v - i)) * (u - j if dj else 1 - (u - j))
                free += share if inverse[i + di, j + dj] * (depth - 0.05) < 1.0 else 0.0
        lit[n] *= free


@njit(cache=True, error_model="numpy")
def _shade(
    hits: Hits, origin, faces, surfaces: Surfaces, light: Light, points, lit, contact, footprint, samples, picture
):
    """Mean colour of each pixel's samples, as gamma-corrected uint8."""
    height, width, _ = picture.shape
    color, total = np.empty(3), np.empty(3)
    for i in range(height):
        for j in range(width):
            total[:] = 0.0
            for a in range(samples):
                for b in range(samples):
                    n = (i * samples + a) * width * samples + j * samples + b
                    ray = hits.rays[n]
                    length = np.sqrt(ray[0] ** 2 + ray[1] ** 2 + ray[2] ** 2)
                    if hits.geom[n] < 0 and hits.triangle[n] < 0:
                        _sky(ray, length, light, color)
                    else:
                        _surface(
                            hits, n, origin, length, faces, surfaces, light, points, lit, contact, footprint, color
                        )
                    for channel in range(3):
                        total[channel] += min(1.0, max(0.0, color[channel]))
            for channel in range(3):
                picture[i, j, channel] = np.uint8(255 * (total[channel] / samples**2) ** _GAMMA + 0.5)


@njit(cache=True, error_model="numpy")
def _sky(ray, length, light: Light, color):
    up = max(0.0, ray[2] / length)
    high = np.sqrt(up)
    cloud = light.clouds * clouds(ray[0] / length, ray[1] / length, up) if light.clouds > 0 else 0.0
    for channel in range(3):
        clear = light.colors[1, channel] * high + light.colors[2, channel] * (1 - high)
        bright = 0.6 * light.colors[0, channel] + 0.35 * light.colors[2, channel]
        color[channel] = clear + 0.6 * cloud * (bright - clear)


@njit(cache=True, error_model="numpy")
def _surface(
    hits: Hits, n, origin, length, faces, surfaces: Surfaces, light: Light, points, lit, contact, footprint, color
):
    """Sun, sky light with contact shade, a highlight, and fog."""
    ray, normal, point = hits.rays[n], hits.normal[n], points[n]
    row, x, y, z = _texture_point(hits, n, origin, faces, surfaces, point)
    material = surfaces.materials[row]
    texture, scale = int(material[6]), material[7]
    blur = min(1.0, max(0.0, 1.6 * hits.depth[n] * footprint * scale - 0.3))
    mix = (
        (1 - blur) * pattern(texture, scale * x, scale * y, scale * z) + blur * MEANS[texture]
        if blur < 1
        else MEANS[texture]
    )
    sun = light.sun
    direct = lit[n] * max(0.0, normal[0] * sun[0] + normal[1] * sun[1] + normal[2] * sun[2])
    around = light.ambient * (1 + 0.4 * normal[2]) * _open(hits.geom[n], point, contact)
    shine = material[8] * lit[n] * _highlight(ray, length, normal, sun)
    haze = 1 - np.exp(-_FOG * hits.depth[n])
    for channel in range(3):
        albedo = material[channel] * (1 - mix) + material[3 + channel] * mix
        glow = around * (0.85 + 0.25 * light.colors[1, channel])
        shaded = albedo * (glow + 0.8 * direct * light.colors[0, channel]) + shine * light.colors[0, channel]
        color[channel] = shaded + haze * (light.colors[2, channel] - shaded)


@njit(cache=True, error_model="numpy")
def _texture_point(hits: Hits, n, origin, faces, surfaces: Surfaces, point):
    """Material row, and the hit in the frame its texture lives in: the geom's axes or the body's rest pose."""
    if hits.triangle[n] < 0:
        geom = hits.geom[n]
        turn, centre = surfaces.geom_turn[geom], surfaces.geom_position[geom]
        x, y, z = point[0] - centre[0], point[1] - centre[1], point[2] - centre[2]
        return (
            geom,
            turn[0, 0] * x + turn[1, 0] * y + turn[2, 0] * z,
            turn[0, 1] * x + turn[1, 1] * y + turn[2, 1] * z,
            turn[0, 2] * x + turn[1, 2] * y + turn[2, 2] * z,
        )
    person, face = divmod(hits.triangle[n], len(faces))
    corners = faces[face]
    u, v, w = weights(surfaces.vertices[person], corners, origin, hits.rays[n])
    rest = surfaces.rest[person]
    a, b, c = rest[corners[0]], rest[corners[1]], rest[corners[2]]
    row = len(surfaces.geom_position) + person * _WEARS + surfaces.wear[person, face]
    return row, u * a[0] + v * b[0] + w * c[0], u * a[1] + v * b[1] + w * c[1], u * a[2] + v * b[2] + w * c[2]


@njit(cache=True, error_model="numpy")
def _open(geom, point, contact):
    """How open a point is to the sky: darker in contact discs on the ground and close above the ground."""
    if geom != 0:
        return 1.0 if point[2] > 0.25 else 0.78 + 0.88 * max(0.0, point[2])
    free = 1.0
    for row in contact:
        near = ((point[0] - row[0]) ** 2 + (point[1] - row[1]) ** 2) / (row[2] * row[2])
        if near < 6.0:
            free *= 1 - row[3] * np.exp(-near)
    return free


@njit(cache=True, error_model="numpy")
def _highlight(ray, length, normal, sun):
    x, y, z = sun[0] - ray[0] / length, sun[1] - ray[1] / length, sun[2] - ray[2] / length
    half = (normal[0] * x + normal[1] * y + normal[2] * z) / (np.sqrt(x * x + y * y + z * z) + 1e-9)
    return max(0.0, half) ** 40
