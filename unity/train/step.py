"""One optimizer step."""

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from jaxtyping import Float
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
    parts = [(part, drawn(run, part)) for part in micro_batches(batch, engine.train_micro_batch_size_per_gpu())]
    coming = encoded(run, parts)
    for part, route in parts[:-1]:
        accumulate(run, part, route, next(coming), tally)
        engine.step()
    accumulate(run, *parts[-1], next(coming), tally)
    record, leave = tally.reduce(step, stop.asked)
    engine.step()
    norm = float(engine.get_global_grad_norm())
    require_finite_norm(norm, step)
    run.ema.update()
    # ranks that share samples count the same ones
    tokens = tally.places // (config.sequence_parallel * math.prod(config.architecture.patch))
    return record | {"grad_norm": norm, "lr": lr, "tokens": tokens}, leave


def accumulate(run: Run, part: dict, route: Route, latents: Float[Tensor, "b 2 c t h w"], tally: Tally) -> None:
    """Add the gradients and losses of a micro-batch to the step's."""
    noise = draw_noise(run.config.seed, part["step"], part["slot"].tolist(), latents.shape[1:], run.world.device)
    route = route.to(run.world.device)
    modality = part["modality"].to(run.world.device)
    loss, losses = routed_loss(run.engine, latents, noise, route, modality, words(run, part, route))
    run.engine.backward(loss)
    tally.add(losses, route.noisy, route.task, modality)
    tally.places += 2 * len(latents) * math.prod(latents.shape[-3:])


def drawn(run: Run, part: dict) -> Route:
    """What a micro-batch is trained on."""
    config, slots = run.config, part["slot"].tolist()
    shape = config.architecture
    return draw_route(config.routing, config.time, shape.clean_time, config.seed, part["step"], slots)


def encoded(run: Run, parts: Sequence[tuple[dict, Route]]) -> Iterator[Float[Tensor, "b 2 c t h w"]]:
    """Latents of micro-batches, one after the other.

    Ranks that share samples need the same ones. Encoding is the dear part of that, so each of them encodes another
    video, of as many micro-batches of one shape at once as there are ranks for.
    """
    for alike in _alike(parts, max(1, run.sequence.size // 2)):
        jobs = [partial(_encoded, run, *part, stream) for part in alike for stream in range(2)]
        latents = iter(run.sequence.share_out(jobs))
        for rgb in latents:
            yield torch.stack((rgb, next(latents)), dim=1)


def _alike(parts: Sequence[tuple[dict, Route]], most: int) -> Iterator[list[tuple[dict, Route]]]:
    """Micro-batches of one shape that follow each other, at most so many."""
    for _, run in itertools.groupby(parts, key=lambda part: part[0]["rgb"].shape):
        same = list(run)
        yield from (same[start:][:most] for start in range(0, len(same), most))


def _encoded(run: Run, batch: dict, route: Route, stream: int) -> Float[Tensor, "b c t h w"]:
    """Latents of a micro-batch's RGB (stream 0) or maps; RGB that is clean may be disturbed first.

    What is read as latents comes as it is: `unity.train.latents` refuses an augmentation of it.
    """
    if stream:
        return run.encoders.encode(batch["aux"], [list(MODALITIES)[m] for m in batch["modality"].tolist()])
    config, rgb, slots = run.config, batch["rgb"], batch["slot"].tolist()
    if config.augment:
        rgb = disturb(rgb, ~route.noisy[:, 0], config.augment, config.seed, batch["step"], slots)
    return run.encoders.encode(rgb, ["rgb"] * len(slots))


def words(run: Run, batch: dict, route: Route) -> tuple[Tensor, ...]:
    """States and lengths of captions and type prompts, empty ones where the route drops them."""
    pairs = (
        (batch["caption"], route.caption),
        (type_prompts(batch["modality"], run.config.type_prompts), route.prompt),
    )
    texts = ([t if kept else "" for t, kept in zip(*pair, strict=True)] for pair in pairs)
    known = dict(zip(batch["caption"], batch.get("states", ()), strict=False))
    return tuple(part for text in texts for part in run.encoders.words(text, known))


def micro_batches(batch: dict, size: int) -> list[dict]:
    """A batch cut into parts of `size` samples; what is not per sample stays as it is.

    Videos that are listed, as of several shapes, have one shape in each part (unity.data.turns).
    """
    starts = range(0, len(batch["slot"]), size)
    per_sample = {key for key, value in batch.items() if not isinstance(value, int)}
    parts = [{k: v[i : i + size] if k in per_sample else v for k, v in batch.items()} for i in starts]
    if not isinstance(batch["rgb"], list):
        return parts
    return [part | {stream: torch.stack(part[stream]) for stream in ("rgb", "aux")} for part in parts]
