"""What weights bring to a training that starts from them: shape, conventions, words and learning rate."""

import math
from dataclasses import dataclass
from pathlib import Path

from unity.config import MODELS, ModelConfig
from unity.modality.encodings import OURS
from unity.model.card import ModelCard
from unity.model.weights import read_card

# settings that a size of unity.config.MODELS stands for; the others are conventions, which follow the weights
_SHAPE = ("dim", "ffn_dim", "num_heads", "num_layers", "latent_channels", "text_dim", "codec", "text")
_CONVENTIONS = ("clean_time", "input", "output", "prediction", "rope_theta")


@dataclass(frozen=True, kw_only=True)
class Heritage:
    """What the weights at `path` want to be."""

    path: Path
    card: ModelCard
    # the row of unity.config.MODELS that comes nearest
    preset: str

    @property
    def type_prompts(self) -> dict[str, str]:
        """The weights' own words, of the modalities that are drawn as our data draws them."""
        drawn = self.card.encodings
        return {name: words for name, words in self.card.type_prompts.items() if drawn[name] == OURS}

    def line(self, rate: float, config: ModelConfig | None = None) -> str:
        """What a run that starts so is, for its first line."""
        config = config or self.card.model
        settings = ", ".join(f"{name} {getattr(config, name)}" for name in _CONVENTIONS)
        redrawn = [name for name in self.card.modalities if name not in self.type_prompts]
        note = f"; {', '.join(redrawn)}: our words and colours, as the data draws them" if redrawn else ""
        shape = f"{config.num_layers} blocks of width {config.dim}"
        return f"starting from the weights of {self.path}: {self.preset}, {shape}, {settings}, lr {rate:g}{note}"


def heritage(path: Path | str, model: str | None = None) -> Heritage:
    """What the weights at `path` want to be, told from their card or their headers.

    Raises ValueError where they are not of the size `model`.
    """
    card = read_card(path)
    preset = next((name for name, config in MODELS.items() if _same(config, card.model)), None)
    if model is not None and model != preset:
        raise ValueError(
            f"{path} holds a model of {card.model.num_layers} blocks of width {card.model.dim}"
            f"{f', {preset},' if preset else ''} and not {model}: leave --model out, its size follows the weights"
        )
    return Heritage(path=Path(path), card=card, preset=preset or min(MODELS, key=lambda n: _far(n, card.model)))


def _same(one: ModelConfig, other: ModelConfig) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in _SHAPE)


def _far(name: str, config: ModelConfig) -> float:
    return abs(math.log(MODELS[name].dim / config.dim))
