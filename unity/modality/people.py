"""Finding people in a skeleton video: joints are blobs of one colour, limbs tell whose they are."""

from itertools import combinations, product

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float, Float32, UInt8

from unity.modality.files import check_video
from unity.modality.palette import nearest, nearest_hue
from unity.modality.tracks import Person, Track, follow, gap, unite

People = Float32[np.ndarray, "t p 18 3"]
# a joint, and where (x, y) it is
Joint = tuple[int, np.ndarray]

# OpenPose's 18 colours, and its limbs in those colours at a share of the brightness.
_DIMMED = 0.6
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
LIMB_COLOURS: UInt8[np.ndarray, "17 3"] = (JOINT_COLOURS[: len(LIMBS)] * _DIMMED).astype(np.uint8)
# Labels: 0 background, 1..18 joints, 19..35 limbs.
_PALETTE = np.concatenate([np.zeros((1, 3), np.uint8), JOINT_COLOURS, LIMB_COLOURS])
_FIRST_LIMB = 1 + len(JOINT_COLOURS)
_FACE = (0, 14, 15, 16, 17)

# A blob smaller than this share of a joint's disc is noise.
_MIN_AREA = 0.2
# A faint joint is a place that holds so many times the light that an upright limb of its hue has there, however
# blurred; a slanting one has up to 1.4 times as much.
_FAINT = 1.6
# Pixels darker than this share of full brightness are background.
_DARK = 0.2
# Where along a limb its colour is looked for.
_SAMPLES = np.linspace(0.1, 0.9, 9)[:, None]
# Mean evidence that two joints are one limb: 1 for its own hue, less for any other that may cover it.
_COVERED, _ACCEPTED = 0.5, 0.4
# Parts without a limb between them are one person when this near, as a share of the picture's smaller side.
_REACH = 0.25
# Two sightings of a joint are of one person within this share.
_NEAR = 0.1
# Fewer joints than these are no person but noise.
_MIN_JOINTS = 3
# A frame shows no more people than these; noise would show hundreds.
_MOST_PEOPLE = 8


def limb_thickness(height: int, width: int) -> int:
    """Pixels across a limb."""
    return 1 + round(0.7 * float(joint_radius(height, width)[1]))


def joint_radius(height: int, width: int) -> Float32[np.ndarray, "18"]:
    """Radius of each joint's disc in pixels: 3 at 128 pixels, growing with the root; 0.7 of it on the face."""
    radius = np.full(18, 3 * (min(height, width) / 128) ** 0.5, np.float32)
    radius[list(_FACE)] *= 0.7
    return radius.clip(1)


def find_people(video: UInt8[np.ndarray, "t h w 3"]) -> People:
    """Joints in pixels with visibility 0 or 1; p is the largest number of people in a frame, or 0.

    Joints are looked for as blobs of their colour and, where a model was not sure and so drew them blurred, as
    places that hold more light of their hue than a limb. One or two joints that no limb and no nearby
    person explains are taken for noise.
    """
    check_video(video)
    sharp = _find_joints(nearest(video, _PALETTE))
    hues = nearest_hue(video, _PALETTE[:_FIRST_LIMB], _DARK)
    radius, faint = joint_radius(*video.shape[1:3]), _faint_joints(hues, video.max(-1))
    joints = [_together(*found, radius) for found in zip(sharp, faint, strict=True)]
    frames = [_group(hue, found) for hue, found in zip(hues, joints, strict=True)]
    side = min(video.shape[1:3])
    return _placed(unite(follow(frames, _NEAR * side), _NEAR * side, _REACH * side), len(video))


def _placed(tracks: list[Track], frames: int) -> People:
    people = np.zeros((frames, len(tracks), 18, 3), np.float32)
    for index, track in enumerate(tracks):
        for time, person in track.items():
            for joint, position in person.items():
                people[time, index, joint] = (*position, 1)
    return people


def _find_joints(labels: UInt8[np.ndarray, "t h w"]) -> list[list[Joint]]:
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


