"""Writing the values of a modality: a reader sees a whole file or none."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import UInt

from unity.files import whole_file, whole_folder

Image = UInt[np.ndarray, "h w *rgb"]
# names that a folder of numbered frames holds: such a folder may be replaced
OURS = re.compile(r"\d{6}\.(png|flo|exr)").fullmatch


def save_arrays(path: Path, **arrays: np.ndarray) -> Path:
    """Compressed npz with the named arrays."""
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return path


def save_images(folder: Path, images: Iterable[Image]) -> Path:
    """Folder of lossless 000000.png, 000001.png …, one per frame; one channel, or RGB."""
    # only drawing needs it; the table is read where OpenCV is not
    import cv2

    with whole_folder(folder, mine=OURS) as temporary:
        for index, image in enumerate(images):
            # OpenCV's channel order is BGR
            cv2.imwrite(str(temporary / f"{index:06d}.png"), image[..., ::-1] if image.ndim == 3 else image)
    return folder


def check_video(video: np.ndarray) -> None:
    """Raises ValueError unless `video` is uint8 [t, h, w, 3]."""
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3:
        raise ValueError(
            f"a modality video is uint8 [t, h, w, 3], got {video.dtype} {list(video.shape)}; "
            f"scale values to 0..255 and put the channels last"
        )
