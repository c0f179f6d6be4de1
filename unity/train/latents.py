"""What a run on latents (unity.data.latents) can be asked for, told before anything is loaded."""

from collections.abc import Mapping
from pathlib import Path

from unity.data.buckets import describe
from unity.data.latents.batch import check_wanted
from unity.data.latents.facts import Facts, read_facts
from unity.model.fingerprint import fingerprint
from unity.model.hub import beside
from unity.train.options import Options

# what training draws and changes needs pixels
_NO_PIXELS = {
    "picture_every": "pictures need the codec, which is not loaded; --picture-every 0 leaves them out, and "
    "python -m unity.infer draws with what is saved",
    "augment": "--augment changes pixels; leave it out (--augment 0), or train on the clips",
}


def check(options: Options, about: Mapping) -> Facts | None:
    """The dataset's latents, None where it holds videos; ValueError for options that cannot be had of latents.

    `options` have their type prompts and encodings.
    """
    facts = read_facts(dict(about))
    if facts is None:
        return None
    for name, why in _NO_PIXELS.items():
        if getattr(options, name):
            raise ValueError(f"{options.data} holds latents: {why}")
    check_wanted(facts, about, options.frames, options.size, options.encodings)
    shape = options.architecture
    if (facts.codec, facts.text) != (shape.codec, shape.text):
        raise ValueError(
            f"{options.data} holds latents of {facts.codec} and states of {facts.text}, and the model works with "
            f"{shape.codec} and {shape.text}; {_REMEDY}"
        )
    if (facts.shape[0], facts.width) != (shape.latent_channels, shape.text_dim):
        raise ValueError(
            f"{options.data} holds latents of {facts.shape[0]} channels and states {facts.width} wide, and the "
            f"model takes {shape.latent_channels} and {shape.text_dim}; {_REMEDY}"
        )
    if unknown := sorted({*options.type_prompts.values()} - {*facts.texts}):
        raise ValueError(f"{options.data} has no states of {unknown[0]!r}, which names a modality; {_REMEDY}")
    return facts


def check_weights(options: Options, facts: Facts) -> str:
    """What is known of the latents' weights, in a line; ValueError where this run's are others.

    Files are read for that, and none is loaded. A machine that has none takes the dataset's word.
    """
    weights = encoder_weights(options)
    rows = (("codec", facts.codec, facts.codec_key), ("text", facts.text, facts.text_key))
    unseen = []
    for (kind, name, key), path in zip(rows, weights, strict=True):
        found = fingerprint(name, path)
        if found is None:
            unseen.append(name)
        elif found != key:
            where = f" at {path}" if path else ""
            raise ValueError(
                f"{options.data} holds what other weights of {name} gave (their key is {key[:8]}, that of the "
                f"{kind} weights{where} is {found[:8]}); {_REMEDY}"
            )
    line = f"latents of {facts.key}, encoded in {facts.precision}, kept in {facts.numbers}; no encoder is loaded"
    return f"{line} ({', '.join(unseen)} not on this machine to compare with)" if unseen else line


def reads_latents(options: Options) -> bool:
    """Whether a run's dataset, where it is there already, holds latents."""
    if options.data is None or not (options.data / "dataset.json").exists():
        return False
    return read_facts(describe(options.data)) is not None


def encoder_weights(options: Options) -> tuple[Path | None, Path | None]:
    """Where the codec's and the text encoder's weights are, None where they are those of everybody."""
    usual = None if options.init is None else beside(options.init)
    return options.codec_weights or usual, options.text_weights or usual


_REMEDY = "make others with python -m unity.data.latents, or train on the clips"
