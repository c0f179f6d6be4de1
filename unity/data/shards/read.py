"""Reading a dataset: random access to its samples, which are whole or refused."""

import struct
from bisect import bisect_right
from collections.abc import Collection, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Bool, UInt32

from unity.data.clips import MODALITY_NAMES, Clip
from unity.data.ivf import check_video
from unity.data.latents.facts import check_bytes, read_facts
from unity.data.shards.columns import STREAMS, SUMS, from_bytes, read_clip, some_from_bytes
from unity.data.shards.index import REMEDY, Shard, check_file, read_index, read_record
from unity.data.shards.mirror import NotFetched, open_mirror

# how often a shard is fetched for one sample, where it goes again before it is open
_TRIES = 9


class Shards:
    """Random access to a dataset by (source, index), in any process.

    In a mirror (`unity.data.mirror`) shards are fetched when they are first needed.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._mirror = open_mirror(self.folder)
        self.about, self._hashes = read_record(folder)
        self.latents = read_facts(self.about)
        self._shards: dict[str, list[Shard]] = {}
        self._starts: dict[str, list[int]] = {}
        self._offsets: dict[tuple[str, int], UInt32[np.ndarray, " samples_and_1"]] = {}

    @property
    def counts(self) -> dict[str, int]:
        """How many clips each source has."""
        return {source: row["count"] for source, row in self.about["sources"].items()}

    @cached_property
    def available(self) -> dict[str, Bool[np.ndarray, "count modalities"]]:
        """Per source: which modality each clip has."""
        table = {}
        for source, row in self.about["sources"].items():
            # before the table takes memory: as many clips must be there
            self._open(source)
            flags = [[name in names for name in MODALITY_NAMES] for _, names in row["available"]]
            table[source] = np.repeat(np.array(flags), [count for count, _ in row["available"]], axis=0)
        return table

    def shard_sizes(self, source: str) -> list[int]:
        """How many clips each shard of a source holds, or held where latents were made of them."""
        sizes = [shard.samples for shard in self._open(source)]
        return self.about["shuffled"][source] if "shuffled" in self.about else sizes

    def sample(self, source: str, index: int, streams: Collection[str] = STREAMS) -> dict:
        """The encoded sample; ValueError where its shard is missing or damaged.

        No bytes of other `streams` or of their values are read, and they are absent.
        """
        shards, starts = self._open(source), self._starts[source]
        if not 0 <= index < starts[-1]:
            raise ValueError(f"{source} has {starts[-1]} clips, there is no clip {index}")
        number = bisect_right(starts, index) - 1
        file = self.folder / source / shards[number].name
        try:
            sample, there = self._read(source, number, index - starts[number], streams)
            self._agree(sample, there, source, index, streams)
        except NotFetched:
            raise
        except (OSError, ValueError, LookupError, struct.error, RecursionError) as error:
            raise ValueError(
                f"cannot read clip {index} of {source}: {file} is damaged ({error}); {REMEDY}"
            ) from error
        return sample

    def clip(self, source: str, index: int, streams: Sequence[str] = STREAMS) -> Clip:
        """The clip with the wanted streams decoded; ValueError where it is missing or damaged."""
        if self.latents:
            raise ValueError(f"{self.folder} holds latents, and no pictures; name the dataset they were made of")
        sample = self.sample(source, index, {"rgb", *streams})
        try:
            return read_clip(sample, streams)
        except ValueError as error:
            raise ValueError(f"cannot decode clip {index} of {source} in {self.folder}: {error}") from error

    def _agree(self, sample: dict, there: Collection[str], source: str, index: int, wanted: Collection[str]):
        """ValueError where a sample is not the clip that dataset.json tells of, as far as it is `wanted`."""
        about = self.about
        if sample["source"] != source or sample["fps"] != about["fps"]:
            raise ValueError(f"it is a clip of {sample['source']!r} at {sample['fps']} fps")
        if not (isinstance(sample["constants"], dict) and isinstance(sample["meta"], dict)):
            raise ValueError("its constants or meta are no tables")
        if [name in there for name in MODALITY_NAMES] != self.available[source][index].tolist():
            raise ValueError("it has other modalities than dataset.json says")
        streams = [name for name in STREAMS if name in wanted and (sample.get(name) or name == "rgb")]
        if self.latents:
            check_bytes(sample, streams, self.latents)
            return
        for stream in streams:
            check_video(sample[stream], about["frames"], about["size"])

    def _read(self, source: str, number: int, place: int, streams: Collection[str]) -> tuple[dict, set[str]]:
        """A sample of a shard, and which streams it has."""
        shard = self._shards[source][number]
        with self._file(source, shard, checked=(source, number) in self._offsets) as file:
            if (source, number) not in self._offsets:
                self._offsets[source, number] = _offsets(file.read(8 + 4 * shard.samples), shard)
            begin, end = map(int, self._offsets[source, number][place : place + 2])

            def read(first: int, last: int) -> bytes:
                file.seek(begin + first)
                return file.read(last - first)

            if SUMS in shard.columns and not set(STREAMS) <= set(streams):
                return some_from_bytes(read, end - begin, shard.columns, streams)
            sample = from_bytes(read(0, end - begin), shard.columns)
            return sample, {name for name in STREAMS if sample.get(name)}

    def _file(self, source: str, shard: Shard, checked: bool) -> BinaryIO:
        """A shard's file, open; of a mirror it is fetched first."""
        path = self.folder / source / shard.name
        for _ in range(_TRIES if self._mirror else 1):
            if self._mirror:
                self._mirror.fetch(f"{source}/{shard.name}", shard.bytes)
            try:
                if not checked:
                    check_file(path, self.folder, shard.bytes)
                return path.open("rb")
            except (OSError, ValueError):
                # another process may have needed its place in the meantime
                if self._mirror is None or path.exists():
                    raise
        raise NotFetched(f"{path} makes room for others before it is read: let the mirror keep more")

    def _open(self, source: str) -> list[Shard]:
        if source not in self.counts:
            raise ValueError(f"{self.folder} has no clips of {source!r}, only of {sorted(self.counts)}")
        if source not in self._shards:
            folder = self.folder / source
            shards = read_index(folder, None if self._hashes is None else self._hashes[source])
            for shard in shards:
                # what is still to be fetched is checked when it is there
                if not self._mirror or (folder / shard.name).exists():
                    check_file(folder / shard.name, self.folder, shard.bytes)
            starts = [0, *accumulate(shard.samples for shard in shards)]
            if starts[-1] != self.counts[source]:
                raise ValueError(
                    f"{self.folder} is damaged: dataset.json tells of {self.counts[source]} clips of {source}, "
                    f"{source}/index.json of {starts[-1]}; write the dataset again"
                )
            self._shards[source], self._starts[source] = shards, starts
        return self._shards[source]


def open_shards(folder: str | Path) -> Shards:
    """Open a dataset for reading; see `Shards`."""
    return Shards(folder)


def _offsets(head: bytes, shard: Shard) -> UInt32[np.ndarray, " samples_and_1"]:
    """Where samples begin, and where the last one ends; ValueError unless they fill the shard in order."""
    if len(head) != 8 + 4 * shard.samples or struct.unpack_from("<I", head)[0] != shard.samples:
        raise ValueError(f"it does not hold {shard.samples} samples")
    offsets = np.frombuffer(head, "<u4", offset=4)
    if offsets[0] < len(head) or offsets[-1] != shard.bytes or (offsets[1:] <= offsets[:-1]).any():
        raise ValueError("its samples do not lie where it says")
    return offsets
