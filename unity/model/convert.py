"""How the blocks of a model are changed before it is trained, in the one order in which it works."""

from torch import nn

from unity.model import fp8, lora, rows
from unity.model.fp8 import Fp8Config
from unity.model.lora import LoraConfig
from unity.model.packed import packed_rows, saved_numbers


def convert(
    model: nn.Module, adapters: LoraConfig, eight_bits: Fp8Config | None, only: int | None = None
) -> list[str]:
    """Adapters first, then 8 bits for the Linears they stand beside, in place; returns a line about each.

    `only`: the id of the modality that is trained alone. The adapters themselves stay wide. Parameters may be cut
    up by ZeRO-3. Raises ValueError where a package is missing.
    """
    lines = [] if only is None else [rows.train_alone(model, only)]
    if adapters.rank:
        lines.append(_about(model, adapters, lora.inject(model, adapters)))
    if eight_bits:
        lines.append(fp8.describe(model, fp8.convert(model, eight_bits)))
    return lines


def _about(model: nn.Module, adapters: LoraConfig, changed: list[str]) -> str:
    sizes = {name: getattr(p, "ds_numel", p.numel()) for name, p in model.named_parameters()}
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    factors = sum(sizes[name] for name in trained if lora.is_factor(name))
    parts = sum(sizes[name] for name in trained) - factors
    beside = f", {parts:,} of what tells modalities apart at {adapters.parts:g} times the rate" if parts else ""
    frozen = sum(sizes.values()) + saved_numbers(model) - factors - parts
    packed = packed_rows(model)
    stored = f", of which {len(packed)} matrices in {next(iter(packed.values())).bits} bits" if packed else ""
    return (
        f"lora: rank {adapters.rank} on {len(changed)} Linears ({adapters.targets}); trained: {factors:,} "
        f"parameters of adapters{beside}; frozen: {frozen:,}{stored}"
    )
