"""What an annotator is: pictures in, the values of one modality out, and who made them."""

from collections.abc import Callable, Iterable, Mapping
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
    # the names under which --weights gives what it needs, all of it
    weights: tuple[str, ...] = ()
    # what changes its answers
    settings: Mapping[str, float] = field(default_factory=dict)
    # (weights, settings, device) → annotate; raises ValueError with the way out where something is missing
    load: Callable[[Weights, Mapping[str, float], str], Callable[[Video], Annotation]]

    def made_by(self) -> dict:
        """Name, versions and settings, as they are kept with every clip."""
        return {"name": self.name, "versions": versions(self.packages), "settings": dict(self.settings)}

    def missing(self, weights: Weights) -> list[str]:
        """Names of its weights of which nobody said where they are."""
        return [name for name in self.weights if name not in weights]

    def check(self, weights: Weights) -> None:
        """Raises ValueError with the way out unless all of its weights are given."""
        if missing := self.missing(weights):
            raise ValueError(f"{self.name} wants --weights {missing[0]}=PATH; docs/data.md says whence")


def as_flags(names: Iterable[str]) -> str:
    """What --weights is to be given for them."""
    return " ".join(f"{name}=PATH" for name in names)


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Of packages; "absent" where one is not installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found
