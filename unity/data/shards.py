"""Clips on disk: one folder of MDS shards per source, and a dataset.json that says what is there.

    data/dataset.json                     frames, size, fps; per source how many clips have what
    data/single_person/index.json         mosaicml-streaming's index
    data/single_person/shard.00000.mds    samples: bytes of every video, caption, constants, ...

Parallel workers each write a part (`write_part`), and `merge_parts` makes one dataset of them. Everything is
written under a temporary name and renamed when it is whole.
"""

import contextlib
import io
import json
import shutil
import struct
import tempfile
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np
from filelock import FileLock
from streaming import MDSWriter
from streaming.base.format import reader_from_json
from streaming.base.storage.download import CloudDownloader

from unity.data.clips import MODALITY_NAMES, SOURCES, Clip
from unity.data.video import RGB_QUALITY, decode, encode

STREAMS = ("rgb", *MODALITY_NAMES)
_TEXTS = {"name": "str", "source": "str", "caption": "str"}
_COLUMNS = {**_TEXTS, "fps": "float64", "crc": "uint32", "constants": "json", "meta": "json"}
_COLUMNS |= {stream: "bytes" for stream in STREAMS}
_VALUES = {f"{name}_values": "bytes" for name in MODALITY_NAMES}


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
    folder = Path(folder)
    _refuse(folder)
    with _staging(folder) as stage:
        write_part(clips, stage / "part", values, size_limit)
        return merge_parts([stage / "part"], folder, seed)


def write_part(clips: Iterable[Clip], folder: str | Path, values: bool = False, size_limit: int = 1 << 26) -> Path:
    """Write one worker's share of a dataset; `merge_parts` joins them. A part that exists is whole."""
    folder = Path(folder)
    _refuse(folder)
    with _staging(folder) as stage:
        writers, facts, rows = {}, {}, {}
        for clip in clips:
            if clip.source not in writers:
                writers[clip.source] = _writer(stage / "part" / clip.source, values, size_limit)
            writers[clip.source].write(encode_clip(clip, values))
            _same(facts, _facts(clip), f"clip {clip.name!r}")
            facts = _facts(clip)
            rows.setdefault(clip.source, []).append([1, list(clip.available)])
        for writer in writers.values():
            writer.finish()
        if not rows:
            raise ValueError("there are no clips to write; give at least one")
        about = facts | {"sources": {source: _summary(row) for source, row in rows.items()}}
        (stage / "part" / "dataset.json").write_text(json.dumps(about, indent=1))
        (stage / "part").rename(folder)
    return folder


def merge_parts(parts: Sequence[str | Path], folder: str | Path, seed: int | None = None) -> Path:
    """Join parts, in the order given, into one dataset. Shard files are moved, so the parts are used up."""
    folder, parts = Path(folder), [Path(part) for part in parts]
    _refuse(folder)
    abouts = [read_about(part) for part in parts]
    with _staging(folder) as stage:
        whole = stage / "whole"
        about = {key: abouts[0][key] for key in ("frames", "size", "fps")} | {"seed": seed, "sources": {}}
        for part, other in zip(parts, abouts, strict=True):
            _same(about, other, str(part))
        for source in (s for s in SOURCES if any(s in other["sources"] for other in abouts)):
            holders = [(p, o) for p, o in zip(parts, abouts, strict=True) if source in o["sources"]]
            _move_shards([part / source for part, _ in holders], whole / source)
            rows = [row for _, other in holders for row in other["sources"][source]["available"]]
            about["sources"][source] = _summary(rows)
        (whole / "dataset.json").write_text(json.dumps(about, indent=1))
        whole.rename(folder)
    for part in parts:
        shutil.rmtree(part)
    return folder


