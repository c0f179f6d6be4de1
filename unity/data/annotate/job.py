"""Annotation: curated clips → windows of frames → annotators and gates → shards, a ledger, and a card."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from unity.command import check_bounds, real, whole
from unity.data import engine
from unity.data.annotate.base import Annotator
from unity.data.annotate.clip import worker
from unity.data.annotate.table import GATES, WEIGHTS, annotators
from unity.data.card.write import write_card
from unity.data.claim import refuse_taken
from unity.data.clips import MODALITY_NAMES
from unity.data.curate.ledger import CLIPS, read_lines
from unity.data.engine import Cluster, Record
from unity.data.rules import chosen
from unity.data.shards.annotators import made_by
from unity.data.shards.write import Sample, write_encoded
from unity.data.told import example, told
from unity.data.weights import found_weights
from unity.files import check_writable, json_line, write_json, write_text

LEDGER, SUMMARY = "annotations.jsonl", "annotations.json"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Annotate the clips that `unity.data.curate` kept, and write the shards that training reads."""

    # folder of a curation
    curated: tyro.conf.Positional[Path]
    # dataset to write; it must not exist, or be empty. OUT.work beside it holds what is done so far
    out: Path
    # of each clip; the codec wants 4k + 1
    frames: Annotated[int, whole(1, 10_000)] = 33
    # height and width in pixels
    size: Annotated[int, whole(16, 4096)] = 256
    # frames a second
    fps: Annotated[float, real(0, 1000, above=True)] = 16.0
    # at most, one after the other, that are cut from a clip which is long enough
    windows: Annotated[int, whole(1, 10_000)] = 1
    # who annotates, one a modality; left out: all that can with the weights that are there
    annotators: tuple[str, ...] | None = None
    # NAME=PATH of annotators that have weights
    weights: tuple[str, ...] = ()
    # who describes clips that have no words, such as BLIP: a folder as transformers saves it, or a name of the hub
    captioner: str | None = None
    # JSON file {gate: threshold, or null to leave it out}
    gates: Path | None = None
    cluster: tyro.conf.OmitArgPrefixes[Cluster] = field(default_factory=Cluster)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What an annotation left."""

    out: str
    clips: int
    written: int
    # modality → annotator, how many clips have it, how many lost it at a gate
    annotators: Mapping[str, str]
    available: Mapping[str, int]
    # clips that the captioner described; clips without any words
    described: int
    wordless: int
    # gate or fault → how many, and an example
    left_out: Mapping[str, int]
    why: Mapping[str, str]
    work: str

    def __str__(self) -> str:
        views = {name: f"{self.available.get(name, 0)} by {who}" for name, who in self.annotators.items()}
        views |= {name: "absent, nobody annotates it" for name in MODALITY_NAMES if name not in views}
        more = [f"{self.described} described by the captioner"] * bool(self.described)
        head = f"{self.out}: {self.written} of {self.clips} clips"
        return told(head, views, self.wordless, self.left_out, self.why, self.work, more)


def annotate(options: Options) -> Summary:
    """Write the dataset, with every annotation's fate beside it; ValueError if no clip is left."""
    check_bounds(options)
    refuse_taken(options.out)
    weights = found_weights(options.weights, WEIGHTS)
    chosen_rows = annotators(options.annotators, weights)
    settings = _settings(options, chosen_rows, weights)
    rows = windows(read_lines(options.curated / CLIPS), options.frames, options.fps, options.windows)
    if not rows:
        raise ValueError(f"no clip of {options.curated} lasts {options.frames} frames at {options.fps:g} a second")
    work = options.out.with_name(f"{options.out.name}.work")
    check_writable(work)
    # told before any clip is: a fault of the weights is no fault of all clips
    worker(**settings)
    lost = engine.run(work, rows, worker, settings, options.cluster)
    write_encoded(_samples(work, rows), options.out)
    return _write_results(options.out, work, rows, lost, chosen_rows)


