"""Where every piece lies, found by what a table calls it or by the key that its clip's files share."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from unity.data.collect.pieces import Where

# group and stream of pieces
_Kind = tuple[str, str]


@dataclass(frozen=True)
class Unread:
    """Files of a kind that nothing asked for."""

    group: str
    stream: str
    files: int
    example: str


class Index:
    """Pieces by group and stream, and then by what they are called."""

    def __init__(self):
        self._found: dict[_Kind, dict[str, list[Where]]] = {}
        self._taken: set[Where] = set()

    def add(self, group: str, stream: str, key: str, where: Where) -> None:
        self._found.setdefault((group, stream), {}).setdefault(key, []).append(where)

    def take(self, where: Where) -> None:
        """ValueError where another clip has it."""
        if where in self._taken:
            raise ValueError(f"{where.member} is a file of an earlier clip")
        self._taken.add(where)

    def find(self, group: str, stream: str, path: str) -> Where:
        """The piece of a file that a table names; of several of one name that with whose path most folders agree.

        Raises ValueError where there is none, or two are as good.
        """
        parts = PurePosixPath(path.replace("\\", "/")).parts
        found = self._found.get((group, stream), {}).get(parts[-1] if parts else "", [])
        if not found:
            raise ValueError(f"{path} is in none of the tars")
        agreeing = [_shared(PurePosixPath(where.member).parts, parts) for where in found]
        best = [where for where, count in zip(found, agreeing, strict=True) if count == max(agreeing)]
        if len(best) > 1:
            raise ValueError(f"{path} is {len(best)} files: {best[0].member} and {best[1].member}")
        return best[0]

    def clips(self) -> Iterator[tuple[str, str, dict[str, list[Where]]]]:
        """Group, key and pieces by stream of everything that has one key."""
        for group in sorted({group for group, _ in self._found}):
            streams = {stream: table for (g, stream), table in self._found.items() if g == group}
            for key in sorted({key for table in streams.values() for key in table}):
                yield group, key, {stream: table[key] for stream, table in streams.items() if key in table}

    def unread(self) -> Iterator[Unread]:
        for (group, stream), table in self._found.items():
            left = [where for rows in table.values() for where in rows if where not in self._taken]
            if left:
                yield Unread(group, stream, len(left), left[0].member)


def _shared(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many parts agree, from the last one on."""
    same = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        same += 1
    return same


def keep_only(folder: Path, names: set[str]) -> None:
    """Remove pieces of units that are none any more, and what a killed job began."""
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink(missing_ok=True)
