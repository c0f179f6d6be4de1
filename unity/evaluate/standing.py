"""What a benchmark came to: means with intervals, as JSON, CSV and a page, in the paper's rows and columns."""

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from unity.evaluate import published, video
from unity.evaluate.metrics import Mean, measures, of_all, summary
from unity.evaluate.unibench import OWN, Item
from unity.evaluate.vbench import DIMENSIONS
from unity.files import write_json, write_text
from unity.modality.base import Measure
from unity.modality.coco import Detections
from unity.report.page import Section, Table, page

_OF_VIDEOS = video.MEASURES | {name: row.measure for name, row in DIMENSIONS.items()}
# track → modality → who → measure
Standing = dict[str, dict[str, dict[str, dict[str, Mean]]]]
_WHO = {
    "answer": "the contestant",
    "referee": "read by the referee model",
    "video": "the video itself",
    "trivial": "knowing nothing",
    "classical": "classical",
}


def standing(found: Mapping[Item, dict]) -> Standing:
    """Means over clips of all journals' lines."""
    lists: dict[str, dict[str, dict[str, dict[str, list[float]]]]] = {}
    for item, entry in sorted(found.items(), key=lambda pair: pair[0].place):
        for who, scores in entry["scores"].items():
            place = lists.setdefault(item.track, {}).setdefault(item.modality, {}).setdefault(who, {})
            for name, value in scores.items():
                place.setdefault(name, []).append(np.nan if value is None else value)
    result: Standing = {
        track: {
            modality: {who: {name: summary(values) for name, values in row.items()} for who, row in rows.items()}
            for modality, rows in by_modality.items()
        }
        for track, by_modality in lists.items()
    }
    for (track, modality, who), clips in _detections(found).items():
        result[track][modality][who] |= of_all(modality, clips)
    return result


def _detections(found: Mapping[Item, dict]) -> dict[tuple[str, str, str], list[Detections]]:
    """Of all clips, by track, modality and who, in the clips' order."""
    lists: dict[tuple[str, str, str], list[Detections]] = {}
    for item, entry in sorted(found.items(), key=lambda pair: pair[0].place):
        for who, clip in entry["detections"].items():
            lists.setdefault((item.track, item.modality, who), []).append(clip)
    return lists


def write(folder: Path, name: str, found: Mapping[Item, dict], about: dict) -> list[Path]:
    """`unibench.json`, `unibench.csv` and `unibench.html` in the folder."""
    result = standing(found)
    record = about | {
        "clips": len({(item.track, item.place) for item in found}),
        "seconds": _seconds(found),
        "checksum": _digest(found),
        "standing": _asdict(result),
    }
    head, rows = table_1(name, result)
    sheet = io.StringIO()
    csv.writer(sheet).writerows([head, *rows])
    words = [f"{key}: {_said(value)}" for key, value in record.items() if key != "standing" and value is not None]
    sections = [
        Section(title="The paper's table 1", text=_FIRST, parts=[Table(head=head, rows=rows)]),
        *(_section(track, by_modality) for track, by_modality in result.items()),
    ]
    return [
        write_json(folder / "unibench.json", record),
        write_text(folder / "unibench.csv", sheet.getvalue()),
        write_text(folder / "unibench.html", page(f"UniBench: {name}", "\n\n".join(words), sections)),
    ]


_FIRST = (
    "Rows marked as published are the paper's own numbers (arXiv 2512.07831), of clips that nobody else has: they "
    "tell the order of magnitude, and compare with nothing measured here. A dash is a number that was not asked "
    "for, or that needs networks whose weights do not come along."
)


# of the tables of a track
_SAID = {
    "estimate": "",
    "control": (
        "Whoever reads a video cannot find more in it than they see: what they read from the clips' own videos, "
        "which follow as nothing generated does, bounds the numbers beside it. The referee model's own bound is "
        "what it scores in the track estimate."
    ),
    "joint": (
        "Whoever reads a video cannot find more in it than they see: the bounds that stand in the track control "
        "hold here, too, as both tracks have the same clips."
    ),
}


