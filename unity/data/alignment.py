"""Whether video files show the same scene at the same times: what can be told from their facts."""

from collections.abc import Mapping

import numpy as np

from unity.data import picture
from unity.data.film import Facts, Frames, choose, read_film

# flow of n frames may be n-1 maps, and some writers lose the last frame
FRAMES = 1
# of the longer duration, or of two frames: 24 frames a second beside 25, but not beside 30
DURATION = 0.05
# of the ratio of width to height: sides that an annotator rounded to multiples of 8, 14 or 16
ASPECT = 0.03


def check_aligned(streams: Mapping[str, Facts], frames: int) -> None:
    """ValueError unless every stream agrees with "rgb" and `frames` frames of it come from the same places.

    Numbers of frames may differ by FRAMES, durations by the share DURATION, aspects by the share ASPECT.
    """
    rgb = streams["rgb"]
    places = {
        name: np.searchsorted(f.stamps, choose(f.stamps, frames, str(f.path))) for name, f in streams.items()
    }
    for name, facts in streams.items():
        for agree in (_frames, _duration, _aspect, _orientation):
            agree(name, facts, rgb)
        if np.abs(places[name] - places["rgb"]).max() > FRAMES:
            raise ValueError(f"frames of {name} come at other times than those of rgb; {_REMEDY}")


def undamaged(facts: Facts, frames: int, size: tuple[int, int], stream: str) -> Frames:
    """`frames` of a file, see `read_film`; ValueError for a damaged one.

    FFmpeg makes something of most damage, but nobody wants to learn that.
    """
    film = read_film(facts, frames, size, stream)
    if damage := [note for note in film.notes if "is damaged" in note]:
        raise ValueError(damage[0])
    return film.frames


_REMEDY = "make it again from this video, or leave its cell empty"


def _frames(name: str, facts: Facts, rgb: Facts) -> None:
    if abs(facts.frames - rgb.frames) > FRAMES:
        raise ValueError(f"{name} has {facts.frames} frames, rgb has {rgb.frames}; {_REMEDY}")


def _duration(name: str, facts: Facts, rgb: Facts) -> None:
    ours, theirs = _seconds(facts), _seconds(rgb)
    if abs(ours - theirs) > max(DURATION * max(ours, theirs), 2 / float(rgb.rate)):
        raise ValueError(f"{name} lasts {ours:.2f} s, rgb {theirs:.2f} s; {_REMEDY}")


def _seconds(facts: Facts) -> float:
    return float((facts.stamps[-1] - facts.stamps[0]) * facts.tick + 1 / facts.rate)


def _aspect(name: str, facts: Facts, rgb: Facts) -> None:
    ours, theirs = _ratio(facts), _ratio(rgb)
    if abs(ours - theirs) > ASPECT * max(ours, theirs):
        turned = abs(1 / ours - theirs) <= ASPECT * max(1 / ours, theirs)
        how = "lies on its side" if turned else "has another aspect"
        raise ValueError(
            f"{name} {how}: it is {facts.size[0]} x {facts.size[1]}, rgb {rgb.size[0]} x {rgb.size[1]} "
            f"(height x width, as shown); {_REMEDY}"
        )


def _orientation(name: str, facts: Facts, rgb: Facts) -> None:
    """A file's note to turn or mirror it: its sides tell only of quarter turns of what is not square."""
    square = abs(_ratio(rgb) - 1) <= 2 * ASPECT
    if facts is rgb or _turn(facts) == _turn(rgb):
        return
    told_by_sides = all(
        f.matrix is None or picture.swaps_sides(f.matrix) or _turn(f) == _UPRIGHT for f in (facts, rgb)
    )
    if square or not told_by_sides:
        raise ValueError(
            f"of {name} and rgb one alone has a note to turn or mirror it, and whether their pictures agree "
            f"cannot be told; write both upright (ffmpeg -i IN OUT turns pictures for good)"
        )


_UPRIGHT = (1, 0, 0, 1)


def _turn(facts: Facts) -> tuple[int, ...]:
    return _UPRIGHT if facts.matrix is None else tuple(int(np.sign(value)) for value in facts.matrix)


def _ratio(facts: Facts) -> float:
    return facts.size[1] / facts.size[0]
