"""Writing a dataset: clips to shards, by one process or by several that each write a part.

A folder of shards is whole or absent.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unity.data.claim import dataset_folder, refuse_taken
from unity.data.clips import MODALITY_NAMES, SOURCES, Clip
from unity.data.shards import annotators
from unity.data.shards.columns import encode_clip, names, to_bytes
from unity.data.shards.index import read_about, read_index, seal, summary
from unity.data.shards.mds import ShardWriter
from unity.files import whole_folder

# what all parts of a dataset have in common
_SHARED = ("frames", "size", "fps", "latents")


def write_shards(
    clips: Iterable[Clip],
    folder: str | Path,
    values: bool = False,
    size_limit: int = 1 << 26,
    seed: int | None = None,
) -> Path:
    """Write clips as a new dataset; `values` keeps the exact numbers too (floats, about 10x the bytes).

    Raises ValueError when there is no clip, when clips differ in frames, size or fps, or `folder` exists.
    """
    with dataset_folder(Path(folder)) as new:
        part = write_part(clips, new / "part", values, size_limit)
        join_parts([part], new, seed)
    return Path(folder)


@dataclass(frozen=True)
class Sample:
    """A clip as it lies in a shard, encoded already, wherever that was done."""

    name: str
    source: str
    # frames, size, fps, and what else all samples of a dataset have in common
    facts: dict
    available: list[str]
    columns: dict[str, bytes]
    # who made its views, where that is known
    annotators: annotators.Tally


def encoded(sample: Mapping, facts: dict) -> Sample:
    """A sample, sealed, as bytes."""
    available = [name for name in MODALITY_NAMES if sample.get(name)]
    who = annotators.made_by(sample["meta"], available)
    return Sample(sample["name"], sample["source"], facts, available, to_bytes(sample), who)


def write_encoded(samples: Iterable[Sample], folder: str | Path, size_limit: int = 1 << 26) -> Path:
    """What `write_shards` does, of clips that are encoded already, without exact values."""
    with dataset_folder(Path(folder)) as new:
        part = write_samples(samples, new / "part", names(), size_limit)
        join_parts([part], new)
    return Path(folder)


def write_part(clips: Iterable[Clip], folder: str | Path, values: bool = False, size_limit: int = 1 << 26) -> Path:
    """Write one worker's share of a dataset; `merge_parts` joins them. A part that exists is whole."""
    samples = (encoded(encode_clip(clip, values), _facts(clip)) for clip in clips)
    return write_samples(samples, Path(folder), names(values), size_limit)


def write_samples(
    samples: Iterable[Sample], folder: Path, columns: tuple[str, ...], size_limit: int = 1 << 26
) -> Path:
    """Write a part of samples that have these `columns`."""
    refuse_taken(folder)
    with whole_folder(folder, last="dataset.json") as new:
        writers, facts, rows, who = {}, {}, {}, Counter()
        for sample in samples:
            if sample.source not in writers:
                writers[sample.source] = ShardWriter(new / sample.source, columns, size_limit)
            writers[sample.source].write(sample.columns)
            _same(facts, sample.facts, f"clip {sample.name!r}")
            facts = sample.facts
            rows.setdefault(sample.source, []).append([1, sample.available])
            who.update(sample.annotators)
        for writer in writers.values():
            writer.finish()
        if not rows:
            raise ValueError("there are no clips to write; give at least one")
        seal(new, facts | _told(who) | {"sources": {source: summary(row) for source, row in rows.items()}})
    return folder


def merge_parts(parts: Sequence[str | Path], folder: str | Path, seed: int | None = None) -> Path:
    """Join parts, in the order given, into one dataset. The parts are gone when it is there."""
    parts = [Path(part) for part in parts]
    with dataset_folder(Path(folder)) as new:
        join_parts(parts, new, seed, keep=True)
    for part in parts:
        shutil.rmtree(part)
    return Path(folder)


def join_parts(
    parts: Sequence[Path], new: Path, seed: int | None = None, keep: bool = False, more: Mapping = {}
) -> None:
    """Join parts, in the order given, into the folder `new`, and remove them unless `keep`.

    `more` is what else dataset.json is to say.
    """
    abouts = [read_about(part) for part in parts]
    about = {key: abouts[0][key] for key in _SHARED if key in abouts[0]} | {"seed": seed, **more, "sources": {}}
    if who := annotators.joined(other.get("annotators", {}) for other in abouts):
        about["annotators"] = who
    for part, other in zip(parts, abouts, strict=True):
        _same(about, other, str(part))
    for source in (s for s in SOURCES if any(s in other["sources"] for other in abouts)):
        holders = [(p, o) for p, o in zip(parts, abouts, strict=True) if source in o["sources"]]
        _take_shards([part / source for part, _ in holders], new / source)
        rows = [row for _, other in holders for row in other["sources"][source]["available"]]
        about["sources"][source] = summary(rows)
    seal(new, about)
    for part in () if keep else parts:
        shutil.rmtree(part)


def _told(who: annotators.Tally) -> dict:
    return {"annotators": annotators.record(who)} if who else {}


def _facts(clip: Clip) -> dict:
    frames, *size = clip.video["rgb"].shape[:3]
    return {"frames": frames, "size": size, "fps": float(clip.fps)}


def _same(about: dict, other: dict, what: str):
    for key in _SHARED:
        if key in about and about[key] != other.get(key):
            raise ValueError(
                f"{what} has {key} {other.get(key)}, the dataset has {about[key]}; "
                f"all clips of a dataset share frames, size and fps: resize them, or write another dataset"
            )


def _take_shards(folders: list[Path], target: Path):
    """The shards of one source from all parts in one folder, renumbered, with one index."""
    target.mkdir(parents=True)
    taken = []
    for folder in folders:
        for shard in read_index(folder):
            name = f"shard.{len(taken):05}.mds"
            _same_file(folder / shard.name, target / name)
            taken.append(shard.row | {"raw_data": shard.row["raw_data"] | {"basename": name}})
    (target / "index.json").write_text(json.dumps({"version": 2, "shards": taken}))


def _same_file(path: Path, new: Path):
    """A second name for a file, so that the parts stay whole until all of the dataset is there; else a copy."""
    try:
        new.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, new)
