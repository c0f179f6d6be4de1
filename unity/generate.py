"""Frames in, frames out: a checkpoint with its codec and text encoder, run on one of the three tasks."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from unity.canvas import Canvas, exactly, whole_frame
from unity.command import say
from unity.data.video import resize
from unity.encoders import Encoders, load_encoders
from unity.modality.table import MODALITIES
from unity.model.adapter import Lora
from unity.model.card import ModelCard
from unity.model.codec import stride
from unity.model.hub import beside
from unity.model.strides import extent
from unity.model.weights import load_model
from unity.placement import home, needless, placed
from unity.sampler import Known, Sampling, Solver, Texts, sample
from unity.thrift import NONE, Thrift

Frames = UInt8[np.ndarray, "b t h w 3"]
# called after each step with its number, from 1, and what decodes the videos that sampling would end in there
Watch = Callable[[int, Callable[[], tuple[Frames, Frames]]], object]


@dataclass(frozen=True, kw_only=True)
class Generator:
    """All that sampling needs, loaded once."""

    # what was loaded
    path: Path
    # a UnityDiT, or what answers like one
    model: nn.Module
    card: ModelCard
    encoders: Encoders
    dtype: torch.dtype
    thrift: Thrift = NONE

    @property
    def device(self) -> torch.device:
        return self.encoders.device


@dataclass(frozen=True, kw_only=True)
class Footage:
    """The clips that a task starts from, or how many `frames` of which `size` (h, w) the new ones have."""

    rgb: Frames | None = None
    aux: Frames | None = None
    # of `rgb`, where it has been encoded already
    rgb_latent: Float[Tensor, "b c u v x"] | None = None
    # by default the checkpoint's
    frames: int | None = None
    size: tuple[int, int] | None = None


def load_generator(
    checkpoint: Path | str,
    device: str | None = None,
    codec_weights: Path | None = None,
    text_weights: Path | None = None,
    lora: Lora | None = None,
    thrift: Thrift = NONE,
) -> Generator:
    """Load a model folder, a run folder of launchers/train.py (its newest model), a file or a name of weights.

    An adapter `lora` is merged into them. On a GPU (the default where there is one) in bf16, on a CPU in fp32.
    Raises ValueError for what is missing.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(place)!r}: no CUDA GPU can be used here; leave --device out, or give cpu")
    dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
    first = home(thrift, place)
    model, card = load_model(checkpoint, first, dtype, lora=lora, storage=thrift.storage)
    for words in needless(thrift, card, place):
        say(words)
    usual = beside(card.base or checkpoint)
    encoders = load_encoders(card.model, place, dtype, codec_weights or usual, text_weights or usual, first)
    return Generator(
        path=Path(checkpoint),
        model=placed(model, card, encoders, thrift),
        card=card,
        encoders=encoders,
        dtype=dtype,
        thrift=thrift,
    )


def check_learnt(card: ModelCard, modality: str) -> None:
    """Raises ValueError for a modality that the checkpoint has not learnt."""
    if modality not in card.modalities:
        raise ValueError(
            f"this checkpoint has not learnt {modality!r}, only {', '.join(card.modalities) or 'plain video'}; "
            f"give another --modality or --checkpoint"
        )


