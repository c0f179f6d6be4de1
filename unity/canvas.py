"""The sizes that a video passes through: as filmed, as the model sees it, and as the answer comes back.

A model is asked at about as many pixels as it was trained on, at the aspect of the video and with all of its
frame: the video is resized to that, its last row and column are repeated up to whole patches, and the answer loses
what was added.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

Video = UInt8[np.ndarray, "t h w 3"]
Padded = UInt8[np.ndarray, "t rows columns 3"]
Size = tuple[int, int]


@dataclass(frozen=True)
class Canvas:
    """Sizes (height, width) of the picture and of what the model sees, which has a border right and below."""

    picture: Size
    model: Size

    @property
    def widening(self) -> float:
        """How many times as wide the whole is as the picture: what is a share of the width changes by it."""
        return self.model[1] / self.picture[1]

    def pad(self, video: Video) -> Padded:
        borders = [(0, whole - part) for whole, part in zip(self.model, self.picture, strict=True)]
        return np.pad(video, ((0, 0), *borders, (0, 0)), mode="edge")

    def crop(self, video: Padded) -> Video:
        return video[:, : self.picture[0], : self.picture[1]]


def exactly(size: Size) -> Canvas:
    height, width = size
    return Canvas((height, width), (height, width))


def whole_frame(film: Size, trained: Size, patch: Size) -> Canvas:
    """For a film of any size: its aspect, about as many pixels as `trained`, sides of at least a patch.

    Within a seventh of the sides, the size whose border is the least share. Sides are even, as video files want.
    """
    scale = math.sqrt(math.prod(trained) / math.prod(film))
    scales = sorted((scale * (1 + percent / 100) for percent in range(-14, 15)), key=lambda s: abs(s - scale))
    canvases = [_canvas(film, one, patch) for one in scales]
    return max(canvases, key=lambda canvas: round(math.prod(canvas.picture) / math.prod(canvas.model), 2))


def _canvas(film: Size, scale: float, patch: Size) -> Canvas:
    scale = max(scale, *(unit / side for unit, side in zip(patch, film, strict=True)))
    height, width = (max(unit, 2 * round(side * scale / 2)) for side, unit in zip(film, patch, strict=True))
    rows, columns = (-(-side // unit) * unit for side, unit in zip((height, width), patch, strict=True))
    return Canvas((height, width), (rows, columns))
