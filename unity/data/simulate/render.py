"""The RGB stream: shadowed, textured, 2 x 2 supersampled pictures of a world."""

from typing import NamedTuple

import numpy as np

from unity.data.simulate.body import FACES, MESH, WEAR
from unity.data.simulate.camera import Camera, shadow_camera, sun
from unity.data.simulate.jit import inlined, kernel
from unity.data.simulate.physics import World
from unity.data.simulate.primitives import PLANE, meet, outward
from unity.data.simulate.raster import (
    Hits,
    Solids,
    View,
    blend,
    draw_people,
    first_hits,
    into,
    ray_of,
    solids,
    vertex_normals,
    view_of,
    weights,
)
from unity.data.simulate.tables import TEXTURES, Material
from unity.data.simulate.texture import MEANS, clouds, pattern

SAMPLES = 2
_SUN_DISTANCE = 30.0
_SHADOW_MAP = 384
_FOG = 0.012
_GAMMA = 1 / 1.6
_WEARS = len(WEAR)
# Points are lifted off their surface by this much, in metres, before they look for the sun.
_LIFT = 1e-3


class People(NamedTuple):
    """Vertices (world, normals, rest pose) [p, v, 3] and what each face wears [p, f]."""

    vertices: np.ndarray
    normals: np.ndarray
    rest: np.ndarray
    wear: np.ndarray


class Light(NamedTuple):
    """Rows of `colors`: sun, zenith, horizon; `sun` points to the light."""

    sun: np.ndarray
    colors: np.ndarray
    ambient: float
    clouds: float


class Shade(NamedTuple):
    """What darkens: people's shadow map from the sun, and discs on the ground (rows x, y, radius, strength)."""

    eye: View
    depth: np.ndarray
    discs: np.ndarray


class Renderer:
    """Renders the frames of one world."""

    def __init__(self, world: World):
        self.world = world
        sky, people = world.scene.sky, world.scene.people
        colors = np.array((sky.sun, sky.zenith, sky.horizon))
        self.light = Light(sun(world.scene), colors, sky.ambient, sky.clouds)
        self.materials = _materials(world)
        self.rest = np.array([person.body.vertices for person in people]).reshape(-1, *MESH)
        self.wear = np.array([person.body.wear for person in people], np.int64).reshape(-1, len(FACES))

    def picture(self, camera: Camera, frame: int) -> np.ndarray:
        """RGB uint8 [h, w, 3] of one frame."""
        view, scenery = view_of(camera, SAMPLES), solids(self.world, frame)
        vertices = np.ascontiguousarray(self.world.vertices[:, frame])
        normals = np.array([vertex_normals(mesh, FACES) for mesh in vertices]).reshape(vertices.shape)
        people = People(vertices, normals, self.rest, self.wear)
        hits = first_hits(view, scenery, vertices)
        picture = np.empty((camera.height, camera.width, 3), np.uint8)
        shade = Shade(*self._shadow_map(vertices), self._discs(frame))
        _paint(view, hits, FACES, scenery, people, self.materials, self.light, shade, SAMPLES, picture)
        return picture

    def _shadow_map(self, vertices: np.ndarray) -> tuple[View, np.ndarray]:
        """Depth of people seen from the sun; a single empty texel where nobody is."""
        cloud = vertices.reshape(-1, 3) if len(vertices) else np.eye(3)
        size = _SHADOW_MAP if len(vertices) else 1
        view = view_of(shadow_camera(cloud.mean(0), cloud, self.light.sun, _SUN_DISTANCE, size))
        hits = Hits(np.full((size, size), np.inf), *np.empty((2, size, size), np.int32))
        draw_people(view, vertices, hits)
        return view, hits.depth

    def _discs(self, frame: int) -> np.ndarray:
        """Soft dark discs on the ground under things and feet."""
        world = self.world
        rows = [
            (x, y, 1.1 * thing.radius, 0.5 * np.exp(-max(0.0, z - thing.radius) / 0.25))
            for (x, y, z), thing in zip(world.thing_position[frame].tolist(), world.scene.things, strict=True)
        ]
        for x, y, z in world.keypoints[frame][:, [10, 13]].reshape(-1, 3).tolist():
            rows.append((x, y, 0.2, 0.45 * np.exp(-max(0.0, z - 0.1) / 0.12)))
        return np.array(rows, dtype=np.float64).reshape(-1, 4)


def _materials(world: World) -> np.ndarray:
    """Rows of two colours, texture, cells a metre, shine: of primitives first, then of people's WEAR."""
    scene = world.scene
    rows = [scene.ground, *(fixture.material for fixture in scene.fixtures)]
    rows += [thing.materials[part.color] for thing in scene.things for part in thing.parts]
    rows += [material for person in scene.people for material in person.materials]
    return np.array([_row(material) for material in rows])


def _row(material: Material) -> tuple[float, ...]:
    texture = float(TEXTURES.index(material.texture))
    return (*material.color, *material.second, texture, material.scale, material.shine)


