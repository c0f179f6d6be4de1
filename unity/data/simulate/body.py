"""Skinned human bodies: one mesh and rig, six CC0 shapes (BODY.md), blended and dressed at will.

Rest pose and world share one frame: z up, metres; a body looks to -y and has its right side at x < 0.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

_FILE = np.load(Path(__file__).with_name("body.npz"))
BONES = tuple(str(name) for name in _FILE["BONES"])
BONE = {name: index for index, name in enumerate(BONES)}
PARENTS = tuple(int(parent) for parent in _FILE["PAR"])
FACES = np.ascontiguousarray(_FILE["F"], dtype=np.int64)
WEIGHTS = _FILE["W"].astype(np.float64)
# Shape of a body's vertices.
MESH = (len(WEIGHTS), 3)
PEOPLE = ("woman", "man", "stocky man", "tall woman", "child", "older woman")

# DensePose numbers of each bone's two half charts: (back, front), of head and neck (right, left).
PARTS = {
    "pelvis": (1, 2), "spine": (1, 2), "chest": (1, 2), "neck": (23, 24), "head": (23, 24),
    "hand.R": (3, 3), "hand.L": (4, 4), "foot.L": (5, 5), "foot.R": (6, 6),
    "thigh.R": (7, 9), "thigh.L": (8, 10), "shin.R": (11, 13), "shin.L": (12, 14),
    "uarm.L": (15, 17), "uarm.R": (16, 18), "farm.L": (19, 21), "farm.R": (20, 22),
}  # fmt: skip
# What a face wears, by bone: indices into a person's materials (scene.Clothes says which colour each gets).
WEAR = ("torso", "hips", "skin", "shoe", "hair", "upper arm", "forearm", "thigh", "shin")
_WORN = {
    "pelvis": "hips", "spine": "torso", "chest": "torso", "neck": "skin", "head": "skin", "hand": "skin",
    "foot": "shoe", "thigh": "thigh", "shin": "shin", "uarm": "upper arm", "farm": "forearm",
}  # fmt: skip
# OpenPose's 18 keypoints: a bone's head, or a row of the face points; the neck is between the shoulders.
KEYPOINT_BONES = (
    None, None, "uarm.R", "farm.R", "hand.R", "uarm.L", "farm.L", "hand.L",
    "thigh.R", "shin.R", "foot.R", "thigh.L", "shin.L", "foot.L",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Body:
    """One person's rest shape. `straighten` turns each bone from the rest pose to straight, arms hanging."""

    vertices: Float[np.ndarray, "v 3"]
    joints: Float[np.ndarray, "17 3"]
    face_points: Float[np.ndarray, "5 3"]
    straighten: Float[np.ndarray, "17 3 3"]
    parts: Int[np.ndarray, " f"]
    wear: Int[np.ndarray, " f"]

    @property
    def height(self) -> float:
        return float(self.vertices[:, 2].max())


def make_body(shape: int, other: int, mix: float, scale: float, hair: float) -> Body:
    """The body (1 - mix) * shape + mix * other of PEOPLE, scaled, its hair lifted by `hair` metres."""

    def blend(key: str) -> np.ndarray:
        table = _FILE[key].astype(np.float64)
        return scale * ((1 - mix) * table[shape] + mix * table[other])

    vertices, joints = blend("V"), blend("H")
    parts, wear = _face_labels(vertices)
    return Body(
        vertices=_lift_hair(vertices, wear, hair),
        joints=joints,
        face_points=blend("K"),
        straighten=_straighten(joints),
        parts=parts,
        wear=wear,
    )


def face_normals(vertices: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, "f 3"]:
    """Outward normals of the triangles, their lengths twice the areas."""
    a, b, c = (vertices[FACES[:, corner]] for corner in range(3))
    return np.cross(b - a, c - a)


def _rotation_between(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    a, b = start / np.linalg.norm(start), end / np.linalg.norm(end)
    x, y, z = np.cross(a, b)
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + skew + skew @ skew / (1 + a @ b)


def _straighten(joints: np.ndarray) -> np.ndarray:
    turns = np.repeat(np.eye(3)[None], len(BONES), axis=0)
    for side, out in ((".R", -1), (".L", 1)):
        for bone, child, direction in (
            ("thigh", "shin", (0.03 * out, 0.0, -1.0)),
            ("shin", "foot", (0.0, 0.05, -1.0)),
            ("uarm", "farm", (0.04 * out, 0.0, -1.0)),
            ("farm", "hand", (0.0, 0.0, -1.0)),
        ):
            along = joints[BONE[child + side]] - joints[BONE[bone + side]]
            turns[BONE[bone + side]] = _rotation_between(along, np.array(direction))
        turns[BONE["hand" + side]] = turns[BONE["farm" + side]]
    return turns


def _face_labels(vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DensePose part (1..24) and WEAR index of every triangle, from skinning weights and the rest shape."""
    centre, owner = vertices[FACES].mean(1), WEIGHTS[FACES].sum(1).argmax(1)
    parts, wear = np.zeros(len(FACES), np.int64), np.zeros(len(FACES), np.int64)
    for index, name in enumerate(BONES):
        mine = owner == index
        left, front = centre[mine, 0] >= 0, centre[mine, 1] < np.median(centre[mine, 1])
        second = left if name in ("head", "neck") else front
        parts[mine] = np.where(second, PARTS[name][1], PARTS[name][0])
        wear[mine] = WEAR.index(_WORN[name.split(".")[0]])
    wear[_is_hair(centre, owner == BONE["head"])] = WEAR.index("hair")
    return parts, wear


def _is_hair(centre: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Top and back of the head."""
    y, z = centre[:, 1], centre[:, 2]
    high, top = np.quantile(z[head], (0.55, 0.86))
    return head & (((z > high) & (y > np.quantile(y[head], 0.30))) | (z > top))


def _lift_hair(vertices: np.ndarray, wear: np.ndarray, height: float) -> np.ndarray:
    hairy = np.zeros(len(vertices))
    hairy[FACES[wear == WEAR.index("hair")]] = 1.0
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, FACES[:, corner], face_normals(vertices))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return vertices + height * hairy[:, None] * normals


def skin(
    body: Body, turns: Float[np.ndarray, "t 17 3 3"], joints: Float[np.ndarray, "t 17 3"]
) -> Float[np.ndarray, "t v 3"]:
    """Linear blend skinning: rest vertices carried by bones with these world rotations and joint positions."""
    shift = joints - np.einsum("tbij,bj->tbi", turns, body.joints)
    bones = np.concatenate([turns, shift[..., None]], axis=-1)
    blended = WEIGHTS @ bones.transpose(1, 0, 2, 3).reshape(len(BONES), -1)
    blended = blended.reshape(-1, len(turns), 3, 4).transpose(1, 0, 2, 3)
    return np.einsum("tvij,vj->tvi", blended[..., :3], body.vertices) + blended[..., 3]


def keypoints(
    body: Body, turns: Float[np.ndarray, "t 17 3 3"], joints: Float[np.ndarray, "t 17 3"]
) -> Float[np.ndarray, "t 18 3"]:
    """OpenPose's 18 keypoints in the world."""
    head = BONE["head"]
    face = np.einsum("tij,kj->tki", turns[:, head], body.face_points - body.joints[head]) + joints[:, head, None]
    points = np.empty((len(turns), 18, 3))
    points[:, 0], points[:, 14:] = face[:, 0], face[:, 1:]
    for index, bone in enumerate(KEYPOINT_BONES):
        if bone:
            points[:, index] = joints[:, BONE[bone]]
    points[:, 1] = (points[:, 2] + points[:, 5]) / 2
    return points
