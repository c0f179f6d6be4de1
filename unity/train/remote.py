"""A second place for a run's checkpoints: a bucket, or any folder that fsspec knows by an address.

    s3://bucket/run/checkpoints/step-00000100/      the files of the checkpoint; its manifest.json comes last

What has no manifest is not whole, and is passed over. A run that goes on from an address is brought here first.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec

from unity.command import sentence
from unity.files import PART, point, put
from unity.train import folder
from unity.train.kept import Keep, step_of
from unity.train.writer import digest

_MANIFEST = "manifest.json"
_NAME = re.compile(r"step-\d{8,}")


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A run's folder elsewhere."""

    address: str
    # fsspec's file system, and where in it the folder is
    files: Any
    root: str

    def names(self) -> list[str]:
        """The whole checkpoints, newest first."""
        self.files.invalidate_cache()
        try:
            found = self.files.ls(f"{self.root}/checkpoints", detail=False)
        except FileNotFoundError:
            return []
        names = {str(path).rstrip("/").rpartition("/")[2] for path in found}
        whole = [n for n in names if _NAME.fullmatch(n) and self.files.exists(self.path(n, _MANIFEST))]
        return sorted(whole, key=step_of, reverse=True)

    def path(self, name: str, file: str) -> str:
        return f"{self.root}/checkpoints/{name}/{file}"

    def send(self, checkpoint: Path, keep: Keep) -> None:
        """Copy a checkpoint there, and remove those that are surplus; raises what the file system raises."""
        name, here = checkpoint.name, [path for path in checkpoint.rglob("*") if path.is_file()]
        there = {path: self.path(name, path.relative_to(checkpoint).as_posix()) for path in here}
        manifest = there.pop(checkpoint / _MANIFEST)
        if self.files.exists(manifest):
            # an older one of the same step is not whole any more
            self.files.rm_file(manifest)
        for place in sorted({path.rpartition("/")[0] for path in there.values()}):
            self.files.makedirs(place, exist_ok=True)
        self.files.put([str(path) for path in there], list(there.values()))
        self.files.put_file(str(checkpoint / _MANIFEST), manifest)
        for old in keep.surplus({name: self._loss(name) if keep.best else None for name in self.names()}):
            self._remove(old)

    def fetch(self, name: str, checkpoints: Path) -> Path:
        """Bring a checkpoint into a folder; raises ValueError if it is not what its manifest says."""
        final = checkpoints / name
        partial = final.with_name(f"{name}.partial")
        try:
            self._fetch(name, partial)
            put(partial, final, aside=final.with_name(f".{name}"))
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        point(checkpoints.parent / "model", Path("checkpoints") / name / "model")
        return final

    def _fetch(self, name: str, partial: Path) -> None:
        rows = json.loads(self.files.cat_file(self.path(name, _MANIFEST)))
        shutil.rmtree(partial, ignore_errors=True)
        for file, row in rows.items():
            target = partial / file
            if not target.resolve().is_relative_to(partial.resolve()):
                raise ValueError(
                    f"the manifest of {self.address} ({name}) names a file outside of it: {file[:80]}"
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            self.files.get_file(self.path(name, file), str(target))
            if digest(target) != row:
                raise ValueError(f"{file} of {name} at {self.address} is damaged")
        self.files.get_file(self.path(name, _MANIFEST), str(partial / _MANIFEST))

    def try_out(self) -> None:
        """Raises ValueError where nothing can be written."""
        trial = f"{self.root}/{PART}trial"
        try:
            self.files.makedirs(self.root, exist_ok=True)
            self.files.pipe_file(trial, b"-")
            self.files.rm_file(trial)
        # each file system has errors of its own
        except Exception as error:
            raise ValueError(
                f"nothing can be written at --remote {self.address} ({sentence(error)}); look at its name and "
                f"your rights, or leave it out"
            ) from error

    def _loss(self, name: str) -> float | None:
        return json.loads(self.files.cat_file(self.path(name, "state.json"))).get("loss")

    def _remove(self, name: str) -> None:
        """The files that its manifest names, and nothing else."""
        rows = json.loads(self.files.cat_file(self.path(name, _MANIFEST)))
        for file in (_MANIFEST, *rows):
            self.files.rm_file(self.path(name, file))


def address_of(path: Path | str) -> str | None:
    """The address that a path stands for, if it is one; a Path folds its slashes into one."""
    found = re.fullmatch(r"([a-z][a-z0-9+.-]+):/+(.+?)/*", str(path))
    return found and f"{found[1]}://{'/' * (found[1] == 'file')}{found[2]}"


def open_remote(address: str) -> Remote:
    """Raises ValueError for what no installed file system knows; connects to nothing."""
    try:
        files, root = fsspec.url_to_fs(address)
    except ImportError as error:
        raise ValueError(f"{address}: {error}; pip install 'unity-video[remote]' brings S3's") from error
    except ValueError as error:
        raise ValueError(f"{address}: {error}; give an address such as s3://bucket/run") from error
    return Remote(address=address, files=files, root=root.rstrip("/"))


@dataclass(kw_only=True)
class Visit:
    """What is brought here for a run, and taken away again where that is refused before it has begun."""

    say: Callable[[str], None] = print
    # brought, and since when: the time of the run's configuration, which a run that begins writes anew
    brought: list[tuple[Path, int]] = field(default_factory=list)
    # folders that were made for them
    made: list[Path] = field(default_factory=list)

    def bring(self, address: str, out: Path | None) -> Path:
        """What to resume on this machine for a run, or a checkpoint, elsewhere.

        That is the run folder `out`, by default of the same name in runs/, with the newest checkpoint that is
        whole there, unless it has one as new already. Raises ValueError for what cannot be reached.
        """
        found = re.fullmatch(r"(.+)/checkpoints/(step-\d{8,})", address)
        remote = open_remote(found[1] if found else address)
        run = out or Path("runs") / remote.root.rpartition("/")[2]
        self.made += [path for path in (run / "checkpoints", run, *run.parents) if not path.exists()]
        try:
            names = [found[2]] if found else remote.names()
            with folder.held(run):
                checkpoint = self._newest(remote, names, run, bool(found))
        except ValueError:
            raise
        # each file system has errors of its own
        except Exception as error:
            raise ValueError(f"--resume {address} cannot be read: {sentence(error)}") from error
        return checkpoint if found and checkpoint else run

    def _newest(self, remote: Remote, names: list[str], run: Path, asked: bool) -> Path | None:
        """The first of these that is whole, on this machine; None where none is, or the run here is further.

        `asked`: it is one that somebody asks for, however far the run is.
        """
        here = [path.name for path in folder.checkpoints(run)]
        for name in names:
            if name in here:
                return run / "checkpoints" / name
            if here and not asked and step_of(here[0]) > step_of(name):
                return None
            try:
                checkpoint = remote.fetch(name, run / "checkpoints")
            except ValueError as error:
                if asked:
                    raise
                self.say(f"{error}: passing it over")
                continue
            self.brought.append((checkpoint, _begun(run)))
            self.say(f"brought {name} of {remote.address} to {run}")
            return checkpoint
        return None

    def undo(self) -> None:
        """Leave everything as it was before, but for runs that have begun since, also in another process."""
        for checkpoint, begun in self.brought:
            run = checkpoint.parent.parent
            # a run that another process holds is that one's
            with suppress(ValueError), folder.held(run):
                if _begun(run) == begun:
                    _take_away(checkpoint, run)
                    self.say(f"{checkpoint} is removed again")
        for path in self.made:
            # only what is empty goes
            with suppress(OSError):
                path.rmdir()


@contextmanager
def visiting(say: Callable[[str], None] = print) -> Iterator[Visit]:
    """Inside, what is brought stays, unless a ValueError or the command line's own end refuses the run."""
    visit = Visit(say=say)
    try:
        yield visit
    except (ValueError, SystemExit):
        visit.undo()
        raise


def _take_away(checkpoint: Path, run: Path) -> None:
    shutil.rmtree(checkpoint)
    link, left = run / "model", folder.checkpoints(run)
    link.unlink(missing_ok=True)
    if left:
        point(link, Path("checkpoints") / left[0].name / "model")


def _begun(run: Path) -> int:
    path = run / "config.json"
    return path.stat().st_mtime_ns if path.exists() else 0
