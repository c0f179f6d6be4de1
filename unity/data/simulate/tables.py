"""What the simulated world is made of: colours, places, skies, objects, events, clothes, camera moves."""

from dataclasses import dataclass

Color = tuple[float, float, float]
TEXTURES = (
    "plain",
    "checker",
    "brick",
    "wood",
    "stripes",
    "noise",
    "tiles",
    "planks",
    "dots",
    "windows",
    "ripples",
    "weave",
)


@dataclass(frozen=True)
class Material:
    """`second` is the colour the texture mixes in; `scale` its cells a metre; `shine` the highlight's strength."""

    color: Color
    second: Color
    texture: str = "plain"
    scale: float = 1.0
    shine: float = 0.05


@dataclass(frozen=True)
class Part:
    """A primitive of MuJoCo: half sizes and offset in metres, Euler angles in degrees, colour 0 main, 1 second."""

    shape: str
    size: tuple[float, ...]
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    euler: tuple[float, float, float] = (0.0, 0.0, 0.0)
    color: int = 0


@dataclass(frozen=True)
class Place:
    """`phrase` continues a sentence; `scenery` names builders of scenery.SCENERY; `skies` rows of SKIES."""

    phrase: str
    ground: tuple[Material, ...]
    scenery: tuple[str, ...]
    skies: tuple[str, ...]


@dataclass(frozen=True)
class Sky:
    """Zenith and horizon colours, the sun's colour and height in degrees, the light that comes from everywhere."""

    phrase: str
    zenith: Color
    horizon: Color
    sun: Color
    height: float
    ambient: float
    clouds: float


@dataclass(frozen=True)
class Event:
    """How an object enters: height and sideways range in metres, speed along x, upward and spin ranges."""

    phrase: str
    height: tuple[float, float]
    side: tuple[float, float]
    speed: tuple[float, float]
    rise: tuple[float, float]
    spin: float
    round_only: bool = False


@dataclass(frozen=True)
class Move:
    """Camera motion: orbit in degrees a second, dolly and crane in metres a second, shake in metres.

    `follow`: 0 the camera stands, 1 it travels with its subject; `aim`: how far its view follows the subject.
    """

    phrase: str
    orbit: float = 0.0
    dolly: float = 0.0
    crane: float = 0.0
    shake: float = 0.0
    aim: float = 0.0
    follow: float = 0.0


COLORS: dict[str, Color] = {
    "red": (0.82, 0.07, 0.06), "blue": (0.07, 0.19, 0.78), "green": (0.07, 0.5, 0.13), "yellow": (0.9, 0.74, 0.07),
    "orange": (0.94, 0.42, 0.04), "purple": (0.42, 0.11, 0.58), "white": (0.87, 0.87, 0.85),
    "black": (0.06, 0.06, 0.07),
    "pink": (0.9, 0.42, 0.58), "teal": (0.04, 0.48, 0.48), "grey": (0.43, 0.45, 0.47), "brown": (0.36, 0.2, 0.1),
    "turquoise": (0.15, 0.72, 0.72), "olive": (0.36, 0.37, 0.1), "navy": (0.04, 0.06, 0.26),
    "beige": (0.76, 0.67, 0.5),
}  # fmt: skip
SKINS: tuple[Color, ...] = (
    (0.87, 0.67, 0.55), (0.78, 0.56, 0.43), (0.66, 0.45, 0.32), (0.52, 0.33, 0.22), (0.37, 0.23, 0.16),
    (0.25, 0.15, 0.1),
)  # fmt: skip
HAIRS: tuple[Color, ...] = (
    (0.05, 0.04, 0.04), (0.22, 0.12, 0.06), (0.6, 0.44, 0.18), (0.5, 0.2, 0.07), (0.5, 0.5, 0.49),
    (0.12, 0.07, 0.05),
)  # fmt: skip
# Which materials (0 top, 1 bottom, 2 skin) the upper arms, forearms, thighs and shins wear.
TOPS = {"T-shirt": (0, 2), "jumper": (0, 0), "vest": (2, 2), "long-sleeved shirt": (0, 0)}
BOTTOMS = {"trousers": (1, 1), "shorts": (1, 2), "jeans": (1, 1), "leggings": (1, 1)}
TOP_TEXTURES = ("plain", "stripes", "weave", "dots", "checker", "plain")

