"""Which frames a film has, by their time stamps, and those nearest to wanted ones, in one pass of decoding."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from unity.data import decoding
from unity.data.decoding import source
from unity.data.picture import Matrix

# decoding goes on rather than jump to a key frame for fewer frames than this
_JUMP = 48

# a frame and when it is shown
Stamped = tuple[int, av.VideoFrame]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What can be known of a file without decoding more than its first frame."""

    path: Path
    # index of the stream among the file's
    stream: int
    # presentation times of the frames, ascending, in units of `tick` seconds; frame numbers where there are none
    stamps: tuple[int, ...]
    # those of the key frames
    keys: tuple[int, ...]
    tick: Fraction
    timed: bool
    # frames per second, as the file says
    rate: Fraction
    # height and width as shown: upright, pixels square
    size: tuple[int, int]
    matrix: Matrix | None
    # width of a pixel by its height
    pixel: Fraction | None
    # what is wrong with the file, as far as its packets tell
    faults: tuple[str, ...] = ()
    # sentences about what the film shows differently than its file asks for
    notes: tuple[str, ...] = ()

    @property
    def frames(self) -> int:
        return len(self.stamps)


def between(facts: Facts, start: float, end: float) -> tuple[int, ...]:
    """The stamps within a time in seconds from the first frame, or within half a millisecond of it."""
    first, slack = facts.stamps[0], 5e-4
    low, high = (first + (time + sign * slack) / float(facts.tick) for time, sign in ((start, -1), (end, 1)))
    return tuple(facts.stamps[bisect_left(facts.stamps, low) : bisect_right(facts.stamps, high)])


def paced(facts: Facts, fps: float, stamps: Sequence[int] | None = None) -> tuple[int, ...]:
    """Of the film's stamps, or those given, that nearest to every 1/fps seconds from the first, if any is."""
    known = np.array(facts.stamps if stamps is None else stamps)
    turns = (known - known[0]) * float(facts.tick) * fps
    moments = np.floor(turns + 0.5)
    # what rounding left of a half is a half, and then the earlier one is taken
    order = np.lexsort((np.round(np.abs(turns - moments), 6), moments))
    first = order[np.unique(moments[order], return_index=True)[1]]
    return tuple(np.sort(known[first]).tolist())


def choose(stamps: Sequence[int], frames: int, what: str = "the video") -> list[int]:
    """`frames` of the stamps, as evenly spread in time from the first to the last as there are frames."""
    if frames > len(stamps) or frames < 1:
        raise ValueError(
            f"{what} has {len(stamps)} frames, {frames} are wanted; ask for 1 to {len(stamps)} (4k+1 of them)"
        )
    even = np.linspace(0, stamps[-1] - stamps[0], frames)
    places = np.interp(even, np.array(stamps) - stamps[0], np.arange(len(stamps)))
    # what rounding left of a half is a half
    return [stamps[int(place)] for place in np.round(np.round(places, 6))]


class Astray(Exception):
    """A jump did not arrive where the file's index said."""


def nearest(frames: Iterator[Stamped], wanted: Sequence[int]) -> Iterator[Stamped]:
    """For each of the ascending wanted stamps the frame that is nearest, of ascending frames."""
    before, rest = None, list(reversed(wanted))
    for stamp, frame in frames:
        while rest and stamp >= rest[-1]:
            if before is None or stamp - rest[-1] < rest[-1] - before[0]:
                yield stamp, frame
            else:
                yield before
            rest.pop()
        if not rest:
            return
        before = stamp, frame
    if before is not None:
        yield from [before] * len(rest)


def stamped(stream: av.VideoStream, facts: Facts, faults: list[str]) -> Iterator[Stamped]:
    last = None
    for number, frame in enumerate(decoding.progressive(decoding.decode(stream, faults), stream)):
        stamp = _stamp(frame, facts) if facts.timed else number
        # a damaged film may go back in time
        if stamp is not None and (last is None or stamp > last):
            last = stamp
            yield stamp, frame


def _stamp(frame: av.VideoFrame, facts: Facts) -> int | None:
    if frame.pts is None:
        return None
    # what comes out last of a damaged film may lack the length of its tick
    return round(frame.pts * (frame.time_base or facts.tick) / facts.tick)


def jumps_pay(facts: Facts, wanted: Sequence[int]) -> bool:
    if not facts.timed or any("interlaced" in note for note in facts.notes) or len(facts.keys) < 2:
        return False
    ends = np.searchsorted(facts.stamps, wanted)
    starts = np.searchsorted(facts.stamps, _keys_before(facts, wanted))
    return bool(np.minimum(ends - starts, np.diff(ends, prepend=0)).sum() + _JUMP < 0.7 * ends[-1])


def _keys_before(facts: Facts, wanted: Sequence[int]) -> np.ndarray:
    keys = np.array(facts.keys)
    return keys[np.maximum(np.searchsorted(keys, wanted, side="right") - 1, 0)]


def jumping(stream: av.VideoStream, facts: Facts, wanted: Sequence[int]) -> Iterator[Stamped]:
    """Frames around each wanted stamp, from the key frame before it; `Astray` if the file is not as it says."""
    faults, last = [], None
    frames = iter(())
    for stamp, key in zip(wanted, _keys_before(facts, wanted), strict=True):
        if last is None or key > last:
            source(stream).seek(int(key), stream=stream)
            frames = stamped(stream, facts, faults)
            arrived = next(frames, None)
            if arrived is None or arrived[0] != key:
                raise Astray
            last = key
            yield arrived
        while last < stamp:
            found = next(frames, None)
            if found is None or faults:
                raise Astray
            last = found[0]
            yield found
