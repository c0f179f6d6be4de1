"""Between what people see and write and what the model computes with: pixels ↔ latents, words → states."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from unity.config import ModelConfig
from unity.modality.table import MODALITIES
from unity.model.codec import Codec, load_codec, to_frames, to_pixels
from unity.model.strides import extent
from unity.model.text import load_text

# states [b, l, d] and lengths [b] of texts, as the model takes them
Text = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """A codec and a text encoder, both frozen, on the model's device; nothing here takes part in gradients."""

    codec: Codec
    # texts → states and lengths
    text: Callable[[list[str]], Text]
    device: torch.device

    @torch.no_grad()
    def encode(self, video: UInt8[Tensor, "b t h w 3"], streams: Sequence[str]) -> Float[Tensor, "b c u v x"]:
        """Latents of clips, on the device; each shows "rgb" or a modality."""
        return self.codec.encode(to_pixels(video.to(self.device)), streams)

    @torch.no_grad()
    def decode(self, latent: Float[Tensor, "b c u v x"], streams: Sequence[str]) -> UInt8[Tensor, "b t h w 3"]:
        """Clips of latents, in main memory."""
        return to_frames(self.codec.decode(latent, streams)).cpu()

    def words(self, texts: Sequence[str], known: Mapping[str, Tensor] = {}) -> Text:
        """States and lengths of texts, on the device; none needs to be `known`."""
        states, length = self.text(list(texts))
        return states.to(self.device), length.to(self.device)

    @property
    def modules(self) -> list[nn.Module]:
        """The networks of Wan behind them; embedded ones are too small to count."""
        found = getattr(self.codec, "vae", None), getattr(self.text, "model", None)
        return [module for module in found if module is not None]

    def latent_shape(self, batch: int, frames: int, size: tuple[int, int]) -> tuple[int, int, int, int, int]:
        """Shape b c u v x of the latents of `batch` clips with `frames` frames of `size` (h, w)."""
        return batch, self.codec.channels, *extent(self.codec.stride, frames, size)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """In place of encoders where training reads latents: all was encoded before, and no weights are loaded."""

    # text → its states [l, d], of the words that all clips share
    texts: Mapping[str, Tensor]
    device: torch.device

    def encode(self, latents: Float[Tensor, "b c u v x"], streams: Sequence[str]) -> Float[Tensor, "b c u v x"]:
        """The latents themselves, on the device."""
        return latents.to(self.device, non_blocking=True)

    def words(self, texts: Sequence[str], known: Mapping[str, Tensor] = {}) -> Text:
        """States and lengths of texts that all clips share, or that are `known` from a batch, on the device."""
        states = [self.texts[text] if text in self.texts else known[text] for text in texts]
        lengths = torch.tensor([len(state) for state in states], device=self.device)
        return pad_sequence(states, batch_first=True).to(self.device), lengths


def type_prompts(modality: Int[Tensor, " b"], words: Mapping[str, str]) -> list[str]:
    """What tells the model which modality each sample's second stream is: `words` by modality, of ids."""
    names = list(MODALITIES)
    return [words[names[index]] for index in modality.tolist()]


def load_encoders(
    config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    codec_weights: Path | None = None,
    text_weights: Path | None = None,
    home: torch.device | None = None,
) -> Encoders:
    """The encoders that a model works with; `dtype` is that of the codec's arithmetic.

    `home` is where the weights of Wan's are read to, for those who bring them to the device themselves.
    Raises ValueError, with the way to get them, for weights that are not there.
    """
    return Encoders(
        codec=load_codec(config.codec, codec_weights, device, dtype, home),
        text=load_text(config.text, text_weights, device, home),
        device=device,
    )
