"""What dataset.json and the indexes of a dataset say, checked before anyone relies on it.

dataset.json of format 2 carries a hash of itself and of every index, and every sample a checksum of all its
columns, so that no changed byte goes unseen. Format 1 had a checksum of each sample's videos and values alone.
"""

import hashlib
import json
import logging
import math
import re
import stat
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from unity.data.clips import MODALITY_NAMES, SOURCES
from unity.data.latents.facts import read_facts
from unity.data.shards import annotators
from unity.data.shards.columns import CHECKSUM, ENCODINGS, KNOWN, sizes

FORMAT = 2
# the generation of the colours that labels are drawn in; datasets that tell of none are of the first
_COLOURS, _RECOLOURED = 2, "densepose"
_FACTS = {"frames", "size", "fps", "sources"}
# of some datasets: of latents, of clips that were shuffled by the shards of others, and of annotated films
_MORE = {"seed", "latents", "shuffled", "annotators"}
# a million clips that all differ in what they have take 90 MB
_MOST_JSON = 1 << 27
# MDS counts bytes in 32 bits; a sample has at least its offset and a head
_MOST_SHARD, _LEAST_SAMPLE = (1 << 32) - 1, 64
_MOST_CLIPS = 1 << 26
_MOST_FRAMES, _MOST_FPS = 1 << 16, 1000
# of an edge: what video codecs can do
MOST_PIXELS = 1 << 14
_ROW = {
    "column_encodings", "column_names", "column_sizes", "compression", "format", "hashes", "raw_data", "samples",
    "size_limit", "version", "zip_data",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A shard file as its index describes it: how many samples of which columns, and bytes in all."""

    name: str
    samples: int
    bytes: int
    columns: tuple[str, ...]
    # the row of the index
    row: dict


class _Buckets(Exception):
    """A folder of datasets."""


def read_about(folder: str | Path) -> dict:
    """What a dataset holds: frames, size (h, w), fps, seed, and per source count, modalities and who has what.

    Raises ValueError where there is no dataset, or its dataset.json is damaged.
    """
    return read_record(folder)[0]


def read_record(folder: str | Path) -> tuple[dict, dict[str, str] | None]:
    """`read_about`, and the SHA-256 of every source's index where the dataset names them (format 1 does not)."""
    path = Path(folder) / "dataset.json"
    try:
        record = _load(_bytes(path, path.parent))
        _check(isinstance(record, dict), "it is no JSON object")
        if "buckets" in record:
            raise _Buckets(sorted(record["buckets"]))
        about, hashes = _sealed(record) if "format" in record else (record, None)
        colours = about.pop("colours", 1)
        _check_about(about)
        _check(hashes is None or hashes.keys() == about["sources"].keys(), "its hashes are of other sources")
    except _Buckets as names:
        raise ValueError(f"{folder} holds buckets, of clips of several shapes; name one of {names}") from None
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"{folder} is no dataset (it has no dataset.json); make one with `python -m unity.data.simulate --out "
            f"{folder} --clips 32`, or of one at an address with `python -m unity.data.mirror`"
        ) from None
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); write the dataset again") from error
    if colours != _COLOURS and any(_RECOLOURED in row["modalities"] for row in about["sources"].values()):
        raise ValueError(
            f"{folder} shows {_RECOLOURED} in colours that this version no longer reads; write the dataset again"
        )
    if hashes is None:
        _tell_old(str(folder))
    return about, hashes


def seal(folder: Path, about: dict) -> None:
    """Write the dataset.json of a folder whose indexes are written; ValueError for what no reader would take."""
    _check_about(about)
    hashes = {source: _hash((folder / source / "index.json").read_bytes()) for source in about["sources"]}
    record = about | {"format": FORMAT, "colours": _COLOURS, "indexes": hashes}
    text = json.dumps(record | {"sha256": _hash(_canonical(record))}, indent=1, allow_nan=False)
    (folder / "dataset.json").write_text(text)


