"""Encode a dataset once: training on what this writes loads neither codec nor text encoder.

python -m unity.data.latents data/mine --out data/mine-latents --model tiny       for a model of that size
python -m unity.data.latents data/mine --out data/mine-latents --init wan2.1-1.3b for training from those weights
deepspeed launchers/train.py --stage 1 --data data/mine-latents ...

Several processes share the work (--part 1/4 to 4/4); what is killed is gone on with by the same command.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from unity.command import check_bounds, end, say, share_of, whole
from unity.config import MODELS, ModelConfig
from unity.data.latents.facts import Facts, Numbers
from unity.files import sha256

if TYPE_CHECKING:
    from unity.data.latents.make import Making
    from unity.data.shards import Shards

Side = Annotated[int, whole(1, 16_384)]
# frames, and height and width
Extent = tuple[int, tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which clips are encoded, by what, and how that is kept."""

    # the dataset of clips
    shards: tyro.conf.Positional[Path]
    # folder to write; it must not exist, or be empty
    out: Path
    # size of the model that is to be trained, a row of unity.config.MODELS, whose codec and text encoder are used
    model: str = "tiny"
    # the weights that training starts from, in place of --model: a folder, files, or a name
    init: Path | None = None
    # frames (4k+1), height and width of what the model sees; by default the dataset's. Of longer clips each run of
    # so many frames becomes a clip
    frames: Side | None = None
    size: tuple[Side, Side] | None = None
    # the codec's arithmetic; by default bf16 on a GPU, else fp32
    precision: Numbers | None = None
    # how latents are kept: bf16 takes half the bytes, and leaves 8 bits of each number
    numbers: Numbers = "fp32"
    # more words that training may name modalities by, beside theirs
    texts: tuple[str, ...] = ()
    # weights of the codec and of the text encoder; by default those beside --init
    codec_weights: Path | None = None
    text_weights: Path | None = None
    # the Wan VAE works tile by tile: in less memory, slower; latents differ a little where tiles meet
    tiled_vae: bool = False
    # by default the GPU, if there is one
    device: str | None = None
    # which share of the work this process does, 2/8 for the second of eight: for several GPUs, or a SLURM array
    part: str = "1/1"
    # Python files with modalities of your own
    modalities: tuple[Path, ...] = ()


def run(options: Options) -> None:
    """Make this process's share; ValueError for what cannot be, before anything is loaded."""
    from unity.data.latents.make import make
    from unity.data.shards import open_shards

    share, shards = share_of(options.part), open_shards(options.shards)
    if shards.latents:
        raise ValueError(f"{options.shards} holds latents already; name a dataset of clips")
    wanted, extent = _wanted(options), _extent(options, shards)
    facts = _facts(options, extent, wanted)
    if _is_there(options.out, facts):
        say(f"{options.out} is there already")
        return
    if make(shards, options.out, _making(options, facts, extent, wanted), share, say):
        print(f"{options.out}: latents {facts.key} of {sum(shards.counts.values())} clips")


