"""The models that may be chosen, told from their cards alone."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from unity.model.card import NAME, ModelCard, read_card_file
from unity.model.strides import STRIDES
from unity.request import SHIPPED
from unity.tasks import TASKS

SHIPPED_NAME = "shipped"
TENSORS = "model.safetensors"
# how far below a given folder models are looked for, and how many folders are looked into
_DEPTH, _MOST_FOLDERS = 4, 5_000
# beyond these multiples of what a model was trained on, it shows nothing of use and takes hours
_MOST_FRAMES, _MOST_SIDE, MOST_STEPS = 4, 4, 200


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that may be chosen; `name` is how a job names it."""

    name: str
    # its file of weights, which are safetensors
    path: Path
    card: ModelCard

    @property
    def most_frames(self) -> int:
        return max(1, (self.card.frames - 1) * _MOST_FRAMES + 1)

    @property
    def unit(self) -> tuple[int, int]:
        """Height and width must be multiples of these."""
        _, rows, columns = STRIDES[self.card.model.codec]
        return rows * self.card.model.patch[1], columns * self.card.model.patch[2]

    def describe(self) -> dict:
        """What the page says of it, and bounds its numbers by."""
        card = self.card
        step, (rows, columns) = STRIDES[card.model.codec][0], self.unit
        return {
            "name": self.name,
            "modalities": card.modalities,
            "stage": card.stage,
            "step": card.step,
            "data": card.data,
            "schedules": {task: asdict(card.schedule(task)) for task in TASKS},
            "frames": {"default": card.frames, "step": step, "most": self.most_frames},
            "size": {
                "default": card.size,
                "unit": (rows, columns),
                "most": tuple(side * _MOST_SIDE for side in card.size),
            },
        }

    def check(self, frames: int | None, size: tuple[int, int] | None) -> None:
        """Raises ValueError for more than the page computes; what the model cannot do it says itself."""
        if frames is not None and frames > self.most_frames:
            raise ValueError(f"frames is {frames}; this model takes up to {self.most_frames} here")
        for side, trained in zip(size or (), self.card.size, strict=False):
            if side > trained * _MOST_SIDE:
                raise ValueError(f"size has {side} pixels; this model takes up to {trained * _MOST_SIDE} here")


def find_models(folders: Iterable[Path]) -> dict[str, Model]:
    """Models by name: the shipped one, and those of ours, as safetensors with their card, below the folders."""
    found = {}
    shipped = _model(SHIPPED_NAME, SHIPPED)
    if shipped:
        found[shipped.name] = shipped
    for top in folders:
        for folder in _folders(top):
            model = _model(str(folder), folder)
            if model:
                found[model.name] = model
    return found


def _model(name: str, folder: Path) -> Model | None:
    place = folder / "model" if (folder / "model").is_dir() else folder
    if not (place / TENSORS).is_file() or not (place / NAME).is_file():
        return None
    try:
        card = read_card_file(place)
    except ValueError:
        # of another version, or half copied: no choice
        return None
    return Model(name=name, path=place / TENSORS, card=card) if card and card.modalities else None


def _folders(top: Path) -> Iterator[Path]:
    """Folders below and with `top`, nearest first; nothing below what is a model."""
    level, looked = [top], 0
    for _ in range(_DEPTH):
        below = []
        for folder in sorted(level):
            looked += 1
            if looked > _MOST_FOLDERS or not folder.is_dir():
                continue
            yield folder
            if not ((folder / "model").is_dir() or (folder / TENSORS).is_file()):
                below += [Path(entry) for entry in os.scandir(folder) if _is_plain(entry)]
        level = below


def _is_plain(entry: os.DirEntry) -> bool:
    return entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
