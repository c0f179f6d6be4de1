"""Modalities of a user's own: rows in Python files, beside those of `unity.modality.table`.

Every `Modality` that a file names is a row, in the order in which they stand there. `--modalities my_normals.py`
names the files, or the environment's UNITY_MODALITIES does, which processes that a command starts inherit.
"""

import json
import os
import re
import runpy
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from unity.modality.base import Modality

VARIABLE = "UNITY_MODALITIES"
_FLAG = "--modalities"


def use(files: Iterable[Path]) -> None:
    """Let the table have the rows of these files, too; to be called before anything imports it.

    Raises ValueError for files that are not there.
    """
    paths = [Path(file).absolute() for file in files]
    if not paths:
        return
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise ValueError(f"{missing[0]} is not there; {_FLAG} names Python files with rows of modalities")
    words = os.pathsep.join(map(str, paths))
    if "unity.modality.table" in sys.modules and os.environ.get(VARIABLE, "") != words:
        raise ValueError(f"the modalities of this process are settled; set {VARIABLE}={words} before it starts")
    os.environ[VARIABLE] = words


def use_arguments(args: Sequence[str]) -> None:
    """The same for the files that a command line names, or that the run did that it resumes."""
    files: list[str] = []
    if _FLAG in args:
        after = args[args.index(_FLAG) + 1 :]
        stop = next((place for place, word in enumerate(after) if word.startswith("--")), len(after))
        files = list(after[:stop])
    elif "--resume" in args[:-1]:
        files = _of_run(Path(args[args.index("--resume") + 1]))
    use(map(Path, files))


def plugged(known: Mapping[str, Modality]) -> dict[str, Modality]:
    """The rows of the files that are in use. Raises ValueError for what cannot stand beside those `known`."""
    rows = dict(known)
    for file in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        found = _rows(Path(file))
        for row in found:
            _check(Path(file), row, rows)
            rows[row.name] = row
    return {name: row for name, row in rows.items() if name not in known}


def _rows(file: Path) -> list[Modality]:
    try:
        content = runpy.run_path(str(file))
    # whatever a user's own file does
    except Exception as error:
        words = " ".join(str(error).split())
        raise ValueError(
            f"{file} cannot be loaded for its modalities ({type(error).__name__}: {words})"
        ) from error
    rows = [value for value in content.values() if isinstance(value, Modality)]
    if not rows:
        raise ValueError(f"{file} makes no unity.modality.base.Modality; give a file that does")
    return rows


def _check(file: Path, row: Modality, known: Mapping[str, Modality]) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", row.name) or row.name in (*known, "rgb"):
        raise ValueError(f"{file} has a modality {row.name!r}: give a name of its own, in small letters")
    if row.like not in known:
        raise ValueError(
            f"{file}: {row.name} is like {row.like!r}; say with `like` which of {', '.join(known)} it starts as"
        )
    if "trivial" not in row.baselines or not row.measures:
        raise ValueError(f"{file}: {row.name} needs a measure, and a baseline 'trivial' that knows nothing")


def _of_run(run: Path) -> list[str]:
    """The files that a run's configuration names."""
    for folder in (run, *run.parents[:2]):
        try:
            return [str(name) for name in json.loads((folder / "config.json").read_bytes()).get("modalities", [])]
        except (OSError, ValueError, AttributeError, TypeError):
            continue
    return []
