"""Video models of others as diffusers ships them, from folders on the disk, as contestants of a benchmark."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from unity.data.video import resize

Video = UInt8[np.ndarray, "t h w 3"]
# what the models' sides are whole numbers of, in pixels
_UNIT = 16


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One of them. It answers at a size that it knows, and the answer is brought to the clip's."""

    words: str
    repository: str
    # diffusers' class
    pipeline: str
    task: str
    # the modalities that it can be led by, in the colours of this project; empty: it reads words alone
    follows: tuple[str, ...] = ()
    # how its authors sample
    steps: int = 50
    guidance: float
    # of the shorter side, in pixels
    side: int = 480


PEERS = {
    "wan2.1": Peer(
        words="text to video",
        repository="Wan-AI/Wan2.1-T2V-14B-Diffusers",
        pipeline="WanPipeline",
        task="joint",
        guidance=5.0,
    ),
    "wan-vace": Peer(
        words="video that follows depth, flow or skeletons",
        repository="Wan-AI/Wan2.1-VACE-14B-diffusers",
        pipeline="WanVACEPipeline",
        task="control",
        follows=("depth", "flow", "skeleton"),
        guidance=5.0,
    ),
    "hunyuanvideo": Peer(
        words="text to video",
        repository="hunyuanvideo-community/HunyuanVideo",
        pipeline="HunyuanVideoPipeline",
        task="joint",
        guidance=6.0,
    ),
}


class Wish(NamedTuple):
    """What a video should show, and how large it is."""

    caption: str
    # frames, height, width
    extent: tuple[int, int, int]
    seed: int
    # the view that it follows, and its name
    view: Video | None = None
    modality: str = ""


def load_peer(
    row: Peer, folder: Path, device: str, steps: int | None = None, guidance: float | None = None
) -> Callable[[Wish], Video]:
    """What makes its videos; ValueError, with the way out, for a folder that holds no such pipeline."""
    pipeline = _loaded(row, folder, device)
    how = {
        "num_inference_steps": row.steps if steps is None else steps,
        "guidance_scale": row.guidance if guidance is None else guidance,
    }

    def film(wish: Wish) -> Video:
        import torch

        frames, *own = wish.extent
        height, width = known_size((own[0], own[1]), row.side)
        led = {} if wish.view is None else {"video": _pictures(wish.view, (height, width), wish.modality)}
        found = pipeline(
            prompt=wish.caption,
            num_frames=frames,
            height=height,
            width=width,
            generator=torch.Generator().manual_seed(wish.seed),
            output_type="np",
            **led,
            **how,
        )
        return resize(np.rint(255 * found.frames[0]).astype(np.uint8), (own[0], own[1]))

    return film


def known_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """The size (h, w) of about the same shape whose shorter side is about `side`, in whole units."""
    height, width = (max(1, round(length * side / min(size) / _UNIT)) * _UNIT for length in size)
    return height, width


def _pictures(view: Video, size: tuple[int, int], modality: str) -> list:
    from PIL import Image

    return [Image.fromarray(frame) for frame in resize(view, size, modality)]


def _loaded(row: Peer, folder: Path, device: str) -> Any:
    import torch
    from diffusers import DiffusionPipeline

    try:
        kind = json.loads((folder / "model_index.json").read_bytes())["_class_name"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder} has no model_index.json of diffusers; fetch {row.repository}") from error
    if kind != row.pipeline:
        raise ValueError(f"{folder} holds a {kind}, no {row.pipeline}; fetch {row.repository}")
    # the VAE wants whole precision
    kinds = {"vae": torch.float32, "default": torch.float32 if device == "cpu" else torch.bfloat16}
    pipeline = DiffusionPipeline.from_pretrained(folder, torch_dtype=kinds, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)
