"""A sample in a shard: which columns it has, how each becomes bytes and back, and the checksum over all of them.

mosaicml-streaming decodes whatever encoding an index names, pickle included, and believes every size; here the
columns and their encodings are a fixed list, and a sample's parts must fill it exactly.
"""

import io
import itertools
import json
import math
import struct
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unity.data.clips import MODALITY_NAMES, Clip
from unity.data.video import RGB_QUALITY, decode, encode
from unity.modality.table import BUILT_IN

STREAMS = ("rgb", *MODALITY_NAMES)
TEXTS = ("name", "source", "caption")
_VALUES = {f"{name}_values": "bytes" for name in MODALITY_NAMES}
# of latents (unity.data.latents): the states of the caption's tokens
_WORDS = {"words": "bytes"}
# so that a few columns can be read: a checksum of each other column, and one of those
SUMS = "sums"
_SUMS = {SUMS: "bytes"}
# of datasets that were written without some of a user's own modalities
_LATER = [MODALITY_NAMES[count:] for count in range(len(BUILT_IN), len(MODALITY_NAMES) + 1)]

# over the whole sample; datasets of format 1 have a checksum of the videos and values alone
CHECKSUM, OLD_CHECKSUM = "checksum", "crc"

_BASE = {name: "str" for name in TEXTS} | {"fps": "float64", "constants": "json", "meta": "json"}
_BASE |= {stream: "bytes" for stream in STREAMS}
ENCODINGS: dict[str, str] = _BASE | _VALUES | _WORDS | _SUMS | {CHECKSUM: "uint32", OLD_CHECKSUM: "uint32"}

# the numbers behind a pixel: DensePose's part, U and V as float32; a skeleton's are far fewer
_BYTES_PER_PIXEL, _MOST_HEADER = 12, 1 << 16
# people of 18 joints of three float32 in a frame
_BYTES_PER_FRAME = 256 * 18 * 12


@dataclass(frozen=True)
class _Encoding:
    write: Callable[[Any], bytes]
    read: Callable[[bytes], Any]
    # bytes, where every value takes as many
    size: int | None = None


def _json(text: bytes) -> object:
    return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str):
    raise ValueError(f"{name} is no JSON number")


_CODE = {
    "bytes": _Encoding(bytes, bytes),
    "str": _Encoding(str.encode, bytes.decode),
    "json": _Encoding(lambda value: json.dumps(value, allow_nan=False).encode(), _json),
    "float64": _Encoding(struct.Struct("<d").pack, lambda data: struct.unpack("<d", data)[0], 8),
    "uint32": _Encoding(struct.Struct("<I").pack, lambda data: struct.unpack("<I", data)[0], 4),
}


def names(values: bool = False, words: bool = False) -> tuple[str, ...]:
    """The columns of a new shard, in the order that they have there."""
    return tuple(sorted({*_BASE, *_SUMS, CHECKSUM, *(_VALUES if values else ()), *(_WORDS if words else ())}))


# whole sets of columns that a shard may have, and the checksum that each carries
KNOWN: dict[tuple[str, ...], str] = {
    tuple(sorted({*_BASE, *more, check} - {*later, *(f"{name}_values" for name in later)})): check
    for later in _LATER
    for more in ((), _VALUES, _WORDS, _SUMS, _VALUES | _SUMS, _WORDS | _SUMS)
    for check in (CHECKSUM, OLD_CHECKSUM)
}


def sizes(columns: Iterable[str]) -> list[int | None]:
    """Bytes of each column, None where they differ from sample to sample."""
    return [_CODE[ENCODINGS[name]].size for name in columns]


def encode_clip(clip: Clip, values: bool = False) -> dict:
    """The sample of a clip: every video as bytes (an absent one as no bytes), and a checksum of all of it.

    Raises ValueError where constants or meta are nothing that JSON can say.
    """
    sample = {"name": clip.name, "source": clip.source, "caption": clip.caption, "fps": float(clip.fps)}
    sample |= {"constants": clip.constants, "meta": clip.meta}
    for stream in STREAMS:
        frames, quality = clip.video.get(stream), RGB_QUALITY if stream == "rgb" else None
        sample[stream] = b"" if frames is None else encode(frames, clip.fps, quality)
    if values:
        sample |= {f"{m}_values": _pack(clip.values.get(m)) for m in MODALITY_NAMES}
    try:
        return sealed(sample)
    except (TypeError, ValueError) as error:
        raise ValueError(f"clip {clip.name!r} cannot be written ({error}); JSON has no such value") from error


def sealed(sample: Mapping[str, object]) -> dict:
    """A sample with a checksum of each column, and one over all of it."""
    sample = dict(sample)
    sample[SUMS] = _sums(to_bytes(sample))
    return sample | {CHECKSUM: _checksum(to_bytes(sample))}


def to_bytes(sample: Mapping[str, object]) -> dict[str, bytes]:
    """The columns of a sample as they lie in a shard."""
    return {name: _CODE[ENCODINGS[name]].write(value) for name, value in sample.items()}


def from_bytes(data: bytes, columns: tuple[str, ...]) -> dict:
    """The sample in a shard's bytes, checked; ValueError where they do not hold exactly these `columns`.

    Variable sizes come first, uint32 each, then the columns without gaps.
    """
    places = _places(data[: _head(columns)], len(data), columns)
    parts = {name: data[begin:end] for name, (begin, end) in places.items()}
    _check(parts, columns)
    return {name: _CODE[ENCODINGS[name]].read(part) for name, part in parts.items()}


