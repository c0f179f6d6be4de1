"""Datasets of several shapes as one: buckets, of clips that share frames and size, in a folder.

python -m unity.data.buckets data/wide data/tall data/short --out data/all

    data/all/dataset.json       names the buckets, each with the SHA-256 of its own dataset.json
    data/all/33x480x832/        a dataset, named by its frames, height and width
    data/all/17x832x480/

Training draws a bucket for every step (unity.data.turns); the buckets may all be of latents.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from unity.command import end, say
from unity.data.claim import dataset_folder
from unity.data.latents.facts import read_facts
from unity.data.shards import Shards, annotators, open_shards, read_about
from unity.data.shards.index import read_names, seal_names
from unity.files import sha256

Shape = tuple[int, int, int]


def shape(about: dict) -> Shape:
    """Frames, height and width of a dataset's clips."""
    return (about["frames"], *about["size"])


def open_buckets(folder: str | Path) -> list[Shards]:
    """The datasets in a folder, the one with the most pixels a clip first; of an ordinary one that alone.

    Raises ValueError for a bucket that is missing, damaged or not the one that the folder names.
    """
    names = read_names(folder)
    if names is None:
        return [open_shards(folder)]
    return [open_shards(Path(folder) / name) for name in sorted(names, key=_pixels, reverse=True)]


def describe(folder: str | Path) -> dict:
    """What `read_about` says of a dataset, or of the first bucket.

    `buckets` are the shapes of all of them, `views` the modalities that a source's clips have and `annotators` who
    made them (unity.data.shards.annotators), whichever bucket they are in.
    """
    names = read_names(folder)
    inside = [""] if names is None else sorted(names, key=_pixels, reverse=True)
    abouts = [read_about(Path(folder) / name) for name in inside]
    return abouts[0] | {
        "buckets": [] if names is None else [shape(about) for about in abouts],
        "views": _views(abouts),
        "annotators": annotators.joined(about.get("annotators", {}) for about in abouts),
    }


def _views(abouts: Sequence[dict]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for source, row in (pair for about in abouts for pair in about["sources"].items()):
        found.setdefault(source, set()).update(row["modalities"])
    return found


def join(parts: Sequence[Path], out: Path) -> list[str]:
    """One folder of these datasets, whose files have a second name there where that can be; names of its buckets.

    Raises ValueError for two of one shape, and for latents of different encoders.
    """
    abouts = [read_about(part) for part in parts]
    names = ["x".join(map(str, shape(about))) for about in abouts]
    for number, name in enumerate(names):
        if name in names[:number]:
            first = parts[names.index(name)]
            raise ValueError(f"{first} and {parts[number]} both hold clips of {name}; write one dataset of them")
    _check_latents(parts, abouts)
    with dataset_folder(out) as new:
        for part, name in zip(parts, names, strict=True):
            shutil.copytree(part, new / name, copy_function=_second_name)
        seal_names(new, {name: sha256(new / name / "dataset.json") for name in names})
    return names


def _check_latents(parts: Sequence[Path], abouts: Sequence[dict]) -> None:
    """All or none may be of latents, and all of the same encoders, texts and colours."""
    facts = [read_facts(about) for about in abouts]
    kinds = [f and (f.codec_key, f.text_key, f.precision, f.texts, f.encodings) for f in facts]
    for part, kind in zip(parts, kinds, strict=True):
        if kind != kinds[0]:
            raise ValueError(f"{part} and {parts[0]} are not latents of the same encoders; make them alike")


def _pixels(name: str) -> tuple[int, str]:
    frames, height, width = map(int, name.split("x"))
    return frames * height * width, name


def _second_name(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which datasets become the buckets of one."""

    # folders of datasets, each of clips of another shape
    parts: tyro.conf.Positional[tuple[Path, ...]]
    # folder to write; it must not exist, or be empty
    out: Path


def main() -> None:
    options = tyro.cli(Options, prog="python -m unity.data.buckets", description=__doc__)
    if len(options.parts) < 2:
        raise ValueError("one dataset needs no buckets; name two or more, of clips of different shapes")
    for name in join(options.parts, options.out):
        counts = open_shards(options.out / name).counts
        say(f"{name}: {', '.join(f'{count} clips of {source}' for source, count in counts.items())}")
    print(options.out)


if __name__ == "__main__":
    end("buckets", main)
