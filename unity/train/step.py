"""One optimizer step."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unity.encoders import type_prompts
from unity.flow_matching import draw_noise
from unity.modality.table import MODALITIES
from unity.objective import routed_loss
from unity.routing import Route, draw_route
from unity.train import zero
from unity.train.augment import disturb
from unity.train.metrics import Tally, require_finite_norm
from unity.train.optim import learning_rate
from unity.train.run import Run
from unity.train.signals import StopRequest


def train_step(run: Run, batch: dict, stop: StopRequest) -> tuple[dict[str, float], bool]:
    """One optimizer step over this rank's share of the global batch (paper, section 3.1).

    Everything random is a function of (seed, step, slot). Returns the step's metrics over all ranks, and whether
    any rank was asked to stop. Raises FloatingPointError, before the update, when a loss is not finite.
    """
    config, engine, step = run.config, run.engine, batch["step"]
    lr = learning_rate(config.optim, step, config.steps)
    zero.set_learning_rate(engine, lr)
    tally = Tally(run.world)
    *parts, last = micro_batches(batch, engine.train_micro_batch_size_per_gpu())
    for part in parts:
        accumulate(run, part, tally)
        engine.step()
    sizes = accumulate(run, last, tally)
    record, leave = tally.reduce(step, stop.asked)
    engine.step()
    norm = float(engine.get_global_grad_norm())
    require_finite_norm(norm, step)
    run.ema.update()
    tokens = 2 * config.batch_size * math.prod(sizes) // math.prod(config.architecture.patch)
    return record | {"grad_norm": norm, "lr": lr, "tokens": tokens}, leave


def accumulate(run: Run, part: dict, tally: Tally) -> Sequence[int]:
    """Add the gradients and losses of a micro-batch to the step's; returns the sizes (t, h, w) of its latents."""
    config, step, slots = run.config, part["step"], part["slot"].tolist()
    route = draw_route(config.routing, config.time, config.architecture.clean_time, config.seed, step, slots)
    latents = encoded(run, part, ~route.noisy[:, 0], step)
    route = route.to(run.world.device)
    noise = draw_noise(config.seed, step, slots, latents.shape[1:], run.world.device)
    modality = part["modality"].to(run.world.device)
    loss, losses = routed_loss(run.engine, latents, noise, route, modality, words(run, part, route))
    run.engine.backward(loss)
    tally.add(losses, route.noisy, route.task, modality)
    return latents.shape[-3:]


def encoded(run: Run, batch: dict, clean: Bool[Tensor, " b"], step: int) -> Float[Tensor, "b 2 c t h w"]:
    """Latents of both streams; RGB that is `clean` may be disturbed first."""
    names = [list(MODALITIES)[m] for m in batch["modality"].tolist()]
    rgb = disturb(batch["rgb"], clean, run.config.augment, run.config.seed, step, batch["slot"].tolist())
    encode = run.encoders.encode
    return torch.stack([encode(rgb, ["rgb"] * len(names)), encode(batch["aux"], names)], dim=1)


def words(run: Run, batch: dict, route: Route) -> tuple[Tensor, ...]:
    """States and lengths of captions and type prompts, empty ones where the route drops them."""
    pairs = (
        (batch["caption"], route.caption),
        (type_prompts(batch["modality"], run.config.type_prompts), route.prompt),
    )
    texts = ([t if kept else "" for t, kept in zip(*pair, strict=True)] for pair in pairs)
    return tuple(part for text in texts for part in run.encoders.words(text))


def micro_batches(batch: dict, size: int) -> list[dict]:
    """A batch cut into parts of `size` samples; what is not per sample stays as it is."""
    starts = range(0, len(batch["slot"]), size)
    per_sample = {key for key, value in batch.items() if not isinstance(value, int)}
    return [{k: v[i : i + size] if k in per_sample else v for k, v in batch.items()} for i in starts]