def _faint_joints(hues: UInt8[np.ndarray, "t h w"], brightness: UInt8[np.ndarray, "t h w"]) -> list[list[Joint]]:
    """Per frame, the places that hold enough light of a joint's hue, brightest first and a disc apart."""
    import cv2

    t, h, w = hues.shape
    radius = joint_radius(h, w)
    # of a disc's light, what a limb through its middle has
    limb = _DIMMED * 2 * limb_thickness(h, w) / (np.pi * radius)
    edge = 1 + int(np.ceil(radius.max()))
    rows, columns = _bounds(hues > 0)
    padded = ((0, 0), (edge, edge), (edge, edge))
    hues, light = (np.pad(part[:, rows, columns], padded) for part in (hues, brightness))
    high = hues.shape[1]
    # all frames in one tall picture
    hues, light = (rearrange(part, "t h w -> (t h) w") for part in (hues, light.astype(np.float32) / 255))
    found: list[list[Joint]] = [[] for _ in range(t)]
    for joint in np.unique(hues[hues > 0]) - 1:
        own = np.where(hues == joint + 1, light, 0)
        disc = _disc(float(radius[joint]))
        share = cv2.filter2D(own, -1, disc / disc.sum(), borderType=cv2.BORDER_CONSTANT)
        peaks = np.argwhere(
            (share >= _FAINT * limb[joint]) & (share == cv2.dilate(share, np.ones(disc.shape, np.uint8)))
        )
        for row, column in peaks[np.argsort(-share[tuple(peaks.T)], kind="stable")].tolist():
            time = row // high
            x, y = _centre(own, row, column, len(disc) // 2) - (0, time * high)
            found[time].append((int(joint), np.array([columns.start + x - edge, rows.start + y - edge])))
    return found


def _disc(radius: float) -> Float32[np.ndarray, "n n"]:
    """A joint's disc, with a soft rim."""
    n = int(np.ceil(radius))
    y, x = np.mgrid[-n : n + 1, -n : n + 1]
    return (radius + 0.5 - np.hypot(y, x)).clip(0, 1).astype(np.float32)


def _centre(light: Float32[np.ndarray, "y x"], row: int, column: int, n: int) -> Float[np.ndarray, "2"]:
    """x, y of the centre of the light around a place, the brighter the more it counts."""
    y, x = np.mgrid[row - n : row + n + 1, column - n : column + n + 1]
    weight = light[y, x].astype(np.float64) ** 2
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


def _together(sharp: list[Joint], faint: list[Joint], radius: Float32[np.ndarray, "18"]) -> list[Joint]:
    """The sharp joints, and of the faint ones those of which none was found yet nearby."""
    found = list(sharp)
    for joint, place in faint:
        same = [other for known, other in found if known == joint]
        near = any(np.linalg.norm(place - other) <= 2.5 * radius[joint] for other in same)
        if not near and len(same) < _MOST_PEOPLE:
            found.append((joint, place))
    return found


def _bounds(mask: Bool[np.ndarray, "t h w"]) -> tuple[slice, slice]:
    """Rows and columns that hold everything; one pixel where there is nothing."""
    sides = (np.flatnonzero(mask.any(axis)) for axis in ((0, 2), (0, 1)))
    rows, columns = (slice(side[0], side[-1] + 1) if len(side) else slice(0, 1) for side in sides)
    return rows, columns


def _group(hues: UInt8[np.ndarray, "h w"], joints: list[Joint]) -> list[Person]:
    """People of one frame: the best supported limbs first, never two of one joint in a person."""
    owner = [{joint: position} for joint, position in joints]
    for _, a, b in sorted(_limb_evidence(hues, joints), reverse=True):
        if owner[a].keys().isdisjoint(owner[b]):
            merged = owner[a] | owner[b]
            owner = [merged if group is owner[a] or group is owner[b] else group for group in owner]
    groups = {id(group): group for group in owner}.values()
    return _gather(list(groups), _REACH * min(hues.shape))


def _limb_evidence(hues: UInt8[np.ndarray, "h w"], joints: list[Joint]) -> list[tuple[float, int, int]]:
    """(evidence, index, index) of every pair of joints whose line shows the limb between them."""
    indices = [[i for i, (joint, _) in enumerate(joints) if joint == wanted] for wanted in range(18)]
    limit = np.array(hues.shape[::-1]) - 1
    found = []
    for limb, (first, second) in enumerate(LIMBS):
        for a, b in product(indices[first], indices[second]):
            line = joints[a][1] * (1 - _SAMPLES) + joints[b][1] * _SAMPLES
            x, y = np.rint(line).clip(0, limit).astype(int).T
            seen = hues[y, x]
            evidence = np.where(seen == 1 + limb, 1.0, np.where(seen > 0, _COVERED, 0.0)).mean()
            if evidence >= _ACCEPTED:
                found.append((float(evidence), a, b))
    return found


def _gather(groups: list[Person], reach: float) -> list[Person]:
    """Joins parts of people that share no joint, nearest first; what stays too small is dropped."""
    while pairs := [
        (gap(groups[i], groups[j]), i, j)
        for i, j in combinations(range(len(groups)), 2)
        if groups[i].keys().isdisjoint(groups[j])
    ]:
        least, i, j = min(pairs)
        if least > reach:
            break
        groups[i] = groups[i] | groups.pop(j)
    return [group for group in groups if len(group) >= _MIN_JOINTS]
