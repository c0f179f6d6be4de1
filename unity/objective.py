"""The loss of a routed batch, for training and for exams (paper, section 3.1)."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from unity import ops
from unity.flow_matching import masked_mean, stream_losses
from unity.routing import Route


def routed_loss(
    model: Callable,
    latents: Float[Tensor, "b 2 c t h w"],
    noise: Float[Tensor, "b 2 c t h w"],
    route: Route,
    modality: Tensor,
    text: Sequence[Tensor],
) -> tuple[Float[Tensor, ""], Float[Tensor, "b 2"]]:
    """The loss of a routed batch, and the error of every (sample, stream); that of a clean one means nothing."""
    velocity, target, _ = routed_velocity(model, latents, noise, route, modality, text)
    losses = stream_losses(velocity, target)
    return masked_mean(losses, route.noisy), losses.detach()


def routed_velocity(
    model: Callable,
    latents: Float[Tensor, "b 2 c t h w"],
    noise: Float[Tensor, "b 2 c t h w"],
    route: Route,
    modality: Tensor,
    text: Sequence[Tensor],
) -> tuple[Float[Tensor, "b 2 c t h w"], Float[Tensor, "b 2 c t h w"], Float[Tensor, "b 2 c t h w"]]:
    """The model's velocity of a routed batch, the true one, and the noisy latents that it saw.

    `text` is caption, caption_len, prompt, prompt_len as the model takes them.
    """
    noisy, target = ops.flow_noise(latents, noise, route.time)
    velocity = model(noisy[:, 0], noisy[:, 1], route.model_time, modality, *text, wanted=route.wanted)
    return torch.stack(velocity, dim=1), target, noisy
