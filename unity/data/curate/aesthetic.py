"""How pleasing pictures are: LAION's head on CLIP's picture states (improved-aesthetic-predictor, 2022)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from unity.data.weights import from_folder, loaded

HEAD = "head.pth"
_WIDTHS = (1024, 128, 64, 16, 1)


def load(folder: Path) -> Callable[[UInt8[np.ndarray, "t h w 3"]], Float[np.ndarray, " t"]]:
    """A judge of pictures, 0 to 100, from a folder with CLIP (transformers' layout) and the head's `head.pth`.

    The head is sac+logos+ava1-l14-linearMSE.pth: five linear layers, with nothing between them but dropout.
    """
    import torch
    from torch import nn
    from transformers import CLIPImageProcessor, CLIPModel

    if not (folder / HEAD).is_file():
        raise ValueError(f"{folder} has no {HEAD}; put LAION's sac+logos+ava1-l14-linearMSE.pth there")
    clip = from_folder(CLIPModel, folder, "CLIP")
    processor = loaded(CLIPImageProcessor, folder, "CLIP")
    state = torch.load(folder / HEAD, map_location="cpu", weights_only=True)
    layers: list[nn.Module] = []
    for index, (wide, narrow) in enumerate(zip((clip.config.projection_dim, *_WIDTHS), _WIDTHS, strict=False)):
        layers += [nn.Linear(wide, narrow)] + [nn.Dropout(0.0)] * (index < 3)
    head = nn.Sequential(*layers).eval()
    head.load_state_dict({name.removeprefix("layers."): value for name, value in state.items()})

    def judge(pictures: UInt8[np.ndarray, "t h w 3"]) -> Float[np.ndarray, " t"]:
        with torch.no_grad():
            pixels = processor(images=list(pictures), return_tensors="pt")["pixel_values"]
            states = clip.get_image_features(pixels)
            score = head(states / states.norm(dim=-1, keepdim=True))
        return 10 * score[:, 0].double().numpy()

    return judge
