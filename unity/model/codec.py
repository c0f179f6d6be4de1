"""The one door to video codecs: pixels ↔ latents."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from einops import rearrange, repeat
from jaxtyping import Float, UInt8
from torch import Tensor

from unity.modality.table import MODALITIES
from unity.model import dct
from unity.model.pretrained import load_pretrained
from unity.model.strides import STRIDES

Pixels = Float[Tensor, "b 3 t h w"]
Latent = Float[Tensor, "b c u v x"]

# name → the hub's repository, latent channels, stride over t, h, w
WAN = {
    "wan2.1": ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", 16, STRIDES["wan2.1"]),
    "wan2.2": ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", 48, STRIDES["wan2.2"]),
}

# frames, rows and columns of a cell
CELL = STRIDES["cells"]
# mean and deviation of RGB's pixels in [-1, 1] over simulated clips, as a modality's row has its own
RGB_SPREAD = (0.188, 0.394)


@runtime_checkable
class Codec(Protocol):
    """What the rest of the project asks of a codec.

    Latents have about unit variance per channel; the first frame has a latent frame of its own, each further one
    covers stride[0] frames. `streams` names what each sample shows, "rgb" or a modality: some codecs care.
    """

    channels: int
    stride: tuple[int, int, int]

    def encode(self, video: Pixels, streams: Sequence[str]) -> Latent:
        """Latents [b, c, 1 + (t-1)/stride, h/stride, w/stride] of pixels in [-1, 1]; always the same ones.

        Raises ValueError unless t is 4k+1 and h, w are multiples of the stride: the rest would be lost silently.
        """
        ...

    def decode(self, latent: Latent, streams: Sequence[str]) -> Pixels:
        """Pixels, clipped to [-1, 1]."""
        ...


def to_pixels(frames: UInt8[Tensor, "b t h w 3"]) -> Pixels:
    """Frames as a codec takes them, in [-1, 1]."""
    return rearrange(frames, "b t h w c -> b c t h w").float() / 127.5 - 1


def to_frames(pixels: Pixels) -> UInt8[Tensor, "b t h w 3"]:
    """A codec's pixels as frames."""
    grey = (pixels.float() + 1) * 127.5
    return rearrange(grey.round().clamp(0, 255).byte(), "b c t h w -> b t h w c")


def load_codec(
    name: str,
    weights: Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    home: torch.device | None = None,
) -> Codec:
    """The codec `cells` or `dct` (embedded, no weights), `wan2.1` or `wan2.2`.

    `weights` is a folder with the VAE of a Wan repository in the diffusers layout, with or without the folder
    `vae` around it; without it the hub's cache on this machine is looked at. Nothing is downloaded. `dtype` is
    that of Wan's arithmetic; videos and latents are fp32. `home`: where Wan's weights are read to, if not to the
    device.

    Raises ValueError for an unknown name, and with the way to get them if the weights are not there.
    """
    if name in EMBEDDED:
        return EMBEDDED[name](device)
    if name in WAN:
        return WanCodec(name, load_wan_vae(name, weights, home or device, dtype), device)
    raise ValueError(f"unknown codec {name!r}; choose {', '.join((*EMBEDDED, *WAN))}")


def load_wan_vae(name: str, weights: Path | None, device: str | torch.device, dtype: torch.dtype) -> Any:
    """The frozen AutoencoderKLWan behind the codec `wan2.1` or `wan2.2`, see `load_codec`."""
    # diffusers takes seconds to import
    from diffusers import AutoencoderKLWan

    vae = load_pretrained(AutoencoderKLWan, weights, WAN[name][0], "vae", torch_dtype=dtype)
    return vae.eval().requires_grad_(False).to(device)


def tile(codec: Codec) -> None:
    """Let a Wan VAE work on tiles of 256 pixels a side, blended where they meet; others need none.

    Wan 2.2's encoder has tiles of 512: it folds two pixels a side into one before it looks.
    """
    if isinstance(codec, WanCodec):
        codec.vae.enable_tiling()


def stride(name: str) -> tuple[int, int, int]:
    """The stride over t, h, w of a codec by its name, known without loading it."""
    return STRIDES[name]


def check_size(t: int, h: int, w: int, stride: tuple[int, int, int]) -> None:
    """Raises ValueError unless t = stride·k + 1 and h, w are multiples of theirs."""
    if t % stride[0] != 1:
        below = max(t - 1, 0) // stride[0] * stride[0] + 1
        raise ValueError(
            f"the codec takes {stride[0]}k+1 frames and would drop the rest of {t}; "
            f"use {below} or {below + stride[0]} frames"
        )
    if h % stride[1] or w % stride[2]:
        raise ValueError(
            f"height and width must be multiples of {stride[1]} and {stride[2]}, got {h}x{w}; crop or resize"
        )


