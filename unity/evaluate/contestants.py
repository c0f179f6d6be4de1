"""Whose answers a benchmark scores: a checkpoint's, those of files that anybody wrote, a baseline's."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from unity.data.annotate.base import Weights
from unity.data.annotate.table import ANNOTATORS
from unity.data.clips import Clip
from unity.evaluate.exam import Effort
from unity.evaluate.held_out import draw, read_values
from unity.evaluate.truth import read_rgb
from unity.evaluate.witnesses import load_witness
from unity.generate import Generator
from unity.modality.readers import read_values as read_files
from unity.modality.table import MODALITIES


class Answer(NamedTuple):
    """What came of one clip: a video where the task makes one, values where it makes those."""

    rgb: np.ndarray | None
    values: np.ndarray | None


# (task, modality, clip, seed) → its answer, None where it has none
Answers = Callable[[str, str, Clip, int], Answer | None]


@dataclass(frozen=True, kw_only=True)
class Published:
    """A baseline whose weights have to be fetched first."""

    words: str
    repository: str


# name → what `--baseline` would need
WEIGHTS = {
    "wan2.1": Published(words="text to video", repository="Wan-AI/Wan2.1-T2V-14B-Diffusers"),
    "wan-vace": Published(words="video that follows", repository="Wan-AI/Wan2.1-VACE-14B-diffusers"),
    "hunyuanvideo": Published(words="text to video", repository="hunyuanvideo-community/HunyuanVideo"),
}
# those that a modality's row has, which need no weights
CLASSICAL = ("classical", "trivial")
BASELINES = (*CLASSICAL, *ANNOTATORS, *WEIGHTS)


def of_checkpoint(generator: Generator, effort: Effort) -> Answers:
    def answer(task: str, modality: str, clip: Clip, seed: int) -> Answer | None:
        if modality not in generator.card.modalities:
            return None
        how = {"steps": effort.steps, "guidance": effort.guidance, "seed": seed}
        rgb, aux = draw(generator, task, modality, [clip], **how)
        return Answer(rgb[0], read_values(generator.card, modality, aux, [clip])[0])

    return answer


def of_files(folder: Path) -> Answers:
    """Files by clip: CLIP/depth.npz …, CLIP/control/depth/rgb.mp4, CLIP/joint/depth/rgb.mp4 with depth.npz beside.

    Values are read as `unity.modality.readers` says.
    """

    def answer(task: str, modality: str, clip: Clip, seed: int) -> Answer | None:
        place = folder / clip.name if task == "estimate" else folder / clip.name / task / modality
        rgb = None if task == "estimate" else read_rgb(place)
        values = None if task == "control" else read_files(place, modality)
        return None if rgb is None and values is None else Answer(rgb, values)

    return answer


def of_baseline(name: str, weights: Weights = MappingProxyType({}), device: str = "cpu") -> Answers:
    """Of BASELINES; ValueError, which tells what is needed, for those whose weights are not given."""
    if name in ANNOTATORS:
        return _of_annotator(name, weights, device)
    if name not in CLASSICAL:
        row = WEIGHTS[name]
        raise ValueError(
            f"{name} ({row.words}) needs the weights of {row.repository}, which this command does not fetch: run "
            f"it where they are, write its files as docs/evaluate.md says, and give them to --predictions"
        )

    def answer(task: str, modality: str, clip: Clip, seed: int) -> Answer | None:
        guess = MODALITIES[modality].baselines.get(name)
        if task != "estimate" or guess is None:
            return None
        return Answer(None, guess.predict(clip.video["rgb"], clip.values[modality]))

    return answer


def _of_annotator(name: str, weights: Weights, device: str) -> Answers:
    if ANNOTATORS[name].weights:
        ANNOTATORS[name].path(weights)
    witness = load_witness(name, weights, device)

    def answer(task: str, modality: str, clip: Clip, seed: int) -> Answer | None:
        asked = task == "estimate" and modality == witness.modality
        return Answer(None, witness.read(clip.video["rgb"])) if asked else None

    return answer
