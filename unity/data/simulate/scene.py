"""One clip's cast and stage, drawn from the tables by seed: who, what, where, which light, which camera move."""

from dataclasses import dataclass, replace

import numpy as np

from unity.data.clips import SOURCES
from unity.data.simulate import tables
from unity.data.simulate.body import PEOPLE, WEAR, Body, make_body
from unity.data.simulate.motion import ACTS, Style
from unity.data.simulate.scenery import SCENERY, Fixture
from unity.data.simulate.tables import Event, Material, Move, Part, Place, Sky


@dataclass(frozen=True, kw_only=True)
class Person:
    """`spot` is where the middle of the person's path lies; `materials` follow body.WEAR."""

    who: str
    clothes: str
    body: Body
    style: Style
    spot: tuple[float, float]
    materials: tuple[Material, ...]


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A free rigid body: parts already scaled to metres, start pose (Euler degrees), velocity and spin."""

    name: str
    event: Event
    parts: tuple[Part, ...]
    materials: tuple[Material, Material]
    position: tuple[float, float, float]
    euler: tuple[float, float, float]
    velocity: tuple[float, float, float]
    spin: tuple[float, float, float]
    damping: float
    radius: float


@dataclass(frozen=True, kw_only=True)
class Shot:
    """The camera's wish: angles in degrees, `slack` how much farther than needed, vertical field of view."""

    move: Move
    azimuth: float
    elevation: float
    fov: float
    slack: float
    phases: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Scene:
    seed: int
    source: str
    place: Place
    ground: Material
    sky: Sky
    sun_azimuth: float
    fixtures: tuple[Fixture, ...]
    people: tuple[Person, ...]
    things: tuple[Thing, ...]
    shot: Shot


def draw_scene(seed: int, source: str) -> Scene:
    """The scene of one clip, a pure function of (seed, source). ValueError for an unknown source."""
    if source not in SOURCES:
        raise ValueError(f"source {source!r} is unknown: choose one of {', '.join(SOURCES)}")
    if seed < 0:
        raise ValueError(f"seed {seed} is negative: give a whole number from 0 up")
    rng = np.random.default_rng([seed, SOURCES.index(source)])
    place = _pick(rng, tuple(tables.PLACES.values()))
    people = _CAST[source][0](rng)
    return Scene(
        seed=seed,
        source=source,
        place=place,
        ground=_pick(rng, place.ground),
        sky=tables.SKIES[_pick(rng, place.skies)],
        sun_azimuth=float(rng.uniform(-65, 65)),
        fixtures=tuple(fixture for name in place.scenery for fixture in SCENERY[name](rng)),
        people=people,
        things=_CAST[source][1](rng),
        shot=_shot(rng, source, people),
    )


def _pick(rng: np.random.Generator, rows: tuple):
    return rows[int(rng.integers(len(rows)))]


def _color(rng: np.random.Generator, used: set[str]) -> str:
    name = _pick(rng, tuple(name for name in tables.COLORS if name not in used))
    used.add(name)
    return name


def _shot(rng: np.random.Generator, source: str, people: tuple[Person, ...]) -> Shot:
    move = tables.SUBJECT_MOVE if source == "subject" else tables.MOVES[_pick(rng, tuple(tables.MOVES))]
    if any(person.style.act == "jog" for person in people):
        # A camera that stood would need to be so far away that runners are tiny.
        move = tables.MOVES["track"]
    sign = _pick(rng, (-1.0, 1.0))
    return Shot(
        move=Move(move.phrase, sign * move.orbit, move.dolly, move.crane, move.shake, move.aim, move.follow),
        azimuth=float(rng.uniform(-28, 28)),
        elevation=float(rng.uniform(12, 34) if source == "subject" else rng.uniform(-3, 20)),
        fov=float(rng.uniform(34, 56)),
        slack=float(rng.uniform(1.0, 1.2)),
        phases=tuple(rng.uniform(0, 2 * np.pi, 3)),
    )