def most_frames(card: ModelCard, there: int) -> int:
    """Of so many frames as many as the checkpoint was trained on, or as a short film has."""
    step = stride(card.model.codec)[0]
    return min(card.frames, 1 + (there - 1) // step * step)


def patch_size(card: ModelCard) -> tuple[int, int]:
    """Height and width in pixels of what is one token; sides are multiples of it."""
    rows, columns = (s * p for s, p in zip(stride(card.model.codec)[1:], card.model.patch[1:], strict=True))
    return rows, columns


def tokens(card: ModelCard, frames: int, size: tuple[int, int]) -> int:
    """Of both streams of a clip."""
    cells = extent(stride(card.model.codec), frames, size)
    return 2 * math.prod(cells) // math.prod(card.model.patch)


def check_request(card: ModelCard, modality: str, frames: int, size: tuple[int, int]) -> None:
    """Raises ValueError for a modality that the checkpoint has not learnt, or a clip that it cannot hold."""
    check_learnt(card, modality)
    step, units = stride(card.model.codec)[0], patch_size(card)
    if frames < 1 or (frames - 1) % step:
        below = max(0, frames - 1) // step * step + 1
        raise ValueError(f"frames is {frames}; a clip has {step}k+1 of them, such as {below} or {below + step}")
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
    footage: Footage = Footage(),
    sampling: Sampling | None = None,
    watch: Watch | None = None,
    solver: Solver | None = None,
) -> tuple[Frames, Frames]:
    """RGB and modality videos of a task, one for each caption; a given stream comes back as it came.

    `estimate` takes `footage.rgb`, `control` takes `footage.aux`, `joint` neither. `watch` follows the steps.
    `solver` stands in for the times and steps of `sampling`.
    """
    given = {"rgb": footage.rgb, "aux": footage.aux}
    frames, size = _extent(generator, footage)
    check_request(generator.card, modality, frames, size)
    encoders, batch = generator.encoders, len(captions)
    ids = torch.full((batch,), list(MODALITIES).index(modality), device=generator.device)
    shown = {"rgb": "rgb", "aux": modality}
    latents = {} if footage.rgb_latent is None else {"rgb": footage.rgb_latent}
    latents |= {
        name: encode(generator, video, shown[name])
        for name, video in given.items()
        if video is not None and name not in latents
    }
    texts = Texts(
        caption=encoders.words(captions),
        prompt=encoders.words([generator.card.modality(modality).type_prompt] * batch),
        empty=encoders.words([""] * batch),
    )
    shape, clean_time = encoders.latent_shape(batch, frames, size), generator.card.model.clean_time
    known = Known(**latents, shape=shape, clean_time=clean_time)
    numbers = itertools.count(1)

    def finish(*latents: Tensor) -> tuple[Frames, Frames]:
        pairs = zip(given.items(), latents, strict=True)
        rgb, aux = (decode(generator, z, shown[name]) if video is None else video for (name, video), z in pairs)
        return rgb, aux

    def step(data: Tensor) -> None:
        if watch is not None:
            watch(next(numbers), lambda: finish(data[:, 0], data[:, 1]))

    sampling = _scheduled(generator, task, sampling, tokens(generator.card, frames, size))
    if generator.thrift.step_cache > 1:
        generator.model.begin(sampling.steps)  # pyright: ignore[reportCallIssue]
    return finish(*sample(generator.model, task, ids, texts, known, sampling, step, solver))


def encode(generator: Generator, video: Frames, stream: str) -> Float[Tensor, "b c u v x"]:
    """Latents of clips that show "rgb" or a modality, on the generator's device."""
    # torch wants arrays that may be written, also where nothing writes
    frames = torch.from_numpy(np.require(video, requirements=["C", "W"]))
    return generator.encoders.encode(frames, [stream] * len(frames)).float()


def decode(generator: Generator, latent: Float[Tensor, "b c u v x"], stream: str) -> Frames:
    """Clips of latents of one kind of stream."""
    return generator.encoders.decode(latent, [stream] * len(latent)).numpy()


def _scheduled(generator: Generator, task: str, sampling: Sampling | None, length: int) -> Sampling:
    """With the checkpoint's own steps, shift and sampler where nothing else was asked for."""
    asked = sampling or Sampling()
    own = generator.card.schedule(task).asked(steps=asked.steps, shift=asked.shift, sampler=asked.sampler)
    guidance = asked.guidance.settled(length)
    return replace(asked, steps=own.steps, shift=own.shift, sampler=own.sampler, guidance=guidance)


def _extent(generator: Generator, footage: Footage) -> tuple[int, tuple[int, int]]:
    """Frames and size (h, w): those of the given stream, else those asked for, else the checkpoint's."""
    known = next((video for video in (footage.rgb, footage.aux) if video is not None), None)
    if known is not None:
        return known.shape[1], known.shape[2:4]
    frames = generator.card.frames if footage.frames is None else footage.frames
    height, width = footage.size or generator.card.size
    return frames, (height, width)


def fitted(
    card: ModelCard,
    video: UInt8[np.ndarray, "t h w 3"],
    stream: str,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[UInt8[np.ndarray, "count rows columns 3"], Canvas]:
    """Pictures of RGB or a modality as the model takes them: 4k + 1 of them, at about the pixels that it knows.

    `frames` of them, by default as many as there are up to the checkpoint's, spread evenly; a `size` (h, w) is
    covered and cut from the centre. Raises ValueError for fewer than `frames`.
    """
    count = most_frames(card, len(video)) if frames is None else frames
    if not 1 <= count <= len(video):
        raise ValueError(f"there are {len(video)} frames, {count} are wanted; ask for 1 to {len(video)}")
    canvas = exactly(size) if size else whole_frame(video.shape[1:3], card.size, patch_size(card))
    chosen = video[np.linspace(0, len(video) - 1, count).round().astype(int)]
    return canvas.pad(resize(chosen, canvas.picture, stream)), canvas
