"""What a UnityDiT is made of and computes, counted from its configuration alone.

Letters: d width, f hidden width, c latent channels, s features of the stem.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from unity.config import STORAGE, ModelConfig
from unity.model.names import TARGETS, is_factor, is_hidden, is_part
from unity.model.strides import STRIDES, extent

Shape = tuple[int, ...]
STREAMS = 2


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What of a model is trained, and by which optimizer."""

    # rank of the adapters beside frozen weights; 0: all weights are trained
    lora_rank: int = 0
    # a row of unity.model.names.TARGETS
    lora_targets: str = "all"
    optimizer: str = "adamw"
    # how the frozen Linears of the blocks are kept, a row of unity.config.STORAGE
    storage: str = "wide"

    @property
    def eight_bits(self) -> bool:
        """Whether the moments have 8 bits."""
        return self.optimizer == "adamw8"

    def adapts(self, name: str) -> bool:
        """Whether a Linear of the blocks is adapted."""
        return bool(self.lora_rank) and name.startswith("blocks.") and name.endswith(TARGETS[self.lora_targets])

    def packed_bytes(self, name: str, shape: Shape) -> int:
        """Of a parameter that is packed; 0 for one that is not."""
        return packed_bytes(self.storage, name, shape) if self.lora_rank else 0

    def trains(self, name: str) -> bool:
        """Whether a parameter is trained."""
        return not self.lora_rank or is_factor(name) or is_part(name)


def packed_bytes(storage: str, name: str, shape: Shape) -> int:
    """Of a frozen parameter by a row of `unity.config.STORAGE`; 0 for one that stays wide."""
    row, linear = STORAGE[storage], name.removesuffix(".weight")
    inside = linear != name and linear.startswith("blocks.") and linear.endswith(TARGETS["all"])
    return shape[0] * row.row_bytes(shape[1]) if row and inside and row.packs(shape[1]) else 0


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Numbers of parameters."""

    total: int
    trained: int
    # trained by Muon, which keeps no second moment, and the most of them of one shape
    matrices: int
    alike: int
    # not trained and packed: how many, and the bytes that they take
    packed: int
    packed_bytes: int
    # too small for ZeRO-3 to cut: whole on every GPU
    uncut: int
    # of the largest block
    block: int

    def bytes(self, wide: int) -> float:
        """Of all of them, with `wide` for each that is not packed."""
        return wide * (self.total - self.packed) + self.packed_bytes

    def cut_bytes(self, wide: int) -> float:
        """Of those that ZeRO-3 cuts."""
        return self.bytes(wide) - wide * self.uncut


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Sizes of one training sample of two streams."""

    # of a stream
    tokens: int
    # places of a stream's latent
    cells: int
    # real tokens of the longer text; one more stands for the padding
    words: int

    @property
    def keys(self) -> int:
        return self.words + 1

    @property
    def sequence(self) -> int:
        """Tokens of both streams."""
        return STREAMS * self.tokens


@dataclass(frozen=True, kw_only=True)
class Product:
    """A matrix product, or a pair of them: FLOPs of the forward, and of the backward in multiples of them."""

    part: str
    flops: int
    backward: int
    # inside the blocks, so computed again with them
    inside: bool = False
    # in 8 bits, where there are any
    eight_bits: bool = False


