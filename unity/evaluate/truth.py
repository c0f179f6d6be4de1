"""Clips whose truth is known: the simulated ones of UniBench, and a user's own."""

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unity.data.clips import SOURCES, Clip
from unity.data.shards import open_shards
from unity.evaluate.folders import KINDS, Scene, Truth, cut
from unity.evaluate.lively import lively_seed
from unity.extras import require
from unity.modality.base import Facts
from unity.modality.readers import read_values
from unity.modality.table import MODALITIES
from unity.randomness import fold

# what makes the clips of a track what they are: no training set of the project has these seeds
_SEEDS = {"estimate": 14_000_001, "control": 14_000_002, "joint": 14_000_002}
VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Clips by their place: a name at once, and all of one when it is asked for."""

    names: tuple[str, ...]
    # (track, place) → the clip
    clip: Callable[[str, int], Clip]


def simulated(count: int, frames: int, size: tuple[int, int], fps: float = 16.0) -> Bench:
    """UniBench's clips: of all sources in turn, each a function of its track and place, in which much moves."""
    require("simulate")

    def clip(track: str, place: int) -> Clip:
        # it compiles its kernels, and a light install lacks it
        from unity.data.simulate.clip import simulate

        source = SOURCES[place % len(SOURCES)]
        seed = lively_seed(fold(_SEEDS[track], place), source, frames, size, fps)
        return simulate(seed, source, frames, size, fps)

    return Bench(names=tuple(f"{place:04}" for place in range(count)), clip=clip)


def own(folder: Path, most: int) -> Bench:
    """A user's clips: a dataset with exact values, a folder of folders, each with rgb.mp4 and values beside it, or
    truth as others keep it (unity.evaluate.folders).

    Raises ValueError for what holds no clip.
    """
    if (folder / "dataset.json").is_file():
        return _dataset(folder, most)
    folders = sorted(path.parent for path in folder.glob("*/rgb.*") if path.suffix in VIDEOS)[:most]
    if folders:
        return Bench(names=tuple(path.name for path in folders), clip=lambda _, place: read_clip(folders[place]))
    for kind in KINDS.values():
        if scenes := list(itertools.islice(kind.scenes(folder), most)):
            names = tuple(scene.name for scene in scenes)
            return Bench(names=names, clip=lambda _, place, scenes=scenes: _scene(scenes[place]))
    known = "; ".join(f"{name} ({kind.words})" for name, kind in KINDS.items())
    raise ValueError(
        f"{folder} holds no clip; give --data a folder of folders with rgb.mp4 and values such as depth.npz, "
        f"a dataset made with --values, or the folder of {known}"
    )


def _scene(scene: Scene) -> Clip:
    try:
        truth = cut(scene.read())
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{scene.name} cannot be read ({error})") from None
    return _clip(scene.name, truth)


def read_clip(folder: Path) -> Clip:
    """The clip of a folder: rgb.mp4, values as `unity.modality.readers` reads them, words in caption.txt."""
    video = read_rgb(folder)
    if video is None:
        raise ValueError(f"{folder} has no rgb.mp4")
    rgb, size = video, video.shape[1:3]
    found = {name: read_values(folder, name) for name in MODALITIES}
    values = {name: array for name, array in found.items() if array is not None}
    for name, array in values.items():
        if len(array) != len(rgb) or name != "skeleton" and array.shape[1:3] != size:
            raise ValueError(
                f"{folder}: {name} is {list(array.shape)} and rgb {list(rgb.shape)}; make them one size"
            )
    caption = folder / "caption.txt"
    words = caption.read_text(errors="replace").strip() if caption.is_file() else ""
    return _clip(folder.name, Truth(rgb=rgb, values=values, caption=words))


def _clip(name: str, truth: Truth) -> Clip:
    """With a video of every view that is known everywhere: holes have no colour, and none to follow."""
    size = truth.rgb.shape[1:3]
    whole = {view: values for view, values in truth.values.items() if not np.isnan(values).any()}
    constants = {view: MODALITIES[view].constants(values, size) for view, values in whole.items()}
    video = {view: MODALITIES[view].encode(values, constants[view]) for view, values in whole.items()}
    return Clip(
        name=name,
        source="general",
        caption=truth.caption,
        fps=truth.fps,
        video={"rgb": truth.rgb} | video,
        constants=constants,
        values=truth.values,
    )


def read_rgb(folder: Path) -> np.ndarray | None:
    """The video rgb.mp4, or of another container, of a folder; None where there is none."""
    from unity.data.video import read_video

    paths = [folder / f"rgb{end}" for end in VIDEOS]
    found = next((path for path in paths if path.is_file()), None)
    return None if found is None else read_video(found)


def facts_of(clip: Clip) -> Facts:
    """What scores may ask of a clip beside the values themselves."""
    return clip.values | ({"camera": clip.meta["camera"]} if "camera" in clip.meta else {})


def checksum(clip: Clip) -> str:
    """Of its videos, which are the same on every machine that simulates alike."""
    digest = hashlib.sha256()
    for name in sorted(clip.video):
        digest.update(name.encode() + np.ascontiguousarray(clip.video[name]).tobytes())
    return digest.hexdigest()[:16]


def _dataset(folder: Path, most: int) -> Bench:
    shards = open_shards(folder)
    places = [(source, index) for source, count in shards.counts.items() for index in range(count)][:most]
    return Bench(
        names=tuple(f"{source}-{index:04}" for source, index in places),
        clip=lambda _, place: shards.clip(*places[place]),
    )
