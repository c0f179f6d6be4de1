"""The tensors in files, told from their headers alone and read when they are asked for."""

import json
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unity.model.pickled import read_pickled
from unity.model.sniff import kind_of

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_DTYPES |= {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
_OTHER_BYTES = 1
# a header of 3,000 tensors is half a megabyte
_MOST_HEADER = 16 << 20
_MOST_AXES = 8
# what wrappers put before or into every name
_BEFORE = ("module.", "base_model.", "model.", "diffusion_model.", "_orig_mod.", "transformer.", "dit.")
_BEFORE += ("net.", "generator.")
_INSIDE = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# other models of a file that holds several
_BESIDE = ("first_stage_model.", "cond_stage_model.", "text_encoders.", "vae.", "model_ema.")


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Weights that lie in files: shapes, as meta tensors, and how to read those of some names."""

    path: Path
    shapes: dict[str, Tensor]
    read: Callable[[Collection[str]], dict[str, Tensor]]


def open_stored(path: Path | str) -> Stored:
    """Weights of a file, or of the files of a folder, of which only headers have been read.

    A folder is one of ours, a run of training, a repository of diffusers, or any with one set of weights in
    pieces, with or without an index. Names come without what wrappers put before them. Raises ValueError, in one
    sentence that says what was found and what to do, for all that are no weights.
    """
    path = Path(path)
    try:
        files = _files(model_folder(path)) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            raise ValueError(f"no weights at {path}: give a model folder, or a .safetensors or .pt file")
        pieces = [_open_file(file) for file in files]
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read: {error.strerror or error}; look at its name and rights"
        ) from error
    names = _plain_names([name for piece in pieces for name in piece.shapes], path)
    shapes = {names[name]: value for piece in pieces for name, value in piece.shapes.items() if name in names}

    def read(wanted: Collection[str]) -> dict[str, Tensor]:
        found = {}
        for piece in pieces:
            mine = [name for name in piece.shapes if names.get(name) in wanted]
            found |= {names[name]: value for name, value in piece.read(mine).items()} if mine else {}
        return found

    return Stored(path=path, shapes=shapes, read=read)


def model_folder(path: Path) -> Path:
    """The folder of weights in a run of training, or in a repository of diffusers; else the folder itself."""
    if (path / "model").is_dir():
        return path / "model"
    if (path / "checkpoints").is_dir() and (path / "config.json").is_file():
        raise ValueError(
            f"{path} is a run of training that has saved no model yet: train on until its first save, or give "
            f"another folder"
        )
    if (path / "model_index.json").is_file() and (path / "transformer").is_dir():
        return path / "transformer"
    return path


def _open_file(path: Path) -> Stored:
    kind = kind_of(path)
    if kind == "safetensors":
        shapes = _read_header(path)
        return Stored(path=path, shapes=shapes, read=lambda names: _read_safetensors(path, names))
    if kind == "pickle":
        raise ValueError(
            f"{path} is a bare pickle, or torch's format of before 1.6, and reading it could run code: load it "
            f"where you trust it, and save its state_dict() with a present torch or as safetensors"
        )
    state = read_pickled(path)
    floats = {name: value for name, value in state.items() if value.is_floating_point()}
    shapes = {name: torch.empty(value.shape, dtype=value.dtype, device="meta") for name, value in floats.items()}
    return Stored(path=path, shapes=shapes, read=lambda names: {name: floats[name] for name in names})


def _read_safetensors(path: Path, names: Collection[str]) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as weights ({error}); it may be cut short, copy it again"
        ) from error


def _read_header(path: Path) -> dict[str, Tensor]:
    """Names, shapes and dtypes of a safetensors file whose parts lie where its header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            raise ValueError(
                f"{path} cannot be read as weights (its header is not whole); it may be cut short, copy it again"
            )
        if length > _MOST_HEADER:
            raise ValueError(f"{path} has a header of {length / 1e6:.0f} MB, which no model needs: do not use it")
        header = _json(path, file.read(length))
    header.pop("__metadata__", None)
    ends, found = [], {}
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(path, name, entry)
        ends.append((begin, end))
        found[name] = dtype, shape
    _check_places(path, sorted(ends), size - 8 - length)
    wide = {name: (_DTYPES[dtype], shape) for name, (dtype, shape) in found.items() if dtype in _DTYPES}
    return {name: torch.empty(shape, dtype=dtype, device="meta") for name, (dtype, shape) in wide.items()}


def _entry(path: Path, name: str, entry: Any) -> tuple[str, list[int], int, int]:
    """dtype, shape and place of one tensor, as large as it says."""
    damaged = ValueError(f"{path} has a damaged header (at {name[:60]!r}); copy it again")
    if not isinstance(entry, dict):
        raise damaged
    dtype, shape, places = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not (isinstance(dtype, str) and isinstance(shape, list) and isinstance(places, list)):
        raise damaged
    numbers = [*shape, *places]
    if len(shape) > _MOST_AXES or len(places) != 2:
        raise damaged
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 1 << 62 for n in numbers):
        raise damaged
    count = _BYTES.get(dtype, _OTHER_BYTES)
    for n in shape:
        count *= n
    if count != places[1] - places[0]:
        raise damaged
    return dtype, shape, places[0], places[1]