def encode_clip(clip: Clip, values: bool = False) -> dict:
    """The sample of a clip: every video as bytes (an absent one as no bytes), and a checksum of them all."""
    sample = {"name": clip.name, "source": clip.source, "caption": clip.caption, "fps": float(clip.fps)}
    sample |= {"constants": clip.constants, "meta": clip.meta}
    for stream in STREAMS:
        frames, quality = clip.video.get(stream), RGB_QUALITY if stream == "rgb" else None
        sample[stream] = b"" if frames is None else encode(frames, clip.fps, quality)
    if values:
        sample |= {f"{m}_values": _pack(clip.values.get(m)) for m in MODALITY_NAMES}
    return sample | {"crc": np.uint32(_checksum(sample))}


def read_clip(sample: dict, streams: Sequence[str] = STREAMS) -> Clip:
    """Decode RGB and the wanted streams that a sample has, and its exact values if it carries any."""
    packed = {name: sample.get(f"{name}_values", b"") for name in MODALITY_NAMES if name in streams}
    return Clip(
        **{name: sample[name] for name in _TEXTS},
        fps=float(sample["fps"]),
        video={stream: decode(sample[stream]) for stream in {"rgb", *streams} if sample[stream]},
        constants=sample["constants"],
        values={name: _unpack(data) for name, data in packed.items() if data},
        meta=sample["meta"],
    )


def read_about(folder: str | Path) -> dict:
    """The dataset.json of a folder; ValueError where there is none."""
    try:
        return json.loads((Path(folder) / "dataset.json").read_text())
    except FileNotFoundError:
        raise ValueError(
            f"{folder} is no dataset (it has no dataset.json); make one with "
            f"`python -m unity.data.simulate --out {folder} --clips 32`"
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder}/dataset.json is damaged ({error}); write the dataset again") from error


class Shards:
    """Random access to a dataset by (source, index), in any process.

    With `remote` (an address that mosaicml-streaming reads: s3://, gs://, hf://, a path, ...) files are
    fetched into `folder` when they are first needed, by one process at a time.
    """

    def __init__(self, folder: str | Path, remote: str | None = None):
        self.folder, self.remote = Path(folder), remote
        self._fetch("dataset.json")
        self.about = read_about(folder)
        self._readers: dict[str, list] = {}

    @property
    def counts(self) -> dict[str, int]:
        """How many clips each source has."""
        return {source: row["count"] for source, row in self.about["sources"].items()}

    @cached_property
    def available(self) -> dict[str, np.ndarray]:
        """Per source bool [count, modalities]: which modality each clip has."""
        table = {}
        for source, row in self.about["sources"].items():
            flags = [[name in names for name in MODALITY_NAMES] for _, names in row["available"]]
            table[source] = np.repeat(np.array(flags), [count for count, _ in row["available"]], axis=0)
        return table

    def shard_sizes(self, source: str) -> list[int]:
        """How many clips each shard of a source holds."""
        return [reader.samples for reader in self._open(source)]

    def sample(self, source: str, index: int) -> dict:
        """The encoded sample; ValueError where its shard is missing or damaged."""
        readers = self._open(source)
        starts = [0, *accumulate(reader.samples for reader in readers)]
        if not 0 <= index < starts[-1]:
            raise ValueError(f"{source} has {starts[-1]} clips, there is no clip {index}")
        number = bisect_right(starts, index) - 1
        file = f"{source}/{readers[number].raw_data.basename}"
        self._fetch(file)
        try:
            sample = readers[number][index - starts[number]]
            if _checksum(sample) != sample["crc"]:
                raise ValueError("its checksum differs")
        except (OSError, ValueError, LookupError, struct.error) as error:
            raise ValueError(
                f"cannot read clip {index} of {source}: {self.folder / file} is damaged ({error}); "
                f"write the dataset again, or delete the file if it can be fetched again"
            ) from error
        return sample

    def clip(self, source: str, index: int, streams: Sequence[str] = STREAMS) -> Clip:
        """The clip with the wanted streams decoded."""
        return read_clip(self.sample(source, index), streams)

    def _open(self, source: str) -> list:
        if source not in self.counts:
            raise ValueError(f"{self.folder} has no clips of {source!r}, only of {sorted(self.counts)}")
        if source not in self._readers:
            self._fetch(f"{source}/index.json")
            rows = _read_index(self.folder / source)
            self._readers[source] = [reader_from_json(str(self.folder / source), "", row) for row in rows]
        return self._readers[source]

    def _fetch(self, file: str):
        local = self.folder / file
        if not self.remote or local.exists():
            return
        local.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{local}.lock"):
            if not local.exists():
                _download(f"{self.remote}/{file}", local)


