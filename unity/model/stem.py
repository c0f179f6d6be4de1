"""A convolutional stem and head around the transformer, on the latent's own grid: for the embedded models.

A token of these models covers many latent cells. What is sharp passes around the transformer: the stem's features
skip to the head, and the transformer adds what only the whole clip can tell.

Letters: b batch, s streams, g = b·s groups, c latent channels, f features, d width.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from unity import ops
from unity.config import ModelConfig
from unity.model.layers import Linear, Linear32, add_and_norm, rows
from unity.model.layout import Layout, Pending

_EPS = 1e-6


class Convolution(nn.Conv2d):
    """3x3 over the cells of a frame; `zero` starts it as no contribution."""

    def __init__(self, features: int, zero: bool = False):
        self.zero = zero
        super().__init__(features, features, 3, padding=1)

    def reset_parameters(self):
        super().reset_parameters()
        if self.zero:
            for parameter in self.parameters():
                nn.init.zeros_(parameter)


class Residual(nn.Module):
    """x + conv(silu(conv(norm(x)))), the norm modulated per group by time and modality."""

    def __init__(self, features: int, dim: int):
        super().__init__()
        self.modulation = Linear32(dim, 2 * features, std=0.0)
        self.first, self.second = Convolution(features), Convolution(features, zero=True)

    def forward(self, x: Float[Tensor, "g t h w f"], embedded: Float[Tensor, "g d"]) -> Float[Tensor, "g t h w f"]:
        groups, frames = x.shape[:2]
        y = rearrange(modulated(x, self.modulation(embedded)), "g t h w f -> (g t) f h w")
        y = self.second(F.silu(self.first(y)))
        return x + rearrange(y, "(g t) f h w -> g t h w f", g=groups, t=frames)


class Stem(nn.Module):
    """Latents to features of every cell and to the transformer's tokens.

    A cell sees itself, the cell before it in time, and the other stream's two at the same place.
    """

    def __init__(self, config: ModelConfig, streams: int):
        super().__init__()
        _, self.p, self.q = config.patch
        self.input = Linear(4 * config.latent_channels, config.stem)
        self.embedding = nn.Parameter(torch.zeros(streams, config.stem))
        self.blocks = nn.ModuleList(Residual(config.stem, config.dim) for _ in range(config.stem_blocks))
        self.down = Linear(config.stem * self.p * self.q, config.dim)

    def forward(
        self,
        latents: Float[Tensor, "b s c t h w"],
        stream_id: Int[Tensor, "b s"],
        embedded: Float[Tensor, "g d"],
    ) -> tuple[Float[Tensor, "g l d"], Float[Tensor, "g t h w f"]]:
        """Tokens and features; `embedded` is what the time and the modality say, after its SiLU."""
        x = self.input(_surroundings(latents).to(self.input.weight.dtype))
        x = x + rearrange(rows(self.embedding, stream_id), "b s f -> (b s) 1 1 1 f")
        for block in self.blocks:
            x = block(x, embedded)
        cells = rearrange(x, "g t (h p) (w q) f -> g (t h w) (p q f)", p=self.p, q=self.q)
        return self.down(cells), x


class StemHead(nn.Module):
    """Tokens and the stem's features to latents; one projection per stream id, starting at zero."""

    def __init__(self, config: ModelConfig, streams: int):
        super().__init__()
        _, self.p, self.q = config.patch
        self.eps = config.eps
        self.norm = Linear32(config.dim, 2 * config.dim, std=0.0)
        self.up = Linear(config.dim, config.stem * self.p * self.q)
        self.blocks = nn.ModuleList(Residual(config.stem, config.dim) for _ in range(config.stem_blocks))
        self.modulation = Linear32(config.dim, 2 * config.stem, std=0.0)
        # stacked, so that every stream's projection takes part in every step
        self.weight = nn.Parameter(torch.zeros(streams, config.latent_channels, config.stem))
        self.bias = nn.Parameter(torch.zeros(streams, config.latent_channels))

    def forward(
        self,
        pending: Pending,
        features: Float[Tensor, "g t h w f"],
        stream_id: Int[Tensor, " g"],
        embedded: Float[Tensor, "g d"],
        layout: Layout,
    ) -> Float[Tensor, "g c t h w"]:
        """Clean latents of what the transformer leaves pending, of all slices, and of the stem's features."""
        shift, scale = self.norm(embedded).chunk(2, dim=-1)
        _, h = add_and_norm(pending, scale.contiguous(), shift.contiguous(), self.eps)
        frames, height = features.shape[1], features.shape[2] // self.p
        assert isinstance(h, Tensor)
        h = self.up(layout.whole(h))
        cells = rearrange(h, "g (t h w) (p q f) -> g t (h p) (w q) f", t=frames, h=height, p=self.p, q=self.q)
        x = features + cells
        for block in self.blocks:
            x = block(x, embedded)
        x = rearrange(modulated(x, self.modulation(embedded)), "g t h w f -> g (t h w) f")
        x = torch.baddbmm(rows(self.bias, stream_id).unsqueeze(1), x, rows(self.weight, stream_id).transpose(1, 2))
        return rearrange(x.float(), "g (t h w) c -> g c t h w", t=frames, h=features.shape[2])


def modulated(x: Float[Tensor, "g t h w f"], parts: Float[Tensor, "g e"]) -> Float[Tensor, "g t h w f"]:
    """LayerNorm over the features, shifted and scaled per group by the two halves of `parts`."""
    shift, scale = (part.contiguous() for part in parts.chunk(2, dim=-1))
    return ops.modulated_layernorm(x.flatten(1, 3), scale, shift, _EPS).view_as(x)


def _surroundings(latents: Float[Tensor, "b s c t h w"]) -> Float[Tensor, "g t h w e"]:
    """Per cell: itself, the other stream's, and both as they were one step before (zero before the first)."""
    own = rearrange(latents, "b s c t h w -> b s t h w c")
    other = own.flip(1) if latents.shape[1] == 2 else torch.zeros_like(own)
    both = torch.cat((own, other), dim=-1)
    before = F.pad(both[:, :, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
    return torch.cat((both, before), dim=-1).flatten(0, 1)