def sample(config: ModelConfig, frames: int, size: tuple[int, int], words: int) -> Sample:
    """The sizes of a clip; raises ValueError for one that the codec or the patches do not divide."""
    stride = STRIDES[config.codec]
    if frames % stride[0] != 1:
        below = max(frames - 1, 0) // stride[0] * stride[0] + 1
        raise ValueError(
            f"the codec takes {stride[0]}k+1 frames, not {frames}; give --frames {below} or {below + stride[0]}"
        )
    unit = [step * patch for step, patch in zip(stride[1:], config.patch[1:], strict=True)]
    if size[0] % unit[0] or size[1] % unit[1]:
        near = "x".join(str(max(1, round(side / step)) * step) for side, step in zip(size, unit, strict=True))
        raise ValueError(
            f"--size {size[0]}x{size[1]} does not divide into patches of {unit[0]}x{unit[1]}; {near} does"
        )
    cells = math.prod(extent(stride, frames, size))
    if words > config.text_len:
        raise ValueError(f"--words {words} is more than the model's {config.text_len}; give fewer")
    return Sample(tokens=cells // math.prod(config.patch), cells=cells, words=words)


def shapes(config: ModelConfig, trained: Trained) -> dict[str, Shape]:
    """Name and shape of every parameter, those of adapters under their names in a file of peft."""
    found = _outside(config)
    for layer in range(config.num_layers):
        found |= {f"blocks.{layer}.{name}": shape for name, shape in _block(config).items()}
    rank, adapted = trained.lora_rank, {}
    for name, shape in found.items():
        linear = name.removesuffix(".weight")
        if name != linear and trained.adapts(linear):
            adapted[f"{linear}.lora_A.weight"] = (rank, shape[1])
            adapted[f"{linear}.lora_B.weight"] = (shape[0], rank)
    return found | adapted


def parameters(config: ModelConfig, trained: Trained, persistent: int) -> Parameters:
    """Counted; ZeRO-3 leaves parameters of up to `persistent` numbers uncut."""
    sizes = {name: (math.prod(shape), shape) for name, shape in shapes(config, trained).items()}
    learnt = {name: size for name, size in sizes.items() if trained.trains(name)}
    kept = [(size, trained.packed_bytes(name, shape)) for name, (size, shape) in sizes.items()]
    muon = trained.optimizer == "muon"
    matrices = [size for name, size in learnt.items() if muon and is_hidden(name, size[1])]
    alike: dict[Shape, int] = {}
    for size, (rows, *columns) in matrices:
        key = rows, math.prod(columns)
        alike[key] = alike.get(key, 0) + size
    return Parameters(
        total=sum(size for size, _ in sizes.values()),
        trained=sum(size for size, _ in learnt.values()),
        matrices=sum(size for size, _ in matrices),
        alike=max(alike.values(), default=0),
        packed=sum(size for size, taken in kept if taken),
        packed_bytes=sum(taken for _, taken in kept),
        uncut=sum(size for size, _ in sizes.values() if size <= persistent),
        block=sum(size for name, (size, _) in sizes.items() if name.startswith("blocks.0.")),
    )


def passes(config: ModelConfig, sample: Sample, wide: int, eight_bits: bool) -> tuple[float, float]:
    """Bytes that the blocks' passes over activations of `wide` bytes move, forward and backward.

    As kernels/README.md counts them, with the sums of gradients where several Linears read one input, and those of
    biases; in 8 bits the backward rounds every Linear's gradient, and widens its input.
    """
    u, f = wide * sample.sequence * config.dim, config.ffn_dim / config.dim
    forward, backward = 19 + 2 * f, 30 + 3 * f + 6 + (7 + f)
    return config.num_layers * forward * u, config.num_layers * (backward + 3 * (7 + f) * eight_bits) * u


def products(config: ModelConfig, trained: Trained, sample: Sample) -> list[Product]:
    """Every matrix product of a sample, forward and backward, both streams wanted; norms and such are left out.

    A backward multiplies twice: for the input, where something before it is trained, and for the weight, where it
    is itself. The published FLOPs of a step are twice the forward's in the backward (docs/cluster.md).
    """
    return [*_products_of_blocks(config, trained, sample), *_products_around(config, trained, sample)]


def _linear(name: str, d_in: int, d_out: int) -> dict[str, Shape]:
    return {f"{name}.weight": (d_out, d_in), f"{name}.bias": (d_out,)}


def _attention(name: str, d: int) -> dict[str, Shape]:
    found = {}
    for part in "qkvo":
        found |= _linear(f"{name}.{part}", d, d)
    return found | {f"{name}.norm_q.weight": (d,), f"{name}.norm_k.weight": (d,)}


def _block(config: ModelConfig) -> dict[str, Shape]:
    d, f = config.dim, config.ffn_dim
    separate = config.cross_attention == "separate"
    return {
        "modulation.table": (config.num_modalities + 1, _parts(config), d),
        **_attention("self_attn", d),
        "norm3.weight": (d,),
        "norm3.bias": (d,),
        **_attention("cross_attn", d),
        **(_attention("cross_attn_aux", d) if separate else {}),
        **_linear("ffn.0", d, f),
        **_linear("ffn.2", f, d),
    }


def _parts(config: ModelConfig) -> int:
    return 9 if config.cross_modulation else 6


def _outside(config: ModelConfig) -> dict[str, Shape]:
    d, ids = config.dim, config.num_modalities + 1
    return {
        **_linear("text_embedding.0", config.text_dim, d),
        **_linear("text_embedding.2", d, d),
        **_linear("time_embedding.0", config.freq_dim, d),
        **_linear("time_embedding.2", d, d),
        **_linear("time_projection.1", d, _parts(config) * d),
        "modality_embedding": (ids, d),
        **(_stem(config) if config.stem else _ends(config)),
    }


def _ends(config: ModelConfig) -> dict[str, Shape]:
    d, m = config.dim, config.num_modalities
    values = config.latent_channels * math.prod(config.patch)
    reads = (config.latent_channels, *config.patch)
    found: dict[str, Shape] = {"patch_embedding.weight": (d, *reads), "patch_embedding.bias": (d,)}
    if config.input == "expert":
        found |= {"patch_embedding_aux.weight": (m, d, *reads), "patch_embedding_aux.bias": (m, d)}
    found |= {"head.modulation.table": (1, 2, d), "head.weight": (values, d), "head.bias": (values,)}
    if config.output == "expert":
        found |= {"head_aux.modulation.table": (m, 2, d), "head_aux.weight": (m, values, d)}
        found |= {"head_aux.bias": (m, values)}
    return found


def _stem(config: ModelConfig) -> dict[str, Shape]:
    d, s, c, ids = config.dim, config.stem, config.latent_channels, config.num_modalities + 1
    wide = s * config.patch[1] * config.patch[2]
    return {
        **_linear("stem.input", 4 * c, s),
        "stem.embedding": (ids, s),
        **_residuals("stem", config),
        **_linear("stem.down", wide, d),
        **_linear("stem_head.norm", d, 2 * d),
        **_linear("stem_head.up", d, wide),
        **_residuals("stem_head", config),
        **_linear("stem_head.modulation", d, 2 * s),
        "stem_head.weight": (ids, c, s),
        "stem_head.bias": (ids, c),
    }


def _residuals(name: str, config: ModelConfig) -> dict[str, Shape]:
    s, found = config.stem, {}
    for i in range(config.stem_blocks):
        found |= _linear(f"{name}.blocks.{i}.modulation", config.dim, 2 * s)
        for part in ("first", "second"):
            found |= {f"{name}.blocks.{i}.{part}.weight": (s, s, 3, 3), f"{name}.blocks.{i}.{part}.bias": (s,)}
    return found


def _products_of_blocks(config: ModelConfig, trained: Trained, sample: Sample) -> Iterator[Product]:
    d, n, layers = config.dim, sample.sequence, config.num_layers
    text = STREAMS * sample.keys
    for branch, part in (("self_attn", "qkvo"), ("cross_attn", "qo")):
        for letter in part:
            yield from _products(f"{branch}.{letter}", "blocks' Linears", (n, d, d), trained, layers)
    yield from _products("ffn.0", "blocks' Linears", (n, d, config.ffn_dim), trained, layers)
    yield from _products("ffn.2", "blocks' Linears", (n, config.ffn_dim, d), trained, layers)
    for letter in "kv":
        yield from _products(f"cross_attn.{letter}", "text keys", (text, d, d), trained, layers)
    yield Product(part="self-attention", flops=layers * 4 * n * n * d, backward=2, inside=True)
    yield Product(part="cross-attention", flops=layers * 4 * n * sample.keys * d, backward=2, inside=True)


def _products(name: str, part: str, sizes: tuple[int, int, int], trained: Trained, layers: int) -> list[Product]:
    """Of one Linear in every block on (rows, inputs, outputs), and of its adapter."""
    rows, d_in, d_out = sizes
    full, rank = not trained.lora_rank, trained.lora_rank
    # words are read by what is frozen with the base
    reaches = full or part != "text keys"
    flops = layers * 2 * rows * d_in * d_out
    wide = part == "text keys"
    found = [Product(part=part, flops=flops, backward=reaches + full, inside=True, eight_bits=not wide)]
    if trained.adapts(f"blocks.0.{name}"):
        into, out = layers * 2 * rows * d_in * rank, layers * 2 * rows * rank * d_out
        found += [Product(part="adapters", flops=into, backward=reaches + 1, inside=True)]
        found += [Product(part="adapters", flops=out, backward=2, inside=True)]
    return found


def _products_around(config: ModelConfig, trained: Trained, sample: Sample) -> Iterator[Product]:
    d, groups, text = config.dim, STREAMS, STREAMS * sample.keys
    full = not trained.lora_rank

    def around(part: str, sizes: tuple[int, int, int], reaches: bool = True, learns: bool = full) -> Product:
        return Product(part=part, flops=2 * math.prod(sizes), backward=reaches + learns)

    yield around("text and time", (text, config.text_dim, d), reaches=False)
    yield around("text and time", (text, d, d), reaches=full)
    yield around("text and time", (groups, config.freq_dim, d), reaches=False)
    yield around("text and time", (groups, d, d), reaches=full)
    yield around("text and time", (groups, d, _parts(config) * d))
    values = config.latent_channels * math.prod(config.patch)
    if not config.stem:
        yield around("ends", (sample.tokens, values, d), reaches=False)
        yield around("ends", (sample.tokens, values, d), reaches=False, learns=full or config.input == "expert")
        yield around("ends", (sample.tokens, d, values))
        yield around("ends", (sample.tokens, d, values), learns=full or config.output == "expert")
        return
    s, cells = config.stem, STREAMS * sample.cells
    yield around("ends", (cells, 4 * config.latent_channels, s), reaches=False)
    for _ in range(2 * config.stem_blocks):
        yield around("ends", (groups, d, 2 * s))
        yield around("ends", (cells, 2 * 9 * s, s))
    # the features of a patch's cells to a token, and back
    yield around("ends", (cells, s, d))
    yield around("ends", (cells, s, d))
    yield around("ends", (groups, d, 2 * d + 2 * s))
    yield around("ends", (cells, s, config.latent_channels), learns=True)
