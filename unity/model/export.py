"""Adapters in the names that other programs read."""

from torch import Tensor

from unity.config import ModelConfig
from unity.model.adapter import Adapter
from unity.model.layouts import diffusers_modules

# layout → what stands before every name
_BEFORE = {"diffusers": "transformer.", "wan": "diffusion_model."}


def lora_state(adapter: Adapter, layout: str, config: ModelConfig) -> dict[str, Tensor]:
    """The factors as a LoRA of Wan's RGB half, named as diffusers does, or as Wan (and so ComfyUI) does.

    The scale goes into B, so that alpha is the rank: what every program reads alike. Raises ValueError for an
    adapter that changes what no LoRA of Wan can.
    """
    beside = sorted((*adapter.parts, *adapter.differences, *(n for n in adapter.factors if "_aux" in n)))
    if beside:
        raise ValueError(
            f"{adapter.path} changes {len(beside)} tensors that a LoRA of Wan has no place for ({beside[0]}): "
            f"write it merged into its base, or train it with --lora.parts 0"
        )
    names = {ours: theirs for theirs, ours in diffusers_modules(config).items()} if layout == "diffusers" else {}
    state = {}
    for name, (down, up, scale) in adapter.factors.items():
        module = name.removesuffix(".weight")
        start = _BEFORE[layout] + names.get(module, module)
        state[f"{start}.lora_A.weight"] = down.contiguous()
        state[f"{start}.lora_B.weight"] = (up if scale == 1 else (up.float() * scale).to(up.dtype)).contiguous()
    return state
