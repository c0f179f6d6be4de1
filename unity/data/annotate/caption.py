"""Words for clips that nobody described, by a network of transformers that describes pictures (BLIP, GIT, …)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unity.data.annotate.base import Video, versions
from unity.data.weights import from_folder, loaded

# of one caption, at most; beams that the most likely of them is looked for with
_SETTINGS: Mapping[str, float] = {"tokens": 40, "beams": 3}
_WORDS = "network that describes pictures"


# of a repository, what torch does not read
_OTHERS = ["*.h5", "*.msgpack", "*.onnx", "*.ot"]


@dataclass(frozen=True)
class Captioner:
    """Who describes clips, and how."""

    say: Callable[[Video], str]
    # name, versions and settings, as they are kept with every clip that it described
    made_by: Mapping[str, Any]


def captioner(place: str, device: str) -> Captioner:
    """What says the words of a clip's middle picture, which know of no motion; `place`: a folder, or a hub's name.

    Raises ValueError where there is no such network, or the hub that has it cannot be reached.
    """
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

    folder = _folder(place)
    model: Any = from_folder(AutoModelForImageTextToText, folder, _WORDS).to(device)
    processor = loaded(AutoImageProcessor, folder, _WORDS, use_fast=False)
    tokenizer = loaded(AutoTokenizer, folder, _WORDS)

    def say(video: Video) -> str:
        picture = processor(images=[video[len(video) // 2]], return_tensors="pt").to(device)
        tokens = {"max_new_tokens": int(_SETTINGS["tokens"]), "num_beams": int(_SETTINGS["beams"])}
        said = model.generate(pixel_values=picture["pixel_values"], do_sample=False, **tokens)
        return " ".join(tokenizer.decode(said[0], skip_special_tokens=True).split())

    who = {"name": place, "versions": versions(("torch", "transformers")), "settings": dict(_SETTINGS)}
    return Captioner(say, who)


def _folder(place: str) -> str:
    """Itself, or where a repository lies after it was fetched, or where it was fetched to before."""
    if Path(place).exists():
        return place
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(place, ignore_patterns=_OTHERS)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{place} is no folder, and not to be had from the hub ({str(error).splitlines()[0]}); where it is "
            f"in reach, run `huggingface-cli download {place} --local-dir FOLDER`, and give FOLDER"
        ) from error
