"""The optimizer's settings, its learning rate as a function of the step, and which parameters decay."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW, its schedule, and the average that is kept of the weights."""

    # peak learning rate; by default 5e-5 (the paper), more for the small models that start from nothing
    lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.01
    # largest norm of the whole gradient
    clip: float = 1.0
    # steps over which the learning rate rises from 0; by default a tenth of the run, at most 200
    warmup: int | None = None
    schedule: Literal["cosine", "constant"] = "cosine"
    # the cosine ends at this share of the peak
    final: float = 0.1
    # share of the averaged weights that survives a step, once the run is long enough for it
    ema: float = 0.9999


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Learning rate of step `step` (from 0) in a run of `steps`; a resolved config is asked for."""
    rising = min(1.0, (step + 1) / max(1, config.warmup))
    if config.schedule == "constant":
        return config.lr * rising
    progress = min(1.0, max(0, step - config.warmup) / max(1, steps - config.warmup))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr * rising * (config.final + (1 - config.final) * cosine)


def adamw(config: OptimConfig, named: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.AdamW:
    """AdamW in which only matrices decay: no biases, norms, modulation tables or modality embeddings."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in named:
        # ZeRO-3 has already taken the values away, but remembers the shape
        shape = getattr(parameter, "ds_shape", parameter.shape)
        groups[name.endswith("weight") and len(shape) > 1].append(parameter)
    decay = {True: config.weight_decay, False: 0.0}
    return torch.optim.AdamW(
        [{"params": group, "weight_decay": decay[key]} for key, group in groups.items() if group],
        lr=config.lr, betas=config.betas, eps=config.eps, fused=True,
    )  # fmt: skip