def _person(rng: np.random.Generator, spot: tuple[float, float], acts: tuple[str, ...], used: set[str]) -> Person:
    shape, act = int(rng.integers(len(PEOPLE))), _pick(rng, acts)
    travels = ACTS[act].travels
    clothes, materials = _clothes(rng, used)
    return Person(
        who=PEOPLE[shape],
        clothes=clothes,
        body=make_body(
            shape,
            int(rng.integers(len(PEOPLE))),
            rng.uniform(0, 0.3),
            rng.uniform(0.95, 1.05),
            rng.uniform(0.004, 0.03),
        ),
        style=Style(
            act=act,
            phase=float(rng.uniform()),
            tempo=float(rng.uniform(0.88, 1.12)),
            vigour=float(rng.uniform(0.85, 1.1)),
            yaw=float(rng.uniform(-np.pi, np.pi) if travels or rng.uniform() < 0.2 else rng.uniform(-0.9, 0.9)),
            turn=float(rng.uniform(-0.35, 0.35)) if travels else 0.0,
        ),
        spot=spot,
        materials=materials,
    )


def _clothes(rng: np.random.Generator, used: set[str]) -> tuple[str, tuple[Material, ...]]:
    top, bottom = _pick(rng, tuple(tables.TOPS)), _pick(rng, tuple(tables.BOTTOMS))
    names = [_color(rng, used) for _ in range(3)]
    if bottom == "jeans":
        names[1] = "blue" if rng.uniform() < 0.5 else "grey"
    shirt = _cloth(names[0], _pick(rng, tables.TOP_TEXTURES), 11.0)
    legs = _cloth(names[1], "weave" if bottom == "jeans" else _pick(rng, ("plain", "noise")), 30.0)
    skin = _plain(_pick(rng, tables.SKINS), 0.08)
    hair = Material(_pick(rng, tables.HAIRS), (0.1, 0.08, 0.06), "noise", 40.0, 0.15)
    by_slot = (shirt, legs, skin)
    worn = {
        "torso": shirt, "hips": legs, "skin": skin, "shoe": _cloth(names[2], "plain", 1.0), "hair": hair,
        **{part: by_slot[slot] for part, slot in zip(("upper arm", "forearm"), tables.TOPS[top], strict=True)},
        **{part: by_slot[slot] for part, slot in zip(("thigh", "shin"), tables.BOTTOMS[bottom], strict=True)},
    }  # fmt: skip
    return f"{names[0]} {top}|{names[1]} {bottom}", tuple(worn[part] for part in WEAR)


def _plain(color: tables.Color, shine: float) -> Material:
    return Material(color, color, "plain", 1.0, shine)


def _cloth(name: str, texture: str, scale: float) -> Material:
    color = np.array(tables.COLORS[name])
    second = 0.55 * color + (0.3 if texture in ("stripes", "checker", "dots") else 0.0)
    return Material(tuple(color), tuple(second), texture, scale, 0.03)


def _thing(
    rng: np.random.Generator, kind: str, event: Event, size: float, place: tuple[float, float], used: set[str]
) -> Thing:
    """One object entering by an event near (x, y) `place`; x only where the event does not set its own range."""
    names = _color(rng, used), _color(rng, used)
    texture = _pick(rng, tables.OBJECT_TEXTURES)
    colors = [np.array(tables.COLORS[name]) for name in names]
    light = 0.45 * colors[0] + 0.42 if colors[0].max() < 0.6 else 0.35 * colors[0]
    parts = tuple(_scaled(part, size) for part in tables.OBJECTS[kind])
    calm = event.height[1] == 0.0
    bottom = max(_reach(part) for part in parts) if not calm else _lowest(parts)
    rolls = kind in tables.ROUND
    # Never quite upright: MuJoCo turns the rounding errors of an upright cylinder into a deep contact.
    tilt = 0.2 if calm else 25.0
    speed, rise = rng.uniform(*event.speed), rng.uniform(*event.rise)
    x = rng.uniform(*event.side) if event.speed[0] * event.speed[1] > 0 else place[0]
    return Thing(
        name=f"{names[0]} {kind}",
        event=event,
        parts=parts,
        materials=(
            Material(tuple(colors[0]), tuple(light), texture, 2.2 / size, 0.3),
            Material(tuple(colors[1]), tuple(0.6 * colors[1]), "plain", 1.0, 0.3),
        ),
        position=(float(x), place[1], float(rng.uniform(*event.height) + bottom + 0.002)),
        euler=tuple(rng.uniform((-tilt, -tilt, 0), (tilt, tilt, 360))),
        velocity=(float(speed), float(rng.uniform(-0.3, 0.3)) if not calm else 0.0, float(rise)),
        spin=(0.0, speed / bottom, 0.0) if event.round_only else tuple(rng.uniform(-event.spin, event.spin, 3)),
        damping=float(rng.uniform(15, 80) if rolls else rng.uniform(120, 300)),
        radius=max(_reach(part) for part in parts),
    )