def some_from_bytes(
    read: Callable[[int, int], bytes], length: int, columns: tuple[str, ...], streams: Collection[str]
) -> tuple[dict, set[str]]:
    """Of a sample of `length` bytes, which has SUMS, all but other streams and their values, and which it has.

    `read(begin, end)` gives its bytes. Each column that is read is checked; ValueError where one is not as it was.
    """
    places = _places(read(0, _head(columns)), length, columns)
    other = {column for name in STREAMS if name not in streams for column in (name, f"{name}_values")}
    wanted = [name for name in columns if name not in other]
    parts = {name: read(*places[name]) for name in wanted if name != CHECKSUM}
    sums = _read_sums(parts.pop(SUMS), columns)
    if wrong := [name for name, part in parts.items() if sums[name] != zlib.crc32(part)]:
        raise ValueError(f"the checksum of its {wrong[0]} differs")
    there = {name for name in STREAMS if name in places and places[name][0] < places[name][1]}
    return {name: _CODE[ENCODINGS[name]].read(part) for name, part in parts.items()}, there


def _head(columns: tuple[str, ...]) -> int:
    return 4 * sizes(columns).count(None)


def _places(head: bytes, length: int, columns: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Where each column begins and ends in a sample of `length` bytes, by its first ones."""
    fixed, size = sizes(columns), _head(columns)
    if len(head) < size:
        raise ValueError(f"it has {length} bytes, not even the {size} of its sizes")
    told = iter(struct.unpack(f"<{size // 4}I", head))
    lengths = [next(told) if known is None else known for known in fixed]
    if size + sum(lengths) != length:
        raise ValueError(f"its columns of {sum(lengths)} bytes do not fill its {length - size}")
    ends = list(itertools.accumulate(lengths, initial=size))
    return dict(zip(columns, itertools.pairwise(ends), strict=True))


def _summed(columns: Iterable[str]) -> list[str]:
    """Columns that have a checksum of their own, in its order."""
    return sorted(set(columns) - {SUMS, CHECKSUM})


def _sums(parts: Mapping[str, bytes]) -> bytes:
    sums = b"".join(zlib.crc32(parts[name]).to_bytes(4, "little") for name in _summed(parts))
    return sums + zlib.crc32(sums).to_bytes(4, "little")


def _read_sums(data: bytes, columns: tuple[str, ...]) -> dict[str, int]:
    names = _summed(columns)
    if len(data) != 4 * len(names) + 4 or zlib.crc32(data[:-4]).to_bytes(4, "little") != data[-4:]:
        raise ValueError("its checksums are damaged")
    return dict(zip(names, struct.unpack(f"<{len(names)}I", data[:-4]), strict=True))


def read_clip(sample: dict, streams: Sequence[str] = STREAMS) -> Clip:
    """Decode RGB and the wanted streams that a sample has, and its exact values if it carries any."""
    packed = {name: sample.get(f"{name}_values", b"") for name in MODALITY_NAMES if name in streams}
    video = {stream: decode(sample[stream]) for stream in {"rgb", *streams} if sample.get(stream)}
    return Clip(
        **{name: sample[name] for name in TEXTS},
        fps=float(sample["fps"]),
        video=video,
        constants=sample["constants"],
        values={name: _unpack(data, video["rgb"].shape) for name, data in packed.items() if data},
        meta=sample["meta"],
    )


def _check(parts: dict[str, bytes], columns: tuple[str, ...]):
    """VP9 would decode damaged bytes without a word."""
    kind = KNOWN[columns]
    covered = parts if kind == CHECKSUM else {name: parts[name] for name in parts if ENCODINGS[name] == "bytes"}
    found = _checksum(covered) if kind == CHECKSUM else _crc(covered[name] for name in sorted(covered))
    if found.to_bytes(4, "little") != parts[kind]:
        raise ValueError("its checksum differs")


def _checksum(parts: Mapping[str, bytes]) -> int:
    """CRC-32 over all columns but its own, each after its length, in the order of their names."""
    covered = [parts[name] for name in sorted(parts) if name != CHECKSUM]
    return _crc(piece for part in covered for piece in (len(part).to_bytes(8, "little"), part))


def _crc(pieces: Iterable[bytes]) -> int:
    crc = 0
    for piece in pieces:
        crc = zlib.crc32(piece, crc)
    return crc


def _pack(values: np.ndarray | None) -> bytes:
    if values is None:
        return b""
    data = io.BytesIO()
    np.save(data, values, allow_pickle=False)
    return zlib.compress(data.getvalue(), 1)


def _unpack(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Values of a clip of `shape` (t, h, w, 3); ValueError for more than such a clip can have."""
    pixels = math.prod(shape[:3])
    most = _MOST_HEADER + pixels * _BYTES_PER_PIXEL + shape[0] * _BYTES_PER_FRAME
    stream = zlib.decompressobj()
    try:
        whole = stream.decompress(data, most)
    except zlib.error as error:
        raise ValueError(f"its values cannot be unpacked ({error})") from error
    if not stream.eof or stream.unused_data:
        raise ValueError(f"its values are cut, or more than the {most} bytes that a clip of {shape[:3]} can have")
    values = _array(whole)
    if len(values) != shape[0]:
        raise ValueError(f"its values have {len(values)} frames, its video {shape[0]}")
    return values


def _array(data: bytes) -> np.ndarray:
    """An array of numbers in numpy's format, whose header must agree with the bytes after it."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read:
        raise ValueError(f"its values are in version {version} of numpy's format")
    shape, _, dtype = read[version](file)
    # pickled objects have no bytes of their own here, and a negative or lying shape not as many as it says
    if (
        dtype.hasobject
        or min(shape, default=1) < 0
        or math.prod(shape) * dtype.itemsize != len(data) - file.tell()
    ):
        raise ValueError(f"its values say {dtype} {shape}, which is not what follows")
    file.seek(0)
    return np.load(file, allow_pickle=False)
