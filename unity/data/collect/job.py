"""Collection: tars or folders → pieces, one view of one clip each → joined clips in shards, and a ledger."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from unity.command import check_bounds, real, whole
from unity.data import engine
from unity.data.card.write import write_card
from unity.data.claim import refuse_taken
from unity.data.clips import MODALITY_NAMES, SOURCES
from unity.data.collect.index import Index, keep_only
from unity.data.collect.join import Ledger, keyed, named, samples
from unity.data.collect.layouts import LAYOUTS, Unit, layout_of
from unity.data.collect.pieces import Taken, Where, unit_worker
from unity.data.engine import Cluster
from unity.data.shards.write import write_encoded
from unity.data.told import example, told
from unity.files import check_writable, json_line, write_json, write_text

LEDGER, SUMMARY = "collected.jsonl", "collected.json"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Stream clips that others packed into shards that training reads; the same command goes on."""

    # OpenUni as its hub has it, tars of WebDataset, or a folder of videos with sidecars; one tar, too
    place: tyro.conf.Positional[Path]
    # of all clips; or GROUP=SOURCE for each group (a folder of the place), such as Koala36M=general
    source: tuple[str, ...]
    # dataset to write; it must not exist, or be empty. OUT.work beside it holds what is done so far
    out: Path
    # how the place is packed: openuni, webdataset or folder; left out: as it looks
    layout: str | None = None
    # of each clip, spread evenly over its video; the codec wants 4k + 1
    frames: Annotated[int, whole(1, 10_000)] = 33
    # height and width in pixels
    size: Annotated[int, whole(16, 4096)] = 256
    # frames a second that the clips are then said to have
    fps: Annotated[float, real(0, 1000, above=True)] = 16.0
    cluster: tyro.conf.OmitArgPrefixes[Cluster] = field(default_factory=Cluster)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a collection left."""

    out: str
    layout: str
    units: int
    clips: int
    # modality → clips that have it
    available: Mapping[str, int]
    # clips without a caption
    wordless: int
    # tar, clip, file or view → how many are not as they should be, and an example
    left_out: Mapping[str, int]
    why: Mapping[str, str]
    work: str

    def __str__(self) -> str:
        head = f"{self.out}: {self.clips} clips ({self.layout})"
        views = {name: str(count) for name, count in self.available.items()}
        return told(head, views, self.wordless, self.left_out, self.why, self.work)


def collect(options: Options) -> Summary:
    """Write the dataset and its ledger; ValueError if no clip is left."""
    check_bounds(options)
    refuse_taken(options.out)
    layout = layout_of(options.place, options.layout)
    units, missing = LAYOUTS[layout].units(options.place)
    work, ledger = options.out.with_name(f"{options.out.name}.work"), Ledger()
    units = _afresh(work, units)
    sources = sources_of(options.source, {unit.group for unit in units})
    taken = Taken(frames=options.frames, size=(options.size, options.size), fps=options.fps)
    check_writable(work)
    lost = _read_units(work, units, layout, taken, options.cluster)
    for name, why in (*missing, *lost.items()):
        ledger.add("tar" if layout != "folder" else "file", name, why)
    index, table = _index(work, units, ledger), LAYOUTS[layout].table
    clips = named(table(options.place), index) if table else keyed(index)
    write_encoded(samples(clips, index, sources, taken, ledger), options.out)
    return _write_results(options.out, layout, len(units), work, ledger)


def sources_of(words: Sequence[str], groups: set[str]) -> dict[str, str]:
    """The source of each group of clips; ValueError where it is not said of one, or of what is none."""
    alone = [word for word in words if "=" not in word]
    given = dict(word.split("=", 1) for word in words if "=" in word)
    unknown = [word for word in (*alone, *given.values()) if word not in SOURCES]
    if unknown or len(alone) > 1:
        raise ValueError(
            f"--source {(unknown or alone)[0]}: give one of {', '.join(SOURCES)}, or GROUP=SOURCE each"
        )
    if strange := sorted(given.keys() - groups):
        raise ValueError(f"--source {strange[0]}=…: there is no such group, only {', '.join(sorted(groups))}")
    found = dict.fromkeys(groups, alone[0]) | given if alone else given
    if missing := sorted(groups - found.keys()):
        raise ValueError(f"--source says nothing of {missing[0]!r}; give {missing[0]}=general, or one for all")
    return found


def _afresh(work: Path, units: Sequence[Unit]) -> list[Unit]:
    """With other names for tars that could not be read to their end: fetched again, they may be as large."""
    damaged = {name for name, record in engine.records(work) if record.get("fault")}
    return [replace(u, name=f"{u.name}, {_changed(u)}") if u.name in damaged else u for u in units]


def _changed(unit: Unit) -> str:
    return f"of {Path(unit.record['tar']).stat().st_mtime_ns}"


def _read_units(work: Path, units: Sequence[Unit], layout: str, taken: Taken, cluster: Cluster) -> dict[str, str]:
    """Those that are not read yet; why some are not even so."""
    pieces = _pieces(work)
    pieces.mkdir(parents=True, exist_ok=True)
    rows = {unit.name: dict(unit.record) | {"pieces": str(pieces / _file(unit))} for unit in units}
    settings = {"layout": layout, "frames": taken.frames, "size": list(taken.size), "fps": taken.fps}
    lost = engine.run(work, rows, unit_worker, settings, cluster)
    keep_only(pieces, {_file(unit) for unit in units})
    return lost


def _pieces(work: Path) -> Path:
    return work.resolve() / "pieces"


def _file(unit: Unit) -> str:
    return hashlib.sha256(unit.name.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _index(work: Path, units: Sequence[Unit], ledger: Ledger) -> Index:
    """Where every piece is; what could not be read is told of."""
    index, by_name = Index(), {unit.name: unit for unit in units}
    for name, record in engine.records(work):
        if (unit := by_name.get(name)) is None:
            continue
        if fault := record.get("error") or record.get("fault"):
            ledger.add("tar", name, fault)
        for ending, count in record.get("strange", {}).items():
            ledger.add("file", f"{count} × {ending} in {name}", "nothing that is known here")
        for member, stream, key, at, head, size in record.get("rows", ()):
            where = Where(member, _pieces(work) / _file(unit), at, head, size)
            index.add(unit.group, stream, unit.prefix + key, where)
    return index


def _write_results(out: Path, layout: str, units: int, work: Path, ledger: Ledger) -> Summary:
    lines = [{"kind": kind, "name": name, "why": why} for kind, name, why in ledger.lines]
    write_text(out / LEDGER, "".join(map(json_line, lines)))
    summary = Summary(
        out=str(out),
        layout=layout,
        units=units,
        clips=ledger.taken["rgb"],
        available={name: ledger.taken[name] for name in MODALITY_NAMES if ledger.taken[name]},
        wordless=ledger.wordless,
        left_out=dict(Counter(kind for kind, _, _ in ledger.lines)),
        why={kind: example(name, why) for kind, name, why in reversed(ledger.lines)},
        work=str(work),
    )
    write_json(out / SUMMARY, vars(summary))
    write_card(out)
    return summary
