"""Latents and states of texts as bytes, and back; bfloat16 has no name in numpy."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32
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


def latents(samples: Sequence[bytes], facts: Facts) -> Float[Tensor, "b c u v x"]:
    """Latents of a shard as a batch, in fp32."""
    return torch.from_numpy(np.stack([_wide(data, facts.numbers).reshape(facts.shape) for data in samples]))


def states(data: bytes, facts: Facts) -> Float[Tensor, "l d"]:
    """A caption's states of a shard, in fp32."""
    # a copy, which torch may write to
    return torch.from_numpy(_wide(data, facts.words).reshape(-1, facts.width).copy())


def _wide(data: bytes, numbers: str) -> Float32[np.ndarray, " n"]:
    """In fp32, of which bfloat16 is the upper half; of fp32 the very bytes, which are many, and no copy."""
    bits = np.frombuffer(data, _BITS[numbers][1])
    wide = bits if numbers == "fp32" else bits.astype("<i4") << 16
    return wide.view("<f4").astype(np.float32, copy=False)