SKIES = {
    "clear": Sky("on a clear day", (0.2, 0.42, 0.8), (0.72, 0.83, 0.94), (1.0, 0.96, 0.88), 52, 0.36, 0.35),
    "cloudy": Sky("under a cloudy sky", (0.34, 0.47, 0.66), (0.8, 0.83, 0.87), (0.78, 0.79, 0.82), 58, 0.5, 1.0),
    "sunset": Sky("at sunset", (0.28, 0.28, 0.5), (0.96, 0.62, 0.34), (1.15, 0.72, 0.42), 19, 0.3, 0.7),
    "morning": Sky("in the morning", (0.4, 0.56, 0.8), (0.94, 0.86, 0.74), (1.1, 0.9, 0.68), 30, 0.36, 0.5),
    "night": Sky("at night", (0.02, 0.03, 0.08), (0.08, 0.1, 0.2), (0.55, 0.6, 0.75), 48, 0.17, 0.2),
    "lamp": Sky("", (0.78, 0.76, 0.73), (0.74, 0.71, 0.68), (1.0, 0.95, 0.86), 74, 0.42, 0.0),
}


def _ground(color: Color, second: Color, texture: str, scale: float, shine: float = 0.04) -> Material:
    return Material(color, second, texture, scale, shine)


_OUTDOORS = ("clear", "cloudy", "sunset", "morning")
PLACES = {
    "plaza": Place(
        "on a paved plaza in front of buildings",
        (
            _ground((0.6, 0.56, 0.51), (0.47, 0.43, 0.39), "tiles", 1.2),
            _ground((0.55, 0.4, 0.34), (0.42, 0.3, 0.26), "brick", 3.0),
            _ground((0.66, 0.65, 0.62), (0.35, 0.36, 0.4), "checker", 0.9),
        ),
        ("buildings",), (*_OUTDOORS, "night"),
    ),
    "street": Place(
        "on a street in front of buildings",
        (_ground((0.3, 0.3, 0.32), (0.4, 0.4, 0.41), "noise", 9.0),), ("kerb", "buildings"), (*_OUTDOORS, "night"),
    ),
    "park": Place(
        "on the grass of a park with trees",
        (
            _ground((0.2, 0.38, 0.1), (0.32, 0.5, 0.16), "noise", 5.0),
            _ground((0.3, 0.42, 0.12), (0.45, 0.5, 0.2), "noise", 3.5),
        ),
        ("trees",), _OUTDOORS,
    ),
    "beach": Place(
        "on a sandy beach by the sea",
        (_ground((0.8, 0.7, 0.5), (0.68, 0.57, 0.38), "ripples", 2.0),), ("sea",), ("clear", "sunset", "morning"),
    ),
    "desert": Place(
        "in a desert with rocks",
        (_ground((0.78, 0.52, 0.3), (0.66, 0.4, 0.22), "ripples", 1.3),), ("rocks",),
        ("clear", "sunset", "morning"),
    ),
    "snow": Place(
        "on snow in front of fir trees",
        (_ground((0.86, 0.88, 0.92), (0.74, 0.78, 0.86), "noise", 2.2, 0.12),), ("firs",),
        ("clear", "cloudy", "morning"),
    ),
    "temple": Place(
        "on a marble floor between columns",
        (_ground((0.82, 0.8, 0.76), (0.6, 0.57, 0.54), "checker", 1.1, 0.25),), ("columns",),
        (*_OUTDOORS, "night"),
    ),
    "yard": Place(
        "in a yard in front of a wooden fence",
        (
            _ground((0.45, 0.38, 0.3), (0.56, 0.48, 0.38), "noise", 4.0),
            _ground((0.24, 0.4, 0.13), (0.34, 0.5, 0.18), "noise", 6.0),
        ),
        ("fence", "trees"), _OUTDOORS,
    ),
    "room": Place(
        "in a room with a wooden floor",
        (
            _ground((0.53, 0.33, 0.18), (0.4, 0.24, 0.12), "planks", 1.4, 0.18),
            _ground((0.68, 0.52, 0.34), (0.55, 0.4, 0.25), "planks", 1.1, 0.18),
        ),
        ("walls", "furniture"), ("lamp",),
    ),
    "hall": Place(
        "in a tiled hall",
        (
            _ground((0.74, 0.76, 0.78), (0.5, 0.55, 0.6), "tiles", 1.6, 0.25),
            _ground((0.3, 0.42, 0.5), (0.8, 0.8, 0.78), "checker", 1.3, 0.25),
        ),
        ("walls", "columns"), ("lamp",),
    ),
    "gym": Place(
        "in a gym with a rubber floor",
        (_ground((0.16, 0.3, 0.45), (0.2, 0.36, 0.52), "weave", 3.0, 0.08),
        _ground((0.5, 0.2, 0.16), (0.56, 0.25, 0.2), "weave", 3.0)),
        ("walls", "mats"), ("lamp",),
    ),
    "workshop": Place(
        "in a workshop with a brick wall",
        (_ground((0.5, 0.5, 0.48), (0.42, 0.42, 0.41), "noise", 3.0, 0.1),), ("brick walls", "crates"), ("lamp",),
    ),
}  # fmt: skip

