"""The shape that Wan's own config.json, or diffusers', tells of weights that have the size of none of MODELS."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unity.config import ModelConfig
from unity.model.card import NAME, shape_of
from unity.model.codec import WAN

# of the model's class: its name there → ours
_NAMES = {
    "WanTransformer3DModel": {
        "num_attention_heads": "num_heads", "in_channels": "latent_channels", "patch_size": "patch",
    },
    "WanModel": {"in_dim": "latent_channels", "patch_size": "patch"},
}  # fmt: skip
_AS_OURS = ("dim", "ffn_dim", "num_heads", "num_layers", "freq_dim", "text_dim", "text_len", "eps")


def told_shape(folder: Path) -> ModelConfig | None:
    """The shape that the folder's config.json tells; None where it tells none. Nothing is believed unread."""
    try:
        content = json.loads((folder / NAME).read_bytes())
        kind = _NAMES.get(content.get("_class_name"))
        return None if kind is None else _shape(content, kind)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def _shape(content: Mapping[str, Any], kind: Mapping[str, str]) -> ModelConfig:
    known = {kind.get(name, name): value for name, value in content.items() if value is not None}
    if "attention_head_dim" in content:
        known["dim"] = content["attention_head_dim"] * known["num_heads"]
    found = {name: known[name] for name in (*_AS_OURS, *kind.values()) if name in known}
    codec = next((name for name, (_, channels, _) in WAN.items() if channels == known["latent_channels"]), None)
    if codec is None:
        raise ValueError(f"no VAE of Wan has {known['latent_channels']} channels")
    return shape_of(found | {"codec": codec})
