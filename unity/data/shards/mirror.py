"""A dataset whose shards lie elsewhere: the folder has all that describes it, and as many shards as may stay.

Its mirror.json says where they lie. A shard comes when it is first wanted, by one process at a time; where the
folder would outgrow its bound, those go that nobody wanted for the longest.
"""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock

from unity.extras import extra
from unity.files import whole_file, write_json

_MARK = "mirror.json"


class NotFetched(ValueError):
    """What a mirror should bring cannot be had."""


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """Where a folder's shards lie, and how many of them stay in it."""

    folder: Path = field(repr=False)
    address: str
    # bytes of the shards that stay, beside those that are just being fetched; None: all
    most: int | None = None

    def mark(self) -> None:
        """Make the folder a mirror."""
        write_json(self.folder / _MARK, {k: v for k, v in asdict(self).items() if k != "folder"})

    def fetch(self, file: str, size: int) -> None:
        """Have a shard here, which the index says has `size` bytes; raises NotFetched."""
        local = self.folder / file
        with suppress(FileNotFoundError):
            # what is used stays
            os.utime(local)
            return
        with FileLock(f"{local}.lock"):
            if not local.exists():
                self._make_room(size)
                download(f"{self.address}/{file}", local)

    def _make_room(self, size: int) -> None:
        if self.most is None:
            return
        with FileLock(self.folder / "mirror.lock"):
            here = {path: path.stat() for path in self.folder.glob("*/[!.]*.mds")}
            over = sum(found.st_size for found in here.values()) + size - self.most
            for path in sorted(here, key=lambda path: here[path].st_mtime_ns):
                if over <= 0:
                    return
                path.unlink(missing_ok=True)
                over -= here[path].st_size


def open_mirror(folder: Path) -> Mirror | None:
    """What the folder is a mirror of, if it is one; ValueError where its mirror.json is damaged."""
    path = folder / _MARK
    if not path.exists():
        return None
    try:
        mirror = Mirror(folder=folder, **json.loads(path.read_text()))
        if not isinstance(mirror.address, str) or not isinstance(mirror.most, int | None):
            raise ValueError("it names no address or bound")
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); make the mirror again") from error
    return mirror


def download(address: str, local: Path) -> None:
    """Bring one file here, whole or not at all, from what mosaicml-streaming reads: s3://, gs://, hf://, a path, …

    Raises NotFetched.
    """
    # seconds of imports that only a mirror needs
    with extra("train"):
        from streaming.base.storage.download import CloudDownloader

    local.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole_file(local) as part:
            CloudDownloader.direct_download(address, str(part))
    # each store has errors of its own
    except Exception as error:
        raise NotFetched(
            f"cannot fetch {address} ({error}); look at the address, your rights and the disk's space"
        ) from error
