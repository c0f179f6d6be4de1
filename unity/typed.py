"""JSON's values as the types that dataclasses declare; nothing is believed unread."""

import math
from collections.abc import Collection
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints


def typed(kind: Any, value: Any, name: str = "", optional: Collection[str] = ()) -> Any:
    """JSON's `value` as a `kind`, which may be a dataclass of whose fields the `optional` ones can be left out.

    Raises ValueError, which tells of the field `name`, where it is none.
    """
    if is_dataclass(kind):
        return _dataclass(kind, value, name, optional)
    parts = [part for part in get_args(kind) if part is not type(None)]
    if get_origin(kind) is Literal:
        _must(value in parts, name, value)
        return value
    if type(None) in get_args(kind):
        return None if value is None else typed(parts[0], value, name)
    if get_origin(kind) is dict:
        _must(isinstance(value, dict) and all(isinstance(item, str) for item in value.values()), name, value)
        return value
    if get_origin(kind) is tuple:
        _must(isinstance(value, list), name, value)
        kinds = [parts[0]] * len(value) if get_args(kind)[-1] is Ellipsis else parts
        _must(len(value) == len(kinds), name, value)
        return tuple(typed(part, item, name) for part, item in zip(kinds, value, strict=True))
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


def _dataclass(kind: Any, value: Any, name: str, optional: Collection[str]) -> Any:
    _must(isinstance(value, dict), name or "it", value)
    known = {f.name for f in fields(kind)}
    if unknown := value.keys() - known:
        raise ValueError(f"unknown settings {sorted(unknown)}; it is of another version")
    if missing := known - value.keys() - set(optional):
        raise ValueError(f"it lacks {sorted(missing)}")
    hints = get_type_hints(kind)
    return kind(**{key: typed(hints[key], entry, key, optional) for key, entry in value.items()})


def _must(right: object, name: str, value: Any) -> None:
    if not right:
        raise ValueError(f"{name} is {str(value)[:80]!r}")