def _scaled(part: Part, size: float) -> Part:
    grow, (x, y, z) = tuple(size * s for s in part.size), part.offset
    return Part(part.shape, grow, (size * x, size * y, size * z), part.euler, part.color)


def _half_extents(part: Part) -> np.ndarray:
    """Half the sides of the upright part's bounding box."""
    radius, last = part.size[0], part.size[-1]
    if part.shape in ("box", "ellipsoid"):
        return np.array(part.size)
    return np.array((radius, radius, {"sphere": radius, "cylinder": last, "capsule": radius + last}[part.shape]))


def _reach(part: Part) -> float:
    """Radius of a sphere about the object's origin that holds the part."""
    half = _half_extents(part)
    pointed = part.shape in ("box", "cylinder")
    return float(np.linalg.norm(part.offset) + (np.linalg.norm(half) if pointed else half.max()))


def _lowest(parts: tuple[Part, ...]) -> float:
    """How far the upright object reaches below its origin; turned parts other than boxes lie on their side."""

    def down(part: Part) -> float:
        lies = any(part.euler) and part.shape != "box"
        return _half_extents(part)[0 if lies else 2] - part.offset[2]

    return float(max(down(part) for part in parts))


_CALM = tuple(act for act in ACTS if act != "jog")
_WALKS = ("walk", "walk", "stroll")
# What two people do: acts of the first, acts of the second (none: the same, side by side).
_PAIRS = ((_WALKS, ()), (("jog",), ()), (_WALKS, _WALKS), (_WALKS, _CALM), (_CALM, _CALM), (_CALM, _CALM))


def _one_person(rng: np.random.Generator) -> tuple[Person, ...]:
    acts = (*_WALKS, "jog") if rng.uniform() < 0.4 else tuple(ACTS)
    return (_person(rng, (float(rng.uniform(-0.3, 0.3)), 0.0), acts, set()),)


def _two_people(rng: np.random.Generator) -> tuple[Person, ...]:
    used: set[str] = set()
    first, second = _pick(rng, _PAIRS)
    a = _person(rng, (-float(rng.uniform(0.3, 0.6)), -0.1), first, used)
    b = _person(rng, (float(rng.uniform(0.6, 1.0)), 0.2), second or (a.style.act,), used)
    beside = replace(b.style, yaw=a.style.yaw, turn=a.style.turn, tempo=a.style.tempo, vigour=a.style.vigour)
    return a, b if second else replace(b, style=beside)


def _props(rng: np.random.Generator) -> tuple[Thing, ...]:
    """What lies or falls beside people; one in four clips has none."""
    used: set[str] = set()
    rows = []
    for _ in range(int(rng.integers(0, 3)) or int(rng.integers(0, 2))):
        event = tables.EVENTS[_pick(rng, tables.PERSON_EVENTS)]
        spot = (float(_pick(rng, (-1, 1)) * rng.uniform(0.9, 1.5)), float(rng.uniform(-0.5, 1.0)))
        rows.append(_thing(rng, _pick(rng, tables.SIMPLE), event, float(rng.uniform(0.11, 0.22)), spot, used))
    return tuple(rows)


def _objects(rng: np.random.Generator) -> tuple[Thing, ...]:
    used: set[str] = set()
    count = int(rng.integers(2, 6))
    rows = []
    for slot in range(count):
        event = tables.EVENTS[_pick(rng, tables.OBJECT_EVENTS)]
        kind = _pick(rng, tables.ROUND[:1] if event.round_only else tables.SIMPLE)
        spot = (
            (slot - (count - 1) / 2) * 0.7 + float(rng.uniform(-0.1, 0.1)),
            (slot % 2) * 0.6 + float(rng.uniform(-0.4, 0.0)),
        )
        rows.append(_thing(rng, kind, event, float(rng.uniform(0.18, 0.34)), spot, used))
    return tuple(rows)


def _subject(rng: np.random.Generator) -> tuple[Thing, ...]:
    return (
        _thing(
            rng,
            _pick(rng, tables.SUBJECTS),
            tables.EVENTS["rest"],
            float(rng.uniform(0.35, 0.5)),
            (0.0, 0.0),
            set(),
        ),
    )


def _nobody(rng: np.random.Generator) -> tuple[Person, ...]:
    return ()


_CAST = {
    "single_person": (_one_person, _props),
    "two_persons": (_two_people, _props),
    "general": (_nobody, _objects),
    "subject": (_nobody, _subject),
}
