"""The large Linears of the blocks in 8-bit arithmetic: on the same parameters, under the same names."""

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Literal, cast

from torch import Tensor, nn

from unity import ops
from unity.model.layers import Block, FeedForward, Linear

# Text keys and values are a hundred tokens: rounding their weights would cost more than the product saves.
LINEARS = ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "cross_attn.q", "cross_attn.o")
LINEARS += ("cross_attn_aux.q", "cross_attn_aux.o", "ffn.0", "ffn.2")
MULTIPLE = 16


@dataclass(frozen=True, kw_only=True)
class Fp8Config:
    """Which 8-bit arithmetic; all scales follow the current tensors, so nothing is kept between steps."""

    # "native": torch's own products; "transformer-engine": NVIDIA's package, on a GPU only
    backend: Literal["native", "transformer-engine"] = "native"
    # one scale per row, or one per tensor (whose gradients then are e5m2); "native" only
    scales: Literal["row", "tensor"] = "row"


class Fp8Linear(Linear):
    """A Linear in 8 bits; takes a tensor, or one that the op before has quantised already."""

    config = Fp8Config()

    def forward(self, input: Tensor | ops.Quantized) -> Tensor:
        return ops.linear_fp8(input, self.weight, self.bias, self.config.scales == "row")


class Fp8FeedForward(FeedForward):
    """Its GELU writes 8 bits for the second Linear in the pass that computes them."""

    def forward(self, input: Tensor | ops.Quantized) -> Tensor:
        return self[2](ops.gelu_fp8(self[0](input)))


def require(config: Fp8Config) -> None:
    """Raises ValueError when the back end is not installed."""
    if config.backend == "transformer-engine":
        _engine()


def convert(model: nn.Module, config: Fp8Config) -> list[str]:
    """Put the Linears of `model.blocks` into 8 bits, in place; returns the names of those that are.

    Parameters and their names stay as they are, also cut up by ZeRO-3, so checkpoints do too. A Linear whose
    sizes are not multiples of 16 stays. With a scale per row, the norms and the GELU before them write 8 bits in
    the pass that computes them. Raises ValueError when the back end is not installed.
    """
    change = {"native": _change_native, "transformer-engine": _change_engine}[config.backend]
    changed, left = [], []
    for name, module in list(_blocks(model).named_modules(prefix="blocks")):
        # one that is adapted stands inside its adapter
        if not (type(module) is Linear and name.removesuffix(".base_layer").endswith(LINEARS)):
            continue
        if module.in_features % MULTIPLE or module.out_features % MULTIPLE:
            left.append(name)
        else:
            change(model, name, module, config)
            changed.append(name)
    if config.backend == "native" and config.scales == "row":
        for block in _blocks(model):
            # a ModuleList does not say what it holds
            _hand_over_eight_bits(block)  # pyright: ignore[reportArgumentType]
    return changed


def _blocks(model: nn.Module) -> nn.ModuleList:
    """Those of a UnityDiT, or of what benchmarks measure of one."""
    return cast(nn.ModuleList, model.blocks)


def _hand_over_eight_bits(block: Block) -> None:
    """Let the passes before the 8-bit Linears write 8 bits."""
    attention, ffn = block.self_attn, block.ffn
    cross = [part for part in (block.cross_attn, block.cross_attn_aux) if part is not None]
    for module, readers in (
        (attention, (attention.q, attention.k, attention.v)),
        (block.cross_attn, [part.q for part in cross]),
        (ffn, (ffn[0],)),
    ):
        module.reads_eight_bits = all(isinstance(reader, Fp8Linear) for reader in readers)
    if isinstance(ffn[2], Fp8Linear):
        ffn.__class__ = Fp8FeedForward


def describe(model: nn.Module, changed: list[str]) -> str:
    """One line for the log: how many Linears of the blocks run in 8 bits, by kind, and which do not."""
    linears = [n for n, module in _blocks(model).named_modules(prefix="blocks") if isinstance(module, nn.Linear)]
    kinds, left = (
        sorted({name.split(".", 2)[2].removesuffix(".base_layer") for name in names if ".lora_" not in name})
        for names in (changed, set(linears) - set(changed))
    )
    return f"fp8: {len(changed)} Linears of the blocks ({', '.join(kinds) or 'none'}); wide: {', '.join(left)}"


def _change_native(model: nn.Module, name: str, module: Linear, config: Fp8Config) -> None:
    # the class alone changes: a new module would need its parameters moved, which ZeRO-3 has cut up already
    module.__class__ = Fp8Linear
    module.config = config  # pyright: ignore[reportArgumentType]


def _change_engine(model: nn.Module, name: str, module: Linear, config: Fp8Config) -> None:
    model.set_submodule(name, engine_linear(module))


def engine_linear(module: nn.Linear) -> nn.Module:
    """Transformer Engine's Linear around the same parameters, under the same two names."""
    engine, recipes = _engine()
    recipe = recipes.Float8CurrentScaling()

    class EngineLinear(engine.Linear):
        # current scaling keeps no state, so there is none to save
        get_extra_state = nn.Module.get_extra_state
        set_extra_state = nn.Module.set_extra_state

        def forward(self, x: Tensor) -> Tensor:
            # entered here, it is entered again when a checkpointed block is recomputed
            with engine.autocast(enabled=True, recipe=recipe):
                return super().forward(x)

    sizes = module.in_features, module.out_features
    linear = EngineLinear(*sizes, bias=True, params_dtype=module.weight.dtype, device="meta")
    linear.weight, linear.bias = module.weight, module.bias
    return linear


def _engine() -> tuple[ModuleType, ModuleType]:
    names = "transformer_engine.pytorch", "transformer_engine.common.recipe"
    try:
        engine, recipes = map(importlib.import_module, names)
    except ImportError as error:
        raise ValueError(
            f"fp8 backend 'transformer-engine' is not installed ({error}); "
            "install transformer_engine[pytorch], or choose the backend 'native'"
        ) from error
    if not hasattr(engine, "autocast"):
        raise ValueError("fp8 backend 'transformer-engine' needs version 2.9 or newer; update it or take 'native'")
    return engine, recipes
