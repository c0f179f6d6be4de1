"""A model on clips it has not seen: its estimates against the truth, and its error in all tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from unity.data.clips import Clip
from unity.evaluate.metrics import clip_scores, summary
from unity.flow_matching import draw_noise
from unity.generate import Footage, Frames, Generator, decode, encode, generate
from unity.modality.encodings import OURS, redraw
from unity.modality.table import MODALITIES
from unity.model.card import ModelCard
from unity.objective import routed_velocity
from unity.routing import fixed_route, text_to_video
from unity.sampler import Guidance, Sampling
from unity.tasks import TASKS

Video = UInt8[np.ndarray, "t h w 3"]

# noise levels at which the error is measured
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
# clips of which `examine` measures it: fifteen passes of the model each
_MEASURED = 2


def stacked(clips: Sequence[Clip], stream: str) -> Frames:
    return np.stack([clip.video[stream] for clip in clips])


def as_known(card: ModelCard, clips: Sequence[Clip], stream: str) -> Frames:
    """Videos of a stream in the colours that a checkpoint knows."""
    video = stacked(clips, stream)
    if card.encodings.get(stream, OURS) == OURS:
        return video
    return np.stack([redraw(frames, stream, card.encodings[stream]) for frames in video])


def read_values(card: ModelCard, modality: str, video: Frames, clips: Sequence[Clip]) -> list[np.ndarray]:
    """Values of modality videos in a checkpoint's colours, decoded without the clips' own constants."""
    row = card.modality(modality)
    return [
        row.decode(frames, row.unknown_constants(*clip.video["rgb"].shape[1:3]))
        for frames, clip in zip(video, clips, strict=True)
    ]


def reread(
    generator: Generator, modality: str, video: Frames, clips: Sequence[Clip], seed: int = 0
) -> list[np.ndarray]:
    """The model's own estimates, as its card says they are drawn, of videos that somebody made for the clips."""
    sampling = Sampling(guidance=Guidance(scale=1.0), seed=seed)
    _, aux = generate(generator, "estimate", modality, [""] * len(clips), Footage(rgb=video), sampling)
    return read_values(generator.card, modality, aux, clips)


def estimate_scores(
    generator: Generator, modality: str, video: Frames, clips: Sequence[Clip]
) -> dict[str, dict[str, float]]:
    """Mean scores over clips with exact values, see `scores_by_clip`."""
    scores = scores_by_clip(generator, modality, video, clips)
    return {who: {name: summary(values).mean for name, values in found.items()} for who, found in scores.items()}


def scores_by_clip(
    generator: Generator, modality: str, video: Frames, clips: Sequence[Clip]
) -> dict[str, dict[str, list[float]]]:
    """Scores of each clip with exact values: `model` of the estimated `video`, and those of the row's baselines.

    `codec` is what a perfect model would score: the true video, through codec and decoder.
    """
    truth = [clip.values[modality] for clip in clips]
    known = as_known(generator.card, clips, modality)
    through = decode(generator, encode(generator, known, modality), modality)
    predictions = {"model": read_values(generator.card, modality, video, clips)}
    for name, guess in MODALITIES[modality].baselines.items():
        predictions[name] = [guess.predict(clip.video["rgb"], clip.values[modality]) for clip in clips]
    predictions["codec"] = read_values(generator.card, modality, through, clips)
    return {name: clip_scores(modality, zip(values, truth, strict=True)) for name, values in predictions.items()}


def latent_errors(
    generator: Generator, task: str, modality: str, clips: Sequence[Clip], seed: int = 0
) -> dict[str, float]:
    """Squared error of the clean latent a velocity leads to, on the task's noisy streams: `model` and `trivial`.

    The mean over `TIMES`. Trivial is the multiple of the noisy latent itself that comes nearest, chosen anew for
    every time and stream with the answer in hand: all that can be said without looking at a picture.
    """
    return {
        who: float(errors[:, errors[0].isfinite()].mean(1).mean())
        for who, errors in stream_errors(generator, task, modality, clips, seed).items()
    }


