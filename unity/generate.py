"""Frames in, frames out: a checkpoint with its codec and text encoder, run on one of the three tasks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from unity.modality.table import MODALITIES
from unity.model.card import ModelCard
from unity.model.codec import Codec, load_codec, stride, to_frames, to_pixels
from unity.model.text import load_text
from unity.model.weights import load_model
from unity.sampler import Guidance, sample

Frames = UInt8[np.ndarray, "b t h w 3"]


@dataclass(frozen=True, kw_only=True)
class Generator:
    """All that sampling needs, loaded once."""

    # what was loaded
    path: Path
    # a UnityDiT, or what answers like one
    model: Callable
    card: ModelCard
    codec: Codec
    text: Callable
    device: torch.device
    dtype: torch.dtype


def load_generator(
    checkpoint: Path | str,
    device: str | None = None,
    codec_weights: Path | None = None,
    text_weights: Path | None = None,
) -> Generator:
    """Load a model folder, a run folder of launchers/train.py (its newest model), or a file of weights.

    On a GPU (the default where there is one) in bf16, on a CPU in fp32. Raises ValueError for what is missing.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(device)!r}: no CUDA GPU can be used here; leave --device out, or give cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model, card = load_model(checkpoint, device, dtype)
    return Generator(
        path=Path(checkpoint),
        model=model,
        card=card,
        codec=load_codec(card.model.codec, codec_weights, device, dtype),
        text=load_text(card.model.text, text_weights, device),
        device=device,
        dtype=dtype,
    )


def check_request(card: ModelCard, modality: str, frames: int, size: tuple[int, int]) -> None:
    """Raises ValueError for a modality that the checkpoint has not learnt, or a clip that it cannot hold."""
    learnt = card.modalities
    if modality not in learnt:
        raise ValueError(
            f"this checkpoint has not learnt {modality!r}, only {', '.join(learnt) or 'plain video'}; "
            f"give another --modality or --checkpoint"
        )
    cell, patch = stride(card.model.codec), card.model.patch
    if frames < 1 or (frames - 1) % cell[0]:
        below = max(0, frames - 1) // cell[0] * cell[0] + 1
        raise ValueError(
            f"frames is {frames}; a clip has {cell[0]}k+1 of them, such as {below} or {below + cell[0]}"
        )
    units = [s * p for s, p in zip(cell[1:], patch[1:], strict=True)]
    if any(side < unit or side % unit for side, unit in zip(size, units, strict=True)):
        fits = [max(unit, round(side / unit) * unit) for side, unit in zip(size, units, strict=True)]
        raise ValueError(
            f"size {size[0]} {size[1]} (height, width) does not divide into patches of {units[0]} x {units[1]} "
            f"pixels; {fits[0]} {fits[1]} does"
        )


def generate(
    generator: Generator,
    task: str,
    modality: str,
    captions: Sequence[str],
    *,
    rgb: Frames | None = None,
    aux: Frames | None = None,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    steps: int = 50,
    sampler: str = "unipc",
    shift: float = 1.0,
    guidance: Guidance | None = None,
    seed: int = 0,
    progress: Callable | None = None,
) -> tuple[Frames, Frames]:
    """RGB and modality videos of a task, one for each caption; a given stream comes back as it came.

    `estimate` takes `rgb`, `control` takes `aux`, `joint` neither: its clips have `frames` and `size` (h, w), by
    default the checkpoint's.
    """
    given = {"rgb": rgb, "aux": aux}
    known = next((video for video in given.values() if video is not None), None)
    if known is not None:
        frames, size = known.shape[1], known.shape[2:4]
    frames = generator.card.frames if frames is None else frames
    size = tuple(size or generator.card.size)
    check_request(generator.card, modality, frames, size)
    batch, device = len(captions), generator.device
    shown = {"rgb": "rgb", "aux": modality}
    latents = {name: encode(generator, video, shown[name]) for name, video in given.items() if video is not None}
    texts = (captions, [generator.card.modality(modality).type_prompt] * batch, [""] * batch)
    sampled = sample(
        generator.model, task, torch.full((batch,), list(MODALITIES).index(modality), device=device),
        *(words(generator, list(text)) for text in texts), **latents,
        shape=_latent_shape(generator, batch, frames, size), steps=steps, sampler=sampler, shift=shift,
        guidance=guidance, clean_time=generator.card.model.clean_time, seed=seed, device=device, progress=progress,
    )  # fmt: skip
    streams = zip(given.items(), sampled, strict=True)
    return tuple(
        decode(generator, latent, shown[name]) if video is None else video for (name, video), latent in streams
    )


def _latent_shape(generator: Generator, batch: int, frames: int, size: tuple[int, int]) -> tuple[int, ...]:
    t, h, w = generator.codec.stride
    return batch, generator.codec.channels, 1 + (frames - 1) // t, size[0] // h, size[1] // w


def words(generator: Generator, texts: list[str]) -> tuple[Tensor, Tensor]:
    """States and lengths of texts, as the model takes them."""
    states, length = generator.text(texts)
    return states.to(generator.device), length.to(generator.device)


def encode(generator: Generator, video: Frames, stream: str) -> Float[Tensor, "b c u v x"]:
    """Latents of clips that show "rgb" or a modality, on the generator's device."""
    frames = torch.from_numpy(np.ascontiguousarray(video)).to(generator.device)
    with torch.no_grad():
        return generator.codec.encode(to_pixels(frames), [stream] * len(frames)).float()


def decode(generator: Generator, latent: Float[Tensor, "b c u v x"], stream: str) -> Frames:
    """Clips of latents of one kind of stream."""
    with torch.no_grad():
        return to_frames(generator.codec.decode(latent, [stream] * len(latent))).cpu().numpy()
