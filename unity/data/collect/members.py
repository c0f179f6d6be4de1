"""The files of a tar, one at a time and each as a file of its own: nothing else of it is ever unpacked."""

import gzip
import lzma
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import cast

from unity.data.curate.job import VIDEOS

TARS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
# words are read whole, up to here
_MOST_WORDS = 1 << 24
_BROKEN = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)


class Cut(Exception):
    """A tar ends too early, or cannot be read any more; what came before is whole."""


def is_tar(path: Path) -> bool:
    return path.name.lower().endswith(TARS)


def is_video(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in VIDEOS


class _Header(tarfile.TarInfo):
    """Remembers how the headers ended: Python takes a damaged one for the end of the tar, without a word."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> "_Header":
        try:
            return cast(_Header, super().fromtarfile(tarfile))
        except Exception as error:
            tarfile.ended = error  # pyright: ignore[reportAttributeAccessIssue]  of this class alone
            raise


def members(path: Path) -> Generator[tuple[str, BufferedReader | None]]:
    """Names in a tar and their bytes, in one pass; None for what is no plain file, and folders are passed over.

    Raises Cut where it does not end as a tar does.
    """
    try:
        with tarfile.open(path, "r|*", tarinfo=_Header) as archive:
            for member in archive:
                if not member.isdir():
                    data = archive.extractfile(member) if member.isfile() else None
                    yield member.name, cast(BufferedReader | None, data)
            ended = getattr(archive, "ended", None)
            if type(ended).__name__ != "EOFHeaderError":
                raise tarfile.ReadError(f"its last header is damaged or not there: {ended}")
    except _BROKEN as error:
        raise Cut(f"{path.name} cannot be read to its end ({error}); fetch it again") from error


@contextmanager
def as_file(name: str, data: BufferedReader) -> Iterator[Path]:
    """A temporary file of a member, for what must be read from a path; of its name it has the ending alone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"member{PurePosixPath(name).suffix.lower()}"
        with path.open("wb") as file:
            try:
                shutil.copyfileobj(data, file, 1 << 20)
            except _BROKEN as error:
                raise Cut(f"it ends inside {name} ({error}); fetch it again") from error
        yield path


def words(name: str, data: BufferedReader) -> str:
    """A text file's words in a line; ValueError for what is no text."""
    try:
        return " ".join(data.read(_MOST_WORDS).decode("utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise ValueError(f"its words are no UTF-8 ({error.reason})") from error
    except _BROKEN as error:
        raise Cut(f"it ends inside {name} ({error}); fetch it again") from error
