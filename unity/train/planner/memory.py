"""Bytes of a GPU: what training keeps of a model, and what it keeps of samples between forward and backward.

Activations are counted tensor by tensor as the ops of a GPU keep them (unity.ops): e bytes a number, d the width.
"""

from dataclasses import dataclass

from unity.config import RECOMPUTE, ModelConfig
from unity.train.frugal import Offload
from unity.train.planner.count import STREAMS, Parameters, Sample, Trained

# of launchers/zero3.json: largest parameter that is not cut, parameters that are whole at once, those that are on
# their way; and DeepSpeed's own defaults: gradients that are reduced together, masters that are updated together
PERSISTENT, LIVE, COMING, BUCKET, GROUP = 100_000, 10**9, 5 * 10**7, 5 * 10**8, 10**9
# parameters of the frozen encoders, and bytes of one: their arithmetic is that of the run, but for MiniLM
CODECS = {"cells": 0, "dct": 0, "wan2.1": 126_892_531, "wan2.2": 704_688_668}
TEXTS = {"minilm": 22_565_376, "umt5": 5_680_910_336}
# an estimate: tensors a codec holds at once, of four frames at the width of its first layers, per pixel
_CODEC_TENSORS, _CODEC_WIDTH = 8, {"cells": 0, "dct": 0, "wan2.1": 96, "wan2.2": 40}


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """How numbers are held."""

    # of weights and activations
    bytes: int
    # the large Linears of the blocks take 8 bits
    eight_bits: bool = False


NUMBERS = {"fp32": Numbers(bytes=4), "bf16": Numbers(bytes=2), "fp8": Numbers(bytes=2, eight_bits=True)}


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Bytes of one block and one sample, between forward and backward."""

    # the residual, and the last sublayer's output beside its gates
    residual: int
    pending: int
    # self-attention's output and the logarithms of its sums
    attention: int
    # all, where nothing is recomputed, its own residual with it
    all: int


def states(
    parameters: Parameters, numbers: Numbers, gpus: int, eight: bool = False, offload: Offload = "none"
) -> dict[str, float]:
    """What is there all the time, by kind; ZeRO-3 divides it by the number of GPUs.

    `eight`: moments in 8 bits; `offload`: what is not here but on the host.
    """
    whole = numbers.bytes * parameters.uncut if gpus > 1 or offload == "weights" else 0
    cut = 0 if offload == "weights" else parameters.bytes(numbers.bytes) / gpus
    updated = updating(parameters, gpus, eight)
    return {"weights": cut + whole} | (updated if offload == "none" else dict.fromkeys(updated, 0))


def updating(parameters: Parameters, gpus: int, eight: bool) -> dict[str, float]:
    """What belongs to the update of a GPU's share."""
    trained = parameters.trained / gpus
    moments = 2 * (1 + 4 / 256) * trained if eight else 8 * trained - 4 * parameters.matrices / gpus
    return {"master weights": 4 * trained, "gradients": 4 * trained, "moments": moments, "average": 4 * trained}


def host(parameters: Parameters, numbers: Numbers, gpus: int, eight: bool, offload: Offload) -> float:
    """What offloading puts on the host for a GPU; DeepSpeed keeps the gradients there twice."""
    if offload == "none":
        return 0.0
    weights = parameters.bytes(numbers.bytes) if offload == "weights" else 0
    return sum(updating(parameters, gpus, eight).values()) + (4 * parameters.trained + weights) / gpus


def workspace(
    config: ModelConfig, parameters: Parameters, numbers: Numbers, gpus: int, offload: Offload = "none"
) -> dict[str, float]:
    """What ZeRO-3 works in during forward and backward, and a packed matrix that is widened."""
    widened = numbers.bytes * config.dim * config.ffn_dim if parameters.packed else 0
    reduced = min(BUCKET, parameters.trained) if gpus > 1 else 0
    alone = gpus == 1 and offload != "weights"
    live = 0 if alone else min(parameters.bytes(numbers.bytes), numbers.bytes * (LIVE + COMING))
    return {"reduction": numbers.bytes * (BUCKET + reduced), "gathered weights": live + widened}


def update_space(parameters: Parameters, numbers: Numbers, gpus: int, offload: Offload = "none") -> float:
    """What the update of the weights works in: its gradients once more, and Muon's matrices of one shape."""
    if offload != "none":
        return 0
    muon = (4 + 4 * numbers.bytes) * parameters.alike / gpus
    return 4 * min(parameters.trained / gpus, GROUP) + muon


def encoders(config: ModelConfig, numbers: Numbers) -> float:
    """Codec and text encoder, whole on every GPU."""
    text = 4 if config.text == "minilm" else numbers.bytes
    return numbers.bytes * CODECS[config.codec] + text * TEXTS[config.text]


