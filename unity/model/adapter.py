"""Adapters on disk: those of this project, peft's, diffusers' and Wan's LoRA files, read, merged and written.

A folder of ours holds peft's `adapter_model.safetensors` and `adapter_config.json`, `parts.safetensors` with what
was trained in full, and the model card, which names the weights that it all belongs to.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unity.config import ModelConfig
from unity.files import whole_folder
from unity.model.card import NAME, ModelCard, write_card
from unity.model.dit import UnityDiT
from unity.model.layouts import diffusers_modules, to_unity
from unity.model.lora import LoraConfig, peft_config, plain_name
from unity.model.names import is_factor
from unity.model.reader import Reader
from unity.model.stored import Stored, open_stored
from unity.model.streamed import write_stream

TENSORS, SETTINGS, PARTS = "adapter_model.safetensors", "adapter_config.json", "parts.safetensors"
# ends of names in an adapter → what they are of the tensor whose name they stand behind
_ENDS = {
    ".lora_A.weight": "A", ".lora_B.weight": "B", ".lora_down.weight": "A", ".lora_up.weight": "B",
    ".lora_A.default.weight": "A", ".lora_B.default.weight": "B", ".alpha": "alpha",
    ".diff": "weight", ".diff_b": "bias",
}  # fmt: skip
# before names in which every point is an underscore
_KOHYA = "lora_unet_"
# settings of peft under which B·A is not what is added
_UNKNOWN = ("use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "use_bdlora", "arrow_config")


class Lora(NamedTuple):
    """An adapter that is asked for, and how often it counts."""

    path: Path
    strength: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What is added to weights, by the names of a UnityDiT."""

    path: Path
    # weight [o, i] → (A [r, i], B [o, r], scale): scale·B·A is added
    factors: Mapping[str, tuple[Tensor, Tensor, float]]
    # tensor → its difference, added as it is
    differences: Mapping[str, Tensor] = field(default_factory=dict)
    # tensor → what takes its place
    parts: Mapping[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> list[Tensor]:
        factors = [factor for down, up, _ in self.factors.values() for factor in (down, up)]
        return [*factors, *self.differences.values(), *self.parts.values()]

    def apply(self, name: str, value: Tensor, strength: float = 1.0) -> Tensor:
        """A tensor of the base with the adapter merged in `strength` times, in float32 where it changes."""
        if name in self.parts:
            return self.parts[name]
        if name in self.differences:
            value = value.float() + strength * self.differences[name].float()
        if name in self.factors:
            down, up, scale = self.factors[name]
            value = value.float() + strength * scale * (up.float() @ down.float())
        return value


def is_adapter(folder: Path) -> bool:
    """Whether it is a folder of ours, or of peft's, with an adapter in it."""
    return (folder / TENSORS).is_file() and (folder / SETTINGS).is_file()


def stream_adapter(
    shapes: Mapping[str, Tensor],
    parts: Callable[[str], Iterable[Tensor]],
    lora: LoraConfig,
    card: ModelCard,
    folder: Path | str,
) -> dict[str, dict]:
    """Write what was trained of an adapted model, under the names that it has there; see the top of this file.

    Tensors come in parts and are never whole in memory (`unity.model.streamed`): factors of a high rank are as
    large as what they adapt. Returns the size and SHA-256 of the files with tensors, by their names.
    """
    mine = (TENSORS, SETTINGS, PARTS, NAME)
    factors = {f"base_model.model.{plain_name(name)}": name for name in shapes if is_factor(name)}
    others = {plain_name(name): name for name in shapes if not is_factor(name)}
    names, rows = factors | others, {}
    with whole_folder(Path(folder), last=NAME, mine=lambda name: name in mine) as part:
        for file, inside in ((TENSORS, factors), *([(PARTS, others)] if others else [])):
            like = {key: shapes[name] for key, name in inside.items()}
            rows[file] = write_stream(part / file, like, lambda key: parts(names[key]))
        peft_config(lora, card.base).save_pretrained(str(part))
        write_card(card, part)
    return rows


def read_adapter(path: Path, config: ModelConfig) -> Adapter:
    """An adapter of a UnityDiT of `config`: a folder, or a file.

    Raises ValueError for what is none, and for tensors that have no place in it.
    """
    whole = path.is_dir() and is_adapter(path)
    settings = _settings(path)
    factors, differences, parts = {}, {}, {}
    for name, entries in _by_module(open_stored(path / TENSORS if whole else path), config).items():
        if entries.keys() & {"A", "B", "alpha"}:
            factors[f"{name}.weight"] = _factors(path, name, entries, settings)
        differences |= {f"{name}.{kind}": entries[kind] for kind in ("weight", "bias") if kind in entries}
    if whole and (path / PARTS).is_file():
        more = open_stored(path / PARTS)
        parts = more.read(more.shapes)
    adapter = Adapter(path=path, factors=factors, differences=differences, parts=parts)
    if not all(bool(value.isfinite().all()) for value in adapter.tensors()):
        raise ValueError(f"{path} holds values that are no numbers: its training had failed, take another")
    return adapter


def with_adapter(base: Stored, adapter: Adapter, config: ModelConfig, strength: float = 1.0) -> Stored:
    """The weights with the adapter merged in, tensor by tensor as they are read, in the layout of this project.

    Raises ValueError, from headers alone, where they do not go together.
    """
    shapes = to_unity(base.shapes, config)
    _check_places(base, adapter, shapes)

    def read(names: Collection[str]) -> dict[str, Tensor]:
        tensors = Reader(base, config).each(names)
        return {name: adapter.apply(name, value, strength) for name, value in tensors}

    return Stored(path=base.path, shapes=shapes, read=read)


def _check_places(base: Stored, adapter: Adapter, shapes: Mapping[str, Tensor]) -> None:
    products = {name: (len(up), down.shape[1]) for name, (down, up, _) in adapter.factors.items()}
    others = {name: tuple(value.shape) for name, value in (*adapter.differences.items(), *adapter.parts.items())}
    for name, shape in (products | others).items():
        there = tuple(shapes[name].shape) if name in shapes else None
        if there != shape:
            what = "which they have not" if there is None else f"which is {there} there"
            raise ValueError(
                f"{adapter.path} does not fit the weights of {base.path}: it changes {name} {shape}, {what}; "
                f"give the weights that it was trained on"
            )


def _by_module(stored: Stored, config: ModelConfig) -> dict[str, dict[str, Tensor]]:
    """Name of a module of ours → the adapter's tensors for it, by what they are; every tensor has its place."""
    with torch.device("meta"):
        weights = [name for name in UnityDiT(config).state_dict() if name.endswith(".weight")]
    ours = {name.removesuffix(".weight"): name.removesuffix(".weight") for name in weights}
    known = ours | {"head.head": "head"} | diffusers_modules(config)
    known |= {_KOHYA + name.replace(".", "_"): module for name, module in known.items()}
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in stored.read(stored.shapes).items():
        end = next((end for end in _ENDS if name.endswith(end)), "")
        module = known.get(name.removesuffix(end)) if end else None
        if module is None:
            raise ValueError(
                f"{stored.path} holds {name[:80]!r}, which is no part of a LoRA for this model: give one for Wan "
                f"or of this project, or merge it where it was made"
            )
        found.setdefault(module, {})[_ENDS[end]] = value
    return found


def _factors(
    path: Path, name: str, entries: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> tuple[Tensor, Tensor, float]:
    down, up = entries.get("A"), entries.get("B")
    if down is None or up is None or down.ndim != 2 or up.ndim != 2 or up.shape[1] != len(down):
        raise ValueError(f"{path} has no two matrices that go together for {name}; copy it again")
    alpha = entries["alpha"].item() if "alpha" in entries else settings.get("lora_alpha", len(down))
    return down, up, float(alpha) / (len(down) ** 0.5 if settings.get("use_rslora") else len(down))


def _settings(path: Path) -> dict[str, Any]:
    """What peft writes beside an adapter, and diffusers into its header; ValueError for what is not known here."""
    settings: Any = {}
    try:
        if path.is_dir() and is_adapter(path):
            settings = json.loads((path / SETTINGS).read_bytes())
        elif path.suffix == ".safetensors" and path.is_file():
            with safe_open(path, "pt") as file:
                written = (file.metadata() or {}).get("lora_adapter_metadata", "{}")
            settings = {k.removeprefix("transformer."): value for k, value in json.loads(written).items()}
        if not isinstance(settings, dict) or not isinstance(settings.get("lora_alpha", 1), int | float):
            raise ValueError("they are no settings of a LoRA")
    except (ValueError, AttributeError, SafetensorError, RecursionError) as error:
        raise ValueError(f"the settings of the adapter {path} cannot be read ({error}); copy it again") from error
    if strange := [name for name in _UNKNOWN if settings.get(name)]:
        raise ValueError(f"{path} is an adapter with {strange[0]}, which is not known here: merge it with peft")
    return settings