def read_names(folder: str | Path, here: bool = True) -> list[str] | None:
    """The buckets that a folder's dataset.json names, None where it is that of a dataset (unity.data.buckets).

    Raises ValueError where it is damaged, or a bucket that should be `here` is not the one that it names.
    """
    path = Path(folder) / "dataset.json"
    record = _told(path)
    if "buckets" not in record:
        return None
    try:
        buckets, sha256 = record["buckets"], record.pop("sha256", None)
        _check(record.get("format") == FORMAT and sha256 == _hash(_canonical(record)), "its own checksum differs")
        _check(isinstance(buckets, dict) and buckets, "it names no buckets")
        for name, sha256 in buckets.items():
            _check(re.fullmatch(r"[1-9]\d{0,4}(x[1-9]\d{0,4}){2}", name), f"it names a bucket {name!r}")
            about = Path(folder) / name / "dataset.json"
            same = not here or _hash(_bytes(about, path.parent)) == sha256
            _check(same, f"the bucket {name} is not the one that it names")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); join the buckets again") from error
    return sorted(buckets)


def _told(path: Path) -> dict:
    """What a dataset.json says, unchecked; {} where it says nothing, of which `read_record` tells."""
    try:
        record = _load(_bytes(path, path.parent))
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def seal_names(folder: Path, buckets: dict[str, str]) -> None:
    """Write the dataset.json of a folder of buckets, each with the SHA-256 of its own dataset.json."""
    record = {"format": FORMAT, "buckets": buckets}
    text = json.dumps(record | {"sha256": _hash(_canonical(record))}, indent=1)
    (folder / "dataset.json").write_text(text)


def read_index(folder: Path, sha256: str | None = None) -> list[Shard]:
    """The shards of a source's folder; ValueError where index.json is missing, damaged or not the named one."""
    path = folder / "index.json"
    try:
        data = _bytes(path, folder.parent)
        _check(sha256 is None or _hash(data) == sha256, "it is not the one that dataset.json names")
        index = _load(data)
        _check(isinstance(index, dict) and index.keys() == {"version", "shards"}, "it is no index of shards")
        _check(index["version"] == 2 and isinstance(index["shards"], list), "its version is unknown")
        shards = [_shard(row) for row in index["shards"]]
        _check(len({shard.name for shard in shards}) == len(shards) > 0, "it has no shards, or one of them twice")
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); write the dataset again") from error
    return shards


def check_file(path: Path, root: Path, size: int | None = None):
    """ValueError unless `path` is a plain file inside the dataset's folder `root`, and has `size` bytes."""
    try:
        found = _plain(path, root)
        _check(size in (None, found), f"it has {found} bytes, its index says {size}")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); {REMEDY}") from error


REMEDY = "write the dataset again, or delete the file if it can be fetched again"


def summary(rows: list) -> dict:
    """What dataset.json says of a source; `available` is run-length coded in the order of the clips."""
    runs: list[list] = []
    for count, names in rows:
        if runs and runs[-1][1] == names:
            runs[-1] = [runs[-1][0] + count, names]
        else:
            runs.append([count, names])
    modalities = [name for name in MODALITY_NAMES if any(name in names for _, names in runs)]
    return {"count": sum(count for count, _ in runs), "modalities": modalities, "available": runs}


def _sealed(record: dict) -> tuple[dict, dict]:
    _check(record["format"] == FORMAT, f"its format is {record['format']!r}, this program reads 1 and {FORMAT}")
    told = record.pop("sha256", None)
    _check(told == _hash(_canonical(record)), "its own checksum differs")
    hashes = record.pop("indexes")
    _check(isinstance(hashes, dict), "it has no hashes of its indexes")
    del record["format"]
    return record, hashes


@cache
def _tell_old(folder: str):
    logging.getLogger(__name__).warning(
        "%s is a dataset of format 1, whose checksums cover its videos alone; write it again to have all checked",
        folder,
    )


def _check_about(about: dict):
    # a strange name may be a damaged one, of what makes it format 2 too
    strange = (_FACTS ^ about.keys()) - _MORE
    _check(not strange, f"it lacks, or should not have, {sorted(strange)}")
    _check(_whole(about["frames"], 1, _MOST_FRAMES), f"its frames are {about['frames']!r}")
    size, fps, seed = about["size"], about["fps"], about.get("seed")
    _check(isinstance(size, list) and len(size) == 2, f"its size is {size!r}")
    _check(all(_whole(edge, 1, MOST_PIXELS) for edge in size), f"its size is {size!r}")
    _check(type(fps) in (int, float) and 0 < fps <= _MOST_FPS, f"its fps are {fps!r}")
    _check(seed is None or type(seed) is int, f"its seed is {seed!r}")
    _check(isinstance(about["sources"], dict) and about["sources"], "it has no sources")
    for source, row in about["sources"].items():
        _check(source in SOURCES, f"its source {source!r} is unknown")
        _check(isinstance(row, dict) and row.keys() == {"count", "modalities", "available"}, f"{source} has {row}")
        _check_source(source, row)
    read_facts(about)
    annotators.check(about.get("annotators", {}))
    _check_shuffled(about.get("shuffled"), about["sources"])


