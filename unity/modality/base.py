"""What a modality is: exact values ↔ a three-channel video, and files of the values."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

Constants = dict[str, float]
Video = UInt8[np.ndarray, "t h w 3"]


@dataclass(frozen=True, kw_only=True)
class Modality:
    """One kind of auxiliary video.

    Values, numpy arrays of one clip:
        depth         float32 [t, h, w]      metres along the optical axis, inf where nothing is seen
        flow          float32 [t, h, w, 2]   pixels (right, down) from frame i-1 to i, seen at i-1; map 0 = map 1
        densepose     float32 [t, h, w, 3]   part 0..24 (0 background), U and V in [0, 1]
        skeleton      float32 [t, p, 18, 3]  x, y in pixels, visibility 0 or 1; joints in OpenPose's order
        segmentation  uint8 [t, h, w]        instance, 0 background

    Functions:
        constants(values, (h, w))     what decoding this clip needs beside the video; a JSON-able dict
        unknown_constants(h, w)       the same for a prediction whose true constants nobody knows
        encode(values, constants)     uint8 [t, h, w, 3], what the model sees
        decode(video, constants)      values again, up to rounding (densepose: U = V = 0)
        picture(values, constants)    uint8 [t, h, w, 3] for people to look at
        save(values, stem, fps)       writes the values beside `stem`, returns the paths; whole files or none
    """

    name: str
    # C_m of the paper: what the aux tokens' cross-attention reads
    type_prompt: str
    # False: drawn from detections rather than measured at every pixel (second stage of the curriculum)
    pixel_aligned: bool
    constants: Callable[[np.ndarray, tuple[int, int]], Constants]
    unknown_constants: Callable[[int, int], Constants]
    encode: Callable[[np.ndarray, Constants], Video]
    decode: Callable[[Video, Constants], np.ndarray]
    picture: Callable[[np.ndarray, Constants], Video]
    save: Callable[[np.ndarray, Path, float], list[Path]]
