"""One view of a film by the annotators of the table, without a dataset: for `unity.infer --control-from`."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from unity.data.annotate.base import Annotator, as_flags
from unity.data.annotate.clip import enlarged, judged
from unity.data.annotate.table import ANNOTATORS, GATES, WEIGHTS, annotators
from unity.data.annotate.values import shrink
from unity.data.film import Facts, Film, read_film
from unity.data.weights import found_weights


@dataclass(frozen=True, kw_only=True)
class View:
    """Values of a modality at the size asked for, the frames that were looked at, perhaps larger, and by whom."""

    film: Film
    values: np.ndarray
    told: dict

    @property
    def doubt(self) -> str:
        """What the gate says, empty where it lets them through."""
        return self.told["why"]


def chosen(modality: str, name: str | None, words: Sequence[str]) -> tuple[Annotator, dict]:
    """The annotator of this name, or of whichever weights are given as NAME=PATH; and the weights.

    Raises ValueError, with the way out, where none is of this modality.
    """
    weights = found_weights(words, WEIGHTS)
    found = annotators((name,) if name else None, weights)
    if modality not in found:
        able = [row for row in ANNOTATORS.values() if row.modality == modality]
        ways = " or ".join(f"{row.name} (--annotator-weights {as_flags(row.weights)})" for row in able) or "nobody"
        why = f"{name} makes {ANNOTATORS[name].modality}" if name else f"{modality} needs weights"
        raise ValueError(f"{why}; {modality} comes from {ways}")
    return found[modality], weights


def view(
    by: tuple[Annotator, dict], facts: Facts, frames: int | None, size: tuple[int, int], whole: bool, device: str
) -> View:
    """`frames` of a film, or all, at `size` (h, w), see `read_film`, and what the annotator sees in them."""
    row, weights = by
    cv2.setNumThreads(1)
    times = enlarged(facts, size)
    film = read_film(facts, frames, (times * size[0], times * size[1]), whole=whole)
    made = row.load(weights, row.settings, device)(film.frames)
    told = judged(row, made, film.frames, GATES[row.modality])
    values = shrink(row.modality, made.values, times)
    return View(film=film, values=values, told=told)
