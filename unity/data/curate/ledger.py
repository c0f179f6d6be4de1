"""Every decision with its numbers, as lines of JSON, and what they add up to."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unity.data.curate.similar import BITS, nearest
from unity.data.rules import Rule, judge
from unity.data.told import example, lasting, left
from unity.files import json_line, write_json, write_text

CLIPS, LEDGER, SUMMARY, PICTURE = "clips.jsonl", "ledger.jsonl", "summary.json", "summary.png"
# of what could not be read, or not be scored
BROKEN = "broken"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A clip, or a video that has none, and what became of it."""

    video: str
    clip: str | None = None
    # seconds from the first frame
    start: float = 0.0
    end: float = 0.0
    fps: float = 0.0
    size: tuple[int, ...] = ()
    source: str = "general"
    caption: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    fingerprint: str = ""
    notes: tuple[str, ...] = ()
    fault: str | None = None
    # the verdict
    kept: bool = False
    rule: str | None = None
    why: str = ""
    # rules whose number is not known: they broke nothing
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a curation left."""

    out: str
    videos: int
    clips: int
    kept: int
    # of what was kept
    seconds: float
    sources: Mapping[str, int]
    # rule → how many clips it left out, and an example
    left_out: Mapping[str, int]
    why: Mapping[str, str]
    # kind of score → why nobody computed it
    missing: Mapping[str, str]
    # rule → how many clips it could not judge
    not_judged: Mapping[str, int]

    def __str__(self) -> str:
        groups = ", ".join(f"{count} {name}" for name, count in self.sources.items()) or "none"
        of = f"{self.videos} videos, {self.clips} clips, {self.kept} kept"
        lines = [f"{self.out}: {of} ({groups}), {lasting(self.seconds)}", *left(self.left_out, self.why)]
        lines += [f"{count} not judged by {rule}" for rule, count in self.not_judged.items()]
        lines += [f"no {name} score: {reason}" for name, reason in self.missing.items()]
        return "\n  ".join(lines)


def write_results(
    out: Path, entries: Sequence[Entry], rules: Sequence[Rule], missing: Mapping[str, str]
) -> Summary:
    """Judge all entries and write what came of it, clips.jsonl last: where it is, all is there."""
    from unity.data.curate.picture import draw

    judged = decide(entries, rules)
    write_text(out / LEDGER, "".join(_line(entry) for entry in judged))
    summary = _summary(out, judged, missing)
    write_json(out / SUMMARY, vars(summary))
    draw(judged, rules, out / PICTURE)
    write_text(out / CLIPS, "".join(_line(entry, CLIP_FIELDS) for entry in judged if entry.kept))
    return summary


# what annotation needs of a clip
CLIP_FIELDS = ("clip", "video", "start", "end", "fps", "size", "source", "caption", "scores")


def decide(entries: Sequence[Entry], rules: Sequence[Rule]) -> list[Entry]:
    """With their verdicts. Of clips alike that pass all else, one of the largest is kept, one with words first."""
    alone = [rule for rule in rules if rule.score != "nearest"]
    judged = [_judged(entry, alone) for entry in entries]
    pair = next((rule for rule in rules if rule.score == "nearest"), None)
    if pair is None:
        return judged
    ranked = sorted((e for e in judged if e.kept), key=lambda e: (-min(e.size), not e.caption, e.clip))
    close = nearest({str(e.clip): e.fingerprint for e in ranked}, int(pair.threshold))
    return [_alike(entry, close, pair) if entry.kept else entry for entry in judged]


def _judged(entry: Entry, rules: Sequence[Rule]) -> Entry:
    if entry.fault is not None:
        return replace(entry, rule=BROKEN, why=entry.fault)
    verdict = judge(rules, entry.scores)
    return replace(
        entry, kept=verdict.broken is None, rule=verdict.broken, why=verdict.why, unknown=verdict.unknown
    )


def _alike(entry: Entry, close: Mapping[str, tuple[int, str]], rule: Rule) -> Entry:
    bits, other = close.get(str(entry.clip), (BITS, ""))
    scores = {**entry.scores, rule.score: float(bits)}
    if rule.holds(bits):
        return replace(entry, scores=scores)
    return replace(entry, scores=scores, kept=False, rule=rule.name, why=f"{rule.why(bits)}: {other}")


def _summary(out: Path, entries: Sequence[Entry], missing: Mapping[str, str]) -> Summary:
    kept = [entry for entry in entries if entry.kept]
    dropped = [entry for entry in entries if not entry.kept]
    examples = {str(entry.rule): example(entry.clip or entry.video, entry.why) for entry in reversed(dropped)}
    return Summary(
        out=str(out),
        videos=len({entry.video for entry in entries}),
        clips=sum(entry.clip is not None for entry in entries),
        kept=len(kept),
        seconds=sum(entry.end - entry.start for entry in kept),
        sources=dict(Counter(entry.source for entry in kept).most_common()),
        left_out=dict(Counter(str(entry.rule) for entry in dropped).most_common()),
        why=examples,
        missing=dict(missing),
        not_judged=dict(Counter(rule for entry in entries for rule in entry.unknown).most_common()),
    )


def _line(entry: Entry, fields: Iterable[str] | None = None) -> str:
    told: dict[str, Any] = vars(entry)
    return json_line({name: told[name] for name in fields or told})


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a ledger; ValueError, which names the line, for what is no JSON."""
    if not path.is_file():
        raise ValueError(f"there is no {path}; give the folder that unity.data.curate wrote")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}; curate again") from None
    return found


def names_of() -> set[str]:
    """What a curation leaves in its folder."""
    return {CLIPS, LEDGER, SUMMARY, PICTURE}
