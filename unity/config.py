"""The sizes of the model, the stages of its training and what it recomputes, as tables."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from unity.command import real, whole
from unity.modality.table import MODALITIES

Patch = Annotated[int, whole(1, 64)]
Share = Literal["shared", "expert"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of a UnityDiT.

    `dim` must be divisible by `num_heads`, and the head size must be even and at least 6 (three rotary axes).
    """

    dim: Annotated[int, whole(1, 65536)]
    ffn_dim: Annotated[int, whole(1, 1048576)]
    num_heads: Annotated[int, whole(1, 1024)]
    num_layers: Annotated[int, whole(1, 1024)]
    latent_channels: Annotated[int, whole(1, 4096)] = 16
    num_modalities: Annotated[int, whole(1, 256)] = len(MODALITIES)
    patch: tuple[Patch, Patch, Patch] = (
        1,
        2,
        2,
    )
    freq_dim: Annotated[int, whole(1, 65536)] = 256
    text_dim: Annotated[int, whole(1, 65536)] = 4096
    text_len: Annotated[int, whole(1, 65536)] = 512
    eps: Annotated[float, real(0, 1, above=True)] = 1e-6
    rope_theta: Annotated[float, real(1, 1e12)] = 1e4
    # "shared": one set of cross-attention projections serves both branches (Wan, and the 5B release)
    cross_attention: Literal["shared", "separate"] = "shared"
    # shift, scale and gate on cross-attention too; starts as the identity, so Wan weights stay exact
    cross_modulation: bool = False
    # "shared": the aux stream uses the RGB projection; "expert": one projection per modality
    input: Share = "shared"
    output: Share = "expert"
    # aux tokens read the words that name their modality; without the learner they read the caption, as RGB's do
    in_context_learner: bool = True
    # modulation and stem know which stream is of which modality; without the switcher they know its time alone
    switcher: bool = True
    # time that the clean stream's modulation sees: 0, or the noisy stream's own (the 5B release)
    clean_time: Literal["zero", "shared"] = "zero"
    # what the head gives: the velocity (Wan), or the clean latent, from which the velocity follows. A narrow model
    # cannot carry a token's noise beside what it knows, and learns far faster when it need not (arXiv 2511.13720).
    prediction: Literal["velocity", "data"] = "velocity"
    # features of the convolutional stem and head around the transformer (unity.model.stem); 0: none, as in Wan
    stem: Annotated[int, whole(0, 65536)] = 0
    # residual blocks on each side
    stem_blocks: Annotated[int, whole(0, 1024)] = 2
    codec: Literal["cells", "dct", "wan2.1", "wan2.2"] = "wan2.1"
    text: Literal["minilm", "umt5"] = "umt5"

    def __post_init__(self):
        divides = self.num_heads >= 1 and self.dim % self.num_heads == 0
        if not divides or self.head_dim % 2 or self.head_dim < 6:
            raise ValueError(
                f"dim {self.dim} over {self.num_heads} heads gives no even head size of at least 6; "
                f"choose num_heads so that dim / num_heads is even"
            )
        if self.stem and (self.patch[0], self.input) != (1, "shared"):
            raise ValueError(
                f"a stem has patches of one latent frame and a shared input, not {self.patch}, "
                f"input {self.input}; leave them, or choose stem 0"
            )

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads


# On a grid of few columns, slow rotations could not tell neighbours apart: hence the small theta.
_embedded = partial(
    ModelConfig, latent_channels=192, patch=(1, 4, 4), text_dim=384, rope_theta=16.0, prediction="data",
    codec="cells", text="minilm",
)  # fmt: skip

MODELS: dict[str, ModelConfig] = {
    "debug": _embedded(dim=64, ffn_dim=128, num_heads=2, num_layers=2, stem=16, stem_blocks=1),
    "tiny": _embedded(dim=192, ffn_dim=768, num_heads=3, num_layers=6, stem=96),
    "mini": _embedded(dim=256, ffn_dim=1024, num_heads=4, num_layers=6, stem=96, patch=(1, 2, 2)),
    "small": _embedded(dim=768, ffn_dim=3072, num_heads=12, num_layers=12, stem=192),
    "1.3b": ModelConfig(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30),
    "5b": ModelConfig(dim=3072, ffn_dim=14336, num_heads=24, num_layers=30, latent_channels=48, codec="wan2.2"),
    "10b": ModelConfig(dim=4096, ffn_dim=14336, num_heads=32, num_layers=40),
    "14b": ModelConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40),
}


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """What one stage of the curriculum learns from (paper, section 3.3)."""

    modalities: tuple[str, ...]
    sources: tuple[str, ...]
    steps: int


STAGES: dict[int, StageConfig] = {
    # what is measured at every pixel first
    1: StageConfig(
        modalities=tuple(name for name, row in MODALITIES.items() if row.pixel_aligned),
        sources=("single_person",),
        steps=16_000,
    ),
    2: StageConfig(
        modalities=tuple(MODALITIES),
        sources=("single_person", "two_persons", "general", "subject"),
        steps=40_000,
    ),
}


@dataclass(frozen=True, kw_only=True)
class RecomputeConfig:
    """Which blocks are computed again in the backward, and what of them is kept all the same."""

    # the first of so many blocks; 0: none
    every: int
    # the output of self-attention, which is most of a long clip's arithmetic
    keeps_attention: bool = False

    def chooses(self, block: int) -> bool:
        return bool(self.every) and block % self.every == 0


@dataclass(frozen=True, kw_only=True)
class StorageConfig:
    """How a frozen matrix is kept; it computes as wide as the rest."""

    # bits of a number, and how many numbers have a float32 scale in common; 0: all of a row
    bits: int
    block: int = 0

    def row_bytes(self, columns: int) -> int:
        """Of a row: codes, and their scales behind them."""
        return columns * self.bits // 8 + 4 * (columns // self.block if self.block else 1)

    def packs(self, columns: int) -> bool:
        """Whether the rows of a matrix divide as they must."""
        return columns % (self.block or 4) == 0


# None: as wide as it computes
STORAGE: dict[str, StorageConfig | None] = {
    "wide": None,
    # e4m3, each row by its largest
    "fp8": StorageConfig(bits=8),
    # quantiles of a normal distribution (Dettmers et al., 2023, arXiv 2305.14314), by bitsandbytes
    "nf4": StorageConfig(bits=4, block=64),
}

# those that take most memory first
RECOMPUTE: dict[str, RecomputeConfig] = {
    "none": RecomputeConfig(every=0),
    "every-4": RecomputeConfig(every=4),
    "every-3": RecomputeConfig(every=3),
    "every-2": RecomputeConfig(every=2),
    "selective": RecomputeConfig(every=1, keeps_attention=True),
    "full": RecomputeConfig(every=1),
}
