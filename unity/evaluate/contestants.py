"""Whose answers a benchmark scores: a checkpoint's, those of files that anybody wrote, a baseline's."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from unity.data.annotate.base import Weights
from unity.data.annotate.table import ANNOTATORS
from unity.data.clips import Clip
from unity.evaluate.exam import Effort
from unity.evaluate.held_out import draw, read_values
from unity.evaluate.peers import PEERS, Wish, load_peer
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


# those that a modality's row has, which need no weights
CLASSICAL = ("classical", "trivial")
# as the models themselves are sampled
_USUAL = Effort()
BASELINES = (*CLASSICAL, *ANNOTATORS, *PEERS)


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


def of_baseline(
    name: str, weights: Weights = MappingProxyType({}), device: str = "cpu", effort: Effort = _USUAL
) -> Answers:
    """Of BASELINES; ValueError, which tells what is needed, for those whose weights are not given."""
    if name in ANNOTATORS:
        return _of_annotator(name, weights, device)
    return _of_peer(name, weights, device, effort) if name in PEERS else _of_guess(name)


def _of_guess(name: str) -> Answers:
    def answer(task: str, modality: str, clip: Clip, seed: int) -> Answer | None:
        guess = MODALITIES[modality].baselines.get(name)
        if task != "estimate" or guess is None:
            return None
        return Answer(None, guess.predict(clip.video["rgb"], clip.values[modality]))

    return answer


def _of_annotator(name: str, weights: Weights, device: str) -> Answers:
    ANNOTATORS[name].check(weights)
    witness = load_witness(name, weights, device)

    def answer(task: str, modality: str, clip: Clip, seed: int) -> Answer | None:
        asked = task == "estimate" and modality == witness.modality
        return Answer(None, witness.read(clip.video["rgb"])) if asked else None

    return answer


def _of_peer(name: str, weights: Weights, device: str, effort: Effort) -> Answers:
    row = PEERS[name]
    if name not in weights:
        raise ValueError(
            f"{name} ({row.words}) wants --weights {name}=FOLDER, with {row.repository} in it, which this command "
            f"does not fetch"
        )
    film = load_peer(row, weights[name], device, effort.steps, effort.guidance)

    # its words are the same for every modality
    @lru_cache(maxsize=1)
    def of_words(caption: str, extent: tuple[int, int, int], seed: int) -> np.ndarray:
        return film(Wish(caption, extent, seed))

    def answer(task: str, modality: str, clip: Clip, seed: int) -> Answer | None:
        if task != row.task or row.follows and modality not in row.follows:
            return None
        frames, height, width, _ = clip.video["rgb"].shape
        if not row.follows:
            return Answer(of_words(clip.caption, (frames, height, width), seed), None)
        led = Wish(clip.caption, (frames, height, width), seed, clip.video[modality], modality)
        return Answer(film(led), None)

    return answer
