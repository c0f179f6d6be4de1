"""What the name of a parameter says: what it can be adapted as, and how it is trained. Needs no torch."""

from collections.abc import Sequence

_SELF = ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o")
_CROSS = tuple(f"{branch}.{name}" for branch in ("cross_attn", "cross_attn_aux") for name in "qkvo")
_FFN = ("ffn.0", "ffn.2")
# what can be adapted → the ends of the names of its Linears
TARGETS: dict[str, tuple[str, ...]] = {
    "attention": (*_SELF, *_CROSS),
    "self_attention": _SELF,
    "cross_attention": _CROSS,
    "ffn": _FFN,
    "all": (*_SELF, *_CROSS, *_FFN),
}
# what tells the modalities apart, in the names of parameters; small beside the blocks
_PARTS = ("modality_embedding", "patch_embedding_aux.", "head_aux.", "modulation.table", "stem.embedding")
_STEM_HEAD = ("stem_head.weight", "stem_head.bias")


def is_part(name: str) -> bool:
    """Whether a parameter tells modalities apart."""
    # RGB's own head has a table, too, of one row
    return name in _STEM_HEAD or any(part in name for part in _PARTS) and not name.startswith("head.")


def is_factor(name: str) -> bool:
    """Whether a parameter belongs to an adapter."""
    return ".lora_" in name


def is_hidden(name: str, shape: Sequence[int]) -> bool:
    """Whether a parameter is a matrix between hidden features: of a block or beside one, a convolution's too.

    What reads data, time or words, what writes latents, the modulation, and the factors of adapters are none.
    """
    inside = "blocks." in name or name in ("stem.down.weight", "stem_head.up.weight")
    return (
        inside
        and name.endswith("weight")
        and len(shape) in (2, 4)
        and not any(part in name for part in ("modulation", "lora_"))
    )
