"""UnityDiT as a model of diffusers, on which its hooks and its ways of saving work."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import CacheMixin, ConfigMixin, ModelMixin
from torch import nn

from unity.config import ModelConfig
from unity.model.card import ModelCard, card_of, diffusers_settings
from unity.model.dit import UnityDiT


class UnityTransformer3DModel(ModelMixin, UnityDiT, CacheMixin, ConfigMixin):
    """The same tensors under the same names; `config` holds the shape and, as `config.card`, what was learnt.

    Its folder is a model folder of this project, too: `unity.model.weights.load_model` reads it.
    """

    _no_split_modules = ["Block"]
    # small, or read by others than their own forward
    _skip_layerwise_casting_patterns = ["norm", "^stem", "^time_", "^text_embedding"]

    # ModelMixin keeps settings flat, and builds the model from them
    def __init__(self, card: Mapping[str, Any], **settings: Any):
        """`settings` are those of `ModelConfig`, `card` holds the other entries of a `ModelCard`."""
        whole = card_of(settings | {"card": dict(card)})
        self.register_to_config(**diffusers_settings(whole))
        # ModelMixin's own takes no arguments to hand on
        UnityDiT.__init__(self, whole.model)
        self._gradient_checkpointing_func = None

    @classmethod
    def of(cls, model: UnityDiT, card: ModelCard) -> "UnityTransformer3DModel":
        """A model that shares its tensors with another."""
        with torch.device("meta"):
            new = cls(**diffusers_settings(card))
        new.load_state_dict(model.state_dict(), assign=True)
        return new.requires_grad_(False).eval()

    @staticmethod
    def _get_init_keys(input_class: type) -> set[str]:
        return {"self", "card", *ModelConfig.__dataclass_fields__}

    def __getattr__(self, name: str) -> Any:
        """Not of the settings, as ModelMixin does for older programs: some have the names of parts."""
        return nn.Module.__getattr__(self, name)

    @property
    def config(self) -> Any:
        """All settings, by name and as attributes."""
        return self._internal_dict

    @config.setter
    def config(self, shape: ModelConfig) -> None:
        """UnityDiT's own settings are among them already."""

    @property
    def model_card(self) -> ModelCard:
        return card_of(self.config)
