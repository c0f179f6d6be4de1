"""What a dataset says of the latents in it; read without torch, as all of a dataset's own words are."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from unity.typed import typed

Numbers = Literal["fp32", "bf16"]
# bytes of a number in a shard
BYTES = {"fp32": 4, "bf16": 2}
# edges of a latent, and the width and count of text states
_MOST, _MOST_WORDS = 1 << 20, 1 << 16


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Of all latents and text states of a dataset."""

    # the names of the encoders, and the SHA-256 of their weights
    codec: str
    codec_key: str
    text: str
    text_key: str
    # c u v x of each latent
    shape: tuple[int, int, int, int]
    # numbers in a state of a token
    width: int
    # the codec's arithmetic
    precision: Numbers
    # how latents, and states of texts, are kept
    numbers: Numbers
    words: Numbers
    # of the views that were encoded, see unity.modality.encodings
    encodings: dict[str, str]
    # whose states texts.safetensors holds, in this order
    texts: tuple[str, ...]
    # SHA-256 of texts.safetensors
    texts_key: str
    # SHA-256 of the dataset.json of the clips
    clips: str
    # whether the codec worked tile by tile; no, where nothing is said
    tiled: bool = False

    @property
    def key(self) -> str:
        """What tells latents of these weights from those of others, short enough to be said."""
        return f"{self.codec}:{self.codec_key[:8]}+{self.text}:{self.text_key[:8]}"

    @property
    def plain(self) -> dict:
        """As JSON has it."""
        return asdict(self) | {"shape": list(self.shape), "texts": list(self.texts)}


def read_facts(about: dict) -> Facts | None:
    """What dataset.json says of its latents, None where it holds videos; ValueError for what nobody writes."""
    if "latents" not in about:
        return None
    facts = typed(Facts, about["latents"], "what it says of latents", optional=("tiled",))
    if not all(1 <= edge <= _MOST for edge in facts.shape) or not 1 <= facts.width <= _MOST:
        raise ValueError(f"its latents are {facts.shape}, its states {facts.width} wide")
    return facts


def check_bytes(sample: dict, streams: Sequence[str], facts: Facts) -> None:
    """ValueError unless a sample of a shard holds whole latents and states."""
    whole = math.prod(facts.shape) * BYTES[facts.numbers]
    for stream in streams:
        if len(sample[stream]) != whole:
            raise ValueError(f"its {stream} has {len(sample[stream])} bytes, and a latent has {whole}")
    token = facts.width * BYTES[facts.words]
    tokens, over = divmod(len(sample["words"]), token)
    if over or not 1 <= tokens <= _MOST_WORDS:
        raise ValueError(f"its words have {len(sample['words'])} bytes, and a token has {token}")
