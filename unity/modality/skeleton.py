"""Human skeletons as OpenPose's coloured joints and limbs, and back."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from unity.files import write_json_lists
from unity.modality.base import Baseline, Facts, Measure, Modality, Video
from unity.modality.coco import Detections, average_precision
from unity.modality.overlap import best_pairs
from unity.modality.people import (
    JOINT_COLOURS,
    LIMB_COLOURS,
    LIMBS,
    find_people,
    joint_radius,
    limb_thickness,
)
from unity.modality.sizes import points

People = Float32[np.ndarray, "t p 18 3"]
Frame = Float[np.ndarray, "p 18 3"]
# scored in the precision that they come in; a prediction may find another number of people
Truth = Float[np.ndarray, "t p 18 3"]
Found = Float[np.ndarray, "t found 18 3"]

JOINTS = (
    "nose", "neck",
    "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip

# COCO's order of the joints that it shares with OpenPose
COCO_JOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
# where the joints of single persons lie on average, as shares of width and height: 120 simulated clips
_MEAN_POSE = np.array(
    [
        (0.51, 0.20), (0.51, 0.29), (0.48, 0.29), (0.46, 0.36), (0.45, 0.41), (0.54, 0.29),
        (0.55, 0.37), (0.56, 0.42), (0.49, 0.49), (0.49, 0.66), (0.49, 0.82), (0.53, 0.49),
        (0.53, 0.66), (0.53, 0.82), (0.51, 0.18), (0.51, 0.18), (0.49, 0.19), (0.53, 0.18),
    ],
    dtype=np.float32,
)  # fmt: skip
# pixels from everywhere
_NOWHERE = -1e6

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
    # only drawing needs it; the table is read where OpenCV is not
    import cv2

    thickness = limb_thickness(*frame.shape[:2])
    for (a, b), colour in zip(LIMBS, LIMB_COLOURS.tolist(), strict=True):
        if visible[a] and visible[b]:
            cv2.line(frame, person[a], person[b], colour, thickness, cv2.LINE_8, _BITS)


def _draw_joints(frame: UInt8[np.ndarray, "h w 3"], person: list[list[int]], visible: list[bool]) -> None:
    """Nose last: the face is the most crowded place, and its joints then cover each other least."""
    import cv2

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
    frames = (np.round(frame.astype(float), 3) for frame in people)
    path = stem.with_name(stem.name + ".json")
    return [write_json_lists(path, {"joints": JOINTS, "fps": fps, "frames": frames})]


def score(prediction: Found, truth: Truth, threshold: float = 0.1) -> dict[str, float]:
    """`pck`, share of the truly visible joints found, and `precision`, share of the predicted joints that are so.

    A joint is right within `threshold` times the longer side of the box around its true person's visible joints of
    that frame (Yang & Ramanan, 2013). People are matched one-to-one and once per clip, such that most joints are
    right: whoever changes place with another is wrong from there on. A position that is no number is never right.
    `pck` is NaN where the truth shows no joint. `precision` is 0 where the truth shows joints and the prediction
    none, and 1 where neither does.
    """
    hits = np.sum([_hits(*frames, threshold) for frames in zip(prediction, truth, strict=True)], axis=0)
    right = int(hits[best_pairs(hits)].sum())
    visible, claimed = (int((people[..., 2] > 0.5).sum()) for people in (truth, prediction))
    return {
        "pck": right / visible if visible else float("nan"),
        "precision": right / claimed if claimed else float(not visible),
    }


def benchmark(prediction: Found, truth: Truth, facts: Facts) -> dict[str, float]:
    """`oks_ap` and `oks_ap50`: people of all frames as detections, by COCO's tools; NaN where nobody is there.

    COCO's 17 joints with its falloffs; a person's area is 0.53 of the box around their visible joints, as where
    there are no masks (Li et al., 2019, CrowdPose). Whoever shows more joints comes first; a joint that is left
    out is infinitely far away.
    """
    ((ap, ap50),) = average_precision([detections(prediction, truth)])
    return {"oks_ap": float(ap), "oks_ap50": float(ap50)}


def detections(prediction: Found, truth: Truth) -> Detections:
    """People of all frames as COCO has them."""
    order = [JOINTS.index(name) for name in COCO_JOINTS]
    true, found = ([*_annotations(people[:, :, order])] for people in (truth, prediction))
    images = [{"id": frame} for frame in range(len(truth))]
    return {"kind": "keypoints", "images": images, "true": true, "found": found}


def _annotations(people: Float[np.ndarray, "t p 17 3"]) -> Iterator[dict]:
    """COCO's annotations of the people who show a joint."""
    for frame, persons in enumerate(people):
        seen_by_all = (persons[..., 2] > 0.5) & np.isfinite(persons).all(-1)
        areas = 0.53 * _sides(persons, seen_by_all).clip(1).prod(-1)
        for person, seen, area in zip(persons, seen_by_all, areas, strict=True):
            if not seen.any():
                continue
            places = np.where(seen[:, None], person[:, :2], _NOWHERE)
            yield {
                "image_id": frame,
                "keypoints": np.concatenate((places, 2.0 * seen[:, None]), -1).ravel().tolist(),
                "num_keypoints": int(seen.sum()),
                "area": float(area),
                "bbox": [0.0, 0.0, 1.0, 1.0],
                "score": float(seen.mean()),
            }


