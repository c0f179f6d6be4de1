"""Folders of results that a second run may replace, without ever losing what is not its own.

The record in the folder (a JSON file) lists the files of its run with their SHA-256; only these are ever replaced.
New results grow in a hidden folder inside. When they are whole there, the old record goes first and the new one
comes last: a folder with a record is whole, and what a crash interrupts in between is completed by the next run.
"""

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from unity.files import PART, check_space, check_writable, flush, json_text, names, sha256, write_json

_STAGE = f"{PART}results-"


@dataclass(frozen=True)
class Results:
    """The folder `path` for results of `program`, told of by its file `record`."""

    path: Path
    program: str
    record: str

    @property
    def folder(self) -> Path:
        """The folder itself, where `path` is a link."""
        return Path(os.path.realpath(self.path))

    def check(self, planned: Iterable[str], inputs: Iterable[Path] = (), need: int = 0) -> None:
        """Refuse (ValueError) what would fail or lose something later, and write nothing.

        `planned`: names of the files and folders to come; `inputs`: files that the run reads; `need`: bytes.
        What a crash interrupted is completed or removed first.
        """
        check_writable(self.path)
        if self.folder.is_dir():
            with _locked(self.folder):
                self._recover()
                owned = self._owned()
                self._refuse_conflicts(owned, planned)
            for path in map(os.path.realpath, inputs):
                if path in {str(self.folder / name) for name in owned}:
                    raise ValueError(
                        f"{path} is one of the results that this run would replace in {self.path}; "
                        f"give another --out"
                    )
        check_space(self.path, need)

    @contextmanager
    def writing(self, about: dict) -> Iterator[Path]:
        """A folder to fill with the results; at the end they and `about`, the record, replace the earlier ones.

        The record gains `program` and `files`. Until the end, and on an error, the earlier results stay.
        """
        missing = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        stage = self.folder / f"{_STAGE}{secrets.token_hex(4)}"
        (stage / "new").mkdir(parents=True)
        try:
            with _locked(stage):
                yield stage / "new"
                self._seal(stage / "new", about)
                with _locked(self.folder):
                    owned = self._owned()
                    new = _files(stage / "new")
                    self._refuse_conflicts(owned, new)
                    # from here on the new results are the ones that count
                    write_json(stage / "commit.json", sorted(owned.keys() - new))
                    self._apply(stage)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
            for folder in missing:
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def files(self) -> list[Path]:
        """Files and folders that the record tells of, and the record, as paths below `path`."""
        tops = {PurePosixPath(name).parts[0] for name in self._owned()}
        return sorted(self.path / name for name in tops | {self.record})

    def _seal(self, new: Path, about: dict) -> None:
        digests = {name: sha256(new / name) for name in sorted(_files(new))}
        (new / self.record).write_text(json_text({"program": self.program} | about | {"files": digests}) + "\n")
        for path in (*new.rglob("*"), new):
            flush(path)

    def _apply(self, stage: Path) -> None:
        """Let the new results take the old ones' place; done twice, it does the same."""
        new = stage / "new"
        if (new / self.record).exists():
            (self.folder / self.record).unlink(missing_ok=True)
            flush(self.folder)
            for name in json.loads((stage / "commit.json").read_text()):
                (self.folder / name).unlink(missing_ok=True)
                _remove_empty((self.folder / name).parent, self.folder)
            for name in sorted(_files(new), key=lambda name: (name == self.record, name)):
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (new / name).replace(self.folder / name)
            flush(self.folder)

    def _recover(self) -> None:
        for stage in self.folder.glob(f"{_STAGE}*"):
            with _locked(stage, wait=False) as abandoned:
                if abandoned and (stage / "commit.json").exists():
                    self._apply(stage)
                if abandoned:
                    shutil.rmtree(stage)

    def _owned(self) -> dict[str, str]:
        """Name → SHA-256 of the earlier run's files, its record among them without one."""
        if not names(self.folder):
            return {}
        try:
            about = json.loads((self.folder / self.record).read_bytes())
            listed = dict(about["files"]) if about["program"] == self.program else {}
            if listed and all(isinstance(digest, str) and _is_inside(name) for name, digest in listed.items()):
                return listed | {self.record: ""}
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise ValueError(
            f"{self.path} exists and holds no earlier results of this program (no {self.record} that lists its "
            f"files); give another --out"
        )

    def _refuse_conflicts(self, owned: dict[str, str], planned: Iterable[str]) -> None:
        for name in owned:
            path = self.folder / name
            there = os.path.realpath(path) == str(path) and path.is_file()
            if path.is_symlink() or path.exists() and not (there and owned[name] in ("", sha256(path))):
                raise ValueError(
                    f"{self.path / name} was changed after this program wrote it; move it away, or give "
                    f"another --out"
                )
        for name in planned:
            top = self.folder / name
            below = {f"{name}/{inside}" for inside in _files(top)} if top.is_dir() else {name}
            foreign = sorted(one for one in below - owned.keys() if os.path.lexists(self.folder / one))
            if foreign:
                raise ValueError(
                    f"{self.path / foreign[0]} is not from an earlier run, and would be replaced; move it away, "
                    f"or give another --out"
                )


def _files(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    }


def _is_inside(name: str) -> bool:
    """A name in a record leads nowhere else."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _remove_empty(folder: Path, top: Path) -> None:
    while folder != top and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


@contextmanager
def _locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the folder against other processes; False if it is theirs and `wait` is not wanted.

    A lock ends with its process, however that ends. Where folders cannot be locked there is none.
    """
    try:
        import fcntl
    except ImportError:
        yield wait
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        except OSError:
            # a file system without locks
            yield wait
            return
        yield True
    finally:
        os.close(descriptor)