def _download(address: str, local: Path):
    try:
        CloudDownloader.direct_download(address, str(local))
    except Exception as error:
        raise ValueError(f"cannot fetch {address} ({error}); check the address and the credentials") from error


def open_shards(folder: str | Path, remote: str | None = None) -> Shards:
    """Open a dataset for reading; see `Shards`."""
    return Shards(folder, remote)


def _writer(folder: Path, values: bool, size_limit: int) -> MDSWriter:
    return MDSWriter(out=str(folder), columns=_COLUMNS | (_VALUES if values else {}), size_limit=size_limit)


def _facts(clip: Clip) -> dict:
    frames, *size = clip.video["rgb"].shape[:3]
    return {"frames": frames, "size": size, "fps": float(clip.fps)}


def _summary(rows: list) -> dict:
    """What dataset.json says of a source; `available` is run-length coded in the order of the clips."""
    runs: list[list] = []
    for count, names in rows:
        if runs and runs[-1][1] == names:
            runs[-1] = [runs[-1][0] + count, names]
        else:
            runs.append([count, names])
    modalities = [name for name in MODALITY_NAMES if any(name in names for _, names in runs)]
    return {"count": sum(count for count, _ in runs), "modalities": modalities, "available": runs}


def _same(about: dict, other: dict, what: str):
    for key in ("frames", "size", "fps"):
        if key in about and about[key] != other[key]:
            raise ValueError(
                f"{what} has {key} {other[key]}, the dataset has {about[key]}; "
                f"all clips of a dataset share frames, size and fps: resize them, or write another dataset"
            )


def _move_shards(folders: list[Path], target: Path):
    """Move the shards of one source from all parts into one folder, renumbered, with one index."""
    target.mkdir(parents=True)
    moved = []
    for folder in folders:
        for row in _read_index(folder):
            name = f"shard.{len(moved):05}.mds"
            (folder / row["raw_data"]["basename"]).rename(target / name)
            moved.append(row | {"raw_data": row["raw_data"] | {"basename": name}})
    (target / "index.json").write_text(json.dumps({"version": 2, "shards": moved}))


def _read_index(folder: Path) -> list[dict]:
    try:
        return json.loads((folder / "index.json").read_text())["shards"]
    except (OSError, ValueError, LookupError) as error:
        raise ValueError(f"{folder}/index.json is damaged ({error}); write the dataset again") from error


def _checksum(sample: dict) -> int:
    """CRC-32 over everything in a sample that is bytes: VP9 would decode damaged bytes without a word."""
    crc = 0
    for name in sorted(name for name, value in sample.items() if isinstance(value, bytes)):
        crc = zlib.crc32(sample[name], crc)
    return crc


def _pack(values: np.ndarray | None) -> bytes:
    if values is None:
        return b""
    data = io.BytesIO()
    np.save(data, values, allow_pickle=False)
    return zlib.compress(data.getvalue(), 1)


def _unpack(data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(zlib.decompress(data)), allow_pickle=False)


def _refuse(folder: Path):
    if folder.exists():
        raise ValueError(f"{folder} exists; choose another folder, or delete it first")


@contextlib.contextmanager
def _staging(folder: Path):
    """A temporary folder beside `folder`, gone at the end whatever happens."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as stage:
        yield Path(stage)
