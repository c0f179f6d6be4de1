"""Flow matching on two streams: times, noise, velocity targets, loss per sample (paper, section 3.1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unity.command import real
from unity.randomness import Purpose, draw


@dataclass(frozen=True, kw_only=True)
class TimeConfig:
    """Distribution of the noise level of a noisy stream."""

    kind: Literal["logit_normal", "uniform"] = "logit_normal"
    mean: Annotated[float, real(-100, 100)] = 0.0
    std: Annotated[float, real(0, 100)] = 1.0
    # > 1 moves times towards noise: t → shift·t / (1 + (shift - 1)·t). 5 is the 5B release's: what one stream
    # tells about the other counts where there is much noise.
    shift: Annotated[float, real(0, 1000, above=True)] = 5.0
    # the same for estimates, whose RGB tells nearly all from the first step on; by default no other
    estimate_shift: Annotated[float, real(0, 1000, above=True)] | None = None


def draw_time(
    config: TimeConfig, quantile: Float[Tensor, "*b"], estimate: Bool[Tensor, "*b"] | None = None
) -> Float[Tensor, "*b"]:
    """Times in [0, 1] at the given quantiles of the distribution (inverse transform)."""
    time = quantile
    if config.kind == "logit_normal":
        time = torch.sigmoid(config.mean + config.std * torch.special.ndtri(quantile))
    if estimate is None or config.estimate_shift is None:
        return shift_time(time, config.shift)
    return shift_time(time, torch.where(estimate, config.estimate_shift, config.shift).to(time))


def shift_time(time: Tensor, shift: float | Tensor) -> Tensor:
    return shift * time / (1 + (shift - 1) * time)


def generator(purpose: Purpose, seed: int, *position: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator for a position (see unity.randomness, which simulates without torch)."""
    return torch.Generator(device).manual_seed(draw(purpose, seed, *position))


def draw_noise(
    seed: int, step: int, slots: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu"
) -> Float[Tensor, "b ..."]:
    """Gaussian noise of the samples at `slots` of a step, each from a generator of its own position."""
    sources = (generator(Purpose.NOISE, seed, step, int(slot), device=device) for slot in slots)
    return torch.stack([torch.randn(*shape, generator=source, device=device) for source in sources])


def stream_losses(
    prediction: Float[Tensor, "b s c t h w"], target: Float[Tensor, "b s c t h w"]
) -> Float[Tensor, "b s"]:
    """Mean squared error of each sample's streams, in float32."""
    return (prediction.float() - target.float()).square().flatten(2).mean(-1)


def masked_mean(losses: Float[Tensor, "b s"], noisy: Bool[Tensor, "b s"]) -> Float[Tensor, ""]:
    """Mean over each sample's noisy streams, then over samples.

    It divides by nothing that depends on other samples, so micro-batches and ranks average exactly.
    """
    return ((losses * noisy).sum(1) / noisy.sum(1)).mean()
