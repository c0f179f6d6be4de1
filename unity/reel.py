"""Values of films of any length: they go to the disk window by window, and are drawn from there."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from jaxtyping import UInt8

from unity.data.film import Roll
from unity.data.video import Frame, write_video
from unity.modality.base import Constants, Modality, Video
from unity.report.strip import evenly
from unity.windows import Joint, as_many

Picked = UInt8[np.ndarray, "few h w 3"]


class Reel:
    """An array [t, ...] on the disk of `folder` that grows at its end, in a nameless file that no crash leaves."""

    def __init__(self, folder: Path):
        # closed when nobody looks at it any more
        self._folder, self._file = folder, TemporaryFile(dir=folder)  # noqa: SIM115
        # of no frame, for shape and type; how many there are
        self._like, self._frames = np.zeros(0), 0

    def append(self, values: np.ndarray) -> None:
        """More frames, like those before but for the number of people, which may grow."""
        if self._frames and values.shape[1:] != self._like.shape[1:]:
            wider = Reel(self._folder)
            for piece in pieces(self.array(), len(values)):
                wider.append(as_many(piece, values))
            self._file, self._frames = wider._file, wider._frames
        self._file.seek(0, 2)
        self._file.write(values.tobytes())
        self._like, self._frames = values[:0], self._frames + len(values)

    def array(self) -> np.ndarray:
        """All frames, mapped from the disk."""
        shape = (self._frames, *self._like.shape[1:])
        if not math.prod(shape):
            return np.zeros(shape, self._like.dtype)
        self._file.flush()
        return np.memmap(self._file, self._like.dtype, "r", shape=shape)


class Drawn:
    """The video of values that may lie on the disk, a few frames at a time, each time that it is iterated."""

    def __init__(self, row: Modality, values: np.ndarray, constants: Constants, at_once: int):
        self._row, self._values, self._constants, self._at_once = row, values, constants, at_once

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Frame]:
        for piece in pieces(self._values, self._at_once):
            yield from self._row.encode(piece, self._constants)


def pieces(values: np.ndarray, frames: int) -> Iterator[np.ndarray]:
    """So many frames at a time."""
    return (np.asarray(values[start : start + frames]) for start in range(0, len(values), frames))


def joined(
    rows: Mapping[str, Modality],
    clips: Iterable[Mapping[str, Video]],
    starts: Sequence[int],
    size: tuple[int, int],
    folder: Path,
) -> dict[str, np.ndarray]:
    """Values of all frames by modality, on the disk of `folder`, from the videos of windows.

    These begin at `starts`; `size` (h, w) is that of what the model sees.
    """
    joints, reels = {name: Joint(row) for name, row in rows.items()}, {name: Reel(folder) for name in rows}
    for start, clip in zip(starts, clips, strict=True):
        for name, row in rows.items():
            values = row.decode(clip[name], row.unknown_constants(*size))
            reels[name].append(joints[name].add(values, start))
    for name, joint in joints.items():
        reels[name].append(joint.rest())
    return {name: reel.array() for name, reel in reels.items()}


def resized(
    row: Modality,
    values: np.ndarray,
    old: tuple[int, int],
    new: tuple[int, int],
    at_once: int,
    folder: Path,
) -> np.ndarray:
    """Values for a picture of another size (h, w); of more frames than `at_once`, on the disk of `folder`."""
    if old == new or len(values) <= at_once:
        return values if old == new else row.resize(values, old, new)
    reel = Reel(folder)
    for piece in pieces(values, at_once):
        reel.append(row.resize(piece, old, new))
    return reel.array()


def write_and_pick(
    frames: "Video | Roll | Drawn", path: Path, fps: float, times: Sequence[float] | None = None
) -> Picked:
    """Write a video, frame by frame; returns those that stand for it in a picture (unity.report.strip)."""
    wanted, picked = {*evenly(len(frames)).tolist()}, []

    def passing() -> Iterator[Frame]:
        for number, frame in enumerate(frames):
            if number in wanted:
                # not what it may be a part of
                picked.append(frame.copy())
            yield frame

    write_video(passing(), path, fps, times)
    return np.stack(picked)
