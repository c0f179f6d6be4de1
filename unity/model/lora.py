"""Low-rank adapters beside the frozen Linears of the blocks (LoRA, Hu et al., 2021, arXiv 2106.09685), by peft."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import nn

from unity.command import real, whole
from unity.extras import extra
from unity.model.names import TARGETS, is_factor, is_part

# peft's name of the only adapter, and of a Linear inside an adapted one
_ADAPTER, _BASE = "default", ".base_layer"


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """What is trained beside frozen weights; nothing of the sort with rank 0."""

    # rank of the adapters; 0: all weights are trained, and none is adapted
    rank: Annotated[int, whole(0, 4096)] = 0
    # adapters count alpha / rank times; by default alpha is the rank
    alpha: Annotated[float, real(0, 1e6, above=True)] | None = None
    # which Linears of the blocks are adapted, a row of unity.model.names.TARGETS
    targets: Literal["attention", "self_attention", "cross_attention", "ffn", "all"] = "all"
    # what tells the modalities apart (embeddings, modulation tables, experts) is trained in full at this multiple
    # of the learning rate; 0: it is frozen, too
    parts: Annotated[float, real(0, 1e4)] = 10.0

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def rate(self, name: str) -> float:
        """The learning rate of a parameter, as a multiple of the run's."""
        return self.parts if self.rank and is_part(name) else 1.0


def peft_config(config: LoraConfig, base: str = "") -> Any:
    """As peft has it; `base` names the weights that are adapted."""
    with extra("train"):
        import peft
    alpha = config.rank if config.alpha is None else config.alpha
    targets = list(TARGETS[config.targets])
    return peft.LoraConfig(
        r=config.rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]
        target_modules=targets,
        base_model_name_or_path=base or None,
    )


def inject(model: nn.Module, config: LoraConfig) -> list[str]:
    """Adapt Linears in place and freeze all else but the parts; returns the names of the adapted.

    An adapted Linear keeps its own parameters under the name `base_layer`; adapters start as no change.
    """
    settings = peft_config(config)
    import peft

    dtype = next(model.parameters()).dtype
    peft.inject_adapter_in_model(settings, model)
    for name, parameter in model.named_parameters():
        adapts = is_factor(name)
        parameter.requires_grad_(adapts or bool(config.parts) and is_part(name))
        if adapts:
            # peft makes them float32 beside bfloat16, and DeepSpeed wants one dtype; its masters are float32
            parameter.data = parameter.data.to(dtype)
    return [name.removesuffix(_BASE) for name, _ in model.named_modules() if name.endswith(_BASE)]


def plain_name(name: str) -> str:
    """The name of a parameter of an adapted model without what peft put into it."""
    return name.replace(f"{_BASE}.", ".").replace(f".{_ADAPTER}.", ".")
