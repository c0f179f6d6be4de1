"""Latents of a dataset, shard by shard: any number of processes share them, and a killed one is gone on with.

Beside the folder to be grows `<out>.parts`: what was asked for, the states of the words that all clips share, and
a part for each shard of the clips, whole or absent. Whoever finishes the last part joins them.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from jaxtyping import Float, UInt8
from torch import Tensor

from unity.data.claim import dataset_folder
from unity.data.clips import MODALITY_NAMES, SOURCES
from unity.data.latents.facts import Facts
from unity.data.latents.numbers import to_bytes
from unity.data.latents.texts import TEXTS, write_texts
from unity.data.loader import fitted
from unity.data.shards import Shards
from unity.data.shards.columns import names, sealed
from unity.data.shards.write import Sample, encoded, join_parts, write_samples
from unity.data.video import decode
from unity.files import check_writable, sha256, write_json

Frames = UInt8[Tensor, "b t h w 3"]


@dataclass(frozen=True, kw_only=True)
class Making:
    """What is made: of which frames and size (h, w), by which encoders; `facts` have no texts_key yet."""

    frames: int
    size: tuple[int, int]
    facts: Facts
    # clips that show "rgb" or a modality → their latents
    encode: Callable[[Frames, Sequence[str]], Float[Tensor, "b c u v x"]]
    # a text → states of its tokens
    words: Callable[[str], Float[Tensor, "l d"]]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A shard of the clips: how many, from which number of their source on."""

    source: str
    number: int
    first: int
    count: int

    @property
    def name(self) -> str:
        return f"{self.source}-{self.number:05}"


def parts_folder(out: Path) -> Path:
    """Where the parts of `out` grow."""
    return out.with_name(out.name + ".parts")


def units(shards: Shards) -> list[Unit]:
    """All shards of a dataset."""
    found = []
    for source in (name for name in SOURCES if name in shards.counts):
        sizes = shards.shard_sizes(source)
        starts = accumulate(sizes, initial=0)
        rows = enumerate(zip(starts, sizes, strict=False))
        found += [Unit(source=source, number=n, first=first, count=count) for n, (first, count) in rows]
    return found


def make(shards: Shards, out: Path, making: Making, share: slice, say: Callable[[str], None]) -> bool:
    """Make what is missing of this `share` of the units, and join all if that was the last; whether it did.

    Raises ValueError where other latents are being made there, or another process has this share.
    """
    folder, todo = parts_folder(out), units(shards)
    check_writable(folder)
    making = _agreed(folder, making)
    mine = [unit for unit in todo[share] if not (folder / unit.name).exists()]
    done = len(todo[share]) - len(mine)
    say(f"{len(todo[share])} shards of {len(todo)} are this process's, of which {done} are there already")
    try:
        with FileLock(folder / f".share-{share.start}-{share.step}.lock", timeout=0):
            for number, unit in enumerate(mine, done + 1):
                place = f"[{number}/{len(todo[share])}]"
                _part(shards, unit, folder / unit.name, making, lambda words, place=place: say(f"{place} {words}"))
    except Timeout:
        raise ValueError("another process makes this share; give each its own --part, or another --out") from None
    missing = [unit.name for unit in todo if not (folder / unit.name).exists()]
    if missing:
        say(f"{len(missing)} shards are still to be made by others; whoever makes the last one joins them")
        return False
    return _join(shards, todo, out, making)