def windows(clips: list[Record], frames: int, fps: float, most: int) -> dict[str, Record]:
    """Stretches of `frames` frames, one after the other from the beginning of each clip, by name."""
    found, length = {}, (frames - 1) / fps
    for clip in clips:
        # a film says its last frame's beginning, not its end
        room = clip["end"] - clip["start"] + 1e-6
        count = min(most, int((room + 1 / fps) / (length + 1 / fps)) if room >= length else 0)
        for number in range(count):
            start = clip["start"] + number * (length + 1 / fps)
            row = {key: clip[key] for key in ("video", "source", "caption")}
            found[f"{clip['clip']}-{number:02}"] = row | {"start": start, "end": start + length, "rate": fps}
    return found


def _settings(options: Options, rows: Mapping[str, Annotator], weights: Mapping[str, Path]) -> Record:
    """All that a clip's sample depends on, but for the clip."""
    gates = {modality: [vars(rule) for rule in chosen(GATES[modality], None, None)] for modality in rows}
    if options.gates:
        table = [rule for rules in GATES.values() for rule in rules]
        kept = {rule.name: rule for rule in chosen(table, None, options.gates)}
        gates = {m: [vars(kept[r.name]) for r in GATES[m] if r.name in kept] for m in rows}
    return {
        "names": sorted(row.name for row in rows.values()),
        "weights": {name: str(path) for name, path in weights.items()},
        "gates": gates,
        "frames": options.frames,
        "size": [options.size, options.size],
        "device": "cuda" if options.cluster.gpus else "cpu",
        "words": options.captioner and _place(options.captioner),
    }


def _place(captioner: str) -> str:
    """A folder's path from the root, since workers may be elsewhere; a name of the hub as it is."""
    return str(Path(captioner).resolve()) if Path(captioner).exists() else captioner


def _samples(work: Path, rows: Mapping[str, Record]) -> Iterator[Sample]:
    for name, record, data in engine.results(work):
        if name in rows and "sample" in record:
            facts, columns, at = record["sample"], {}, 0
            for column, length in facts["columns"].items():
                columns[column] = data[at : at + length]
                at += length
            about = {key: facts[key] for key in ("frames", "size", "fps")}
            who = made_by(record, facts["available"])
            yield Sample(name, facts["source"], about, facts["available"], columns, who)


def _line(name: str, record: Record, fault: str | None) -> Record:
    """What the ledger says of a clip."""
    said = {key: record[key] for key in ("caption", "captioner") if key in record}
    return {"clip": name, "annotators": record.get("annotators", {}), "fault": fault} | said


def _write_results(
    out: Path, work: Path, rows: Mapping[str, Record], lost: Mapping[str, str], who: Mapping[str, Annotator]
) -> Summary:
    done = {name: record for name, record in engine.records(work) if name in rows}
    faults = {name: record["error"] for name, record in done.items() if "error" in record} | dict(lost)
    good = {name: record for name, record in done.items() if "error" not in record}
    made = {name: record["annotators"] for name, record in good.items()}
    lines = [_line(name, good.get(name, {}), faults.get(name)) for name in sorted(rows)]
    write_text(out / LEDGER, "".join(map(json_line, lines)))
    kinds = [(name, modality, row) for name, rows in made.items() for modality, row in rows.items()]
    refused = [(f"{m} by {row['name']}", f"{name}: {row['why']}") for name, m, row in kinds if not row["kept"]]
    refused += [("clip", example(name, fault)) for name, fault in sorted(faults.items())]
    summary = Summary(
        out=str(out),
        clips=len(rows),
        written=len(made),
        annotators={modality: row.name for modality, row in who.items()},
        available=dict(Counter(m for rows in made.values() for m, row in rows.items() if row["kept"])),
        described=sum("captioner" in record for record in good.values()),
        wordless=sum(record.get("caption") == "" for record in good.values()),
        left_out=dict(Counter(kind for kind, _ in refused)),
        why=dict(reversed(refused)),
        work=str(work),
    )
    write_json(out / SUMMARY, vars(summary))
    write_card(out)
    return summary
