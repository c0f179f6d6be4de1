"""What weights bring to a training that starts from them: size, conventions, words and colours."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from unity.config import MODELS, ModelConfig
from unity.modality.encodings import OURS
from unity.model.card import ModelCard
from unity.model.weights import check_fit, open_weights, read_card

# settings that a row of unity.config.MODELS stands for; the others are conventions
_SIZE = ("dim", "ffn_dim", "num_heads", "num_layers", "latent_channels", "text_dim")
_CONVENTIONS = tuple(f.name for f in fields(ModelConfig) if f.name not in _SIZE)


@dataclass(frozen=True, kw_only=True)
class Heritage:
    """What the weights at `path` want to be."""

    path: Path
    card: ModelCard
    # the row of unity.config.MODELS that comes nearest
    preset: str

    @property
    def exact(self) -> bool:
        """Whether they have that row's size."""
        return not _differing(MODELS[self.preset], self.card.model)

    def check(self, config: ModelConfig) -> None:
        """Raises ValueError, from headers alone, where the weights cannot start a model of this shape."""
        if wrong := _differing(config, self.card.model):
            flags = ", ".join(f"--architecture.{name.replace('_', '-')}" for name in wrong)
            raise ValueError(
                f"{_holds(self)} and not one of {_settings(config, wrong)}: leave {flags} out, its size follows "
                f"the weights"
            )
        check_fit(open_weights(self.path, config)[0], config)

    def line(self, config: ModelConfig, kind: str, rate: float) -> str:
        """What a run is that starts so, for its first line: `config` is its shape."""
        named = self.preset if self.exact else f"of no preset's size (nearest: {self.preset})"
        parts = [f"{named}, {config.num_layers} blocks of width {config.dim}", *self._unlike(config)]
        parts += [f"{name} drawn as {how}" for name, how in self.card.encodings.items() if how != OURS]
        return f"starting from the weights of {self.path}: {', '.join(parts)}, {kind} at lr {rate:g}"

    def _unlike(self, config: ModelConfig) -> list[str]:
        """Conventions in which a run differs from the preset, or from the weights."""
        preset, words = MODELS[self.preset], []
        for name in _CONVENTIONS:
            value, usual, own = (getattr(model, name) for model in (config, preset, self.card.model))
            if value != own:
                words.append(f"{name} {value} (the weights': {own})")
            elif value != usual:
                words.append(f"{name} {value}")
        return words


def heritage(path: Path | str, model: str | None = None, shape: ModelConfig | None = None) -> Heritage:
    """What the weights at `path` want to be, told from their card or their headers.

    `model` is the size that is asked for, `shape` what its name stands for if that is not MODELS' own; it is
    believed for weights that have no card and a size that is none of MODELS. Raises ValueError where the weights
    have another size than `model`.
    """
    asked = shape or (None if model is None else MODELS[model])
    card = read_card(path, asked)
    known = next((name for name, config in MODELS.items() if not _differing(config, card.model)), None)
    found = Heritage(path=Path(path), card=card, preset=known or min(MODELS, key=lambda n: _far(n, card.model)))
    if model is not None and asked is not None and (wrong := _differing(asked, card.model)):
        changed = "" if asked == MODELS[model] else f" with {_settings(asked, wrong)}"
        raise ValueError(
            f"{_holds(found)} and not {model}{changed}: leave --model out, its size follows the weights"
        )
    return found


def _differing(one: ModelConfig, other: ModelConfig) -> list[str]:
    return [name for name in _SIZE if getattr(one, name) != getattr(other, name)]


def _settings(config: ModelConfig, names: Iterable[str]) -> str:
    return ", ".join(f"{name} {getattr(config, name)}" for name in names)


def _holds(found: Heritage) -> str:
    model, named = found.card.model, f", {found.preset}," if found.exact else ""
    return f"{found.path} holds a model of {model.num_layers} blocks of width {model.dim}{named}"


def _far(name: str, config: ModelConfig) -> float:
    return abs(math.log(MODELS[name].dim / config.dim))
