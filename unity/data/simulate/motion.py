"""How people move: cyclic joint curves as a table, forward kinematics, grounding and foot locking.

An act's curve lists degrees at evenly spaced phases of one cycle; trigonometric interpolation joins them. The
stance foot drives the root: whatever the lowest sole would slide, the body is moved back by, so feet stay put and
a walk's speed follows from its curves.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from unity.data.simulate.body import BONE, BONES, PARENTS, WEIGHTS, Body

SIDES = ((".R", -1.0, 0.0), (".L", 1.0, 1.0))
# Metres over which a sole counts as touching the ground, for locking.
_CONTACT = 0.008


@dataclass(frozen=True, kw_only=True)
class Act:
    """`rate` cycles a second; `curves` joint -> degrees (hop: metres); the left side lags `lag` of a cycle."""

    phrase: str
    rate: float
    curves: dict[str, tuple[float, ...]]
    lag: float = 0.0
    travels: bool = False
    reach: float = 0.45


_WALK_HIP = (28, 26, 14, 5, -6, -12, -2, 18, 29, 30)
_WALK_KNEE = (5, 16, 14, 7, 5, 14, 42, 64, 44, 8)
_WALK_ANKLE = (0, -4, 2, 6, 9, 4, -14, -4, 3, 2)
ACTS = {
    "walk": Act(
        phrase="walking", rate=0.95, lag=0.5, travels=True,
        curves={
            "hip": _WALK_HIP, "knee": _WALK_KNEE, "ankle": _WALK_ANKLE,
            "shoulder": (-26, -21, 0, 19, 24, 17, 0, -19),
            "elbow": (9, 12, 18, 25, 28, 25, 18, 12), "abduct": (7,), "twist": (7, 0, -7, 0), "lean": (3,),
            "sway": (0, 2.5, 0, -2.5),
        },
    ),
    "stroll": Act(
        phrase="strolling", rate=0.72, lag=0.5, travels=True,
        curves={
            "hip": tuple(0.75 * x for x in _WALK_HIP), "knee": _WALK_KNEE,
            "ankle": tuple(0.6 * x for x in _WALK_ANKLE), "shoulder": (-14, 0, 12, 0), "elbow": (12, 18, 22, 18),
            "abduct": (9,), "twist": (4, 0, -4, 0), "sway": (0, 3.5, 0, -3.5), "nod": (6,),
        },
    ),
    "jog": Act(
        phrase="jogging", rate=1.4, lag=0.5, travels=True,
        curves={
            "hip": tuple(0.85 * x + 6 for x in _WALK_HIP), "knee": (18, 30, 26, 14, 16, 48, 88, 96, 60, 24),
            "ankle": _WALK_ANKLE, "shoulder": (-40, -28, 0, 28, 36, 28, 0, -28), "elbow": (70, 80, 90, 98, 96, 88),
            "abduct": (8,), "twist": (8, 0, -8, 0), "lean": (9,), "sway": (0, 2, 0, -2),
            "hop": (0, 0.0, 0.02, 0.06, 0.06, 0, 0.0, 0.02, 0.06, 0.06),
        },
    ),
    "march": Act(
        phrase="marching on the spot", rate=0.9, lag=0.5,
        curves={
            "hip": (0, 0, 0, 5, 40, 75, 40, 5), "knee": (2, 2, 2, 10, 55, 85, 55, 10),
            "shoulder": (0, 25, 40, 25, 0, -18, -25, -18),
            "elbow": (15, 25, 30, 20), "abduct": (8,),
        },
    ),
    "wave": Act(
        phrase="waving one hand", rate=1.6, reach=0.6,
        curves={
            "shoulder.R": (14,), "abduct.R": (123, 129, 123, 117), "elbow.R": (29, 54, 29, 4), "shoulder.L": (6,),
            "abduct.L": (9,), "elbow.L": (14,), "twist": (0, 3, 0, -3), "head": (0, 5, 0, -5), "hip.R": (3,),
            "knee": (4,),
        },
    ),
    "cheer": Act(
        phrase="cheering with both arms up", rate=1.3, reach=0.6,
        curves={
            "abduct": (150, 160, 150, 140), "shoulder": (10,), "elbow": (30, 12, 30, 48), "hip": (8, 0, 8, 16),
            "knee": (16, 0, 16, 32), "ankle": (8, 0, 8, 16), "nod": (-8,),
        },
    ),
    "squat": Act(
        phrase="doing squats", rate=0.6,
        curves={
            "hip": (0, 50, 100, 50), "knee": (0, 55, 109, 55), "ankle": (0, 13, 26, 13),
            "shoulder": (0, 39, 77, 39),
            "elbow": (14,), "abduct": (9,), "lean": (0, 16, 32, 16), "spread": (7,),
        },
    ),
    "jumping jack": Act(
        phrase="doing jumping jacks", rate=1.0, reach=0.85,
        curves={
            "abduct": (12, 75, 140, 75), "spread": (2, 2, 2, 12, 22, 22, 22, 22, 22, 12, 2, 2),
            "elbow": (10, 16, 10, 16),
            "knee": (12, 4, 12, 4),
            "hip": (6, 2, 6, 2), "ankle": (6, 2, 6, 2), "hop": (-0.06, 0.14, -0.06, 0.14),
        },
    ),
    "dance": Act(
        phrase="dancing", rate=1.1, reach=0.8,
        curves={
            "twist": (0, 26, 0, -26), "sway": (0, 9, 0, -9), "shoulder.R": (63, 115, 63, 11),
            "shoulder.L": (63, 11, 63, 115),
            "elbow": (86, 57, 29, 57), "abduct": (34,), "hip.R": (20, 37, 20, 3), "hip.L": (20, 3, 20, 37),
            "knee.R": (34, 63, 34, 6), "knee.L": (34, 6, 34, 63), "ankle": (11,), "head": (11, 0, -11, 0),
        },
    ),
    "punch": Act(
        phrase="shadow boxing", rate=1.2, lag=0.5, reach=0.8,
        curves={
            "shoulder": (30, 62, 86, 62, 30, 24), "elbow": (115, 60, 8, 60, 118, 122), "abduct": (16,),
            "twist": (14, 0, -14, 0), "lean": (8,), "hip.R": (-8,), "hip.L": (20,), "knee": (18,), "spread": (6,),
            "head": (0,),
        },
    ),
    "bow": Act(
        phrase="bowing", rate=0.5, reach=0.7,
        curves={"lean": (0, 26, 52, 26), "nod": (0, 8, 16, 8), "shoulder": (0, 24, 48, 24), "abduct": (8,),
        "elbow": (10,), "knee": (3,)},
    ),
    "stretch": Act(
        phrase="stretching sideways", rate=0.45, reach=0.7,
        curves={
            "sway": (0, 16, 0, -16), "abduct.R": (70, 160, 70, 12), "abduct.L": (70, 12, 70, 160), "elbow": (20,),
            "spread": (9,),
        },
    ),
    "look": Act(
        phrase="standing and looking around", rate=0.4,
        curves={"head": (0, 45, 0, -45), "twist": (0, 6, 0, -6), "abduct": (8,), "elbow": (14,),
        "sway": (0, 1.5, 0, -1.5), "knee": (4,)},
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Style:
    """What makes one person's version of an act their own; angles in radians, `turn` in radians a second."""

    act: str
    phase: float = 0.0
    tempo: float = 1.0
    vigour: float = 1.0
    yaw: float = 0.0
    turn: float = 0.0


