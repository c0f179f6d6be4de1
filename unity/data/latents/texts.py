"""States of the words that all clips share: those that name a modality, and none at all."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from unity.data.latents.facts import Facts
from unity.data.latents.numbers import NUMBERS
from unity.files import whole_file

TEXTS = "texts.safetensors"


def write_texts(path: Path, states: Sequence[Tensor], facts: Facts) -> None:
    """The states [l, d] of `facts.texts`, in their order."""
    with whole_file(path) as part:
        save_file({f"{n:03}": value.cpu().to(NUMBERS[facts.words]) for n, value in enumerate(states)}, part)


def read_texts(folder: Path, facts: Facts) -> dict[str, Tensor]:
    """Each text's states [l, d], in fp32; ValueError where they are not those that the dataset names."""
    path = folder / TEXTS
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); make the latents again") from error
    if hashlib.sha256(data).hexdigest() != facts.texts_key:
        raise ValueError(f"{path} is damaged (it is not the one that dataset.json names); make the latents again")
    states = load_file(path)
    return {text: states[f"{n:03}"].float() for n, text in enumerate(facts.texts)}