def _check_places(path: Path, places: list[tuple[int, int]], room: int) -> None:
    reached = 0
    for begin, end in places:
        if begin != reached:
            raise ValueError(f"{path} has a damaged header (its tensors overlap or have gaps); copy it again")
        reached = end
    if reached > room:
        raise ValueError(
            f"{path} cannot be read as weights ({room:,} of {reached:,} bytes are there); "
            f"it may be cut short, copy it again"
        )
    if reached < room:
        raise ValueError(f"{path} has {room - reached:,} bytes beyond its tensors; copy it again")


def _files(folder: Path) -> list[Path]:
    """All files of a folder's one model."""
    indexes = sorted(folder.glob("*.index.json"))
    if len(indexes) > 1:
        raise ValueError(f"{folder} holds {len(indexes)} models ({_few(indexes)}): leave one, or give one file")
    if indexes:
        return _indexed(indexes[0])
    for suffix in SUFFIXES:
        files = sorted(file for file in folder.glob(f"*{suffix}") if not file.name.startswith("."))
        if any("model_states" in file.name or "optim_states" in file.name for file in files):
            raise ValueError(
                f"{folder} is DeepSpeed's own checkpoint: run its zero_to_fp32.py and give the file that it writes"
            )
        if files:
            return _one_model(folder, files)
    return []


def _one_model(folder: Path, files: list[Path]) -> list[Path]:
    """Several files without an index: pieces that count themselves, or pieces with names of their own."""
    numbers = (re.search(r"(\d{1,6})-of-(\d{1,6})\.", file.name) for file in files)
    counted = [number for number in numbers if number]
    if len(counted) == len(files):
        wanted = int(counted[0][2])
        there = {int(match[1]) for match in counted}
        if len(there) != wanted:
            raise ValueError(f"{folder} has {len(there)} of {wanted} pieces of its weights; fetch the others")
        return files
    if len(files) > 1 and files[0].suffix != ".safetensors":
        raise ValueError(f"{folder} holds {len(files)} files of weights ({_few(files)}): give one of them")
    return files


def _indexed(index: Path) -> list[Path]:
    """The files that an index names: inside its folder, all there."""
    if index.stat().st_size > _MOST_HEADER:
        raise ValueError(f"{index} is no index of weights: it has {index.stat().st_size:,} bytes")
    content = _json(index, index.read_bytes())
    places = content.get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(f"{index} is no index of weights: it lacks a weight_map of files; copy it again")
    names = sorted(set(places.values()))
    outside = [name for name in names if Path(name).name != name or "\\" in name or name in ("", ".", "..")]
    if outside:
        raise ValueError(f"{index} names a file outside of its folder ({outside[0][:80]!r}): do not use it")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise ValueError(
            f"{index} names {len(names)} files, {len(missing)} of them absent ({missing[0][:60]}); fetch them"
        )
    return [index.parent / name for name in names]


def _json(path: Path, content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({str(error)[:100]}); copy it again") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged (its header is a {type(value).__name__}); copy it again")
    return value


def _plain_names(names: list[str], path: Path) -> dict[str, str]:
    """Name in the files → name without what wrappers put before and into it; other models beside it left out."""
    if len(set(names)) != len(names):
        raise ValueError(f"{path} holds the same tensors in several files: give one of the files")
    if any(name.startswith("model.diffusion_model.") for name in names):
        names = [name for name in names if not name.startswith(_BESIDE)]
    plain = {name: _INSIDE.sub("", name) for name in names}
    while plain and (before := _common(plain.values())):
        plain = {name: short.removeprefix(before) for name, short in plain.items()}
    if len(set(plain.values())) != len(plain):
        raise ValueError(f"{path} holds the same tensors under several names: save one state dict alone")
    return plain


def _common(names: Iterable[str]) -> str | None:
    names = list(names)
    return next((before for before in _BEFORE if all(name.startswith(before) for name in names)), None)


def _few(files: list[Path]) -> str:
    names = [file.name[:60] for file in files[:3]]
    return ", ".join(names) + (", ..." if len(files) > 3 else "")
