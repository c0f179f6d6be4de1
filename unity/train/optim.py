"""The optimizer's settings, its learning rate as a function of the step, and which parameters get what."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import nn

from unity.command import real, whole
from unity.model.names import is_hidden, is_part
from unity.train.adam8 import Adam8
from unity.train.muon import Muon

Kind = Literal["adamw", "adamw8", "muon"]
Share = Annotated[float, real(0, 0.9999999)]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer, its schedule, and the average that is kept of the weights."""

    # muon: Muon for the matrices of the blocks, AdamW for the rest; adamw8: AdamW with moments in 8 bits; by
    # default what --init's weights were trained by, else muon for the small models
    kind: Kind | None = None
    # peak learning rate; by default that of --init's weights, else 5e-5 (the paper), more for weights of the size
    # of debug to small
    lr: Annotated[float, real(0, 1000, above=True)] | None = None
    # the same for Muon's matrices, as a multiple of it
    muon_scale: Annotated[float, real(0, 1000, above=True)] = 1.7
    # the same for what tells the modalities apart (embeddings, modulation tables, experts); with --lora.rank,
    # --lora.parts says it
    parts_scale: Annotated[float, real(0, 10_000, above=True)] = 1.0
    momentum: Share = 0.95
    betas: tuple[Share, Share] = (0.9, 0.95)
    eps: Annotated[float, real(0, 1, above=True)] = 1e-8
    weight_decay: Annotated[float, real(0, 1000)] = 0.01
    # largest norm of the whole gradient
    clip: Annotated[float, real(0, 1e9)] = 1.0
    # steps over which the learning rate rises from 0; by default a tenth of the run, at most 200
    warmup: Annotated[int, whole(0, 10**9)] | None = None
    schedule: Literal["cosine", "constant"] = "cosine"
    # the cosine ends at this share of the peak
    final: Annotated[float, real(0, 1)] = 0.1
    # share of the averaged weights that survives a step, once the run is long enough for it
    ema: Share = 0.9999


@dataclass(frozen=True, kw_only=True)
class SetOptim(OptimConfig):
    """Of which nothing is left to be decided."""

    kind: Kind = field()
    lr: float = field()
    warmup: int = field()


def rate(config: OptimConfig, name: str) -> float:
    """The learning rate of a parameter, as a multiple of the run's."""
    return config.parts_scale if is_part(name) else 1.0


def learning_rate(config: SetOptim, step: int, steps: int) -> float:
    """Learning rate of step `step` (from 0) in a run of `steps`."""
    rising = min(1.0, (step + 1) / max(1, config.warmup))
    if config.schedule == "constant":
        return config.lr * rising
    progress = min(1.0, max(0, step - config.warmup) / max(1, steps - config.warmup))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr * rising * (config.final + (1 - config.final) * cosine)


def optimizer(
    config: SetOptim,
    named: Iterable[tuple[str, nn.Parameter]],
    products: torch.dtype = torch.float32,
    rate: Callable[[str], float] = lambda name: 1.0,
) -> torch.optim.Optimizer:
    """What `kind` says; only matrices decay: no biases, norms, modulation tables or modality embeddings.

    `products` is the precision of Muon's, `rate` a parameter's multiple of the learning rate. What is frozen is
    left out.
    """
    groups: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        # ZeRO-3 has already taken the values away, but remembers the shape
        shape = getattr(parameter, "ds_shape", parameter.shape)
        decays = name.endswith("weight") and len(shape) > 1
        hidden = config.kind == "muon" and is_hidden(name, shape)
        groups.setdefault((hidden, decays, rate(name)), []).append(parameter)
    rows = [
        {
            "params": group,
            "weight_decay": config.weight_decay if decays else 0.0,
            "muon": hidden,
            "scale": config.muon_scale * scale if hidden else scale,
        }
        for (hidden, decays, scale), group in sorted(groups.items(), reverse=True)
    ]
    if config.kind == "muon":
        return Muon(rows, betas=config.betas, eps=config.eps, momentum=config.momentum, products=products)
    if config.kind == "adamw8":
        return Adam8(rows, lr=config.lr, betas=config.betas, eps=config.eps)
    return torch.optim.AdamW(rows, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
