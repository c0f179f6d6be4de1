"""The README's picture: `python docs/pictures.py` writes docs/world.png, simulated clips in all their views."""

from pathlib import Path

import numpy as np
from einops import rearrange
from PIL import Image

from unity.data.clips import SOURCES
from unity.data.simulate.clip import simulate
from unity.modality.table import MODALITIES

SEEDS = {"single_person": 12, "two_persons": 5, "general": 7, "subject": 3}
FRAME, SIDE = 8, 144


def views(source: str) -> np.ndarray:
    """One frame of a simulated clip: RGB, then every modality as the model sees it (black where there is none)."""
    clip = simulate(SEEDS[source], source, frames=17, size=(SIDE, SIDE))
    black = np.zeros_like(clip.video["rgb"])
    return np.stack([clip.video.get(name, black)[FRAME] for name in ("rgb", *MODALITIES)])


def main() -> None:
    rows = np.stack([views(source) for source in SOURCES])
    cells = np.pad(rows, ((0, 0), (0, 0), (0, 4), (0, 4), (0, 0)), constant_values=255)
    picture = rearrange(cells, "r v h w c -> (r h) (v w) c")[:-4, :-4]
    Image.fromarray(picture).save(Path(__file__).with_name("world.png"), optimize=True)


if __name__ == "__main__":
    main()