@kernel
def _paint(
    view: View, hits: Hits, faces, scenery, people, materials, light: Light, shade: Shade, samples, picture
):
    """Mean colour of each pixel's samples, as gamma-corrected uint8."""
    height, width, _ = picture.shape
    casters, room = _casters(scenery, light.sun)
    for i in range(height):
        for j in range(width):
            red = green = blue = 0.0
            for y in range(i * samples, (i + 1) * samples):
                for x in range(j * samples, (j + 1) * samples):
                    ray = ray_of(view, y, x)
                    if hits.depth[y, x] == np.inf:
                        r, g, b = _sky(ray, light)
                    else:
                        r, g, b = _surface(
                            view, hits, y, x, ray, faces, scenery, people, materials, light, shade, casters, room
                        )
                    red, green, blue = red + min(1.0, r), green + min(1.0, g), blue + min(1.0, b)
            picture[i, j, 0] = _tone(red / samples**2)
            picture[i, j, 1] = _tone(green / samples**2)
            picture[i, j, 2] = _tone(blue / samples**2)


@kernel
def _tone(value):
    return np.uint8(255 * value**_GAMMA + 0.5)


@inlined
def _sky(ray, light: Light):
    x, y, z = ray
    length = np.sqrt(x * x + y * y + z * z)
    up = max(0.0, z / length)
    high = np.sqrt(up)
    cloud = 0.6 * light.clouds * clouds(x / length, y / length, up) if light.clouds > 0 else 0.0
    return (
        _sky_channel(light.colors, 0, high, cloud),
        _sky_channel(light.colors, 1, high, cloud),
        _sky_channel(light.colors, 2, high, cloud),
    )


@kernel
def _sky_channel(colors, channel, high, cloud):
    clear = colors[1, channel] * high + colors[2, channel] * (1 - high)
    bright = 0.6 * colors[0, channel] + 0.35 * colors[2, channel]
    return clear + cloud * (bright - clear)


@inlined
def _surface(view, hits, i, j, ray, faces, scenery, people, materials, light, shade, casters, room):
    """Sun, sky light with contact shade, a highlight, and fog, at one sample."""
    depth, geom, triangle = hits.depth[i, j], hits.geom[i, j], hits.triangle[i, j]
    u, v, w = ray
    x, y, z = view.position[0] + depth * u, view.position[1] + depth * v, view.position[2] + depth * w
    if geom >= 0:
        row = geom
        p, q, r, nx, ny, nz = _on_solid(scenery, geom, x, y, z)
    else:
        person, face = divmod(triangle, len(faces))
        row = len(scenery.kind) + person * _WEARS + people.wear[person, face]
        p, q, r, nx, ny, nz = _on_person(people, person, faces[face], view.position, u, v, w)
    material = materials[row]
    mix = _mix(material, p, q, r, depth / view.focal)
    sun = light.sun
    towards = nx * sun[0] + ny * sun[1] + nz * sun[2]
    lit = 0.0
    if towards > 0:
        px, py, pz = x + _LIFT * nx, y + _LIFT * ny, z + _LIFT * nz
        lit = _people_free(shade, px, py, pz)
        if lit > 0 and _blocked(scenery, casters, room, sun, px, py, pz):
            lit = 0.0
    around = light.ambient * (1 + 0.4 * nz) * _open(geom, x, y, z, shade.discs)
    shine = material[8] * lit * _highlight(u, v, w, nx, ny, nz, sun) if lit > 0 and material[8] > 0 else 0.0
    haze = 1 - np.exp(-_FOG * depth)
    direct = 0.8 * lit * towards
    return (
        _lit_channel(material, light.colors, 0, mix, around, direct, shine, haze),
        _lit_channel(material, light.colors, 1, mix, around, direct, shine, haze),
        _lit_channel(material, light.colors, 2, mix, around, direct, shine, haze),
    )


@inlined
def _lit_channel(material, colors, channel, mix, around, direct, shine, haze):
    albedo = material[channel] * (1 - mix) + material[3 + channel] * mix
    glow = around * (0.85 + 0.25 * colors[1, channel])
    color = albedo * (glow + direct * colors[0, channel]) + shine * colors[0, channel]
    return color + haze * (colors[2, channel] - color)


@inlined
def _on_solid(scenery: Solids, geom, x, y, z):
    """A surface point in the primitive's axes, and its world normal."""
    turn, centre, size = scenery.turn[geom], scenery.position[geom], scenery.size[geom]
    p, q, r = into(turn, x - centre[0], y - centre[1], z - centre[2])
    a, b, c = outward(scenery.kind[geom], size[0], size[1], size[2], p, q, r)
    nx = turn[0, 0] * a + turn[0, 1] * b + turn[0, 2] * c
    ny = turn[1, 0] * a + turn[1, 1] * b + turn[1, 2] * c
    nz = turn[2, 0] * a + turn[2, 1] * b + turn[2, 2] * c
    return p, q, r, nx, ny, nz


