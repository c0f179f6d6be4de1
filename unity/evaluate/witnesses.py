"""Who reads a modality from videos beside a model: its classical methods, and annotators with weights at hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from unity.data.annotate.base import Weights, as_flags
from unity.data.annotate.table import ANNOTATORS
from unity.modality.table import MODALITIES

Video = UInt8[np.ndarray, "t h w 3"]


@dataclass(frozen=True, kw_only=True)
class Witness:
    """An annotator that is loaded (unity.data.annotate)."""

    name: str
    modality: str
    read: Callable[[Video], np.ndarray]
    # versions and settings, which belong to what it says
    made_by: dict


def load_witness(name: str, weights: Weights, device: str) -> Witness:
    """A row of ANNOTATORS by its name; ValueError, with the way out, for what it lacks."""
    row = ANNOTATORS[name]
    annotate = row.load(weights, row.settings, device)
    return Witness(
        name=name,
        modality=row.modality,
        read=lambda video: annotate(video).values,
        made_by=row.made_by(),
    )


def load_witnesses(weights: Weights, device: str) -> tuple[Witness, ...]:
    """All annotators that these weights are for."""
    able = [name for name, row in ANNOTATORS.items() if row.weights and not row.missing(weights)]
    return tuple(load_witness(name, weights, device) for name in able)


def absent(weights: Weights) -> dict[str, str]:
    """The annotators that lack weights, and what would bring them in."""
    lacking = {row.name: missing for row in ANNOTATORS.values() if (missing := row.missing(weights))}
    return {name: f"--weights {as_flags(missing)}" for name, missing in lacking.items()}


def readings(
    witnesses: Sequence[Witness], modality: str, video: Video, shape_of: np.ndarray
) -> dict[str, np.ndarray]:
    """Values of a video by who read them; of `shape_of`, values of its extent, the shape alone is used."""
    found = {
        name: row.predict(video, shape_of) for name, row in MODALITIES[modality].baselines.items() if row.looks
    }
    return found | {one.name: one.read(video) for one in witnesses if one.modality == modality}