def _agreed(folder: Path, making: Making) -> Making:
    """The same for all processes: the first one says what is asked for, and writes the shared texts' states."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = {"frames": making.frames, "size": list(making.size), **making.facts.plain}
    with FileLock(folder / ".lock"):
        if not (folder / "asked.json").exists():
            write_texts(folder / TEXTS, [making.words(text) for text in making.facts.texts], making.facts)
            write_json(folder / "asked.json", asked)
        found = json.loads((folder / "asked.json").read_text())
    other = sorted(key for key in asked if asked[key] != found.get(key))
    if other:
        raise ValueError(
            f"{folder} holds parts of other latents (in {', '.join(other)}); ask for the same ones, or delete it"
        )
    key = sha256(folder / TEXTS)
    return replace(making, facts=replace(making.facts, texts_key=key))


def _part(shards: Shards, unit: Unit, folder: Path, making: Making, say: Callable[[str], None]) -> None:
    begun = time.monotonic()
    write_samples(_samples(shards, unit, making, say), folder, names(words=True))
    rate = unit.count / (time.monotonic() - begun)
    say(f"{unit.name}: {unit.count} clips, {rate:.3g} a second")


def _samples(shards: Shards, unit: Unit, making: Making, say: Callable) -> Iterator[Sample]:
    """The unit's samples; the next clip is decoded while one is encoded."""
    about = {"frames": making.frames, "size": list(making.size), "fps": shards.about["fps"]}
    about["latents"] = making.facts.plain
    windows = [
        (index, start)
        for index in range(unit.first, unit.first + unit.count)
        for start in range(0, shards.about["frames"] - making.frames + 1, making.frames)
    ]
    told = time.monotonic()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(_decoded, shards, unit.source, *windows[0], making)
        for number, window in enumerate(windows[1:] + windows[-1:], 1):
            sample, views = coming.result()
            if number < len(windows):
                coming = thread.submit(_decoded, shards, unit.source, *window, making)
            yield encoded(_encoded(sample, views, making), about)
            if time.monotonic() - told > 60:
                told = time.monotonic()
                say(f"{unit.name}: {number} of {len(windows)}")


def _decoded(
    shards: Shards, source: str, index: int, start: int, making: Making
) -> tuple[dict, dict[str, Tensor]]:
    sample = shards.sample(source, index)
    views = {}
    for stream in ("rgb", *MODALITY_NAMES):
        if sample.get(stream):
            try:
                video = decode(sample[stream], start, making.frames)
            except ValueError as error:
                raise ValueError(f"cannot decode {stream} of clip {sample['name']!r}: {error}") from error
            views[stream] = torch.from_numpy(fitted(video, stream, making.size, making.facts.encodings, start))
    name = f"{sample['name']}@{start}" if start else sample["name"]
    return sample | {"name": name}, views


def _encoded(sample: dict, views: Mapping[str, Tensor], making: Making) -> dict:
    facts = making.facts
    kept = {key: sample[key] for key in ("name", "source", "caption", "fps", "constants", "meta")}
    latents = dict.fromkeys(("rgb", *MODALITY_NAMES), b"")
    for stream, video in views.items():
        latent = making.encode(video[None], [stream])[0]
        if tuple(latent.shape) != facts.shape:
            raise ValueError(f"the codec gives latents of {tuple(latent.shape)}, and {facts.shape} were expected")
        latents[stream] = to_bytes(latent, facts.numbers)
    words = to_bytes(making.words(sample["caption"]), facts.words)
    return sealed(kept | latents | {"words": words})


def _join(shards: Shards, todo: list[Unit], out: Path, making: Making) -> bool:
    """All parts as one dataset; False where another process joins them, or has."""
    folder, windows = parts_folder(out), shards.about["frames"] // making.frames
    shuffled = {source: [windows * size for size in shards.shard_sizes(source)] for source in shards.counts}
    try:
        with FileLock(folder / ".join.lock", timeout=0):
            if joined := not (out / "dataset.json").exists():
                with dataset_folder(out) as new:
                    shutil.copyfile(folder / TEXTS, new / TEXTS)
                    parts = [folder / unit.name for unit in todo]
                    join_parts(parts, new, shards.about.get("seed"), keep=True, more={"shuffled": shuffled})
    except Timeout:
        return False
    shutil.rmtree(folder, ignore_errors=True)
    return joined
