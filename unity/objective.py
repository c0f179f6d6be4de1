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
    """The loss of a routed batch, and the error of every (sample, stream); that of a clean one means nothing.

    `text` is caption, caption_len, prompt, prompt_len as the model takes them.
    """
    noisy, target = ops.flow_noise(latents, noise, route.time)
    velocity = model(noisy[:, 0], noisy[:, 1], route.model_time, modality, *text, wanted=route.wanted)
    losses = stream_losses(torch.stack(velocity, dim=1), target)
    return masked_mean(losses, route.noisy), losses.detach()
