"""Video files that people give: which frames there are, and the wanted ones as people are meant to see them.

Frames are chosen by their time stamps, one after the other in one pass of decoding; never more than a few are in
memory, however long the film is. What FFmpeg decodes of a damaged file is used; what cannot be honoured is said.
"""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from unity.data import decoding, picture
from unity.data.decoding import opened, picture_name
from unity.data.stamps import Astray, Facts, between, choose, jumping, jumps_pay, nearest, paced, stamped

# frame rate where nothing tells one
RATE = Fraction(25)
Frames = UInt8[np.ndarray, "t h w 3"]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where frames come from."""

    # seconds of each frame from the first frame of the file
    times: tuple[float, ...]
    # frames per second of what was chosen
    fps: float
    # height and width of the film as shown, and top, left, height, width of the part of it that `frames` show
    size: tuple[int, int]
    crop: tuple[float, float, float, float]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Film(Origin):
    """Frames of a file and where they come from."""

    frames: Frames


@dataclass(frozen=True)
class Fit:
    """How frames are brought to a size, see `picture.fit`."""

    size: tuple[int, int] | None
    stream: str
    whole: bool


class Roll:
    """Frames of a film as `read_film` gives all of them, but one after the other, each time that it is iterated.

    No more than a few are in memory. Raises ValueError, when it is iterated, for a film that cannot be decoded.
    """

    def __init__(self, facts: Facts, size: tuple[int, int], whole: bool = False, fps: float | None = None):
        self.facts, self._fit = facts, Fit(size, "rgb", whole)
        self._wanted = facts.stamps if fps is None else paced(facts, fps)
        self._seen: list[int] = []
        self._faults: list[str] = []

    def __len__(self) -> int:
        return len(self._wanted)

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        self._seen, self._faults = [], []
        for stamp, shown in _rolled(self.facts, self._wanted, self._fit, self._faults):
            self._seen.append(stamp)
            yield shown

    @property
    def origin(self) -> Origin:
        """Of the frames that the last iteration gave."""
        return Origin(**_origin(self.facts, self._seen, self._faults, self._fit))


def look(path: str | Path) -> Facts:
    """Read a file's packets and decode its first frame.

    Raises ValueError for a file that is missing, holds no video, or nothing of which can be decoded.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(
            f"{picture_name(path)} is a folder; give a film in it, or all of them to python -m unity.jobs"
        )
    if not path.is_file():
        raise ValueError(f"there is no video file {picture_name(path)}; give the path of an existing one")
    faults: list[str] = []
    with opened(path) as stream:
        # not the packets themselves, which are all of the file
        packets = [
            (packet.pts, packet.is_keyframe)
            for packet in decoding.packets(stream, faults)
            if packet.size and not packet.is_discard
        ]
        stamps = [stamp for stamp, _ in packets if stamp is not None]
        # AVI keeps the order of decoding, and what FFmpeg makes of it are no times of frames
        whole = len(stamps) == len(packets)
        timed = whole and len(set(stamps)) > 1 and stream.container.format.name != "avi"
        keys = [stamp for stamp, is_key in packets if is_key and stamp is not None] if timed else []
        rate = stream.average_rate or stream.guessed_rate or stream.base_rate or RATE
        ends = (f"it ends after {len(packets)} of {stream.frames} frames",) if len(packets) < stream.frames else ()
        facts = Facts(
            path=path,
            stream=stream.index,
            stamps=tuple(sorted(set(stamps))) if timed else tuple(range(len(packets))),
            keys=tuple(sorted(keys)),
            tick=stream.time_base if timed and stream.time_base else 1 / Fraction(rate),
            timed=timed,
            rate=Fraction(rate),
            size=(0, 0),
            matrix=picture.photograph_matrix(path, stream.container.format.name),
            pixel=stream.sample_aspect_ratio,
            faults=(*faults, *ends),
        )
    return _shown_as(facts)


def read_film(
    facts: Facts,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    stream: str = "rgb",
    whole: bool = False,
    within: tuple[float, float] | None = None,
    fps: float | None = None,
) -> Film:
    """`frames` frames spread evenly in time from the first to the last, or all, resized to cover `size` (h, w).

    `within`: of those shown in that time alone, in seconds from the first frame of the file, ends included. `fps`:
    at most so many a second, of which `frames` are the first ones.

    The centre is cut out, or the `whole` picture is brought to that size, as suits the `stream` (rgb or a
    modality). Raises ValueError for a film that is shorter than `frames` or cannot be decoded.
    """
    stamps = facts.stamps if within is None else between(facts, *within)
    stamps = stamps if fps is None else paced(facts, fps, stamps)[:frames]
    wanted = stamps if frames is None else choose(stamps, frames, str(facts.path))
    fit = Fit(size, stream, whole)
    kept, stamps, faults = _collect(facts, wanted, fit)
    return Film(frames=np.stack(kept), **_origin(facts, stamps, faults, fit))


