"""What is measured of a trained arm, on clips that none has seen; the names of the numbers are paths.

video/rgb                  error of the clean RGB latent from the caption, the other stream noise (figure 2)
joint/depth/rgb, …/aux     of either stream, both noisy; so control/depth/rgb, estimate/depth/aux
scores/depth/abs_rel       a modality's own scores of estimates
confusion                  share of estimates that are nearer to another modality of their clip than to theirs
made/depth/flicker         of videos that are made jointly (unity.evaluate.video)
attention/rgb→aux          how much attention crosses (unity.evaluate.ablate.crossing)
two_persons/depth/own      error of estimates of a source under the model's own words, or others; …/nothing:
                           the nearest multiple of the noise, which needs no model
Errors are squared, of latents with unit variance, and means over noise levels.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from unity.data.clips import Clip
from unity.data.shards import open_shards
from unity.encoders import Encoders, load_encoders
from unity.evaluate import video
from unity.evaluate.ablate.arms import Arm, Probe
from unity.evaluate.ablate.crossing import attention_between
from unity.evaluate.ablate.training import tasks_of
from unity.evaluate.held_out import as_known, draw, scores_by_clip, stream_errors
from unity.evaluate.metrics import summary
from unity.generate import Frames, Generator
from unity.model.weights import load_model

Numbers = dict[str, float]
# sampling steps of videos, and clips that are made
_STEPS, _MADE = 8, 8


def read_clips(folder: Path) -> list[Clip]:
    shards = open_shards(folder)
    return [shards.clip(source, i) for source, count in shards.counts.items() for i in range(count)]


def open_model(folder: Path, encoders: dict[str, Encoders]) -> Generator:
    """A checkpoint's averaged model; the encoders, which are everybody's, are loaded once."""
    cuda = torch.cuda.is_available()
    device, dtype = torch.device("cuda" if cuda else "cpu"), torch.bfloat16 if cuda else torch.float32
    model, card = load_model(folder, device, dtype)
    if card.model.codec not in encoders:
        encoders[card.model.codec] = load_encoders(card.model, device, dtype)
    return Generator(path=folder, model=model, card=card, encoders=encoders[card.model.codec], dtype=dtype)


def at_mark(generator: Generator, arm: Arm, clips: Sequence[Clip]) -> Numbers:
    """What is followed through a run that makes pairs: RGB errors, and the attention between the streams."""
    if not tasks_of(arm)["joint"]:
        return {}
    first = generator.card.modalities[0]
    shown = _having(clips, first)
    found = _errors(generator, "joint", first, shown, "video", video_only=True)
    if not arm.routing.get("video_only"):
        found |= _errors(generator, "joint", first, shown, f"joint/{first}")
        crossed = attention_between(generator, first, shown)
        found |= {f"attention/{way}": value for way, value in crossed.items()}
    return found


def at_end(generator: Generator, arm: Arm, clips: Sequence[Clip], mark: Numbers) -> Numbers:
    """All that an arm has been trained for, with what its last mark says; other tasks are not asked of it."""
    found, tasks = {name: value for name, value in mark.items() if name != "step"}, tasks_of(arm)
    if arm.routing.get("video_only"):
        return found
    for name in generator.card.modalities:
        shown = _having(clips, name)
        for task, share in tasks.items():
            if share:
                found |= _errors(generator, task, name, shown, f"{task}/{name}")
        if tasks["joint"]:
            found |= _made(generator, name, shown[:_MADE])
    if tasks["estimate"]:
        found |= _estimates(generator, clips)
    for probe in arm.probes:
        found |= _probed(generator, probe, clips)
    return found


def _errors(
    generator: Generator, task: str, modality: str, clips: Sequence[Clip], key: str, video_only: bool = False
) -> Numbers:
    errors = stream_errors(generator, task, modality, clips, video_only=video_only)["model"].mean(0).tolist()
    return {f"{key}/{stream}": e for stream, e in zip(("rgb", "aux"), errors, strict=True) if np.isfinite(e)}


def _made(generator: Generator, modality: str, clips: Sequence[Clip]) -> Numbers:
    rgb, _ = draw(generator, "joint", modality, clips, guidance=3.0, steps=_STEPS, seed=0)
    scores = [video.scores(one) for one in rgb]
    return {
        f"made/{modality}/{name}": float(np.mean([s[name] for s in scores])) for name in ("flicker", "smoothness")
    }


def _estimates(generator: Generator, clips: Sequence[Clip]) -> Numbers:
    """Scores of estimates, and how many are taken for another modality where there are several."""
    found: Numbers = {}
    wrong: list[bool] = []
    for name in generator.card.modalities:
        shown = _having(clips, name)
        _, frames = draw(generator, "estimate", name, shown, guidance=1.0, steps=4, seed=0)
        scores = scores_by_clip(generator, name, frames, shown)["model"]
        found |= {f"scores/{name}/{measure}": summary(values).mean for measure, values in scores.items()}
        wrong += confused(generator, name, frames, shown)
    return found | ({"confusion": float(np.mean(wrong))} if wrong else {})


def confused(generator: Generator, modality: str, frames: Frames, clips: Sequence[Clip]) -> list[bool]:
    """For each estimate of a clip with other modalities too: whether one of those is nearer, in pixels."""
    found = []
    for shown, clip in zip(frames, clips, strict=True):
        rivals = [name for name in generator.card.modalities if name in clip.video]
        if len(rivals) > 1:
            truths = {name: as_known(generator.card, [clip], name)[0] for name in rivals}
            gaps = {name: np.square(shown.astype(float) - truth).mean() for name, truth in truths.items()}
            found.append(min(gaps, key=gaps.__getitem__) != modality)
    return found


def _probed(generator: Generator, probe: Probe, clips: Sequence[Clip]) -> Numbers:
    found: Numbers = {}
    of_source = [clip for clip in clips if clip.source == probe.source]
    for name in probe.modalities:
        shown = _having(of_source, name)
        for words in probe.words or (None,):
            errors = stream_errors(_named(generator, name, words), "estimate", name, shown)
            found[f"{probe.source}/{name}/{words or 'own'}"] = float(errors["model"][:, 1].mean())
            found[f"{probe.source}/{name}/nothing"] = float(errors["trivial"][:, 1].mean())
    return found


def _named(generator: Generator, modality: str, words: str | None) -> Generator:
    if words is None:
        return generator
    prompts = generator.card.type_prompts | {modality: words}
    return replace(generator, card=replace(generator.card, type_prompts=prompts))


def _having(clips: Iterable[Clip], modality: str) -> list[Clip]:
    return [clip for clip in clips if modality in clip.values]


def marks(run: Path, every: int) -> Iterator[tuple[int, Path]]:
    """(step, model folder) of a run's checkpoints, the first one first; not those where a signal stopped it."""
    for folder in sorted((run / "checkpoints").glob("step-????????")):
        step = int(folder.name.removeprefix("step-"))
        if step % every == 0:
            yield step, folder / "model"
