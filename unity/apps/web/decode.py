"""The process that reads strangers' videos: `python -m unity.apps.web.decode`; whoever starts it may kill it.

It writes `shown.mp4`, which browsers play, into a folder that is there, and prints the facts as JSON.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from unity.command import end, whole
from unity.data.film import look, picture_name, read_film
from unity.data.video import write_video

SHOWN = "shown.mp4"
# of what browsers play
_FRAMES, _SIDE = 300, 640


@dataclass(frozen=True, kw_only=True)
class Options:
    """Read a video, or film the simulated world."""

    folder: Path
    # the video to read; without one, a clip of the simulated world is filmed
    film: Path | None = None
    # the name that its sender gave it, for sentences
    name: str = "the video"
    most_frames: Annotated[int, whole(1)] = 3_000
    most_pixels: Annotated[int, whole(1)] = 3840 * 2160
    most_seconds: Annotated[int, whole(1)] = 60
    most_bytes: Annotated[int, whole(1)] = 4 << 30
    # of the simulated world
    source: str = "single_person"
    seed: Annotated[int, whole(0)] = 0
    frames: Annotated[int, whole(2, 257)] = 33
    size: Annotated[int, whole(16, 512)] = 128


def read(options: Options, film: Path) -> dict:
    """Facts of a video that keeps the bounds; ValueError for one that does not, or is none."""
    facts = look(film)
    if facts.frames > options.most_frames:
        raise ValueError(f"it has {facts.frames} frames, more than {options.most_frames}; cut it shorter")
    height, width = facts.size
    if height * width > options.most_pixels:
        raise ValueError(f"it has {width} x {height} pixels, more than {options.most_pixels:,}; make it smaller")
    scale = min(1.0, _SIDE / max(facts.size))
    size = tuple(max(2, 2 * round(side * scale / 2)) for side in facts.size)
    shown = read_film(facts, min(facts.frames, _FRAMES), (size[0], size[1]), whole=True)
    write_video(shown.frames, options.folder / SHOWN, shown.fps)
    return {"frames": facts.frames, "size": facts.size, "fps": float(facts.rate), "notes": shown.notes}


def shoot(options: Options) -> dict:
    """A clip of the simulated world as `film`, and its exact views as videos in `truth`."""
    from unity.extras import require

    require("simulate")
    from unity.data.simulate.clip import simulate

    clip = simulate(options.seed, options.source, options.frames, (options.size, options.size))
    write_video(clip.video["rgb"], options.folder / "film", clip.fps)
    for name in clip.available:
        write_video(clip.video[name], options.folder / "truth" / f"{name}.mp4", clip.fps)
    facts = read(options, options.folder / "film")
    return facts | {"truth": clip.available, "caption": clip.caption, "name": clip.name}


def limit(options: Options) -> None:
    """Let the system end this process when it takes too much; Windows knows no such limits."""
    try:
        import resource
    except ImportError:
        return
    seconds, size = options.most_seconds, options.most_bytes
    for kind, most in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, size), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(kind, (most, most))


def main() -> None:
    options = tyro.cli(Options, prog="python -m unity.apps.web.decode", description=__doc__)
    if options.film is None:
        print(json.dumps(shoot(options)))
        return
    limit(options)
    try:
        print(json.dumps(read(options, options.film)))
    except ValueError as error:
        raise ValueError(str(error).replace(picture_name(options.film), options.name)) from error


if __name__ == "__main__":
    end("decode", main)
