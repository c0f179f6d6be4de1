"""Physics of a scene: MuJoCo moves the things, people move by their acts and push as kinematic capsules.

A positive `solref` mixes with the other geom's and nothing bounces; the direct form (stiffness, damping) with
`priority` does: a ball keeps 0.9 of its speed at damping 10, 0.7 at 60, 0.45 at 120, 0.15 at 300.
"""

from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float

from unity.data.simulate.body import BONE, MESH, keypoints, skin
from unity.data.simulate.motion import ACTS, Motion, animate
from unity.data.simulate.scene import Person, Scene, Thing

GRAVITY = 9.81
# Metres that two people keep between them besides what their acts reach.
_ELBOW_ROOM = 0.2
# Poses of people per frame that the contacts see, and the longest physics step in seconds.
POSES = 5
_MAX_STEP = 1 / 480
_STIFFNESS = 60000
# Kinematic people: capsules (bone, child, radius in metres).
_LIMBS = (
    ("pelvis", "neck", 0.14), ("neck", "head", 0.1), ("thigh.R", "shin.R", 0.08), ("thigh.L", "shin.L", 0.08),
    ("shin.R", "foot.R", 0.06), ("shin.L", "foot.L", 0.06), ("uarm.R", "farm.R", 0.05), ("uarm.L", "farm.L", 0.05),
    ("farm.R", "hand.R", 0.05), ("farm.L", "hand.L", 0.05),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class World:
    """All that moves, frame by frame, in metres and world axes (z up).

    `vertices` of people; `instance` maps a geom to 0 (scenery) or 1.. (people first, then
    things); `geom_turn` has a geom's axes as columns.
    """

    scene: Scene
    model: mujoco.MjModel
    geom_position: Float[np.ndarray, "t g 3"]
    geom_turn: Float[np.ndarray, "t g 3 3"]
    vertices: Float[np.ndarray, "p t v 3"]
    keypoints: Float[np.ndarray, "t p 18 3"]
    thing_position: Float[np.ndarray, "t k 3"]
    thing_quaternion: Float[np.ndarray, "t k 4"]
    thing_velocity: Float[np.ndarray, "t k 3"]
    instance: np.ndarray

    @property
    def frames(self) -> int:
        return len(self.geom_position)


def run(scene: Scene, frames: int, fps: float) -> World:
    """Play the scene for `frames` pictures."""
    times = np.arange((frames - 1) * POSES + 1) / (fps * POSES)
    motions = _keep_apart(scene.people, [animate(person.body, person.style, times) for person in scene.people])
    steps = int(np.ceil(1 / (fps * POSES) / _MAX_STEP))
    model = mujoco.MjModel.from_xml_string(scene_xml(scene, _starts(scene, motions), 1 / (fps * POSES * steps)))
    states = _integrate(model, scene, motions, frames, steps)
    shown = [motion.every(POSES) for motion in motions]
    people = list(zip(scene.people, shown, strict=True))
    return World(
        scene=scene,
        model=model,
        vertices=np.array([skin(person.body, motion.turns, motion.joints) for person, motion in people]).reshape(
            -1, frames, *MESH
        ),
        keypoints=np.array([keypoints(person.body, motion.turns, motion.joints) for person, motion in people])
        .reshape(-1, frames, 18, 3)
        .transpose(1, 0, 2, 3),
        instance=_instances(model, scene),
        **states,
    )


def _keep_apart(people: tuple[Person, ...], motions: list[Motion]) -> list[Motion]:
    """Put the middle of every path at its person's spot, then move later people back until paths keep clear."""
    placed: list[Motion] = []
    for person, motion in zip(people, motions, strict=True):
        root = motion.joints[:, BONE["pelvis"], :2]
        middle = (root.min(0) + root.max(0)) / 2
        motion = motion.moved(np.array([*(np.array(person.spot) - middle), 0.0]))
        for other, before in zip(people, placed, strict=False):
            room = ACTS[person.style.act].reach + ACTS[other.style.act].reach
            while _gap(motion, before) < min(room, 1.1) + _ELBOW_ROOM:
                motion = motion.moved(np.array([0.02, 0.08, 0.0]))
        placed.append(motion)
    return placed


def _gap(a: Motion, b: Motion) -> float:
    """Least horizontal distance of two people's pelvises, in metres."""
    pelvis = BONE["pelvis"]
    return float(np.linalg.norm(a.joints[:, pelvis, :2] - b.joints[:, pelvis, :2], axis=1).min())


def _starts(scene: Scene, motions: list[Motion]) -> list[np.ndarray]:
    """Start positions of the things, each moved back until it touches nobody and no earlier thing."""
    round_people = [(motion.joints[0, BONE["pelvis"], :2], _ELBOW_ROOM + 0.25) for motion in motions]
    starts: list[np.ndarray] = []
    for thing in scene.things:
        taken = round_people + [(s[:2], other.radius) for s, other in zip(starts, scene.things, strict=False)]
        start = np.array(thing.position)
        while any(np.linalg.norm(start[:2] - spot) < room + thing.radius for spot, room in taken):
            start[1] += 0.05
        starts.append(start)
    return starts


def _row(values) -> str:
    return " ".join(repr(float(value)) for value in values)


def scene_xml(scene: Scene, starts: list[np.ndarray], timestep: float) -> str:
    """The scene as MuJoCo XML, its things at their starts.

    Geoms come in the order ground, fixtures, things, people's capsules (group 3: never seen).
    """
    fixtures = "".join(
        f'<geom type="{f.shape}" size="{_row(f.size)}" pos="{_row(f.position)}" euler="0 0 {float(f.yaw)!r}"/>'
        for f in scene.fixtures
    )
    bodies = "".join(_thing_xml(thing, start) for thing, start in zip(scene.things, starts, strict=True))
    people = "".join(_person_xml(index, person) for index, person in enumerate(scene.people))
    return (
        f'<mujoco><option timestep="{timestep!r}" integrator="implicitfast" gravity="0 0 {-GRAVITY}"/>'
        f'<compiler angle="degree"/><worldbody><geom type="plane" size="0 0 .1"/>{fixtures}{bodies}{people}'
        "</worldbody></mujoco>"
    )


def _thing_xml(thing: Thing, start: np.ndarray) -> str:
    contact = f'density="400" friction="0.7 0.01 0.003" priority="1" solref="{-_STIFFNESS} {-thing.damping}"'
    parts = "".join(
        f'<geom type="{p.shape}" size="{_row(p.size)}" pos="{_row(p.offset)}" euler="{_row(p.euler)}" {contact}/>'
        for p in thing.parts
    )
    return f'<body pos="{_row(start)}" euler="{_row(thing.euler)}"><freejoint/>{parts}</body>'


def _person_xml(index: int, person: Person) -> str:
    rows = []
    for bone, child, radius in _LIMBS:
        half = float(np.linalg.norm(person.body.joints[BONE[child]] - person.body.joints[BONE[bone]]) / 2)
        geom = f'<geom type="capsule" group="3" contype="2" conaffinity="1" size="{radius} {half!r}"/>'
        rows.append(f'<body name="person{index} {bone}" mocap="true">{geom}</body>')
    return "".join(rows)


def _integrate(
    model: mujoco.MjModel, scene: Scene, motions: list[Motion], frames: int, steps: int
) -> dict[str, np.ndarray]:
    """Physics in `steps` steps per pose of the people; states recorded at every frame."""
    data = mujoco.MjData(model)
    for index, thing in enumerate(scene.things):
        data.qvel[6 * index : 6 * index + 6] = (*thing.velocity, *thing.spin)
    centres, quaternions = _capsules(motions, steps) if motions else ((), ())
    record: list[tuple[np.ndarray, ...]] = []
    for step in range((frames - 1) * POSES * steps + 1):
        if motions:
            data.mocap_pos[:], data.mocap_quat[:] = centres[step], quaternions[step]
        if step % (POSES * steps) == 0:
            mujoco.mj_kinematics(model, data)
            turns = data.geom_xmat.reshape(-1, 3, 3).copy()
            record.append((data.qpos.copy(), data.qvel.copy(), data.geom_xpos.copy(), turns))
        mujoco.mj_step(model, data)
    qpos, qvel, position, turn = (np.array(column) for column in zip(*record, strict=True))
    poses = qpos.reshape(frames, -1, 7)
    return dict(
        geom_position=position,
        geom_turn=turn,
        thing_position=poses[..., :3],
        thing_quaternion=poses[..., 3:],
        thing_velocity=qvel.reshape(frames, -1, 6)[..., :3],
    )


def _capsules(motions: list[Motion], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres [n, p * limbs, 3] and quaternions of all people's capsules at every physics step.

    Between poses they go straight: a capsule that jumped by centimetres would shoot what it lands in.
    """
    bones, children = [BONE[bone] for bone, _, _ in _LIMBS], [BONE[child] for _, child, _ in _LIMBS]
    start = np.concatenate([motion.joints[:, bones] for motion in motions], axis=1)
    end = np.concatenate([motion.joints[:, children] for motion in motions], axis=1)
    return _refine((start + end) / 2, steps), _refine(_from_z(end - start), steps)


def _refine(rows: np.ndarray, steps: int) -> np.ndarray:
    """Straight lines between rows, `steps` pieces each."""
    share = (np.arange(steps) / steps)[:, None, None]
    between = rows[:-1, None] + share * np.diff(rows, axis=0)[:, None]
    return np.concatenate([between.reshape(-1, *rows.shape[1:]), rows[-1:]])


def _from_z(axis: np.ndarray) -> np.ndarray:
    """Quaternions (w, x, y, z) [t, n, 4] that turn z onto axes [t, n, 3], of one sign along time.

    A capsule looks alike both ways, so axes point up first: that keeps clear of the half turn.
    """
    axis = axis / np.linalg.norm(axis, axis=-1, keepdims=True)
    x, y, z = np.moveaxis(np.where(axis[..., 2:] < 0, -axis, axis), -1, 0)
    quaternion = np.stack([1 + z, -y, x, np.zeros_like(z)], axis=-1)
    return quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True)


def _instances(model: mujoco.MjModel, scene: Scene) -> np.ndarray:
    """Instance number of each geom: 0 for scenery and for the unseen capsules."""
    bodies = model.geom_bodyid
    things = (bodies >= 1) & (bodies <= len(scene.things))
    return np.where(things, len(scene.people) + bodies, 0).astype(np.int64)
