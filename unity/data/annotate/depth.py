"""Depth: Depth Anything V2. Nothing that needs no weights is honest here, so that without them depth is absent."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from unity.data.annotate.base import Annotation, Video, Weights
from unity.data.weights import from_folder, loaded

# inverse depth of what is farthest, of what is nearest: black would say sky
_FARTHEST = 1 / 255
_BATCH = 8


def load_depth_anything(
    weights: Weights, settings: Mapping[str, float], device: str
) -> Callable[[Video], Annotation]:
    """Depth Anything V2 (Yang et al., 2024) in transformers' layout, from a folder; frame by frame."""
    from transformers import AutoImageProcessor, DepthAnythingForDepthEstimation

    path, words = weights["depth-anything"], "Depth Anything"
    model = from_folder(DepthAnythingForDepthEstimation, path, words).to(device)
    processor = loaded(AutoImageProcessor, path, words, use_fast=False)
    return lambda video: Annotation(relative(_inverse(model, processor, video)))


def _inverse(model: Any, processor: Any, video: Video) -> Float[np.ndarray, "t h w"]:
    import torch
    from torch.nn.functional import interpolate

    maps = []
    for start in range(0, len(video), _BATCH):
        inputs = processor(images=list(video[start : start + _BATCH]), return_tensors="pt").to(model.device)
        with torch.no_grad():
            found = model(**inputs).predicted_depth[:, None]
        maps.append(interpolate(found.float(), video.shape[1:3], mode="bilinear", align_corners=False)[:, 0].cpu())
    return np.concatenate([part.numpy() for part in maps])


def relative(inverse: Float[np.ndarray, "t h w"]) -> Float[np.ndarray, "t h w"]:
    """Depth from an inverse depth of unknown scale and shift: the nearest point of the clip at 1."""
    low, high = float(inverse.min()), float(inverse.max())
    share = (inverse - low) / max(high - low, 1e-9)
    return (1 / (_FARTHEST + (1 - _FARTHEST) * share)).astype(np.float32)