@dataclass(frozen=True)
class Motion:
    """World rotations and joint positions of the 17 bones on a time grid."""

    turns: Float[np.ndarray, "t 17 3 3"]
    joints: Float[np.ndarray, "t 17 3"]
    yaw: Float[np.ndarray, " t"] = field(repr=False)

    def every(self, step: int) -> "Motion":
        return Motion(self.turns[::step], self.joints[::step], self.yaw[::step])

    def moved(self, offset: np.ndarray) -> "Motion":
        return Motion(self.turns, self.joints + offset, self.yaw)


def curve(keys: tuple[float, ...], phase: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    """The periodic curve through `keys` at evenly spaced phases of [0, 1): trigonometric interpolation."""
    waves = np.fft.rfft(keys) / len(keys)
    order = np.arange(len(waves))
    weight = np.where((order == 0) | (2 * order == len(keys)), 1.0, 2.0)
    return np.cos(2 * np.pi * np.outer(phase, order)) @ (weight * waves.real) - np.sin(
        2 * np.pi * np.outer(phase, order)
    ) @ (weight * waves.imag)


def animate(body: Body, style: Style, times: Float[np.ndarray, " t"]) -> Motion:
    """One person performing an act on an evenly spaced time grid, starting above the origin, feet on z = 0."""
    act = ACTS[style.act]
    phase = style.phase + style.tempo * act.rate * times
    yaw = style.yaw + style.turn * (times - times.mean())
    turns = rotation_z(yaw)[:, None] @ _bone_turns(act, phase, style.vigour) @ body.straighten
    joints = _chain(body, turns)
    soles = _soles(body, turns, joints)
    hop = np.maximum(curve(act.curves.get("hop", (0.0,)), phase), 0.0)
    root = np.concatenate([_lock(soles), (_ground(soles) + style.vigour * hop)[:, None]], axis=1)
    return Motion(turns, joints + root[:, None], yaw)


def rotation_x(angle: Float[np.ndarray, " t"]) -> Float[np.ndarray, "t 3 3"]:
    return _rotation(angle, 0)


def rotation_y(angle: Float[np.ndarray, " t"]) -> Float[np.ndarray, "t 3 3"]:
    return _rotation(angle, 1)


def rotation_z(angle: Float[np.ndarray, " t"]) -> Float[np.ndarray, "t 3 3"]:
    return _rotation(angle, 2)


def _rotation(angle: np.ndarray, axis: int) -> np.ndarray:
    turn = np.zeros((len(angle), 3, 3))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    turn[:, axis, axis] = 1.0
    turn[:, i, i] = turn[:, j, j] = np.cos(angle)
    turn[:, i, j], turn[:, j, i] = -np.sin(angle), np.sin(angle)
    return turn


def _bone_turns(act: Act, phase: np.ndarray, vigour: float) -> np.ndarray:
    """Rotations of all bones in the body's frame, from the act's joint angles."""

    def angle(joint: str, side: str = "", lag: float = 0.0) -> np.ndarray:
        keys = act.curves.get(joint + side, act.curves.get(joint, (0.0,)))
        return vigour * np.radians(curve(keys, phase + lag))

    lean, sway, twist = angle("lean"), rotation_y(angle("sway")), angle("twist")
    turns = np.empty((len(phase), len(BONES), 3, 3))
    turns[:, BONE["pelvis"]] = sway @ rotation_z(0.5 * twist)
    turns[:, BONE["spine"]] = rotation_x(0.7 * lean) @ sway
    turns[:, BONE["chest"]] = rotation_z(-twist) @ rotation_x(lean) @ sway
    turns[:, BONE["neck"]] = turns[:, BONE["chest"]] @ rotation_x(-0.5 * lean)
    turns[:, BONE["head"]] = rotation_z(angle("head")) @ rotation_x(angle("nod") + 0.3 * lean)
    for side, out, lags in SIDES:
        lag = act.lag * lags
        limb = {
            joint: angle(joint, side, lag)
            for joint in ("hip", "knee", "ankle", "shoulder", "elbow", "abduct", "spread")
        }
        thigh = turns[:, BONE["pelvis"]] @ rotation_y(-out * limb["spread"]) @ rotation_x(-limb["hip"])
        shin = thigh @ rotation_x(limb["knee"])
        upper = turns[:, BONE["chest"]] @ rotation_y(-out * limb["abduct"]) @ rotation_x(-limb["shoulder"])
        fore = upper @ rotation_x(-limb["elbow"])
        foot = shin @ rotation_x(-limb["ankle"])
        for bone, turn in (
            ("thigh", thigh),
            ("shin", shin),
            ("foot", foot),
            ("uarm", upper),
            ("farm", fore),
            ("hand", fore),
        ):
            turns[:, BONE[bone + side]] = turn
    return turns


def _chain(body: Body, turns: np.ndarray) -> np.ndarray:
    """Joint positions from bone rotations, the pelvis at its rest place."""
    joints = np.empty((len(turns), len(BONES), 3))
    for bone, parent in enumerate(PARENTS):
        if parent < 0:
            joints[:, bone] = body.joints[bone]
        else:
            joints[:, bone] = joints[:, parent] + turns[:, parent] @ (body.joints[bone] - body.joints[parent])
    return joints


def _soles(body: Body, turns: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """The feet's vertices over time, [t, n, 3], each carried by its foot bone alone."""
    parts = []
    for side, _, _ in SIDES:
        bone = BONE["foot" + side]
        rest = body.vertices[WEIGHTS[:, bone] > 0.5] - body.joints[bone]
        parts.append(rest @ turns[:, bone].transpose(0, 2, 1) + joints[:, bone, None])
    return np.concatenate(parts, axis=1)


def _lock(soles: np.ndarray) -> np.ndarray:
    """Horizontal root path [t, 2] that keeps what touches the ground from sliding."""
    height = soles[..., 2]
    weight = np.exp(-(height - height.min(1, keepdims=True)) / _CONTACT)
    weight = np.minimum(weight[1:], weight[:-1])
    slide = (np.diff(soles[..., :2], axis=0) * weight[..., None]).sum(1) / weight.sum(1, keepdims=True)
    return np.concatenate([np.zeros((1, 2)), -np.cumsum(slide, axis=0)])


def _ground(soles: np.ndarray) -> np.ndarray:
    """Root height [t] that puts the lowest sole on z = 0, smoothed upwards only by millimetres."""
    lowest = -soles[..., 2].min(1)
    window = np.hanning(9)[1:-1] / np.hanning(9).sum()
    smooth = np.convolve(np.pad(lowest, 3, "edge"), window, "valid")
    return np.maximum(smooth, lowest - 0.004)