def _check_shuffled(shuffled: Any, sources: dict):
    if shuffled is None:
        return
    _check(isinstance(shuffled, dict) and shuffled.keys() == sources.keys(), "it shuffles other sources")
    for source, counts in shuffled.items():
        whole = isinstance(counts, list) and all(_whole(count, 1, _MOST_CLIPS) for count in counts)
        _check(whole and sum(counts) == sources[source]["count"], f"it shuffles {counts!r:.80} clips of {source}")


def _check_source(source: str, row: dict):
    _check(isinstance(row["available"], list), f"what {source} has is {row['available']!r}")
    for run in row["available"]:
        _check(isinstance(run, list) and len(run) == 2 and _whole(run[0], 1, _MOST_CLIPS), f"{source} has {run!r}")
        _check(run[1] == [name for name in MODALITY_NAMES if name in run[1]], f"{source} has {run[1]!r}")
    _check(row == summary(row["available"]), f"what it says of {source} does not agree with itself")
    _check(_whole(row["count"], 1, _MOST_CLIPS), f"{source} has {row['count']!r} clips")


def _shard(row: Any) -> Shard:
    _check(isinstance(row, dict) and row.keys() == _ROW, "a row of it is no shard")
    raw = row["raw_data"]
    _check(isinstance(raw, dict) and raw.keys() == {"basename", "bytes", "hashes"}, "a row of it names no file")
    name, samples, size = raw["basename"], row["samples"], raw["bytes"]
    # a name alone: no folder, no parent, no other disk
    _check(isinstance(name, str) and re.fullmatch(r"[\w-][\w.-]*\.mds", name, re.ASCII), f"it names {name!r}")
    _check(row["version"] == 2 and row["format"] == "mds", f"{name} is of another format")
    _check(not row["compression"] and not row["zip_data"], f"{name} is compressed")
    columns = tuple(row["column_names"])
    foreign = "; name the files of its own modalities (--modalities)" if CHECKSUM in columns else ""
    _check(columns in KNOWN, f"{name} has columns {columns}{foreign}")
    _check(row["column_encodings"] == [ENCODINGS[c] for c in columns], f"{name} has columns of other encodings")
    _check(row["column_sizes"] == sizes(columns), f"{name} has columns of other sizes")
    _check(_whole(size, 1, _MOST_SHARD), f"{name} has {size!r} bytes")
    _check(_whole(samples, 1, size // _LEAST_SAMPLE), f"{name} has {samples!r} samples in {size} bytes")
    return Shard(name=name, samples=samples, bytes=size, columns=columns, row=row)


def _bytes(path: Path, root: Path) -> bytes:
    size = _plain(path, root)
    _check(size <= _MOST_JSON, f"it has {size} bytes")
    return path.read_bytes()


def _plain(path: Path, root: Path) -> int:
    """Bytes of a file; reading from a pipe or a device would never end, and a link may lead to any file."""
    found = path.stat()
    inside = (path if path.is_symlink() else path.parent).resolve().is_relative_to(root.resolve())
    _check(inside, "it leads out of the dataset's folder: copy what it points to into its place")
    _check(stat.S_ISREG(found.st_mode), "it is no file")
    return found.st_size


def _load(data: bytes) -> Any:
    return json.loads(data, object_pairs_hook=_once, parse_constant=_number, parse_float=_number)


def _once(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    _check(len(found) == len(pairs), f"it says something twice among {sorted(found)[:8]}")
    return found


def _number(text: str) -> float:
    value = float(text)
    _check(math.isfinite(value), f"{text} is no number that JSON knows")
    return value


def _canonical(record: dict) -> bytes:
    return json.dumps(record, sort_keys=True, allow_nan=False).encode()


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _whole(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _check(fine: object, what: str):
    if not fine:
        raise ValueError(what)
