"""Whole-or-absent writing: the only place of the project that renames.

A reader sees a whole file or folder, or none: what is written grows under a temporary name beside its target, is
flushed to the disk and then renamed. Errors and interruptions remove the temporary name. `unity.results` builds on
it the folders of results that a second run may replace.
"""

import errno
import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

# what file systems and desktops put into folders of their own accord
CLUTTER = {"lost+found", ".DS_Store", "Thumbs.db", "desktop.ini"}

# what some readers end a line at
_NOT_IN_LINES = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}
# how names of what is being written begin: hidden, and short enough for every file system
PART = ".part-"


def sha256(path: Path) -> str:
    """Of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Temporary path to write a file to; at the end it is `path`, on an error it is gone.

    A link is followed: the file that it names is replaced. Raises IsADirectoryError where `path` is a folder.
    """
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, and a file is to be written there", str(path))
    with _part(path, path.suffix) as temporary:
        yield temporary
        flush(temporary)
        temporary.replace(path)
        flush(path.parent)


@contextmanager
def whole_folder(
    path: str | Path, last: str | None = None, mine: Callable[[str], object] | None = None
) -> Iterator[Path]:
    """Temporary folder, already made, to fill; at the end it is `path`, on an error it is gone.

    An empty folder, a link to one and an empty mount point are filled instead, with the entry `last`, by which
    readers tell that a folder is whole, moved in at the end. A folder that holds something is replaced only if
    each of its entries is one that an earlier call left: `mine(name)` says so. Else ValueError, before anything
    is written, and again at the end if something came meanwhile.
    """
    path = Path(os.path.realpath(path))
    check_folder_free(path, mine)
    with _part(path / "x" if _is_place(path) else path) as temporary:
        temporary.mkdir()
        yield temporary
        for inside in (*temporary.rglob("*"), temporary):
            flush(inside)
        check_folder_free(path, mine, besides=temporary.name)
        _settle(temporary, path, last)


def check_folder_free(path: Path, mine: Callable[[str], object] | None = None, besides: str = "") -> None:
    """Raises ValueError unless a new folder may be made at `path`: absent, empty, or holding only what is mine."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file, and a folder is to be written there; give another name")
    held = sorted(names(path) - {besides}) if path.exists() else []
    foreign = [name for name in held if mine is None or not mine(name)]
    if foreign:
        raise ValueError(f"{path} holds {foreign[0]!r} already; give the name of a new or empty folder")


def check_writable(path: str | Path) -> None:
    """Raises ValueError unless files can be written in the folder `path`, which need not exist yet.

    It is tried, as that alone tells of read-only places, quotas and names that are too long; what the trial made
    is removed again.
    """
    path, made = Path(os.path.realpath(path)), []
    try:
        for folder in reversed([path, *path.parents]):
            if not folder.exists():
                folder.mkdir()
                made.append(folder)
        trial = path / f"{PART}{os.getpid()}-{secrets.token_hex(4)}"
        trial.write_bytes(b"-")
        trial.unlink()
    except OSError as error:
        place = f" (at {error.filename})" if error.filename and str(error.filename) != str(path) else ""
        raise ValueError(
            f"nothing can be written in {path}: {error.strerror or error}{place}; give another folder"
        ) from error
    finally:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()


def existing(path: str | Path) -> Path:
    """The folder `path`, or the first of those above it that exists: on the disk that `path` will be on."""
    path = Path(os.path.realpath(path))
    return next(folder for folder in (path, *path.parents) if folder.exists())


def check_space(path: str | Path, need: int) -> None:
    """Raises ValueError if the disk of `path`, which need not exist yet, has no `need` bytes to spare."""
    free = shutil.disk_usage(existing(path)).free
    if free < need:
        raise ValueError(
            f"the disk of {path} has {free / 1e6:.0f} MB left, and {need / 1e6:.0f} MB are needed; "
            f"make room there, or give another folder"
        )


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text; bytes of a name that are not UTF-8 are written as \\udcXX, so that readers accept it."""
    with whole_file(path) as temporary:
        temporary.write_bytes(plain(text).encode())
    return Path(path)


