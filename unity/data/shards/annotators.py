"""Who annotated a dataset: per modality the annotators of its clips, with versions and settings, and of how many.

Every clip's `meta` says who made its views (unity.data.annotate); dataset.json keeps the sums, so that nobody has
to read a million clips to know them.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from unity.data.clips import MODALITY_NAMES

# (modality, its annotator as JSON) → clips
Tally = Counter[tuple[str, str]]
# what dataset.json has: modality → [clips, {name, versions, settings}], most clips first
Record = dict[str, list]
_MOST_NAME = 200


def made_by(meta: Mapping[str, Any], available: Iterable[str]) -> Tally:
    """Of one clip: the annotator of each view that it has, where its `meta` tells."""
    told = meta.get("annotators", {})
    rows = {name: told[name] for name in available if name in told}
    keys = ("name", "versions", "settings")
    return Counter(
        (name, json.dumps({key: row[key] for key in keys}, sort_keys=True)) for name, row in rows.items()
    )


def record(tally: Tally) -> Record:
    """As dataset.json keeps it."""
    found: Record = {}
    for (name, who), count in sorted(tally.items(), key=lambda item: (-item[1], item[0])):
        found.setdefault(name, []).append([count, json.loads(who)])
    return {name: found[name] for name in MODALITY_NAMES if name in found}


def joined(records: Iterable[Record]) -> Record:
    """The sums of several datasets."""
    tally: Tally = Counter()
    for one in records:
        for name, rows in one.items():
            tally.update({(name, json.dumps(who, sort_keys=True)): count for count, who in rows})
    return record(tally)


def check(told: Any) -> None:
    """ValueError for what `record` does not write."""
    if not isinstance(told, dict) or not told.keys() <= set(MODALITY_NAMES):
        raise ValueError(f"its annotators are {told!r:.80}")
    for name, rows in told.items():
        for row in rows if isinstance(rows, list) else [None]:
            if not _is_row(row):
                raise ValueError(f"an annotator of its {name} is {row!r:.80}")


def _is_row(row: Any) -> bool:
    if not (isinstance(row, list) and len(row) == 2 and type(row[0]) is int and row[0] > 0):
        return False
    who = row[1]
    if not (isinstance(who, dict) and who.keys() == {"name", "versions", "settings"}):
        return False
    named = isinstance(who["name"], str) and 0 < len(who["name"]) <= _MOST_NAME
    return named and isinstance(who["versions"], dict) and isinstance(who["settings"], dict)


def lines(told: Record, views: Iterable[str]) -> list[str]:
    """The mixture for people: of each view that is trained, who made how many of its annotations."""
    found = []
    for name in (view for view in views if view in told):
        rows = told[name]
        whole = sum(count for count, _ in rows)
        said = [f"{_words(who)} {count / whole:.0%}" for count, who in rows]
        found.append(f"  {name}, {whole} clips: {', '.join(said)}")
    return ["annotated by", *found] if found else []


def _words(who: Mapping[str, Any]) -> str:
    inside = [f"{name} {value}" for name, value in {**who["versions"], **who["settings"]}.items()]
    return f"{who['name']} ({', '.join(inside)})" if inside else who["name"]