class CellsCodec:
    """Space and time to channels, each stream standardised by one mean and one deviation.

    A clip's pixels come back as they were, to float32 rounding.
    """

    channels, stride = 3 * CELL[0] * CELL[1] * CELL[2], CELL

    def __init__(self, device: str | torch.device):
        self.device = torch.device(device)

    @torch.no_grad()
    def encode(self, video: Pixels, streams: Sequence[str]) -> Latent:
        check_size(*video.shape[2:], stride=CELL)
        mean, deviation = self._spread(streams)
        # the first frame fills a cell of its own, four times the same
        first = repeat(video[:, :, 0], "b c h w -> b c a h w", a=CELL[0] - 1)
        a, p, q = CELL
        cells = rearrange(
            torch.cat((first, video), dim=2), "b c (u a) (v p) (w q) -> b (c a p q) u v w", a=a, p=p, q=q
        )
        return (cells.to(self.device).float() - mean) / deviation

    @torch.no_grad()
    def decode(self, latent: Latent, streams: Sequence[str]) -> Pixels:
        mean, deviation = self._spread(streams)
        a, p, q = CELL
        cells = latent.to(self.device).float() * deviation + mean
        video = rearrange(cells, "b (c a p q) u v w -> b c (u a) (v p) (w q)", c=3, a=a, p=p, q=q)
        return torch.cat((video[:, :, :a].mean(2, keepdim=True), video[:, :, a:]), dim=2).clamp(-1, 1)

    def _spread(self, streams: Sequence[str]) -> Float[Tensor, "2 b 1 1 1 1"]:
        spreads = torch.tensor([spread(stream) for stream in streams], device=self.device)
        return rearrange(spreads, "b two -> two b 1 1 1 1")


def spread(stream: str) -> tuple[float, float]:
    """Mean and deviation of the pixels of "rgb" or of a modality, in [-1, 1]."""
    return RGB_SPREAD if stream == "rgb" else MODALITIES[stream].spread


class DCTCodec:
    """The strongest coefficients of a 3-D DCT of 4x8x8 patches (unity.model.dct): embedded, linear, no weights."""

    stride = dct.PATCH

    def __init__(self, device: str | torch.device):
        self.basis = dct.basis().to(device)
        self.mean, self.std = (values.to(device) for values in dct.constants())
        self.channels = len(self.basis)

    @torch.no_grad()
    def encode(self, video: Pixels, streams: Sequence[str] = ()) -> Latent:
        check_size(*video.shape[2:], stride=self.stride)
        coefficients = dct.patches(video.to(self.basis)) @ self.basis.T
        # contiguous, as the fused ops want it
        return rearrange((coefficients - self.mean) / self.std, "b u v w c -> b c u v w").contiguous()

    @torch.no_grad()
    def decode(self, latent: Latent, streams: Sequence[str] = ()) -> Pixels:
        coefficients = rearrange(latent.to(self.basis), "b c u v w -> b u v w c") * self.std + self.mean
        return dct.unpatch(coefficients @ self.basis).clamp(-1, 1)


class WanCodec:
    """The causal video VAE of Wan 2.1 or 2.2, the mean of its posterior, normalised by its own constants."""

    def __init__(self, name: str, vae: Any, device: str | torch.device | None = None):
        """`vae` is an AutoencoderKLWan; on its device, or on the one that hooks bring it to."""
        repo, self.channels, self.stride = WAN[name]
        self.vae, config = vae, vae.config
        found = (config.z_dim, config.scale_factor_temporal, config.scale_factor_spatial)
        if found != (self.channels, *self.stride[:2]):
            raise ValueError(
                f"{config._name_or_path or 'this'} holds a VAE of {found[0]} channels and strides {found[1]}, "
                f"{found[2]}, not {name}; pass the weights of {repo}"
            )
        self.mean, self.std = (
            rearrange(torch.tensor(values, device=device or vae.device), "c -> c 1 1 1")
            for values in (config.latents_mean, config.latents_std)
        )

    @torch.no_grad()
    def encode(self, video: Pixels, streams: Sequence[str] = ()) -> Latent:
        check_size(*video.shape[2:], stride=self.stride)
        latent = self.vae.encode(video.to(self.mean.device, self.vae.dtype)).latent_dist.mode()
        return (latent.float() - self.mean) / self.std

    @torch.no_grad()
    def decode(self, latent: Latent, streams: Sequence[str] = ()) -> Pixels:
        latent = latent.to(self.mean.device).float() * self.std + self.mean
        return self.vae.decode(latent.to(self.vae.dtype)).sample.float().clamp(-1, 1)


EMBEDDED = {"cells": CellsCodec, "dct": DCTCodec}
