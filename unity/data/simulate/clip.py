"""`simulate`: a seed becomes a clip with its video, five modalities and their exact values, caption and facts."""

from typing import Any

import numpy as np

from unity.data.clips import Clip
from unity.data.simulate.camera import Camera, film
from unity.data.simulate.caption import caption
from unity.data.simulate.physics import GRAVITY, World, run
from unity.data.simulate.render import Renderer
from unity.data.simulate.scene import draw_scene
from unity.data.simulate.truth import Truth
from unity.modality.table import MODALITIES

# of so many clips without people one has the views of people all the same, so that a model learns to see nobody
_EMPTY = 4


def simulate(
    seed: int, source: str, frames: int = 33, size: tuple[int, int] = (128, 128), fps: float = 16.0
) -> Clip:
    """The clip of (seed, source), byte for byte the same in every process.

    `size` is (height, width). Depth, flow and segmentation are available everywhere, densepose and skeleton where
    people are, and for one in four seeds where nobody is; values have the shapes and units of
    unity.modality.base. `meta` holds the camera (focal length in pixels; per frame position in metres and
    rotation, rows right, down, forward) and physics (SI units; per frame positions, quaternions w x y z,
    velocities). ValueError for an unknown source, a negative seed, fewer than two
    frames or a size below 16.
    """
    world, cameras = _played(seed, source, frames, size, fps)
    renderer = Renderer(world)
    rgb = np.stack([renderer.picture(camera, frame) for frame, camera in enumerate(cameras)])
    values = _measured(world, cameras)
    constants = {name: MODALITIES[name].constants(value, size) for name, value in values.items()}
    return Clip(
        name=f"{source}-{seed}",
        source=source,
        caption=caption(world.scene),
        fps=fps,
        video={"rgb": rgb} | {name: MODALITIES[name].encode(values[name], constants[name]) for name in values},
        constants=constants,
        values=values,
        meta=_meta(world, cameras),
    )


def facts(
    seed: int, source: str, frames: int = 33, size: tuple[int, int] = (128, 128), fps: float = 16.0
) -> dict[str, Any]:
    """The values of that clip and its "camera", as `meta` has it, without the cost of its pictures."""
    world, cameras = _played(seed, source, frames, size, fps)
    return _measured(world, cameras) | {"camera": _meta(world, cameras)["camera"]}


def _played(seed: int, source: str, frames: int, size: tuple[int, int], fps: float) -> tuple[World, list[Camera]]:
    if frames < 2 or min(size) < 16 or fps <= 0:
        raise ValueError(
            f"cannot film {frames} frames of {size} at {fps} fps: film at least 2 frames of 16 pixels"
        )
    world = run(draw_scene(seed, source), frames, fps)
    return world, film(world, size, fps)


def _measured(world: World, cameras: list[Camera]) -> dict[str, np.ndarray]:
    """The available modalities' values of all frames, flow moved to its convention."""
    truth = Truth(world, cameras)
    truths = [truth.measure(frame) for frame in range(world.frames)]
    shown = world.scene.people or world.scene.seed % _EMPTY == 0
    names = [name for name, row in MODALITIES.items() if shown or not row.of_people]
    # of those that the world can be asked for
    values = {name: np.stack([frame[name] for frame in truths]) for name in names if name in truths[0]}
    for name in values:
        # a frame's truth is of the step to the next
        if MODALITIES[name].between_frames:
            values[name] = np.concatenate([values[name][:1], values[name][:-1]])
    for name, row in MODALITIES.items():
        if row.derive is not None and name not in values:
            values[name] = row.derive(values, cameras[0].focal)
    return {name: _single(value) for name, value in values.items()}


def _single(values: np.ndarray) -> np.ndarray:
    return values if values.dtype == np.uint8 else values.astype(np.float32)


def _meta(world: World, cameras: list[Camera]) -> dict:
    scene = world.scene
    return {
        "generator": "unity.data.simulate",
        "seed": scene.seed,
        "camera": {
            "move": scene.shot.move.phrase,
            "focal": round(cameras[0].focal, 6),
            "position": _rounded([camera.position for camera in cameras]),
            "rotation": _rounded([camera.turn for camera in cameras]),
        },
        "people": [
            {"who": person.who, "act": person.style.act, "height": round(person.body.height, 3)}
            for person in scene.people
        ],
        "physics": {
            "gravity": [0.0, 0.0, -GRAVITY],
            "things": [
                {
                    "name": thing.name,
                    "instance": len(scene.people) + 1 + index,
                    "event": thing.event.phrase,
                    "mass": round(float(world.model.body_mass[1 + index]), 4),
                    "position": _rounded(world.thing_position[:, index]),
                    "quaternion": _rounded(world.thing_quaternion[:, index]),
                    "velocity": _rounded(world.thing_velocity[:, index]),
                }
                for index, thing in enumerate(scene.things)
            ],
        },
    }


def _rounded(rows) -> list:
    """Nested lists to a tenth of a millimetre."""
    return np.round(np.asarray(rows, dtype=np.float64), 4).tolist()
