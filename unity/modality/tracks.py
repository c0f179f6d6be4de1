"""Following people from frame to frame: whose joints are whose throughout a clip."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

# One person in one frame: joint → (x, y).
Person = dict[int, np.ndarray]
# One person throughout: frame → joints.
Track = dict[int, Person]

# Sightings that a person's motion is taken from.
_MEMORY = 6
# Two tracks are parts of one person if of the smaller one's joints no larger share is elsewhere on the other.
_ELSEWHERE = 0.3


def follow(frames: Sequence[list[Person]], near: float) -> list[Track]:
    """Tracks of the people of all frames: each goes on with who has most joints near where it leads.

    A joint counts the less the further away it is, and not at all beyond `near`. Who is nearest on average would
    be a stray part of somebody as often as the rest of them.
    """
    tracks: list[Track] = []
    for time, people in enumerate(frames):
        pairs = sorted(
            (-_closeness(expected, person, near), _distance(expected, person), i, j)
            for i, expected in enumerate([_expected(track, time) for track in tracks])
            for j, person in enumerate(people)
        )
        taken: dict[int, int] = {}
        for _, _, i, j in pairs:
            if i not in taken.values() and j not in taken:
                taken[j] = i
        for j, person in enumerate(people):
            if j not in taken:
                tracks.append({})
            tracks[taken.get(j, -1)][time] = person
    return tracks


def unite(tracks: Sequence[Track], near: float, reach: float) -> list[Track]:
    """Tracks of one person joined, nearest first.

    Such are at most `reach` apart, and hardly a joint is in two places at once (further apart than `near`).
    """
    tracks = list(tracks)
    while pairs := [
        (_apart(tracks[i], tracks[j]), i, j)
        for i, j in combinations(range(len(tracks)), 2)
        if _compatible(tracks[i], tracks[j], near)
    ]:
        least, i, j = min(pairs)
        if least > reach:
            break
        smaller, larger = sorted((tracks[i], tracks.pop(j)), key=_joints)
        times = sorted(smaller.keys() | larger.keys())
        tracks[i] = {time: smaller.get(time, {}) | larger.get(time, {}) for time in times}
    return tracks


def gap(a: Person, b: Person) -> float:
    """Smallest distance between joints of two people."""
    difference = np.array(list(a.values()))[:, None] - np.array(list(b.values()))
    return float(np.sqrt(np.square(difference).sum(-1).min()))


def _joints(track: Track) -> int:
    return sum(len(person) for person in track.values())


def _compatible(a: Track, b: Track, near: float) -> bool:
    shared = [(a[time], b[time]) for time in a.keys() & b.keys()]
    twice = sum(len(one.keys() & other.keys()) - _agreeing(one, other, near) for one, other in shared)
    return twice <= _ELSEWHERE * min(_joints(a), _joints(b))


def _apart(a: Track, b: Track) -> float:
    """Mean gap of the frames that show both; of two who are never seen together, the way from one to the other."""
    shared = sorted(a.keys() & b.keys())
    if shared:
        return float(np.mean([gap(a[time], b[time]) for time in shared]))
    _, one, other = min((abs(one - other), one, other) for one in a for other in b)
    return _distance(a[one], b[other])


def _expected(track: Track, time: int) -> Person:
    """Where a person will be if the mean motion of the last sightings goes on."""
    first, last = list(track)[-_MEMORY:][0], list(track)[-1]
    shared = track[first].keys() & track[last].keys()
    if first == last or not shared:
        return track[last]
    moved = np.mean([track[last][joint] - track[first][joint] for joint in shared], axis=0)
    step = moved * (time - last) / (last - first)
    return {joint: position + step for joint, position in track[last].items()}


def _closeness(a: Person, b: Person, near: float) -> float:
    """How many joints both have, each less than whole as they are apart."""
    return sum(max(0.0, 1 - distance / near) for distance in _distances(a, b))


def _agreeing(a: Person, b: Person, near: float) -> int:
    """How many joints both have at one place."""
    return sum(distance <= near for distance in _distances(a, b))


def _distance(a: Person, b: Person) -> float:
    """Distance between two people: the mean over the joints both have, else between their centres."""
    if distances := _distances(a, b):
        return float(np.mean(distances))
    return float(np.linalg.norm(np.mean(list(a.values()), 0) - np.mean(list(b.values()), 0)))


def _distances(a: Person, b: Person) -> list[float]:
    """Of each joint that both have."""
    return [float(np.linalg.norm(a[joint] - b[joint])) for joint in a.keys() & b.keys()]
