"""The configuration of a run as JSON, and back: nothing that a file says is believed unread."""

import json
import math
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from unity.command import check_bounds
from unity.files import write_json
from unity.train import folder
from unity.train.options import Options

# settings that older runs did not keep: they spoke our words, adapted and recomputed nothing and cut no sequences
_LATER = {"type_prompts", "encodings", "lora", "modalities", "only", "sequence_parallel", "recompute", "plan"}


def to_plain(config: Options) -> dict:
    """As JSON has it."""
    return json.loads(json.dumps(asdict(config), default=str))


def write_config(config: Options, path: Path) -> None:
    write_json(path, asdict(config))


def read_config(run: Path) -> Options:
    """The configuration of a run folder, from config.json, else from its newest checkpoint, which carries it too.

    Raises ValueError where neither can be read.
    """
    faults = []
    for content, place in folder.configurations(run):
        if isinstance(content, str):
            faults.append(f"{place} {content}")
            continue
        try:
            return _checked(content, place)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            faults.append(f"{place} holds no configuration of this version ({error})")
    raise ValueError(f"{'; '.join(faults)}; give another --resume, or --init {run}/model for its weights alone")


def _checked(content: object, place: Path) -> Options:
    options = _from_plain(Options, content, "")
    check_bounds(options)
    return options


def _from_plain(kind: Any, value: Any, name: str) -> Any:
    """JSON's value as the type that a field is declared with; raises ValueError where it is none."""
    if is_dataclass(kind):
        return _dataclass(kind, value, name)
    parts = [part for part in get_args(kind) if part is not type(None)]
    if get_origin(kind) is Literal:
        _must(value in parts, name, value)
        return value
    if type(None) in get_args(kind):
        return None if value is None else _from_plain(parts[0], value, name)
    if get_origin(kind) is dict:
        _must(isinstance(value, dict) and all(isinstance(item, str) for item in value.values()), name, value)
        return value
    if get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis:
        _must(isinstance(value, list), name, value)
        return tuple(_from_plain(get_args(kind)[0], item, name) for item in value)
    if get_origin(kind) is tuple:
        _must(isinstance(value, list) and len(value) == len(parts), name, value)
        return tuple(_from_plain(part, item, name) for part, item in zip(parts, value, strict=True))
    if kind is Path:
        _must(isinstance(value, str), name, value)
        return Path(value)
    number = isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        right = number or isinstance(value, float) and math.isfinite(value)
    else:
        right = number if kind is int else isinstance(value, kind)
    _must(right, name, value)
    return value


def _dataclass(kind: Any, value: Any, name: str) -> Any:
    _must(isinstance(value, dict), name or "it", value)
    known = {f.name for f in fields(kind)}
    if unknown := value.keys() - known:
        raise ValueError(f"unknown settings {sorted(unknown)}; it is of another version")
    if missing := known - value.keys() - _LATER:
        raise ValueError(f"it lacks {sorted(missing)}")
    hints = get_type_hints(kind)
    return kind(**{key: _from_plain(hints[key], entry, key) for key, entry in value.items()})


def _must(right: object, name: str, value: Any) -> None:
    if not right:
        raise ValueError(f"{name} is {str(value)[:80]!r}")