# Objects of unit size: scaled by the size drawn for them; the first part decides how "round" an object is.
_TOYS = {
    "snowman": (
        Part("sphere", (0.5,), (0, 0, -0.45)), Part("sphere", (0.36,), (0, 0, 0.2)),
        Part("sphere", (0.25,), (0, 0, 0.7)),
        Part("cylinder", (0.2, 0.12), (0, 0, 1.0), color=1), Part("cylinder", (0.4, 0.05), (0, 0, -0.91)),
    ),
    "toy rocket": (
        Part("capsule", (0.3, 0.6)), Part("ellipsoid", (0.22, 0.22, 0.4), (0, 0, 0.85), color=1),
        Part("box", (0.6, 0.05, 0.2), (0, 0, -0.7), color=1), Part("box", (0.05, 0.6, 0.2), (0, 0, -0.7), color=1),
    ),
    "toy car": (
        Part("box", (0.9, 0.45, 0.2), (0, 0, -0.05)), Part("box", (0.45, 0.4, 0.2), (-0.1, 0, 0.32), color=1),
        *(Part("cylinder", (0.22, 0.08), (x, y, -0.25), (90, 0, 0), color=1) for x in (-0.55,
        0.55) for y in (-0.46, 0.46)),
    ),
    "stool": (
        Part("cylinder", (0.6, 0.09), (0, 0, 0.55)),
        *(Part("capsule", (0.07, 0.5), (x, y, -0.05), color=1) for x in (-0.36, 0.36) for y in (-0.36, 0.36)),
    ),
    "table lamp": (
        Part("cylinder", (0.45, 0.07), (0, 0, -0.8), color=1),
        Part("cylinder", (0.07, 0.6), (0, 0, -0.2), color=1),
        Part("ellipsoid", (0.5, 0.5, 0.36), (0, 0, 0.5)),
    ),
    "toy house": (
        Part("box", (0.6, 0.5, 0.45), (0, 0, -0.2)),
        Part("box", (0.48, 0.56, 0.1), (0.3, 0, 0.45), (0, 40, 0), color=1),
        Part("box", (0.48, 0.56, 0.1), (-0.3, 0, 0.45), (0, -40, 0), color=1),
        Part("box", (0.1, 0.1, 0.25), (0.3, 0.2, 0.7), color=0),
    ),
    "toy robot": (
        Part("box", (0.38, 0.26, 0.4)), Part("box", (0.24, 0.22, 0.2), (0, 0, 0.64), color=1),
        Part("capsule", (0.1, 0.25), (0.52, 0, 0.05), color=1),
        Part("capsule", (0.1, 0.25), (-0.52, 0, 0.05), color=1),
        Part("box", (0.14, 0.16, 0.25), (0.2, 0, -0.65), color=1),
        Part("box", (0.14, 0.16, 0.25), (-0.2, 0, -0.65), color=1),
    ),
    "mushroom": (Part("ellipsoid", (0.7, 0.7, 0.4), (0, 0, 0.4)),
    Part("cylinder", (0.24, 0.5), (0, 0, -0.3), color=1)),
    "vase": (
        Part("ellipsoid", (0.45, 0.45, 0.55)), Part("cylinder", (0.16, 0.3), (0, 0, 0.6)),
        Part("cylinder", (0.28, 0.06), (0, 0, 0.9), color=1),
        Part("cylinder", (0.3, 0.06), (0, 0, -0.52), color=1),
    ),
}  # fmt: skip
OBJECTS: dict[str, tuple[Part, ...]] = {
    "ball": (Part("sphere", (1.0,)),),
    "box": (Part("box", (0.9, 0.72, 0.8)),),
    "cylinder": (Part("cylinder", (0.7, 0.9)),),
    "barrel": (Part("cylinder", (0.62, 0.9)), Part("cylinder", (0.72, 0.5), color=1)),
    "capsule": (Part("capsule", (0.5, 0.7)),),
    "egg": (Part("ellipsoid", (0.75, 0.75, 1.0)),),
    "dumbbell": (Part("sphere", (0.5,), (0.75, 0, 0)), Part("sphere", (0.5,), (-0.75, 0, 0)),
    Part("capsule", (0.15, 0.6), (0, 0, 0), (0, 90, 0), color=1)),
    **_TOYS,
}  # fmt: skip
SIMPLE = ("ball", "ball", "box", "cylinder", "barrel", "capsule", "egg", "dumbbell")
SUBJECTS = (*_TOYS, "barrel", "box", "cylinder")
ROUND = ("ball", "egg", "dumbbell", "capsule")
OBJECT_TEXTURES = ("plain", "plain", "checker", "stripes", "noise", "dots", "wood", "weave")