def encoding_space(config: ModelConfig, numbers: Numbers, pixels: int) -> float:
    """An estimate of what encoding a video of so many pixels a frame takes."""
    return _CODEC_TENSORS * _CODEC_WIDTH[config.codec] * 4 * pixels * numbers.bytes


def kept(config: ModelConfig, trained: Trained, sample: Sample, numbers: Numbers) -> Kept:
    """Of one block and one sample."""
    d, e, n = config.dim, numbers.bytes, sample.sequence
    residual = n * d * e
    gates = STREAMS * (9 if config.cross_modulation else 6) * d * 4
    attention = n * (d * e + 4 * config.num_heads)
    # residuals and sublayers' outputs, three each; queries and keys before and after their norm; values; and the
    # queries of the text
    inside = 12 * residual + n * config.ffn_dim * e
    # mean and deviation of three norms, the deviation of the text's queries
    inside += n * (3 * 8 + 4)
    # norm3 as a modulation; keys of the text before and after their norm, its values and deviations
    inside += 2 * STREAMS * d * 4 + STREAMS * sample.keys * (3 * d * e + 4)
    inside += n * _read_by_linears(config, trained, numbers)
    return Kept(residual=residual, pending=residual + gates, attention=attention, all=inside + attention + gates)


def _read_by_linears(config: ModelConfig, trained: Trained, numbers: Numbers) -> int:
    """Bytes a token of what the Linears of a block keep of their inputs, and their adapters beside them."""
    d, e, rank = config.dim, numbers.bytes, trained.lora_rank
    # width of an input, who reads it, whether the op before keeps it too, and whether it can come in 8 bits
    inputs = (
        (d, ("self_attn.q", "self_attn.k", "self_attn.v"), False, True),
        (d, ("self_attn.o",), True, False),
        (d, ("cross_attn.q",), False, True),
        (d, ("cross_attn.o",), False, False),
        (d, ("ffn.0",), False, True),
        (config.ffn_dim, ("ffn.2",), False, True),
    )
    total = 0
    for width, readers, elsewhere, handed_over in inputs:
        adapted = sum(trained.adapts(f"blocks.0.{name}") for name in readers)
        total += adapted * rank * e
        if numbers.eight_bits:
            # rounded once by the op before, or by each Linear for itself
            once = handed_over and not adapted
            total += (1 if once else len(readers)) * (width + 4)
        wide = adapted or not (rank or numbers.eight_bits)
        total += width * e if wide and not elsewhere else 0
    return total


def activations(
    config: ModelConfig, trained: Trained, sample: Sample, numbers: Numbers, recompute: str
) -> tuple[int, int]:
    """Bytes of a sample that the forward leaves for the backward, and at the worst moment of the backward."""
    block, row = kept(config, trained, sample, numbers), RECOMPUTE[recompute]
    around = _around(config, trained, sample, numbers)
    left, worst, before = around, 0, None
    moving = passing(config, sample, numbers)
    for layer in range(config.num_layers):
        chosen = row.chooses(layer)
        pending = 0 if layer == 0 else block.pending
        if not chosen:
            own = block.all - (block.residual if layer == 0 else 0)
        else:
            # a block that keeps everything has kept the residual of the next one, too
            own = pending + (block.residual if before is not False else 0)
            own += block.attention if row.keeps_attention else 0
        left += own
        worst = max(worst, left + moving + (block.all - own if chosen else 0))
        before = chosen
    return left, worst


def passing(config: ModelConfig, sample: Sample, numbers: Numbers) -> int:
    """Gradients of a block on their way: of the widest Linear's input, which 8 bits widen again, and one more."""
    wide = 2 if numbers.eight_bits else 1
    return sample.sequence * (wide * config.ffn_dim + config.dim) * numbers.bytes


def _around(config: ModelConfig, trained: Trained, sample: Sample, numbers: Numbers) -> int:
    """Outside the blocks: patches or the stem, the text, the head, the loss; what is frozen keeps no input."""
    d, e, n, full = config.dim, numbers.bytes, sample.sequence, not trained.lora_rank
    # the last residual, what is pending on it, and both normalised
    head = n * (3 * d * e + 8)
    text = STREAMS * sample.keys * (full * (config.text_dim + 2 * d) + d) * e
    values = STREAMS * sample.cells * config.latent_channels
    # the error in float32, and its square's slope
    loss = values * 4
    if not config.stem:
        return head + text + loss + full * values * e
    # of a cell: four tensors in each residual, the input's surroundings, the patch, the last norm's both sides
    features = (4 * 2 * config.stem_blocks + 3) * config.stem + full * 4 * config.latent_channels
    return head + text + loss + STREAMS * sample.cells * features * e


def latents(config: ModelConfig, sample: Sample) -> int:
    """Bytes of a sample's latents, its noise, both mixed, the target and the velocity, float32."""
    return 5 * 4 * STREAMS * sample.cells * config.latent_channels
