"""UnityDiT as a model of diffusers, on which its hooks and its ways of saving work."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import CacheMixin, ConfigMixin, ModelMixin, TaylorSeerCacheConfig
from torch import nn

from unity.config import ModelConfig
from unity.model.card import ModelCard, card_of, diffusers_settings
from unity.model.dit import UnityDiT
from unity.model.packed import PackedLinear
from unity.thrift import check_steps


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
        for name, module in model.named_modules():
            if isinstance(module, PackedLinear):
                new.set_submodule(name, module)
        new.load_state_dict(model.state_dict(), assign=True)
        return new.requires_grad_(False).eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """`UnityDiT.forward`; a cache is kept for each pair of texts, as each answers differently."""
        if not self.is_cache_enabled:
            return UnityDiT.forward(self, *args, **kwargs)
        texts = [
            str(value.data_ptr()) for value in (*args[4:], *kwargs.values()) if isinstance(value, torch.Tensor)
        ]
        with self.cache_context(" ".join(texts)):
            return UnityDiT.forward(self, *args, **kwargs)

    def enable_cache(self, config: Any) -> None:
        """TaylorSeer's. Raises ValueError for those that take a block's output for a sum with its input."""
        if not isinstance(config, TaylorSeerCacheConfig):
            raise ValueError(
                f"{type(config).__name__} compares what goes into a block with what comes out, and blocks here "
                f"hand on a sum that is still to be added, for speed; TaylorSeerCacheConfig fits"
            )
        super().enable_cache(config)

    def begin(self, steps: int) -> None:
        """Before each sample: a cache forgets the last one. Raises ValueError for fewer steps than it needs."""
        if self.is_cache_enabled:
            check_steps(steps)
            self._reset_stateful_cache()

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