@inlined
def _on_person(people: People, person, corners, origin, u, v, w):
    """A surface point in the rest pose, and its smooth world normal on the camera's side."""
    a, b, c = weights(people.vertices[person], corners, origin, u, v, w)
    p, q, r = blend(people.rest[person], corners, a, b, c)
    nx, ny, nz = blend(people.normals[person], corners, a, b, c)
    scale = 1 / (np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12)
    if nx * u + ny * v + nz * w > 0:
        scale = -scale
    return p, q, r, scale * nx, scale * ny, scale * nz


@inlined
def _mix(material, x, y, z, footprint):
    """The second colour's share; cells smaller than a sample fade to the texture's mean."""
    texture, scale = int(material[6]), material[7]
    if texture == 0:
        return 0.0
    blur = min(1.0, max(0.0, 1.6 * footprint * scale - 0.3))
    if blur == 1.0:
        return MEANS[texture]
    return (1 - blur) * pattern(texture, scale * x, scale * y, scale * z) + blur * MEANS[texture]


@kernel
def _casters(scenery: Solids, sun):
    """Primitives that can cast shadows, and where their bounding spheres lie across the sun's rays.

    Rows of `room`: centre along two axes across the sun, and radius.
    """
    casters = np.flatnonzero(scenery.kind != PLANE)
    room = np.empty((len(casters), 3))
    for n, geom in enumerate(casters):
        extent, centre = scenery.extent[geom], scenery.position[geom]
        room[n, 0], room[n, 1] = _across(sun, centre[0], centre[1], centre[2])
        room[n, 2] = np.sqrt(extent[0] ** 2 + extent[1] ** 2 + extent[2] ** 2)
    return casters, room


@kernel
def _across(sun, x, y, z):
    """Coordinates of a point on the plane across the sun's rays, which never are vertical."""
    flat = np.sqrt(sun[0] ** 2 + sun[1] ** 2)
    along = (sun[0] * x + sun[1] * y) / flat
    return (sun[0] * y - sun[1] * x) / flat, flat * z - sun[2] * along


@inlined
def _blocked(scenery: Solids, casters, room, sun, x, y, z):
    """Whether a primitive stands between a point and the sun."""
    p, q = _across(sun, x, y, z)
    for n in range(len(casters)):
        if abs(p - room[n, 0]) > room[n, 2] or abs(q - room[n, 1]) > room[n, 2]:
            continue
        geom = casters[n]
        turn, centre, size = scenery.turn[geom], scenery.position[geom], scenery.size[geom]
        a, b, c = into(turn, x - centre[0], y - centre[1], z - centre[2])
        u, v, w = into(turn, sun[0], sun[1], sun[2])
        if meet(scenery.kind[geom], size[0], size[1], size[2], a, b, c, u, v, w) < np.inf:
            return True
    return False


@inlined
def _people_free(shade: Shade, x, y, z):
    """How much of a point people leave to the sun: their shadow map, softened over 2 x 2 texels."""
    view, size = shade.eye, shade.eye.width
    x, y, z = x - view.position[0], y - view.position[1], z - view.position[2]
    depth = view.turn[2, 0] * x + view.turn[2, 1] * y + view.turn[2, 2] * z
    u = view.focal * (view.turn[0, 0] * x + view.turn[0, 1] * y + view.turn[0, 2] * z) / depth + 0.5 * size - 0.5
    v = view.focal * (view.turn[1, 0] * x + view.turn[1, 1] * y + view.turn[1, 2] * z) / depth + 0.5 * size - 0.5
    if not (0 <= u < size - 1 and 0 <= v < size - 1):
        return 1.0
    i, j = int(v), int(u)
    v, u = v - i, u - j
    free = (1 - v) * (1 - u) * (shade.depth[i, j] > depth - 0.05)
    free += (1 - v) * u * (shade.depth[i, j + 1] > depth - 0.05)
    free += v * (1 - u) * (shade.depth[i + 1, j] > depth - 0.05)
    return free + v * u * (shade.depth[i + 1, j + 1] > depth - 0.05)


@inlined
def _open(geom, x, y, z, discs):
    """How open a point is to the sky: darker in discs on the ground, and close above the ground."""
    if geom != 0:
        return 1.0 if z > 0.25 else 0.78 + 0.88 * max(0.0, z)
    free = 1.0
    for n in range(len(discs)):
        near = ((x - discs[n, 0]) ** 2 + (y - discs[n, 1]) ** 2) / discs[n, 2] ** 2
        if near < 6.0:
            free *= 1 - discs[n, 3] * np.exp(-near)
    return free


@inlined
def _highlight(u, v, w, nx, ny, nz, sun):
    length = np.sqrt(u * u + v * v + w * w)
    x, y, z = sun[0] - u / length, sun[1] - v / length, sun[2] - w / length
    half = (nx * x + ny * y + nz * z) / (np.sqrt(x * x + y * y + z * z) + 1e-9)
    return max(0.0, half) ** 40
