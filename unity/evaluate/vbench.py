"""VBench's dimensions that need its networks (Huang et al., 2024), from folders as transformers has them.

subject     how like the neighbouring frame and the first one a frame is: cosines of DINO's states (ViT-B/16)
background  the same of CLIP's states of pictures (ViT-B/32)
aesthetic   LAION's linear head on CLIP's states (ViT-L/14), a tenth of its score, mean over frames

Two more are left out, as no package of this project has their networks: overall consistency, of ViCLIP, and
imaging quality, of MUSIQ as pyiqa has it, whose licence allows no commercial use. Nothing stands in for them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from unity.data.annotate.base import Weights
from unity.data.weights import from_folder
from unity.modality.base import Measure

if TYPE_CHECKING:
    from transformers import CLIPModel

Video = UInt8[np.ndarray, "t h w 3"]
Judge = Callable[[Video], float]
# frames → a state of each
States = Callable[[Video], Float[Tensor, "t d"]]

HEAD = "head.pth"
# mean and deviation of what the networks were trained on
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One number of a video, and the network that it takes."""

    measure: Measure
    # the name under which --weights gives its folder
    weights: str
    repository: str
    # (folder, device) → its judge; ValueError, with the way out, for a folder that holds no such network
    load: Callable[[Path, str], Judge]


def load_judges(weights: Weights, device: str) -> dict[str, Judge]:
    """Those of DIMENSIONS whose weights are given."""
    return {
        name: row.load(weights[row.weights], device) for name, row in DIMENSIONS.items() if row.weights in weights
    }


def lacking(weights: Weights) -> dict[str, str]:
    """The dimensions that lack weights, and what would bring them in."""
    rows = [row for row in DIMENSIONS.values() if row.weights not in weights]
    return {row.measure.words: f"--weights {row.weights}=FOLDER, of {row.repository}" for row in rows}


def consistency(states: Float[Tensor, "t d"]) -> float:
    """Mean of the cosines with the frame before and with the first, none below 0; 1 for a single frame."""
    if len(states) < 2:
        return 1.0
    before, first = (cosine_similarity(states[1:], other).clip(0) for other in (states[:-1], states[:1]))
    return float((before + first).mean() / 2)


def _subject(folder: Path, device: str) -> Judge:
    from transformers import ViTModel

    model = from_folder(ViTModel, folder, "ViTModel", add_pooling_layer=False).to(device)

    def states(video: Video) -> Tensor:
        pixels = prepared(video, model.config.image_size, "bilinear", _IMAGENET).to(device)
        return model(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0]

    return _consistent(states)


def _background(folder: Path, device: str) -> Judge:
    return _consistent(_clip(folder, device)[1])


def _aesthetic(folder: Path, device: str) -> Judge:
    model, states = _clip(folder, device)
    head = torch.nn.Linear(model.config.projection_dim, 1)
    try:
        head.load_state_dict(torch.load(folder / HEAD, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{folder} has no {HEAD} that is LAION's sa_0_4_vit_l_14_linear.pth; put it there"
        ) from error
    head.to(device)

    @torch.no_grad()
    def judge(video: Video) -> float:
        found = states(video)
        return float(head(found / found.norm(dim=-1, keepdim=True)).mean() / 10)

    return judge


def _clip(folder: Path, device: str) -> tuple["CLIPModel", States]:
    from transformers import CLIPModel

    model = from_folder(CLIPModel, folder, "CLIPModel").to(device)

    def states(video: Video) -> Tensor:
        side = model.config.vision_config.image_size
        pixels: Any = _centre(prepared(video, side, "bicubic", _CLIP), side).to(device)
        return model.get_image_features(pixels)

    return model, states


def _consistent(states: States) -> Judge:
    @torch.no_grad()
    def judge(video: Video) -> float:
        return consistency(states(video))

    return judge


def prepared(
    video: Video, side: int, mode: str, spread: tuple[tuple[float, ...], tuple[float, ...]]
) -> Float[Tensor, "t 3 high wide"]:
    """Frames whose shorter side is `side`, sampled without a filter, rounded to bytes, then normalised."""
    height, width = video.shape[1:3]
    size = [int(side * length / min(height, width)) for length in (height, width)]
    frames = torch.from_numpy(np.ascontiguousarray(video)).permute(0, 3, 1, 2).float()
    frames = interpolate(frames, size, mode=mode, align_corners=False).round().clip(0, 255) / 255
    mean, deviation = (torch.tensor(numbers).view(3, 1, 1) for numbers in spread)
    return (frames - mean) / deviation


def _centre(frames: Float[Tensor, "t 3 high wide"], side: int) -> Float[Tensor, "t 3 side side"]:
    top, left = (round((length - side) / 2) for length in frames.shape[2:])
    return frames[..., top : top + side, left : left + side]


DIMENSIONS = {
    "subject": Dimension(
        measure=Measure(words="subject consistency", more=True),
        weights="dino",
        repository="facebook/dino-vitb16",
        load=_subject,
    ),
    "background": Dimension(
        measure=Measure(words="background consistency", more=True),
        weights="clip-b",
        repository="openai/clip-vit-base-patch32",
        load=_background,
    ),
    "aesthetic": Dimension(
        measure=Measure(words="aesthetic quality", more=True),
        weights="clip-l",
        repository="openai/clip-vit-large-patch14",
        load=_aesthetic,
    ),
}
# names under which --weights gives their networks
NETWORKS = tuple(dict.fromkeys(row.weights for row in DIMENSIONS.values()))
