"""What an annotator is: pictures in, the values of one modality out, and who made them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

Video = UInt8[np.ndarray, "t h w 3"]
Weights = Mapping[str, Path]


@dataclass(frozen=True)
class Annotation:
    """Values of a modality (`unity.modality.base`) for every frame, and numbers that its gate may look at."""

    values: np.ndarray
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Annotator:
    """One way to annotate a modality. Its packages and weights are loaded when it is used, and not before."""

    name: str
    modality: str
    words: str
    # packages whose versions are written down with what it made
    packages: tuple[str, ...]
    # the name under which --weights gives its weights; empty: it has none
    weights: str = ""
    # what changes its answers
    settings: Mapping[str, float] = field(default_factory=dict)
    # (weights, settings, device) → annotate; raises ValueError with the way out where something is missing
    load: Callable[[Weights, Mapping[str, float], str], Callable[[Video], Annotation]]

    def made_by(self) -> dict:
        """Name, versions and settings, as they are kept with every clip."""
        return {"name": self.name, "versions": _versions(self.packages), "settings": dict(self.settings)}

    def path(self, weights: Weights) -> Path:
        """Where its weights are; ValueError with the way out if nobody said."""
        if self.weights not in weights:
            raise ValueError(f"{self.name} wants --weights {self.weights}=PATH; docs/data.md says whence")
        return weights[self.weights]


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found
