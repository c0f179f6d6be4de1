"""Which checkpoints of a run are kept, and that nothing else is ever removed."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from unity.model.adapter import PARTS, SETTINGS
from unity.model.adapter import TENSORS as FACTORS
from unity.model.card import NAME as CARD
from unity.model.weights import TENSORS

# a checkpoint, what a save that was cut off leaves, and the one that a save of the same step replaces
_FOLDER = re.compile(r"step-\d{8,}(\.partial)?|\.step-\d{8,}")
_SHARD = re.compile(r"(weight|ema|exp_avg|exp_avg_sq|exp_avg_scale|exp_avg_sq_scale|frozen)-\d{5}\.safetensors")
_FILES = {"manifest.json", "state.json", TENSORS, CARD, FACTORS, SETTINGS, PARTS}


@dataclass(frozen=True, kw_only=True)
class Keep:
    """How many checkpoints."""

    # the newest ones
    last: int = 2
    # and those of the least loss, as the state of each tells it
    best: int = 0

    def surplus(self, losses: Mapping[str, float | None]) -> list[str]:
        """Those of these checkpoints, by name, that are to go."""
        names = sorted(losses, key=step_of)
        known = {name: loss for name, loss in losses.items() if loss is not None}
        best = sorted(known, key=lambda name: (known[name], step_of(name)))[: self.best]
        return [name for name in names[: -self.last] if name not in best]


def step_of(name: str) -> int:
    """The step that a checkpoint's name tells."""
    return int("".join(filter(str.isdigit, name)))


def prune(folder: Path, keep: Keep) -> None:
    """Remove a run's surplus checkpoints and what saves left that were cut off; nothing that holds other files."""
    ours = [path for path in folder.iterdir() if _FOLDER.fullmatch(path.name) and _is_ours(path)]
    whole = {path.name: loss_of(path) for path in ours if re.fullmatch(r"step-\d+", path.name)}
    gone = {*keep.surplus(whole), *(path.name for path in ours if path.name not in whole)}
    for name in gone:
        shutil.rmtree(folder / name)


def loss_of(checkpoint: Path) -> float | None:
    """What a checkpoint says of its loss, if it does."""
    try:
        loss = json.loads((checkpoint / "state.json").read_bytes())["loss"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return loss if isinstance(loss, float) else None


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds nothing but what a save writes."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return all(
        path.name == "model" if path.is_dir() else path.name in _FILES or bool(_SHARD.fullmatch(path.name))
        for path in folder.rglob("*")
        if not any(part.startswith(".part-") for part in path.relative_to(folder).parts)
    )
