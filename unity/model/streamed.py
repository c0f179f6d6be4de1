"""A safetensors file written piece by piece: no tensor need be whole in memory; its SHA-256 comes with it."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_NAMES |= {torch.uint8: "U8"}
# bytes that are hashed and written at once, and held at most of a tensor that lies elsewhere
_PIECE = 16 << 20


def write_stream(path: Path, shapes: Mapping[str, Tensor], parts: Callable[[str], Iterable[Tensor]]) -> dict:
    """Write a file that is on the disk when this returns; its size and SHA-256, as a manifest has them.

    `shapes` says what each tensor is (on the meta device, say); `parts(name)` gives its values in order, in parts
    of any size on any device. Raises OSError as the file system does.
    """
    # as safetensors itself has it: the widest numbers first
    names = sorted(shapes, key=lambda name: -shapes[name].element_size())
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in _content({name: shapes[name] for name in names}, parts):
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
        return {"bytes": file.tell(), "sha256": digest.hexdigest()}


def _content(
    shapes: Mapping[str, Tensor], parts: Callable[[str], Iterable[Tensor]]
) -> Iterator[bytes | memoryview]:
    yield _header(shapes)
    for name, like in shapes.items():
        found = 0
        for part in parts(name):
            assert part.dtype == like.dtype, name
            found += part.nbytes
            yield from _pieces(part)
        assert found == like.nbytes, name


def _header(shapes: Mapping[str, Tensor]) -> bytes:
    """Length and JSON, padded so that the values begin at a multiple of 8."""
    rows, end = {}, 0
    for name, like in shapes.items():
        start, end = end, end + like.nbytes
        rows[name] = {"dtype": _NAMES[like.dtype], "shape": list(like.shape), "data_offsets": [start, end]}
    text = json.dumps(rows, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _pieces(part: Tensor) -> Iterator[memoryview]:
    """The bytes of a tensor, whose values lie on the CPU a piece at a time."""
    flat = part.detach().flatten()
    step = _PIECE // flat.element_size()
    for start in range(0, len(flat), step):
        yield flat[start:][:step].cpu().view(torch.uint8).numpy().data