def table_1(name: str, result: Standing) -> tuple[list[str], list[list[str]]]:
    """Head and rows: the paper's as they are printed, then what was measured."""
    rows = [
        [model, published.NOTE, *("–" if value is None else f"{value:g}" for value in numbers)]
        for model, numbers in published.ROWS.items()
    ]
    for track, by_modality in result.items():
        rows.append([f"{name}, {track}", "measured here", *_cells(track, by_modality)])
        if track == "estimate":
            for who in ("classical", "trivial"):
                rows.append([_WHO[who], "measured here", *_cells(track, by_modality, who)])
    return ["model", "numbers", *published.COLUMNS], rows


def _cells(track: str, by_modality: Mapping, who: str = "answer") -> list[str]:
    cells = []
    for column in published.COLUMNS:
        modality, measure, factor = published.OURS.get(column, ("", "", 1.0))
        if modality == "video" and track != "estimate":
            means = [row["video"][measure].mean for row in by_modality.values() if measure in row.get("video", {})]
            mean = float(np.mean(means)) if means else np.nan
        else:
            # whoever generates is judged by what the referee reads
            judged = who if track == "estimate" else "referee"
            found = by_modality.get(modality, {}).get(judged, {}).get(measure)
            mean = np.nan if found is None else found.mean
        cells.append("–" if np.isnan(mean) else f"{factor * mean:.4g}")
    return cells


def _section(track: str, by_modality: Mapping[str, Mapping[str, Mapping[str, Mean]]]) -> Section:
    tables = []
    for modality, rows in by_modality.items():
        for who, row in rows.items():
            known = _OF_VIDEOS if who == "video" else measures(modality)
            tables.append(
                Table(head=[f"{modality}, {_words(who)}", "mean", "95%", "clips"], rows=_rows(known, row))
            )
    return Section(title=f"Track {track}", text=_SAID[track], parts=tables)


def _words(who: str) -> str:
    name, own, _ = who.partition(OWN)
    return _WHO.get(name, f"read by {name}") + (", of the clip's own video" if own else "")


def _rows(known: Mapping[str, Measure], row: Mapping[str, Mean]) -> list[list[str]]:
    return [
        [
            f"{known[name].words} {'↑' if known[name].more else '↓'}",
            "–" if np.isnan(mean.mean) else f"{mean.mean:.4g}",
            "–" if np.isnan(mean.low) else f"{mean.low:.4g} to {mean.high:.4g}",
            f"{mean.clips}" + (f", {mean.undefined} undefined" if mean.undefined else ""),
        ]
        for name, mean in row.items()
    ]


def _said(value: object) -> str:
    """Nested facts in words."""
    if not isinstance(value, Mapping):
        return str(value)
    return ", ".join(f"{key} ({_said(inner)})" for key, inner in value.items()) or "none"


def _seconds(found: Mapping[Item, dict]) -> dict[str, float]:
    """Processor seconds of a clip and modality, by track."""
    by_track: dict[str, list[float]] = {}
    for item, entry in found.items():
        if entry["scores"]:
            by_track.setdefault(item.track, []).append(entry["seconds"])
    return {track: round(float(np.mean(seconds)), 2) for track, seconds in by_track.items()}


def _digest(found: Mapping[Item, dict]) -> str:
    """One number of all clips' checksums; ValueError where two processes saw different clips."""
    clips: dict[tuple[str, int], str] = {}
    for item, entry in found.items():
        if clips.setdefault((item.track, item.place), entry["checksum"]) != entry["checksum"]:
            raise ValueError(
                f"clip {item.place} of {item.track} is not the same in all parts: their machines simulate "
                f"differently; run all parts with the versions of constraints.txt"
            )
    lines: Iterable[str] = (f"{track} {place} {digest}" for (track, place), digest in sorted(clips.items()))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _asdict(result: object) -> object:
    if isinstance(result, Mapping):
        return {key: _asdict(item) for key, item in result.items()}
    assert isinstance(result, Mean)
    return asdict(result)
