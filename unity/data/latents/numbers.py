"""Latents and states of texts as bytes, and back; bfloat16 has no name in numpy."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unity.data.latents.facts import Facts

NUMBERS = {"fp32": torch.float32, "bf16": torch.bfloat16}
# whole numbers of the same bits, to torch and in a file
_BITS = {"fp32": (torch.int32, "<i4"), "bf16": (torch.int16, "<i2")}


def to_bytes(values: Tensor, numbers: str) -> bytes:
    """A tensor's numbers in their order, little-endian."""
    kind, stored = _BITS[numbers]
    bits = values.detach().cpu().to(NUMBERS[numbers]).contiguous().view(kind)
    return bits.numpy().astype(stored).tobytes()


def latent(data: bytes, facts: Facts) -> Float[Tensor, "c u v x"]:
    """A latent of a shard, in fp32."""
    return _from_bytes(data, facts.shape, facts.numbers)


def states(data: bytes, facts: Facts) -> Float[Tensor, "l d"]:
    """A caption's states of a shard, in fp32."""
    return _from_bytes(data, (-1, facts.width), facts.words)


def _from_bytes(data: bytes, shape: Sequence[int], numbers: str) -> Tensor:
    # a copy, which torch may write to
    bits = np.frombuffer(data, _BITS[numbers][1]).astype(_BITS[numbers][1].replace("<", "="))
    return torch.from_numpy(bits).view(NUMBERS[numbers]).view(*shape).float()
