"""Other light, other cameras: the clean RGB of estimates is changed as a real camera might, its truth is not.

Simulated pictures are cleaner than real ones, and a model that has only seen those takes noise and blocks for
things. What is generated (joint and control) stays as the data has it, or the model would learn to draw faults.
Latents that were computed before cannot be changed so, and a run that asks for it is refused
(`unity.train.latents`).
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor

from unity.randomness import Purpose, draw

Clip = Float32[np.ndarray, "t h w 3"]


def disturb(
    rgb: UInt8[Tensor, "b t h w 3"],
    chosen: Bool[Tensor, " b"],
    share: float,
    seed: int,
    step: int,
    slots: Sequence[int],
) -> UInt8[Tensor, "b t h w 3"]:
    """A random `share` of the chosen clips disturbed, the others as they are: a function of (seed, step, slot).

    In this order: light and colour, blur, noise, compression; one draw for all frames of a clip but the noise.
    """
    if not share:
        return rgb
    out = rgb.clone()
    for i in chosen.nonzero().flatten().tolist():
        random = np.random.default_rng(draw(Purpose.DISTURB, seed, step, int(slots[i])))
        if random.random() < share:
            out[i] = torch.from_numpy(_disturbed(rgb[i].numpy(), random))
    return out


def _disturbed(clip: UInt8[np.ndarray, "t h w 3"], random: np.random.Generator) -> UInt8[np.ndarray, "t h w 3"]:
    x = _light(clip.astype(np.float32) / 255, random)
    if random.random() < 0.4:
        x = _blur(x, random.uniform(0.3, 0.9))
    if random.random() < 0.6:
        x = x + random.standard_normal(x.shape, np.float32) * np.float32(random.uniform(0.005, 0.04))
    x = (x.clip(0, 1) * 255).round().astype(np.uint8)
    return _compressed(x, int(random.integers(25, 90))) if random.random() < 0.4 else x


def _light(x: Clip, random: np.random.Generator) -> Clip:
    """Exposure, white balance, black level, saturation and gamma."""
    gain = random.normal(1, 0.15, 3) * random.uniform(0.7, 1.25)
    x = x * gain.astype(np.float32) + np.float32(random.normal(0, 0.05))
    grey = x.mean(-1, keepdims=True)
    x = grey + (x - grey) * np.float32(random.uniform(0.4, 1.3))
    return x.clip(0, 1) ** np.float32(random.uniform(0.75, 1.35))


def _blur(x: Clip, sigma: float) -> Clip:
    return np.stack([cv2.GaussianBlur(frame, (5, 5), sigma, borderType=cv2.BORDER_REPLICATE) for frame in x])


def _compressed(clip: UInt8[np.ndarray, "t h w 3"], quality: int) -> UInt8[np.ndarray, "t h w 3"]:
    """Through JPEG and back; OpenCV's colours are blue, green, red."""
    coded = (cv2.imencode(".jpg", frame[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, quality))[1] for frame in clip)
    return np.stack([np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))[..., ::-1] for code in coded])