def write_json(path: str | Path, value: object, indent: int | None = 2) -> Path:
    """Write JSON that every reader accepts, see `json_text`."""
    return write_text(path, json_text(value, indent) + "\n")


def write_json_lists(path: str | Path, entries: Mapping[str, object]) -> Path:
    """What `write_json` writes of an object without indent; entries that are iterators are lists, as they come."""
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        for number, (key, value) in enumerate(entries.items()):
            file.write(f"{', ' if number else '{'}{json_text(key)}: ")
            file.writelines(_listed(value) if isinstance(value, Iterator) else [json_text(value, None)])
        file.write("}\n")
    return Path(path)


def json_text(value: object, indent: int | None = 2) -> str:
    """JSON as its standard has it: null for what is no number, paths and the like as text, arrays as lists."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def json_line(value: object) -> str:
    """A line of JSON that people can read and search in, in any language; no reader finds more lines in it."""
    text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)
    return text.translate(_NOT_IN_LINES) + "\n"


def plain(text: str) -> str:
    """Text that can be encoded: lone surrogates, which stand for undecodable bytes, become \\udcXX."""
    return text.encode("utf-8", "backslashreplace").decode()


def names(folder: Path) -> set[str]:
    """Names in a folder, without what systems put there and without what is being written."""
    return {name for name in os.listdir(folder) if name not in CLUTTER and not name.startswith(PART)}


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def put(folder: Path, path: Path, aside: Path) -> None:
    """Rename a folder that others have filled and flushed to `path`; what is there is first renamed to `aside`."""
    if path.exists():
        path.rename(aside)
    folder.rename(path)
    flush(path.parent)


def point(link: Path, target: Path) -> None:
    """Make `link` a link to `target`; at no moment is there none."""
    fresh = link.with_name(f"{link.name}.partial")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)


def flush(path: Path) -> None:
    """Wait until a file, or the list of a folder's names, is on the disk."""
    if path.is_symlink() or (os.name == "nt" and path.is_dir()):
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        # some network file systems cannot flush folders
        with suppress(OSError) if path.is_dir() else nullcontext():
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _part(path: Path, suffix: str = "") -> Iterator[Path]:
    """A temporary name beside `path` that is gone at the end, and the folders above it only if nothing failed."""
    missing = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    # np.savez and cv2.imwrite look at the suffix
    temporary = path.with_name(f"{PART}{os.getpid()}-{secrets.token_hex(4)}{suffix[:16]}")
    try:
        yield temporary
    except BaseException:
        remove(temporary)
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise
    remove(temporary)


def _is_place(path: Path) -> bool:
    """A folder that cannot be replaced, or whose owner may not want that: it is filled."""
    return path.is_dir() and (os.path.ismount(path) or not names(path))


def _settle(temporary: Path, path: Path, last: str | None) -> None:
    if temporary.parent == path:
        for name in sorted(os.listdir(temporary), key=lambda name: (name == last, name)):
            (temporary / name).replace(path / name)
        flush(path)
        return
    with _part(path) as old:
        # a folder cannot be renamed onto a folder that holds files
        if path.exists():
            path.rename(old)
        try:
            temporary.rename(path)
        except BaseException:
            if old.exists():
                old.rename(path)
            raise
    flush(path.parent)


def _listed(items: Iterator) -> Iterator[str]:
    """The text of a list, item by item."""
    yield "["
    for index, item in enumerate(items):
        yield ", " * (index > 0) + json_text(item, None)
    yield "]"


def _plain(value: Any) -> object:
    if isinstance(value, dict):
        return {plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    # numbers and arrays of numpy and torch
    return _plain(value.tolist()) if hasattr(value, "tolist") else plain(str(value))
