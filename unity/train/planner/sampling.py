"""What of inference fits which GPU: `python -m unity.train.planner.sampling --size 480x832 --frames 81`.

By arithmetic, as all of the planner: bytes of weights, and of the tensors that are there at the worst moment, in
bf16. What libraries work in beside that is not counted.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import DisallowNone

from unity.command import check_bounds, end, whole
from unity.config import MODELS, ModelConfig
from unity.thrift import Thrift, flags_of, in_one_pass
from unity.train.planner.count import Sample, Trained, packed_bytes, sample, shapes
from unity.train.planner.gpus import GIB, USABLE
from unity.train.planner.memory import CODECS, NUMBERS, TEXTS, latents
from unity.train.planner.options import height_width

# the embedded models fit everywhere
_SIZES = tuple(name for name, config in MODELS.items() if not config.stem)
if TYPE_CHECKING:
    Name = str
else:
    Name = Literal[_SIZES]

CARDS = (12, 16, 24, 32, 48, 80, 140)
_BYTES = NUMBERS["bf16"].bytes
# of UMT5: numbers of its largest parameter, and bytes of what 512 tokens take in it
LARGEST, READING = 256_384 * 4096, 226_500_000
# numbers a pixel of a frame, and besides of every frame, that decoding holds at its worst
DECODING = {"wan2.1": (5_061, 3), "wan2.2": (5_397, 3)}
# pixels of a tile's side
_TILE = 256


# flags of python -m unity.infer; with more of them any of these takes as little or less
WAYS = (
    Thrift(),
    Thrift(offload="parts"),
    Thrift(offload="parts", storage="fp8"),
    Thrift(offload="parts", storage="nf4"),
    Thrift(offload="blocks"),
)


def moments(
    config: ModelConfig, size: Sample, clip: tuple[int, int, int], way: Thrift, passes: int = 1
) -> dict[str, int]:
    """Bytes at the worst of each part of an answer about a `clip` (frames, height, width), of `size` in tokens.

    `passes`: evaluations of a step that run in one, 2 for --batched-guidance.
    """
    text, vae, model = _BYTES * TEXTS[config.text], _BYTES * CODECS[config.codec], weights(config, way)
    whole, by_layer = way.offload == "none", way.offload == "blocks"
    beside = {"text encoder": whole * text, "model": whole * model, "VAE": (whole or by_layer) * vae}
    working = {
        "text encoder": (_BYTES * LARGEST if by_layer else text) + READING,
        "model": model + computing(config, size, passes) + 2 * latents(config, size),
        "VAE": vae + decoding(config, clip, way.tiled_vae) + latents(config, size),
    }
    return {part: own + sum(beside.values()) - beside[part] for part, own in working.items()}


def weights(config: ModelConfig, way: Thrift) -> int:
    """Bytes of the model's that are there at once, with the matrix that is widened where they are packed."""
    found, widest = {}, 0
    for name, shape in shapes(config, Trained()).items():
        packed, wide = packed_bytes(way.storage, name, shape), _BYTES * math.prod(shape)
        found[name], widest = packed or wide, max(widest, wide if packed else 0)
    if way.offload == "blocks":
        # what is in no block, the block that computes, and the next one on its way
        found = {name: taken * (1 + name.startswith("blocks.")) for name, taken in found.items() if _stays(name)}
    return sum(found.values()) + widest


def _stays(name: str) -> bool:
    return not name.startswith("blocks.") or name.startswith("blocks.0.")


def computing(config: ModelConfig, size: Sample, passes: int = 1, number: int = _BYTES) -> int:
    """Of a block in its feed-forward, where it takes most at all of these sizes.

    Beside the hidden features, before and after GELU, are its input, the new residual, and the one that the block
    took with what was pending on it.
    """
    residual = passes * size.sequence * config.dim * number
    hidden = passes * size.sequence * config.ffn_dim * number
    return 4 * residual + 2 * hidden


def decoding(config: ModelConfig, clip: tuple[int, int, int], tiled: bool) -> int:
    """Of the VAE while it decodes, by what it takes of a pixel."""
    frames, height, width = clip
    seen = min(height, _TILE) * min(width, _TILE) if tiled else height * width
    once, each = DECODING[config.codec]
    # at most: tiles overlap, and are kept beside the whole that they become
    kept = 4 * each if tiled else each
    return _BYTES * (once * seen + kept * frames * height * width)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which GPUs a model answers on, and how its parts must lie there; computes on nothing, needs no GPU."""

    # sizes of the model
    models: tuple[Name, ...] = _SIZES
    # of a clip: frames (4k+1), and HEIGHTxWIDTH
    frames: Annotated[int, whole(1, 16_384)] = 81
    size: str = "480x832"
    # tokens of a prompt
    words: Annotated[int, whole(0, 512)] = 64
    # both evaluations of a guided step in one pass; by default as unity.infer has it
    batched_guidance: DisallowNone[bool | None] = None
    # the VAE works tile by tile
    tiled_vae: bool = False


def lines(options: Options) -> list[str]:
    """A line for each model and way: GiB at the worst of each part, and the smallest card that holds them."""
    check_bounds(options)
    clip = options.frames, *height_width(options.size)
    found = [f"{'model':6} {'flags':31} {'text encoder':>12} {'model':>6} {'VAE':>6}  GiB of a card"]
    for name in options.models:
        size = sample(MODELS[name], options.frames, clip[1:], options.words)
        passes = 1 + in_one_pass(options.batched_guidance, size.sequence)
        for way in WAYS:
            asked = replace(way, tiled_vae=options.tiled_vae)
            parts = moments(MODELS[name], size, clip, asked, passes)
            held = [part / GIB for part in parts.values()]
            flags, card = " ".join(flags_of(way)) or "none", smallest(parts)
            found.append(f"{name:6} {flags:31} {held[0]:12.1f} {held[1]:6.1f} {held[2]:6.1f}  {card}")
    return found


def smallest(parts: dict[str, int]) -> str:
    """GiB of the smallest card that holds each of them."""
    fitting = (str(card) for card in CARDS if max(parts.values()) <= USABLE * card * GIB)
    return next(fitting, f"more than {CARDS[-1]}")


def main() -> None:
    import tyro

    print(*lines(tyro.cli(Options, prog="python -m unity.train.planner.sampling", description=__doc__)), sep="\n")


if __name__ == "__main__":
    end("planner", main)
