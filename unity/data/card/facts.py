"""The numbers of a card: from dataset.json, and from the ledgers that the tools left beside it."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unity.data.buckets import open_buckets
from unity.data.clips import MODALITY_NAMES
from unity.data.shards import Shards, annotators
from unity.data.told import example


@dataclass(frozen=True, kw_only=True)
class Part:
    """The clips of one source in one bucket."""

    bucket: str
    source: str
    clips: int
    hours: float
    # modality → clips that have it
    views: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """What a tool left out for one reason: a view, a clip, a tar."""

    what: str
    why: str
    count: int
    example: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Of a dataset, or a folder of buckets."""

    name: str
    parts: Sequence[Part]
    # frames a second, by bucket
    rates: Mapping[str, float]
    annotators: annotators.Record
    left_out: Sequence[LeftOut]
    # of latents there are no pictures
    latents: bool

    @property
    def clips(self) -> int:
        return sum(part.clips for part in self.parts)

    @property
    def hours(self) -> float:
        return sum(part.hours for part in self.parts)

    def sums(self, key: Callable[[Part], str]) -> dict[str, int]:
        """Clips by a part's source, or bucket."""
        found: Counter[str] = Counter()
        for part in self.parts:
            found[key(part)] += part.clips
        return dict(found)


def facts_of(folder: Path) -> tuple[Facts, list[Shards]]:
    """The facts, and the datasets that they are of; ValueError where there is none."""
    shards = open_buckets(folder)
    named = {_bucket(one): one for one in shards}
    places = sorted({folder, *(one.folder for one in shards)})
    facts = Facts(
        name=folder.resolve().name,
        parts=[part for name, one in named.items() for part in _parts(name, one)],
        rates={name: one.about["fps"] for name, one in named.items()},
        annotators=annotators.joined(one.about.get("annotators", {}) for one in shards),
        left_out=_left_out(row for place in places for row in _ledgers(place)),
        latents=shards[0].latents is not None,
    )
    return facts, shards


def _bucket(shards: Shards) -> str:
    height, width = shards.about["size"]
    return f"{shards.about['frames']} × {height} × {width}"


def _parts(bucket: str, shards: Shards) -> Iterator[Part]:
    seconds = shards.about["frames"] / shards.about["fps"]
    for source, row in shards.about["sources"].items():
        views = {name: sum(n for n, names in row["available"] if name in names) for name in MODALITY_NAMES}
        hours = row["count"] * seconds / 3600
        yield Part(bucket=bucket, source=source, clips=row["count"], hours=hours, views=views)


def _left_out(rows: Iterator[tuple[str, str, str]]) -> list[LeftOut]:
    """The most frequent first. Of one thing, reasons that differ in numbers or names alone are one."""
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    for what, name, why in rows:
        key = (what, why.partition(" (")[0] if " (" in why else "")
        counts[key] += 1
        examples.setdefault(key, example(name, why))
    return [
        LeftOut(what=what, why=why, count=count, example=examples[what, why])
        for (what, why), count in counts.most_common()
    ]


def _ledgers(folder: Path) -> Iterator[tuple[str, str, str]]:
    """What, its name, and why, of all ledgers that are there."""
    for name, read in _LEDGERS.items():
        if (folder / name).is_file():
            yield from read(folder / name)


def _annotations(path: Path) -> Iterator[tuple[str, str, str]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        told = json.loads(line)
        if told["fault"]:
            yield "clip", told["clip"], told["fault"]
        for modality, row in told["annotators"].items():
            if not row["kept"]:
                yield f"{modality} by {row['name']}", told["clip"], row["why"]


def _collected(path: Path) -> Iterator[tuple[str, str, str]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        told = json.loads(line)
        yield told["kind"], told["name"], told["why"]


def _refused(path: Path) -> Iterator[tuple[str, str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield "row", f"{row['csv']}, line {row['line']}", row["reason"]


# file that a tool leaves in its dataset → its lines
_LEDGERS: dict[str, Callable[[Path], Iterator[tuple[str, str, str]]]] = {
    "annotations.jsonl": _annotations,
    "collected.jsonl": _collected,
    "refused.csv": _refused,
}
