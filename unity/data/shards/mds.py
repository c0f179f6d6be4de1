"""Writing shard files in the format of mosaicml-streaming (MDS), from samples that are bytes already.

Its own writer gives the same bytes (a test compares them), but takes ten seconds to import in every process.
"""

import json
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path

import numpy as np

from unity.data.shards.columns import ENCODINGS, sizes


class ShardWriter:
    """Writes the shards of one source and their index into `folder`, which it makes.

    A shard takes samples up to `size_limit` bytes, and at least one.
    """

    def __init__(self, folder: Path, columns: tuple[str, ...], size_limit: int):
        folder.mkdir(parents=True)
        self.folder, self.columns, self.size_limit = folder, columns, size_limit
        self._about = {
            "version": 2,
            "format": "mds",
            "compression": None,
            "hashes": [],
            "size_limit": size_limit,
            "column_names": list(columns),
            "column_encodings": [ENCODINGS[name] for name in columns],
            "column_sizes": sizes(columns),
        }
        self._config = json.dumps(self._about, sort_keys=True).encode()
        self._rows: list[dict] = []
        self._samples: list[bytes] = []

    def write(self, sample: Mapping[str, bytes]) -> None:
        """Add a sample: the bytes of every column."""
        parts = [sample[name] for name in self.columns]
        variable = [len(part) for part, size in zip(parts, sizes(self.columns), strict=True) if size is None]
        new = np.array(variable, "<u4").tobytes() + b"".join(parts)
        if self._samples and self._bytes([*self._samples, new]) > self.size_limit:
            self._flush()
        self._samples.append(new)

    def finish(self) -> None:
        """Write the last shard and the index."""
        if self._samples:
            self._flush()
        index = {"version": 2, "shards": self._rows}
        (self.folder / "index.json").write_text(json.dumps(index, sort_keys=True))

    def _bytes(self, samples: list[bytes]) -> int:
        """A shard's bytes: how many samples, where each begins and the last one ends, the columns, the samples."""
        return 8 + 4 * len(samples) + len(self._config) + sum(map(len, samples))

    def _flush(self):
        samples, self._samples = self._samples, []
        begin = self._bytes(samples) - sum(map(len, samples))
        offsets = list(accumulate(map(len, samples), initial=begin))
        name = f"shard.{len(self._rows):05}.mds"
        head = np.array([len(samples), *offsets], "<u4").tobytes() + self._config
        with (self.folder / name).open("wb") as file:
            file.writelines([head, *samples])
        file_row = {"basename": name, "bytes": offsets[-1], "hashes": {}}
        self._rows.append(self._about | {"samples": len(samples), "raw_data": file_row, "zip_data": None})