EVENTS = {
    "fall": Event("falls to the ground", (1.0, 2.3), (-1.0, 1.0), (-0.5, 0.5), (-0.3, 0.3), 3.0),
    "toss": Event("flies in from the left", (0.8, 1.5), (-1.9, -1.5), (1.4, 2.2), (1.2, 2.4), 4.0),
    "lob": Event("flies in from the right", (0.8, 1.5), (1.5, 1.9), (-2.2, -1.4), (1.2, 2.4), 4.0),
    "roll": Event(
        "rolls across the ground", (0.0, 0.0), (-1.8, -1.2), (1.0, 1.8), (0.0, 0.0), 0.0, round_only=True
    ),
    "rest": Event("rests on the ground", (0.0, 0.0), (-1.2, 1.2), (0.0, 0.0), (0.0, 0.0), 0.0),
}
PERSON_EVENTS = ("fall", "fall", "rest", "toss", "lob")
OBJECT_EVENTS = ("fall", "fall", "fall", "toss", "lob", "roll", "rest")

MOVES = {
    "static": Move("Static camera."),
    "orbit": Move("The camera orbits slowly.", orbit=13.0, aim=1.0, follow=0.6),
    "dolly in": Move("The camera moves forward.", dolly=-0.4, aim=0.5),
    "dolly out": Move("The camera moves back.", dolly=0.4, aim=0.5),
    "crane": Move("The camera rises.", crane=0.4, aim=0.7),
    "pan": Move("The camera pans with the motion.", aim=1.0),
    "track": Move("The camera moves along with the subject.", aim=1.0, follow=1.0),
    "handheld": Move("Handheld camera.", shake=0.03, aim=0.8),
}
SUBJECT_MOVE = Move("The camera orbits around it.", orbit=32.0)
