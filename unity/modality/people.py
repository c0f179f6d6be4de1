"""Finding people in a skeleton video: joints are blobs of one colour, limbs tell whose they are."""

from itertools import combinations, product

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float32, UInt8

from unity.modality.files import check_video
from unity.modality.palette import nearest

People = Float32[np.ndarray, "t p 18 3"]
# One person in one frame: joint → (x, y).
Person = dict[int, np.ndarray]

# OpenPose's 18 colours, and its limbs in those colours at 0.6 of the brightness.
JOINT_COLOURS: UInt8[np.ndarray, "18 3"] = np.array(
    [
        (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0),
        (0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255),
        (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85),
    ],
    dtype=np.uint8,
)  # fmt: skip
LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10),
    (1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
LIMB_COLOURS: UInt8[np.ndarray, "17 3"] = (JOINT_COLOURS[: len(LIMBS)] * 0.6).astype(np.uint8)
# Labels: 0 background, 1..18 joints, 19..35 limbs.
_PALETTE = np.concatenate([np.zeros((1, 3), np.uint8), JOINT_COLOURS, LIMB_COLOURS])
_FIRST_LIMB = 1 + len(JOINT_COLOURS)
_FACE = (0, 14, 15, 16, 17)

# A blob smaller than this share of a joint's disc is noise.
_MIN_AREA = 0.2
# Where along a limb its colour is looked for.
_SAMPLES = np.linspace(0.1, 0.9, 9)[:, None]
# Mean evidence that two joints are one limb: 1 for its own colour, less for any other that may cover it.
_COVERED, _ACCEPTED = 0.5, 0.4
# Parts without a limb between them are one person when this near, as a share of the picture's smaller side.
_REACH = 0.25
# Fewer joints than these are no person but noise.
_MIN_JOINTS = 3
# A frame shows no more people than these; noise would show hundreds.
_MOST_PEOPLE = 8
# Sightings that a person's motion is taken from.
_MEMORY = 6


def joint_radius(height: int, width: int) -> Float32[np.ndarray, "18"]:
    """Radius of each joint's disc in pixels: 3 at 128 pixels, growing with the root; 0.7 of it on the face."""
    radius = np.full(18, 3 * (min(height, width) / 128) ** 0.5, np.float32)
    radius[list(_FACE)] *= 0.7
    return radius.clip(1)


def find_people(video: UInt8[np.ndarray, "t h w 3"]) -> People:
    """Joints in pixels with visibility 0 or 1; p is the largest number of people in a frame, or 0.

    One or two joints that no limb and no nearby person explains are taken for noise.
    """
    check_video(video)
    labels = nearest(video, _PALETTE)
    frames = [_group(label, joints) for label, joints in zip(labels, _find_joints(labels), strict=True)]
    tracks = _track(frames)
    people = np.zeros((len(frames), len(tracks), 18, 3), np.float32)
    for index, track in enumerate(tracks):
        for time, person in track.items():
            for joint, position in person.items():
                people[time, index, joint] = (*position, 1)
    return people


def _find_joints(labels: UInt8[np.ndarray, "t h w"]) -> list[list[tuple[int, np.ndarray]]]:
    """Per frame, (joint, (x, y)) of every blob of a joint's colour."""
    # only decoding needs it; the table is read where OpenCV is not
    import cv2

    t, h, w = labels.shape
    area = _MIN_AREA * np.pi * joint_radius(h, w) ** 2
    rows, columns = _bounds((labels > 0) & (labels < _FIRST_LIMB))
    labels = labels[:, rows, columns]
    # all frames in one tall picture, with a black row between them
    tall = rearrange(np.pad(labels, ((0, 0), (0, 1), (0, 0))), "t h w -> (t h) w")
    found = [[] for _ in range(t)]
    for joint in range(18):
        mask = (tall == joint + 1).astype(np.uint8)
        _, _, stats, centres = cv2.connectedComponentsWithStats(mask, connectivity=8)
        size = stats[:, cv2.CC_STAT_AREA]
        time, row = np.divmod(centres[:, 1], labels.shape[1] + 1)
        # component 0 is the background; the largest of each frame come first
        order = 1 + np.argsort(-size[1:], kind="stable")
        for frame in range(t):
            for i in order[(time[order] == frame) & (size[order] >= area[joint])][:_MOST_PEOPLE]:
                found[frame].append((joint, np.array([columns.start + centres[i, 0], rows.start + row[i]])))
    return found


def _bounds(mask: Bool[np.ndarray, "t h w"]) -> tuple[slice, slice]:
    """Rows and columns that hold everything; one pixel where there is nothing."""
    sides = (np.flatnonzero(mask.any(axis)) for axis in ((0, 2), (0, 1)))
    rows, columns = (slice(side[0], side[-1] + 1) if len(side) else slice(0, 1) for side in sides)
    return rows, columns


def _group(labels: UInt8[np.ndarray, "h w"], joints: list[tuple[int, np.ndarray]]) -> list[Person]:
    """People of one frame: the best supported limbs first, never two of one joint in a person."""
    owner = [{joint: position} for joint, position in joints]
    for _, a, b in sorted(_limb_evidence(labels, joints), reverse=True):
        if owner[a].keys().isdisjoint(owner[b]):
            merged = owner[a] | owner[b]
            owner = [merged if group is owner[a] or group is owner[b] else group for group in owner]
    groups = {id(group): group for group in owner}.values()
    return _gather(list(groups), _REACH * min(labels.shape))


def _limb_evidence(
    labels: UInt8[np.ndarray, "h w"], joints: list[tuple[int, np.ndarray]]
) -> list[tuple[float, int, int]]:
    """(evidence, index, index) of every pair of joints whose line shows the limb between them."""
    indices = [[i for i, (joint, _) in enumerate(joints) if joint == wanted] for wanted in range(18)]
    limit = np.array(labels.shape[::-1]) - 1
    found = []
    for limb, (first, second) in enumerate(LIMBS):
        for a, b in product(indices[first], indices[second]):
            line = joints[a][1] * (1 - _SAMPLES) + joints[b][1] * _SAMPLES
            x, y = np.rint(line).clip(0, limit).astype(int).T
            seen = labels[y, x]
            evidence = np.where(seen == _FIRST_LIMB + limb, 1.0, np.where(seen > 0, _COVERED, 0.0)).mean()
            if evidence >= _ACCEPTED:
                found.append((float(evidence), a, b))
    return found


def _gather(groups: list[Person], reach: float) -> list[Person]:
    """Joins parts of people that share no joint, nearest first; what stays too small is dropped."""
    while pairs := [
        (_gap(groups[i], groups[j]), i, j)
        for i, j in combinations(range(len(groups)), 2)
        if groups[i].keys().isdisjoint(groups[j])
    ]:
        gap, i, j = min(pairs)
        if gap > reach:
            break
        groups[i] = groups[i] | groups.pop(j)
    return [group for group in groups if len(group) >= _MIN_JOINTS]


def _gap(a: Person, b: Person) -> float:
    """Smallest distance between joints of two people."""
    difference = np.array(list(a.values()))[:, None] - np.array(list(b.values()))
    return float(np.sqrt(np.square(difference).sum(-1).min()))


def _track(frames: list[list[Person]]) -> list[dict[int, Person]]:
    """Per person, frame → joints: each frame's people continue the tracks that lead nearest to them."""
    tracks: list[dict[int, Person]] = []
    for time, people in enumerate(frames):
        pairs = sorted(
            (_distance(_expected(track, time), person), i, j)
            for i, track in enumerate(tracks)
            for j, person in enumerate(people)
        )
        taken: dict[int, int] = {}
        for _, i, j in pairs:
            if i not in taken.values() and j not in taken:
                taken[j] = i
        for j, person in enumerate(people):
            if j not in taken:
                tracks.append({})
            tracks[taken.get(j, -1)][time] = person
    return tracks


def _expected(track: dict[int, Person], time: int) -> Person:
    """Where a person will be if the mean motion of the last sightings goes on."""
    first, last = list(track)[-_MEMORY:][0], list(track)[-1]
    shared = track[first].keys() & track[last].keys()
    if first == last or not shared:
        return track[last]
    moved = np.mean([track[last][joint] - track[first][joint] for joint in shared], axis=0)
    step = moved * (time - last) / (last - first)
    return {joint: position + step for joint, position in track[last].items()}


def _distance(a: Person, b: Person) -> float:
    """Distance between two people: the mean over the joints both have, else between their centres."""
    shared = a.keys() & b.keys()
    if shared:
        return float(np.mean([np.linalg.norm(a[joint] - b[joint]) for joint in shared]))
    return float(np.linalg.norm(np.mean(list(a.values()), 0) - np.mean(list(b.values()), 0)))
