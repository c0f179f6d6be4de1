"""Clips on disk: one folder of MDS shards per source, and a dataset.json that says what is there.

    data/dataset.json                     frames, size, fps; per source how many clips have what; hashes
    data/single_person/index.json         which shards there are
    data/single_person/shard.00000.mds    samples: bytes of every video, caption, constants, ...

Shards are mosaicml-streaming's format, and its own datasets read them too. Nothing that a folder says is believed
before it is checked against what is there: a dataset may have been damaged, or come from a stranger.
"""

from unity.data.shards.columns import STREAMS, encode_clip, read_clip
from unity.data.shards.index import read_about
from unity.data.shards.read import Shards, open_shards
from unity.data.shards.write import merge_parts, write_part, write_shards

__all__ = [
    "STREAMS",
    "Shards",
    "encode_clip",
    "merge_parts",
    "open_shards",
    "read_about",
    "read_clip",
    "write_part",
    "write_shards",
]
