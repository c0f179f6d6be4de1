"""Samples of latents as training takes them."""

from collections.abc import Mapping

import torch

from unity.data.clips import MODALITY_NAMES
from unity.data.endings import shared
from unity.data.latents.facts import Facts
from unity.data.latents.numbers import latents, states


def collate(samples: list[dict], facts: Facts) -> dict:
    """A batch as of clips, but rgb and aux are float32 [b, c, u, v, x], and `states` lists captions' [l, d]."""
    rows = [sample["row"] for sample in samples]
    videos = {stream: shared(latents([sample[stream] for sample in samples], facts)) for stream in ("rgb", "aux")}
    ids = {key: torch.tensor([getattr(row, key) for row in rows]) for key in ("slot", "modality", "source")}
    words = [shared(states(sample["words"], facts)) for sample in samples]
    texts = {key: [sample[key] for sample in samples] for key in ("caption", "name")}
    return {"step": rows[0].step, **videos, **ids, **texts, "states": words}


def check_wanted(
    facts: Facts, about: Mapping, frames: int | None, size: tuple[int, int] | None, encodings: Mapping[str, str]
) -> None:
    """ValueError for what cannot be taken of latents: other frames, sizes or colours than they were made of."""
    made = (about["frames"], tuple(about["size"]))
    wanted = (frames or made[0], tuple(size or made[1]))
    if wanted != made:
        raise ValueError(
            f"latents of {made[0]} frames of {made[1]} cannot be cut to {wanted[0]} frames of {wanted[1]}; make "
            f"others with python -m unity.data.latents --frames {wanted[0]} --size {wanted[1][0]} {wanted[1][1]}"
        )
    for name in MODALITY_NAMES:
        ours = facts.encodings.get(name)
        if encodings.get(name, ours) != ours:
            raise ValueError(
                f"these latents are of {name} drawn as {ours!r}, and the model wants {encodings[name]!r}; make "
                f"others from its weights (python -m unity.data.latents --init)"
            )
