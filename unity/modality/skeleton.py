"""Human skeletons as OpenPose's coloured joints and limbs, and back."""

import json
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from unity.modality.base import Modality
from unity.modality.files import replacing
from unity.modality.people import JOINT_COLOURS, LIMB_COLOURS, LIMBS, find_people, joint_radius

People = Float32[np.ndarray, "t p 18 3"]
Video = UInt8[np.ndarray, "t h w 3"]

JOINTS = (
    "nose", "neck",
    "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip

# Fractional bits of the coordinates that OpenCV draws at.
_BITS = 4


def constants(people: People, size: tuple[int, int]) -> dict[str, float]:
    """Height and width of the drawing, which the keypoints do not tell."""
    return unknown_constants(*size)


def unknown_constants(height: int, width: int) -> dict[str, float]:
    return {"height": float(height), "width": float(width)}


def encode(people: People, constants: dict[str, float]) -> Video:
    """Limbs in dimmed colours, then joints in full ones; a limb needs both its joints visible.

    x, y are pixels, whole numbers at pixel centres.
    """
    if not np.isfinite(people).all():
        raise ValueError("keypoints hold NaN or inf; give an unseen joint any position and visibility 0")
    height, width = int(constants["height"]), int(constants["width"])
    video = np.zeros((len(people), height, width, 3), np.uint8)
    points = np.rint(people[..., :2].clip(-1e4, 1e4) * (1 << _BITS)).astype(int).tolist()
    visible = (people[..., 2] > 0.5).tolist()
    for frame, persons, seen in zip(video, points, visible, strict=True):
        for person, flags in zip(persons, seen, strict=True):
            _draw_limbs(frame, person, flags)
        for person, flags in zip(persons, seen, strict=True):
            _draw_joints(frame, person, flags)
    return video


def _draw_limbs(frame: UInt8[np.ndarray, "h w 3"], person: list[list[int]], visible: list[bool]) -> None:
    thickness = 1 + round(0.7 * float(joint_radius(*frame.shape[:2])[1]))
    for (a, b), colour in zip(LIMBS, LIMB_COLOURS.tolist(), strict=True):
        if visible[a] and visible[b]:
            cv2.line(frame, person[a], person[b], colour, thickness, cv2.LINE_8, _BITS)


def _draw_joints(frame: UInt8[np.ndarray, "h w 3"], person: list[list[int]], visible: list[bool]) -> None:
    """Nose last: the face is the most crowded place, and its joints then cover each other least."""
    radii = [round(float(radius) * (1 << _BITS)) for radius in joint_radius(*frame.shape[:2])]
    for joint in reversed(range(len(JOINTS))):
        if visible[joint]:
            cv2.circle(frame, person[joint], radii[joint], JOINT_COLOURS[joint].tolist(), -1, cv2.LINE_8, _BITS)


def decode(video: Video, constants: dict[str, float]) -> People:
    """Keypoints grouped into people, each person at the same place of the second axis throughout the clip."""
    return find_people(video)


def picture(people: People, constants: dict[str, float]) -> Video:
    return encode(people, constants)


def save(people: People, stem: Path, fps: float) -> list[Path]:
    """`stem.json`: joint names, fps, and frames → people → 18 × [x, y, visibility]."""
    record = {"joints": JOINTS, "fps": fps, "frames": np.round(people.astype(float), 3).tolist()}
    path = stem.with_name(stem.name + ".json")
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record))
    return [path]


SKELETON = Modality(
    name="skeleton",
    type_prompt="human skeletons, coloured joints and limbs on black",
    pixel_aligned=False,
    constants=constants,
    unknown_constants=unknown_constants,
    encode=encode,
    decode=decode,
    picture=picture,
    save=save,
)