def _hits(
    prediction: Float[np.ndarray, "found 18 3"], truth: Frame, threshold: float
) -> Int[np.ndarray, "p found"]:
    """How many joints of a frame are right for each pair of a true and a predicted person."""
    seen = truth[..., 2] > 0.5
    distance = np.linalg.norm(truth[:, None, :, :2] - prediction[None, :, :, :2], axis=-1)
    near = distance <= threshold * _sizes(truth, seen)[:, None, None]
    return (near & seen[:, None] & (prediction[None, ..., 2] > 0.5)).sum(-1)


def _sizes(people: Frame, seen: Bool[np.ndarray, "p 18"]) -> Float[np.ndarray, " p"]:
    """Longer side of the box around each person's visible joints, at least a pixel."""
    return _sides(people, seen).max(-1).clip(1)


def _sides(people: Float[np.ndarray, "p n 3"], seen: Bool[np.ndarray, "p n"]) -> Float[np.ndarray, "p 2"]:
    """Width and height of the box around each person's visible joints, -inf where there is none."""
    low, high = (np.where(seen[..., None], people[..., :2], fill) for fill in (np.inf, -np.inf))
    return high.max(1, initial=-np.inf) - low.min(1, initial=np.inf)


def trivial(rgb: Video | None, truth: People) -> Found:
    """Nobody is there."""
    return np.zeros_like(truth[:, :0])


def mean_pose(rgb: Video, truth: Truth) -> Found:
    """One person throughout, in the pose and place that people have on average."""
    height, width = rgb.shape[1:3]
    person = np.ones((len(rgb), 1, len(JOINTS), 3), np.float32)
    person[..., :2] = _MEAN_POSE * (width, height) - np.float32(0.5)
    return person


def agree(
    earlier: Float32[np.ndarray, "shared p 18 3"], later: Float32[np.ndarray, "t found 18 3"]
) -> Float32[np.ndarray, "t places 18 3"]:
    """The later clip's people at the places of the earlier ones that most of their joints are near to.

    New ones take places that nobody is seen at in the shared frames, then places of their own behind them.
    """
    shared = later[: len(earlier)]
    near = np.sum([_hits(*frames, 0.5) for frames in zip(shared, earlier, strict=True)], axis=0)
    rows, columns = best_pairs(near)
    place = {int(c): int(r) for r, c in zip(rows, columns, strict=True) if near[r, c] > 0}
    empty = [p for p in range(earlier.shape[1]) if not (earlier[:, p, :, 2] > 0.5).any()]
    free = iter(
        [p for p in empty if p not in place.values()] + [earlier.shape[1] + p for p in range(later.shape[1])]
    )
    place |= {person: next(free) for person in range(later.shape[1]) if person not in place}
    count = max([earlier.shape[1], *(p + 1 for p in place.values())])
    placed = np.zeros((len(later), count, *later.shape[2:]), np.float32)
    for person, where in place.items():
        placed[:, where] = later[:, person]
    return placed


SKELETON = Modality(
    name="skeleton",
    type_prompt="human skeletons, coloured joints and limbs on black",
    meaning="discs are joints, lines are limbs, each in its own colour",
    pixel_aligned=False,
    of_people=True,
    spread=(-0.915, 0.363),
    constants=constants,
    unknown_constants=unknown_constants,
    encode=encode,
    decode=decode,
    picture=picture,
    save=save,
    resize=points,
    agree=agree,
    score=score,
    measures={
        "pck": Measure(words="PCK@0.1", more=True),
        "precision": Measure(words="precision", more=True),
    },
    benchmark=benchmark,
    detections=detections,
    detection_measures={
        "oks_ap_of_all": Measure(words="AP of OKS of all clips as one set", more=True),
        "oks_ap50_of_all": Measure(words="AP50 of OKS of all clips as one set", more=True),
    },
    benchmark_measures={
        "oks_ap": Measure(words="OKS-AP", more=True),
        "oks_ap50": Measure(words="OKS-AP50", more=True),
    },
    baselines={
        "trivial": Baseline(words="nobody", predict=trivial),
        "classical": Baseline(words="mean pose", predict=mean_pose),
    },
)