@torch.no_grad()
def stream_errors(
    generator: Generator, task: str, modality: str, clips: Sequence[Clip], seed: int = 0, video_only: bool = False
) -> dict[str, Float[Tensor, "times s"]]:
    """The same at each of `TIMES` for rgb and aux, NaN where a stream is given.

    `video_only`: the aux stream is noise alone, as in RoutingConfig.
    """
    known = {name: as_known(generator.card, clips, name) for name in ("rgb", modality)}
    latents = torch.stack([encode(generator, video, name) for name, video in known.items()], dim=1)
    noise = draw_noise(seed, 0, range(len(clips)), latents.shape[1:]).to(latents)
    texts = _texts(generator, task, modality, clips)
    ids = torch.full((len(clips),), list(MODALITIES).index(modality), device=generator.device)
    model, trivial = [], []
    for time in TIMES:
        level = torch.full((len(clips),), time, device=generator.device)
        route = fixed_route(task, level, generator.card.model.clean_time)
        if video_only:
            route = text_to_video(route, torch.ones_like(level, dtype=torch.bool))
        velocity, target, noisy = routed_velocity(generator.model, latents, noise, route, ids, texts)
        # the clean latent is the noisy one less time·velocity
        for errors, guess in ((model, velocity), (trivial, _best_multiple(noisy, target))):
            errors.append((time**2 * _error(guess, target)).masked_fill(~route.noisy[0], torch.nan))
    return {"model": torch.stack(model), "trivial": torch.stack(trivial)}


def _texts(generator: Generator, task: str, modality: str, clips: Sequence[Clip]) -> tuple[Tensor, ...]:
    captions = [clip.caption if TASKS[task].captioned else "" for clip in clips]
    words = generator.encoders.words
    return *words(captions), *words([generator.card.modality(modality).type_prompt] * len(clips))


def _error(prediction: Tensor, target: Tensor) -> Float[Tensor, " s"]:
    return (prediction.float() - target).square().mean(dim=(0, 2, 3, 4, 5))


def _best_multiple(x: Tensor, target: Tensor) -> Float[Tensor, "b s c t h w"]:
    across = (0, 2, 3, 4, 5)
    return x * ((x * target).sum(across, keepdim=True) / x.square().sum(across, keepdim=True))


@dataclass(frozen=True, kw_only=True)
class Exam:
    """What came of one modality: scores over all clips that have it, and every task's samples of one of them."""

    shown: Clip
    clips: int
    scores: dict[str, dict[str, float]]
    # task → model, trivial
    errors: dict[str, dict[str, float]]
    # task → rgb, modality
    samples: dict[str, tuple[Video, Video]]


def examine(
    generator: Generator, modality: str, clips: Sequence[Clip], *, steps: int, guidance: float, seed: int = 0
) -> Exam:
    """Estimate the modality of all `clips`, in the card's steps, and sample the other tasks for one of them."""
    # not the same clip for every modality
    index = list(MODALITIES).index(modality) % len(clips)
    shown = clips[index]
    options = {"steps": steps, "seed": seed}
    estimated = draw(generator, "estimate", modality, clips, guidance=guidance, seed=seed)
    spread = clips[:: max(1, len(clips) // _MEASURED)][:_MEASURED]
    samples = {
        task: draw(generator, task, modality, [shown], guidance=guidance, **options)
        for task in TASKS
        if task != "estimate"
    }
    pairs = {"estimate": [video[index : index + 1] for video in estimated]} | samples
    return Exam(
        shown=shown,
        clips=len(clips),
        scores=estimate_scores(generator, modality, estimated[1], clips),
        errors={task: latent_errors(generator, task, modality, spread, seed) for task in TASKS},
        samples={task: (rgb[0], aux[0]) for task, (rgb, aux) in pairs.items()},
    )


def draw(
    generator: Generator, task: str, modality: str, clips: Sequence[Clip], *, guidance: float | None, **options
) -> tuple[Frames, Frames]:
    """RGB and modality videos of a task for every clip, guided by its caption where the task reads one.

    Without a `guidance` as the checkpoint's card says.
    """
    row, kinds = TASKS[task], {"rgb": "rgb", "aux": modality}
    given: dict[str, Any] = {
        name: as_known(generator.card, clips, kind)
        for (name, kind), noisy in zip(kinds.items(), row.noisy, strict=True)
        if not noisy
    }
    frames, *size = clips[0].video["rgb"].shape[:3]
    captions = [clip.caption if row.captioned else "" for clip in clips]
    scale = generator.card.schedule(task).asked(guidance=guidance).guidance if row.captioned else 1.0
    footage = Footage(**given, frames=frames, size=tuple(size))
    sampling = Sampling(guidance=Guidance(scale=scale), **options)
    return generate(generator, task, modality, captions, footage, sampling)