def shown(facts: Facts, size: tuple[int, int] | None = None) -> Iterator[tuple[float, UInt8[np.ndarray, "h w 3"]]]:
    """Every frame, upright, and its second from the first one; the whole picture brought to `size` (h, w)."""
    with opened(facts.path) as video:
        for stamp, frame in stamped(video, facts, []):
            shown = picture.upright(picture.show(frame), facts.matrix)
            fitted = picture.fit(shown, facts.size, size or facts.size, "rgb", True)
            yield float((stamp - facts.stamps[0]) * facts.tick), fitted


def _shown_as(facts: Facts) -> Facts:
    """With the size that the first frame is shown in, and what will not be as the file asks for."""
    with opened(facts.path) as stream:
        frame = next(decoding.decode(stream, []), None)
        if frame is None:
            raise ValueError("it has no frames")
    matrix = facts.matrix or picture.display_matrix(frame)
    height, width = picture.square(frame.height, frame.width, facts.pixel)
    notes = []
    if picture.is_askew(matrix):
        notes.append("it asks to be turned by less than a quarter, and is shown turned to the nearest quarter")
    if facts.pixel is not None and not picture.is_sane(facts.pixel):
        notes.append(f"its pixels are said to be {facts.pixel} times as wide as high, and are taken as square")
    if frame.color_trc in picture.HDR:
        notes.append(f"it is HDR ({picture.HDR[frame.color_trc]}), and is shown tone-mapped to SDR")
    if frame.interlaced_frame:
        notes.append("it is interlaced, and is shown deinterlaced")
    size = (width, height) if picture.swaps_sides(matrix) else (height, width)
    return replace(facts, matrix=matrix, size=size, notes=tuple(notes))


def _collect(facts: Facts, wanted: Sequence[int], fit: Fit) -> tuple[list[np.ndarray], list[int], list[str]]:
    """Pictures and stamps nearest to the wanted ones; by jumps where that saves work and the file allows it."""
    if jumps_pay(facts, wanted):
        with contextlib.suppress(Astray):
            return _gather(facts, wanted, fit, jump=True)
    return _gather(facts, wanted, fit, jump=False)


def _gather(facts: Facts, wanted: Sequence[int], fit: Fit, jump: bool):
    kept, stamps, faults = [], [], []
    for stamp, shown in _pictures(facts, wanted, fit, jump, faults):
        kept.append(shown)
        stamps.append(stamp)
    return kept, stamps, faults


def _rolled(
    facts: Facts, wanted: Sequence[int], fit: Fit, faults: list[str]
) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
    """The same one after the other; where a jump goes astray, all that is left is decoded from the beginning."""
    given = 0
    if jumps_pay(facts, wanted):
        with contextlib.suppress(Astray):
            for pair in _pictures(facts, wanted, fit, True, faults):
                yield pair
                given += 1
            return
    yield from itertools.islice(_pictures(facts, wanted, fit, False, faults), given, None)


def _pictures(
    facts: Facts, wanted: Sequence[int], fit: Fit, jump: bool, faults: list[str]
) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
    """Stamp and picture of the frame that is nearest to each of the wanted stamps."""
    last, shown = None, None
    # films may change their size on the way
    size = fit.size or facts.size
    with opened(facts.path) as video:
        frames = jumping(video, facts, wanted) if jump else stamped(video, facts, faults)
        for stamp, frame in nearest(frames, wanted):
            if shown is None or stamp != last:
                upright = picture.upright(picture.show(frame), facts.matrix)
                shown = picture.fit(upright, facts.size, size, fit.stream, fit.whole)
                last = stamp
            yield stamp, shown
        if shown is None:
            raise ValueError("it has no frames")


def _origin(facts: Facts, stamps: Sequence[int], faults: Sequence[str], fit: Fit) -> dict[str, Any]:
    """The entries of an `Origin`."""
    times = tuple(float((stamp - facts.stamps[0]) * facts.tick) for stamp in stamps)
    span = times[-1] - times[0]
    return {
        "times": times,
        "fps": (len(times) - 1) / span if span > 0 else float(facts.rate),
        "size": facts.size,
        "crop": picture.cut(facts.size, None if fit.whole else fit.size),
        "notes": (*facts.notes, *_damage(facts, (*facts.faults, *faults))),
    }


def _damage(facts: Facts, faults: Sequence[str]) -> tuple[str, ...]:
    if not faults:
        return ()
    many = f"{len(faults)} times, first: " if len(faults) > 1 else ""
    return (
        f"{picture_name(facts.path)} is damaged ({many}{faults[0]}); the frames are those that FFmpeg decodes",
    )
