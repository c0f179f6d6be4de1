"""A `.pt` file looked through before torch reads it: what it would take and call, without calling anything."""

import pickletools
import re
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# of a real state dict with 3,000 tensors it is half a megabyte
_MOST_PICKLE = 16 << 20
_MOST_DIRECTORY = 16 << 20
# what tensors and their containers are rebuilt with; all else a pickle may call is refused
_CALLS = re.compile(
    r"torch\._utils _rebuild_(tensor_v[23]|parameter)|collections OrderedDict|torch Size|torch device"
    r"|torch (\w+Storage|float\d+\w*|bfloat16|int\d+|uint8|bool)|torch\.storage (Untyped|Typed)Storage"
)
# entries of a training checkpoint that hold its model, averaged weights first
_CONTAINERS = ("ema", "model_ema", "ema_state_dict", "ema_model", "params_ema", "state_dict", "model_state_dict")
_CONTAINERS += ("model", "module", "generator", "network", "net", "dit", "transformer", "params", "weights")


def read_pickled(path: Path) -> dict[str, Tensor]:
    """The state dict in a file of torch.save; tensors lie in the file until they are used.

    Raises ValueError, before anything is unpickled, for an archive larger unpacked than packed, for what calls
    anything but the rebuilding of tensors, and for what holds no state dict.
    """
    data = _checked_pickle(path)
    _check_calls(path, data)
    try:
        value = _load(path)
    # a damaged pickle can fail in its reader in any way
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} cannot be read as weights ({words}); it is damaged, copy it again") from error
    return _state(path, value)


def _load(path: Path) -> Any:
    how: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    if path.suffix != ".safetensors":
        return torch.load(path, mmap=True, **how)
    # by that suffix torch would take it for what it is not; a file has none
    with path.open("rb") as file:
        return torch.load(file, **how)


def _checked_pickle(path: Path) -> bytes:
    """The pickle inside an archive that holds what it says it holds."""
    if _directory_size(path) > _MOST_DIRECTORY:
        raise ValueError(f"{path} is an archive of more files than a model has; give the weights")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            pickles = [entry for entry in entries if re.fullmatch(r"([^/]+/)?data\.pkl", entry.filename)]
            names = {entry.filename.rpartition("/")[2] for entry in entries}
            _check_entries(path, entries, names, len(pickles))
            return archive.read(pickles[0])
    except (zipfile.BadZipFile, EOFError, struct.error, NotImplementedError, RuntimeError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as weights ({error}); it may be cut short, copy it again"
        ) from error


def _check_entries(path: Path, entries: list[zipfile.ZipInfo], names: set[str], pickles: int) -> None:
    if "constants.pkl" in names:
        raise ValueError(f"{path} is a compiled program (TorchScript): give the state dict that it was made of")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        total = sum(entry.file_size for entry in entries)
        raise ValueError(
            f"{path} is an archive, compressed ({total / 1e9:.1f} GB unpacked), which torch never writes: "
            f"unpack it if you trust it, and give what is inside"
        )
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError(f"{path} is an archive that says it holds more than it does: do not use it")
    if pickles != 1:
        what = "numpy arrays" if any(name.endswith(".npy") for name in names) else "files"
        raise ValueError(f"{path} is an archive of {what} and not a checkpoint: unpack it and give what is inside")
    if any(entry.file_size > _MOST_PICKLE for entry in entries if entry.filename.endswith("data.pkl")):
        raise ValueError(f"{path} holds far more than tensors: load it where it was made, save its state dict")


def _directory_size(path: Path) -> int:
    """Bytes of an archive's list of contents, as the end of the file tells it; 0 where there is no such end."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 16) - 22))
        end = file.read()
    place = end.rfind(b"PK\x05\x06")
    if place < 0 or place + 22 > len(end):
        return 0
    size = int.from_bytes(end[place + 12 : place + 16], "little")
    wide = end.rfind(b"PK\x06\x06", 0, place)
    if wide >= 0 and wide + 48 <= len(end):
        size = max(size if size != 0xFFFFFFFF else 0, int.from_bytes(end[wide + 40 : wide + 48], "little"))
    return size


def _check_calls(path: Path, data: bytes) -> None:
    try:
        foreign = sorted({name for name in _calls(data) if not _CALLS.fullmatch(name)})
    # the listing of a damaged pickle can fail in any way
    except Exception as error:
        raise ValueError(f"{path} is damaged ({str(error)[:200]}); copy it again") from error
    if foreign:
        named = ", ".join(name.replace(" ", ".")[:80] for name in foreign[:3])
        raise ValueError(
            f"{path} holds more than tensors ({named}), such as a whole module, and reading it would run code: "
            f"load it where you trust it, and save its state_dict()"
        )


def _calls(data: bytes) -> Iterator[str]:
    """Everything that a pickle names to be called."""
    for operation, argument, _ in pickletools.genops(data):
        if operation.name in ("GLOBAL", "INST"):
            yield str(argument)
        elif operation.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4", "OBJ", "NEWOBJ_EX"):
            yield f"{operation.name.lower()} of a newer pickle"


def _state(path: Path, value: Any, depth: int = 0) -> dict[str, Tensor]:
    """The state dict that an object is or holds."""
    if not isinstance(value, dict):
        what = (
            f"one {type(value).__name__}" if depth == 0 else f"a {type(value).__name__} in place of a state dict"
        )
        raise ValueError(f"{path} holds {what}: save the model's state_dict()")
    tensors = {name: item for name, item in value.items() if isinstance(name, str) and isinstance(item, Tensor)}
    inner = [name for name in _CONTAINERS if isinstance(value.get(name), dict) and value[name]]
    if depth < 3 and inner and len(tensors) < 16:
        return _state(path, value[inner[0]], depth + 1)
    if not tensors and "param_groups" in value:
        raise ValueError(f"{path} is an optimizer's state: give the model's weights beside it")
    if not tensors:
        few = ", ".join(repr(str(name)[:40]) for name in list(value)[:4])
        raise ValueError(f"{path} holds no state dict (it has {few or 'nothing'}): save the model's state_dict()")
    return tensors
