"""The README's pictures: `python docs/pictures.py` writes them beside this file, or to --out, in two minutes.

docs/estimates.png  what the shipped model estimates of a real and of a simulated clip, and the truth of the latter
docs/made.png       views of a held-out clip, the videos that follow them, and videos with views from words alone
docs/world.png      simulated clips in all their views
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image

from unity.data.clips import SOURCES, Clip
from unity.data.simulate.clip import simulate
from unity.data.video import read_video
from unity.evaluate.held_out import draw
from unity.generate import Generator, load_generator
from unity.modality.table import MODALITIES
from unity.request import SAMPLE, SHIPPED

Picture = UInt8[np.ndarray, "h w 3"]

SEEDS = {"single_person": 12, "two_persons": 5, "general": 7, "subject": 3}
# no clip of this seed was learnt from
HELD_OUT = 2_002_000_005
FRAMES, FRAME, SIDE, GAP = 17, 8, 144, 4


def truth(clip: Clip) -> list[Picture]:
    """One frame of a clip: RGB, then every modality as the model sees it (black where there is none)."""
    black = np.zeros_like(clip.video["rgb"])
    return [clip.video.get(name, black)[FRAME] for name in ("rgb", *MODALITIES)]


def estimates(generator: Generator, clip: Clip) -> list[Picture]:
    """The same frame: RGB, then every modality as the model estimates it from the RGB video."""
    return [
        clip.video["rgb"][FRAME],
        *(draw(generator, "estimate", m, [clip], guidance=1.0)[1][0][FRAME] for m in MODALITIES),
    ]


def made(generator: Generator, followed: Clip, told: Sequence[Clip]) -> list[list[Picture]]:
    """Each view of a clip, the video made to follow it, and a video with its view made from another's caption."""
    given = [followed.video[name][FRAME] for name in MODALITIES]
    control = [draw(generator, "control", m, [followed], guidance=None)[0][0][FRAME] for m in MODALITIES]
    pairs = [draw(generator, "joint", m, [clip], guidance=None) for m, clip in zip(MODALITIES, told, strict=True)]
    return [given, control, *([pair[stream][0][FRAME] for pair in pairs] for stream in range(2))]


def real(size: tuple[int, int]) -> Clip:
    """The short film of two people that the package carries."""
    video = read_video(SAMPLE, FRAMES, size, "rgb")
    return Clip(name="people", source="two_persons", caption="", fps=16.0, video={"rgb": video})


def sheet(rows: Sequence[Sequence[Picture]]) -> Image.Image:
    """Small pictures enlarged to about SIDE, in a table."""
    zoomed = [[picture.repeat(zoom, 0).repeat(zoom, 1) for picture in row] for row in rows
              for zoom in [max(1, round(SIDE / row[0].shape[0]))]]  # fmt: skip
    cells = np.pad(np.array(zoomed), ((0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    return Image.fromarray(rearrange(cells, "r v h w c -> (r h) (v w) c")[:-GAP, :-GAP])


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where the pictures go."""

    # a folder that is there
    out: Path = Path(__file__).parent


def main() -> None:
    folder = tyro.cli(Options, prog="python docs/pictures.py", description=__doc__).out
    generator = load_generator(SHIPPED)
    size = generator.card.size
    held_out = simulate(HELD_OUT, "two_persons", frames=FRAMES, size=size)
    rows = [estimates(generator, real(size)), estimates(generator, held_out), truth(held_out)]
    sheet(rows).save(folder / "estimates.png", optimize=True)
    seeds = range(HELD_OUT + 10, HELD_OUT + 10 + len(MODALITIES))
    told = [simulate(seed, "single_person", frames=FRAMES, size=size) for seed in seeds]
    sheet(made(generator, held_out, told)).save(folder / "made.png", optimize=True)
    world = [simulate(SEEDS[source], source, frames=FRAMES, size=(SIDE, SIDE)) for source in SOURCES]
    sheet([truth(clip) for clip in world]).save(folder / "world.png", optimize=True)


if __name__ == "__main__":
    main()
