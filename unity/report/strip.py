"""Clips as one still picture: a labelled row of frames for each."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw, ImageFont

Video = UInt8[np.ndarray, "t h w 3"]

_INK, _PAPER, _GAP = (34, 34, 34), (255, 255, 255), 3


def evenly(frames: int, columns: int = 6) -> Int[np.ndarray, " n"]:
    """The numbers of up to `columns` frames, evenly from the first to the last."""
    return np.linspace(0, frames - 1, min(columns, frames)).round().astype(int)


def frame_row(video: Video, columns: int = 6, height: int | None = None) -> UInt8[np.ndarray, "high wide 3"]:
    """Up to `columns` frames, evenly from the first to the last, side by side with a gap between them.

    `height` enlarges small frames by a whole number, so that no pixel is invented; larger ones stay as they are.
    """
    picked = video[evenly(len(video), columns)]
    zoom = max(1, (height or 0) // video.shape[1])
    picked = picked.repeat(zoom, axis=1).repeat(zoom, axis=2)
    padded = np.pad(picked, ((0, 0), (0, 0), (0, _GAP), (0, 0)), constant_values=255)
    return np.concatenate(list(padded), axis=1)[:, :-_GAP]


def labelled_strip(rows: Mapping[str, Video], columns: int = 6, height: int = 128) -> Image.Image:
    """A row of frames for each clip, with its label above it."""
    pictures = {label: frame_row(video, columns, height) for label, video in rows.items()}
    head = 24
    width = max(picture.shape[1] for picture in pictures.values()) + 2 * _GAP
    total = sum(head + picture.shape[0] for picture in pictures.values()) + 2 * _GAP
    sheet = Image.new("RGB", (width, total), _PAPER)
    draw, top = ImageDraw.Draw(sheet), 0
    for label, picture in pictures.items():
        draw.text((_GAP, top + head // 2), label, fill=_INK, font=_font(label), anchor="lm")
        sheet.paste(Image.fromarray(picture), (_GAP, top + head))
        top += head + picture.shape[0]
    return sheet


def _font(label: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font; it has English letters alone, matplotlib's, if that is there, those of most alphabets."""
    found = find_spec("matplotlib")
    if label.isascii() or found is None or found.origin is None:
        return ImageFont.load_default(size=15)
    return ImageFont.truetype(Path(found.origin).with_name("mpl-data") / "fonts/ttf/DejaVuSans.ttf", 14)