def _is_there(out: Path, facts: Facts) -> bool:
    """Whether these very latents were made; ValueError where something else is in their place."""
    import shutil

    from unity.data.claim import refuse_taken
    from unity.data.latents.make import parts_folder
    from unity.data.shards import open_shards

    found = open_shards(out).latents if (out / "dataset.json").exists() else None
    if found is None or replace(found, texts_key="") != facts:
        refuse_taken(out)
        return False
    # of a process that was killed as it removed them
    shutil.rmtree(parts_folder(out), ignore_errors=True)
    return True


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the model that is to be trained works with: the size it has, and words and colours of its own."""

    model: ModelConfig
    type_prompts: Mapping[str, str] = field(default_factory=dict)
    encodings: Mapping[str, str] = field(default_factory=dict)


def _wanted(options: Options) -> Wanted:
    from unity.model.heritage import heritage

    if options.init is not None:
        card = heritage(options.init).card
        return Wanted(model=card.model, type_prompts=card.type_prompts, encodings=card.encodings)
    if options.model not in MODELS:
        raise ValueError(f"there is no model {options.model!r}; choose one of {', '.join(MODELS)}")
    return Wanted(model=MODELS[options.model])


def _extent(options: Options, shards: "Shards") -> Extent:
    """Of what is encoded at once."""
    stored = shards.about["frames"]
    frames = options.frames or stored
    if not 1 <= frames <= stored or frames % 4 != 1:
        raise ValueError(
            f"clips of {frames} frames cannot be cut from {stored} stored ones; --frames must be 4k+1, at most "
            f"{(stored - 1) // 4 * 4 + 1}"
        )
    if over := stored % frames:
        say(f"the last {over} of the {stored} frames of each clip are left out")
    height, width = options.size or shards.about["size"]
    return frames, (height, width)


def _facts(options: Options, pixels: Extent, wanted: Wanted) -> Facts:
    """All that is known before an encoder is loaded."""
    from unity.modality.encodings import OURS
    from unity.modality.table import MODALITIES
    from unity.model.codec import WAN, check_size
    from unity.model.fingerprint import fingerprint
    from unity.model.strides import STRIDES, extent

    model, (codec, text) = wanted.model, _weights(options)
    if options.tiled_vae and model.codec not in WAN:
        raise ValueError(f"the codec {model.codec} is no VAE that could work in tiles; leave --tiled-vae out")
    frames, size = pixels
    check_size(frames, *size, stride=STRIDES[model.codec])
    keys = fingerprint(model.codec, codec), fingerprint(model.text, text)
    prompts = {**{name: row.type_prompt for name, row in MODALITIES.items()}, **wanted.type_prompts}
    encodings = {name: wanted.encodings.get(name, OURS) for name in MODALITIES}
    texts = dict.fromkeys(
        ["", *prompts.values(), *(row.type_prompt for row in MODALITIES.values()), *options.texts]
    )
    clips = sha256(options.shards / "dataset.json")
    cuda = _device(options).startswith("cuda")
    return Facts(
        codec=model.codec, codec_key=keys[0] or "", text=model.text, text_key=keys[1] or "",
        shape=(model.latent_channels, *extent(STRIDES[model.codec], frames, size)), width=model.text_dim,
        precision=options.precision or ("bf16" if cuda else "fp32"), numbers=options.numbers,
        words="bf16" if options.numbers == "bf16" or (cuda and model.text == "umt5") else "fp32",
        encodings=encodings, texts=tuple(texts), texts_key="", clips=clips,
        tiled=options.tiled_vae,
    )  # fmt: skip


def _making(options: Options, facts: Facts, pixels: Extent, wanted: Wanted) -> "Making":
    """With the encoders loaded, or the sentence that says where to get them."""
    import torch

    from unity.data.latents.make import Making
    from unity.data.latents.numbers import NUMBERS
    from unity.encoders import load_encoders
    from unity.model.codec import tile
    from unity.model.fingerprint import fingerprint

    device = torch.device(_device(options))
    encoders = load_encoders(wanted.model, device, NUMBERS[facts.precision], *_weights(options))
    if options.tiled_vae:
        tile(encoders.codec)
    if not (facts.codec_key and facts.text_key):
        # some came from the hub only now
        codec, text = _weights(options)
        keys = fingerprint(facts.codec, codec), fingerprint(facts.text, text)
        facts = replace(facts, codec_key=keys[0] or "", text_key=keys[1] or "")

    def words(text: str) -> torch.Tensor:
        return encoders.words([text])[0][0]

    return Making(frames=pixels[0], size=pixels[1], facts=facts, encode=encoders.encode, words=words)


def _weights(options: Options) -> tuple[Path | None, Path | None]:
    from unity.model.hub import beside

    usual = None if options.init is None else beside(options.init)
    return options.codec_weights or usual, options.text_weights or usual


def _device(options: Options) -> str:
    import torch

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {device!r}: no CUDA GPU can be used here; leave --device out, or give cpu")
    return device


def main() -> None:
    from unity.modality.plug_in import use_arguments

    use_arguments(sys.argv[1:])
    options = tyro.cli(Options, prog="python -m unity.data.latents", description=__doc__)
    check_bounds(options)
    run(options)


if __name__ == "__main__":
    end("latents", main)
