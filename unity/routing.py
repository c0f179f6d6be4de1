"""Which stream is clean and which is noisy, per sample inside one batch (paper, section 3.1).

All three objectives give gradient in every optimizer step; drawing the task per step or per rank would not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unity.command import real
from unity.flow_matching import TimeConfig, draw_time
from unity.randomness import Purpose, uniform
from unity.tasks import TASKS

Chance = Annotated[float, real(0, 1)]
_FIELDS = [(task.name, Chance, field(default=task.share)) for task in TASKS.values()]
_Shares = make_dataclass("_Shares", _FIELDS, frozen=True, kw_only=True)


@dataclass(frozen=True, kw_only=True)
class RoutingConfig(_Shares):
    """The probability of every task, under its name, and how often words are left out."""

    # either stream clean or noisy, never both clean, all patterns alike; estimates then see captions too
    any2any: bool = False
    # share of the joint samples whose aux stream is noise alone and not learnt: text to video
    video_only: Chance = 0.0
    caption_dropout: Chance = 0.1
    prompt_dropout: Chance = 0.1

    def __post_init__(self):
        shares = tuple(getattr(self, name) for name in TASKS)
        if not min(shares) >= 0 or not self.any2any and not abs(sum(shares) - 1) <= 1e-6:
            raise ValueError(f"task probabilities {shares} ({', '.join(TASKS)}) must add up to 1")

    @property
    def weights(self) -> tuple[float, ...]:
        """Probability of each task, in the order of their ids."""
        return tuple(1 / len(TASKS) if self.any2any else getattr(self, name) for name in TASKS)


@dataclass(frozen=True, kw_only=True)
class Route:
    """What a batch is trained on: columns are the streams rgb, aux."""

    task: Int[Tensor, " b"]
    # noise level of each stream, 0 where it is clean
    time: Float[Tensor, "b 2"]
    # noise level that each stream's modulation is told
    model_time: Float[Tensor, "b 2"]
    noisy: Bool[Tensor, "b 2"]
    # whether the caption, and the type prompt, take part
    caption: Bool[Tensor, " b"]
    prompt: Bool[Tensor, " b"]
    # the streams that are noisy in any sample
    wanted: tuple[bool, bool]

    def to(self, device: torch.device | str) -> "Route":
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)


def draw_route(
    config: RoutingConfig, time: TimeConfig, clean_time: str, seed: int, step: int, slots: Sequence[int]
) -> Route:
    """The route of the samples at `slots` of training step `step`, a pure function of its arguments."""

    def draw(purpose: Purpose, *more: int) -> Tensor:
        values = [uniform(purpose, seed, step, int(slot), *more) for slot in slots]
        return torch.tensor(values, dtype=torch.float64)

    edges = torch.tensor(config.weights, dtype=torch.float64).cumsum(0)
    task = torch.bucketize(draw(Purpose.TASK), edges[:-1], right=True)
    estimate = task == list(TASKS).index("estimate")
    times = torch.stack([draw_time(time, draw(Purpose.TIME, stream), estimate) for stream in range(2)], dim=1)
    captioned = draw(Purpose.CAPTION) >= config.caption_dropout
    if not config.any2any:
        captioned &= torch.tensor([row.captioned for row in TASKS.values()])[task]
    drawn = {list(TASKS.values())[i].noisy for i in task.tolist()}
    rgb, aux = (any(stream) for stream in zip(*drawn, strict=True))
    prompted = draw(Purpose.PROMPT) >= config.prompt_dropout
    route = _route(task, times, clean_time, captioned, prompted, (rgb, aux))
    if not config.video_only:
        return route
    return text_to_video(route, route.noisy.all(1) & (draw(Purpose.TASK, 1) < config.video_only))


def text_to_video(route: Route, alone: Bool[Tensor, " b"]) -> Route:
    """The same, with an aux stream of noise alone, which is no answer, in the samples where `alone`."""
    hidden = torch.stack((torch.zeros_like(alone), alone), dim=1)
    time = {name: torch.where(hidden, 1.0, getattr(route, name)) for name in ("time", "model_time")}
    return replace(route, **time, noisy=route.noisy & ~hidden)


def fixed_route(task: str, time: Float[Tensor, " b"], clean_time: str) -> Route:
    """The route of a sampling step: one task, one time for all noisy streams."""
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; choose one of {', '.join(TASKS)}")
    every = torch.ones_like(time, dtype=torch.bool)
    tasks = torch.full_like(time, list(TASKS).index(task), dtype=torch.long)
    return _route(tasks, time.unsqueeze(1).expand(-1, 2), clean_time, every, every, TASKS[task].noisy)


def _route(
    task: Tensor, times: Tensor, clean_time: str, caption: Tensor, prompt: Tensor, wanted: tuple[bool, bool]
) -> Route:
    noisy = torch.tensor([row.noisy for row in TASKS.values()], device=task.device)[task]
    if clean_time == "shared":
        # one time for both streams, the noisy one's, as the 5B release has it
        times = times[:, :1].expand(-1, 2)
    time = torch.where(noisy, times, 0.0).float()
    model_time = times.float() if clean_time == "shared" else time
    return Route(
        task=task, time=time, model_time=model_time, noisy=noisy, caption=caption, prompt=prompt, wanted=wanted
    )
