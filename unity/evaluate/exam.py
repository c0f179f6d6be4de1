"""The exams of a checkpoint on held-out clips: does it estimate, does it follow, do its two streams agree.

estimate  the modality of each clip's video against the exact values, beside what needs no model
control   a video made to follow a clip's modality: the modality is estimated anew from it, by the model itself,
          and its error is told as a share of the same for a video made from the caption alone
joint     a video and its modality made from words: the modality estimated from that video against the one that
          came with it, as a share of the same against the one of another clip

A share below 1 says that the condition, or the other stream, counts; near 1, that it does not. Both judge with the
model's own estimates, so they mean little where those are not better than the trivial guess, and no share can be
smaller than what the judge leaves of the clips' own videos, which follow and agree as nothing generated does: that
share, `least`, stands beside.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from unity.data.clips import Clip
from unity.evaluate.held_out import draw, latent_errors, read_values, reread, scores_by_clip, stacked
from unity.evaluate.metrics import Mean, clip_scores, ratio, summary
from unity.generate import Frames, Generator
from unity.modality.table import MODALITIES
from unity.tasks import TASKS

Exam = Literal["estimate", "control", "joint", "errors"]
EXAMS: tuple[Exam, ...] = get_args(Exam)


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How the clips are sampled: a result is a function of these and of the clips."""

    # these two by default as the checkpoint's card says, and always so where it judges
    steps: int | None = None
    # where a caption is read
    guidance: float | None = None
    seed: int = 0
    # clips at a time
    batch: int = 8


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of one modality; what was not asked for is empty."""

    clips: int
    # who → measure: model, the row's baselines, codec
    scores: dict[str, dict[str, Mean]]
    # measure → the model's error as a share of the trivial guess's
    share_of_trivial: dict[str, Mean]
    # measure → error as a share of the same without the condition, and of the same with another clip's stream
    control: dict[str, Mean]
    joint: dict[str, Mean]
    # exam → measure → what the share would be of the clips' own videos
    least: dict[str, dict[str, Mean]]
    # task → model, trivial: squared error of the clean latent, see `latent_errors`
    errors: dict[str, dict[str, float]]


def sit(
    generator: Generator,
    modality: str,
    clips: Sequence[Clip],
    effort: Effort = Effort(),
    exams: Sequence[str] = EXAMS,
    say: Callable[[str], None] = lambda words: None,
) -> Result:
    """Examine the modality on clips that hold its exact values, all of one size and length."""
    result: dict[str, dict] = {
        name: {} for name in ("scores", "share_of_trivial", "control", "joint", "least", "errors")
    }
    estimates: Frames | None = None
    if "estimate" in exams:
        say(f"{modality}: estimating {len(clips)} clips")
        _, estimates = _drawn(generator, "estimate", modality, clips, effort)
        result |= _estimate(generator, modality, clips, effort, estimates)
    if "control" in exams or "joint" in exams:
        # as the judge draws them, or else of no use to it
        known = estimates if effort.steps in (None, generator.card.schedule("estimate").steps) else None
        result |= _generate(generator, modality, clips, effort, exams, say, known)
    if "errors" in exams:
        say(f"{modality}: errors at all levels of noise")
        result["errors"] = {task: _errors(generator, task, modality, clips, effort) for task in TASKS}
    return Result(clips=len(clips), **result)


def _estimate(
    generator: Generator, modality: str, clips: Sequence[Clip], effort: Effort, estimates: Frames
) -> dict[str, dict]:
    parts = [
        scores_by_clip(generator, modality, estimates[start : start + effort.batch], part)
        for start, part in zip(range(0, len(clips), effort.batch), _parts(clips, effort), strict=True)
    ]
    scores = {
        who: {name: [value for part in parts for value in part[who][name]] for name in parts[0][who]}
        for who in parts[0]
    }
    measures = MODALITIES[modality].measures
    errors = {
        who: {name: [measures[name].error(value) for value in values] for name, values in scores[who].items()}
        for who in ("model", "trivial")
    }
    return {
        "scores": {who: {name: summary(values) for name, values in row.items()} for who, row in scores.items()},
        "share_of_trivial": {name: ratio(errors["model"][name], errors["trivial"][name]) for name in measures},
    }


def _generate(
    generator: Generator,
    modality: str,
    clips: Sequence[Clip],
    effort: Effort,
    exams: Sequence[str],
    say: Callable[[str], None],
    estimates: Frames | None,
) -> dict[str, dict]:
    """The exams `control` and `joint`, as far as they are asked for: both need videos made from words alone.

    `estimates` of the clips' own videos, where they have been drawn as the judge draws them.
    """
    say(f"{modality}: generating {len(clips)} clips from their captions")
    truth = [clip.values[modality] for clip in clips]
    free, beside = _drawn(generator, "joint", modality, clips, effort)
    read = _estimated(generator, modality, free, clips, effort)
    if estimates is None:
        seen = _estimated(generator, modality, stacked(clips, "rgb"), clips, effort)
    else:
        seen = read_values(generator.card, modality, estimates, clips)
    found: dict[str, dict] = {"least": {}}
    if "control" in exams:
        say(f"{modality}: generating {len(clips)} clips that follow")
        led = _estimated(
            generator, modality, _drawn(generator, "control", modality, clips, effort)[0], clips, effort
        )
        found["control"] = _share(modality, led, read, truth)
        found["least"]["control"] = _share(modality, seen, read, truth)
    if "joint" in exams:
        made = read_values(generator.card, modality, beside, clips)
        found["joint"] = _share(modality, read, _of_others(read), made)
        found["least"]["joint"] = _share(modality, seen, _of_others(seen), truth)
    return found


def _of_others(values: list[np.ndarray]) -> list[np.ndarray]:
    """Of the clip before: of the same kind, mostly."""
    return [values[i - 1] for i in range(len(values))]


def _share(
    modality: str, right: Sequence[np.ndarray], other: Sequence[np.ndarray], truth: Sequence[np.ndarray]
) -> dict[str, Mean]:
    """Error of `right` against `truth` over that of `other`, for every measure."""
    measures = MODALITIES[modality].measures
    scores = [clip_scores(modality, zip(values, truth, strict=True)) for values in (right, other)]
    return {
        name: ratio(*([measure.error(value) for value in found[name]] for found in scores))
        for name, measure in measures.items()
    }


def _drawn(
    generator: Generator, task: str, modality: str, clips: Sequence[Clip], effort: Effort
) -> tuple[Frames, Frames]:
    pairs = [draw(generator, task, modality, part, **_how(effort)) for part in _parts(clips, effort)]
    rgb, aux = (np.concatenate(videos) for videos in zip(*pairs, strict=True))
    return rgb, aux


def _estimated(
    generator: Generator, modality: str, video: Frames, clips: Sequence[Clip], effort: Effort
) -> list[np.ndarray]:
    """The model's estimates of videos that were generated for the clips."""
    found: list[np.ndarray] = []
    for start in range(0, len(clips), effort.batch):
        part = slice(start, start + effort.batch)
        found += reread(generator, modality, video[part], clips[part], effort.seed)
    return found


def _errors(
    generator: Generator, task: str, modality: str, clips: Sequence[Clip], effort: Effort
) -> dict[str, float]:
    parts = _parts(clips, effort)
    found = [latent_errors(generator, task, modality, part, effort.seed) for part in parts]
    weights = [len(part) for part in parts]
    return {who: float(np.average([errors[who] for errors in found], weights=weights)) for who in found[0]}


def _parts(clips: Sequence[Clip], effort: Effort) -> list[Sequence[Clip]]:
    return [clips[start : start + effort.batch] for start in range(0, len(clips), effort.batch)]


def _how(effort: Effort) -> dict:
    return {"steps": effort.steps, "guidance": effort.guidance, "seed": effort.seed}
