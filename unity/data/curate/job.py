"""Curation: videos → clips → scores → a verdict for each, in a ledger."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from unity.command import check_bounds, real
from unity.data import engine
from unity.data.clips import SOURCES
from unity.data.curate.ledger import Entry, Summary, names_of, write_results
from unity.data.curate.rules import RULES
from unity.data.engine import Cluster, Record, Work
from unity.data.rules import Rule, chosen
from unity.data.weights import found_weights
from unity.files import check_folder_free, check_writable

VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".ogv", ".gif"}
_WORK = "work"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Cut videos at their scenes, score the clips, and say of each whether it is kept and why."""

    # files, and folders that are searched for some; words of VIDEO.txt beside one are its clips' caption
    videos: tyro.conf.Positional[tuple[Path, ...]]
    # folder for clips.jsonl, ledger.jsonl and the summary; the same command goes on where it was stopped
    out: Path
    # rules to apply, perhaps with a threshold of your own (motion=0.01); left out: all that are on
    filters: tuple[str, ...] | None = None
    # JSON file {rule: threshold, or null to leave it out}
    thresholds: Path | None = None
    # of scores that have some: aesthetic=FOLDER, mediapipe=WHEEL
    weights: tuple[str, ...] = ()
    # of all clips; left out: by the people counted, where they can be
    source: str | None = None
    # longer shots are cut into even parts, in seconds
    longest: Annotated[float, real(1, 3600)] = 20.0
    cluster: tyro.conf.OmitArgPrefixes[Cluster] = field(default_factory=Cluster)


def curate(options: Options) -> Summary:
    """Write the results; thresholds may be changed later at no cost, as scores are kept."""
    check_bounds(options)
    if options.source is not None and options.source not in SOURCES:
        raise ValueError(f"source is {options.source!r}; choose one of {SOURCES}")
    rules = chosen(RULES, options.filters, options.thresholds)
    weights = found_weights(options.weights, ("aesthetic", "mediapipe"))
    videos = find_videos(options.videos)
    check_folder_free(options.out, lambda name: name in names_of() or name == _WORK)
    check_writable(options.out)
    work = options.out / _WORK
    cuts = _cut(work / "cuts", videos, options)
    scores, missing, lost = _score(work / "scores", cuts, rules, weights, options)
    entries = list(_entries(cuts, scores, lost, options.source))
    return write_results(options.out, entries, rules, missing)


def find_videos(places: Sequence[Path]) -> dict[str, Path]:
    """Video files by a name that tells them apart; ValueError for a place that is not there, or none at all."""
    found: set[Path] = set()
    for place in places:
        if not place.exists():
            raise ValueError(f"there is no {place}; give video files, or folders that hold some")
        inside = (p for p in place.rglob("*") if p.suffix.lower() in VIDEOS and p.is_file() and _told(p, place))
        found |= {place.resolve()} if place.is_file() else {p.resolve() for p in inside}
    if not found:
        raise ValueError(f"no video is in {', '.join(map(str, places))}; they end in {', '.join(sorted(VIDEOS))}")
    return {str(path): path for path in sorted(found)}


def _told(path: Path, place: Path) -> bool:
    """Not inside a hidden folder, which is what is being written."""
    return not any(part.startswith(".") for part in path.relative_to(place).parts)


def cutter(longest: float) -> Work:
    """Cuts one video into clips."""
    from unity.data.curate.cuts import clips_of

    def work(name: str, record: Record) -> tuple[Record, bytes]:
        clips, about = clips_of(Path(name), longest)
        return {"clips": [list(clip) for clip in clips]} | about, b""

    return work


def scorer(names: Sequence[str], weights: Mapping[str, str]) -> Work:
    """Scores one clip."""
    import cv2

    from unity.data.curate.scores import readers, score

    cv2.setNumThreads(1)
    using, _ = readers(names, {name: Path(path) for name, path in weights.items()})

    def work(name: str, record: Record) -> tuple[Record, bytes]:
        return score(Path(record["video"]), record["start"], record["end"], using), b""

    return work


def _cut(folder: Path, videos: dict[str, Path], options: Options) -> dict[str, Record]:
    """The clips of every video, or why it has none."""
    lost = engine.run(folder, {name: {} for name in videos}, cutter, {"longest": options.longest}, options.cluster)
    done = {name: record for name, record in engine.records(folder) if name in videos}
    return done | {name: {"error": why} for name, why in lost.items()}


def _score(
    folder: Path, cuts: Mapping[str, Record], rules: Sequence[Rule], weights: Mapping[str, Path], options: Options
) -> tuple[dict[str, Record], dict[str, str], dict[str, str]]:
    """Scores of every clip, why some kinds of score are missing, and clips whose worker ended."""
    from unity.data.curate.scores import SCORES, readers

    wanted = [name for name in SCORES if name != "nsfw" or any(rule.score == "nsfw" for rule in rules)]
    using, missing = readers(wanted, weights)
    rows = {name: record for video, cut in cuts.items() for name, record in _clips(video, cut)}
    settings = {"names": sorted(using), "weights": {name: str(path) for name, path in weights.items()}}
    lost = engine.run(folder, rows, scorer, settings, options.cluster) if rows else {}
    done = {name: record for name, record in engine.records(folder) if name in rows}
    return done, missing, lost


def _clips(video: str, cut: Record) -> list[tuple[str, Record]]:
    # two files of one name in two folders
    stem = f"{Path(video).stem}-{hashlib.sha1(video.encode('utf-8', 'surrogateescape')).hexdigest()[:6]}"
    return [
        (f"{stem}-{number:04}", {"video": video, "start": start, "end": end})
        for number, (start, end) in enumerate(cut.get("clips", ()))
    ]


def _entries(
    cuts: Mapping[str, Record], scores: Mapping[str, Record], lost: Mapping[str, str], source: str | None
) -> Iterator[Entry]:
    """One for every clip, and one for every video that has none."""
    for video, cut in sorted(cuts.items()):
        if "error" in cut:
            yield Entry(video=video, fault=cut["error"])
            continue
        for name, clip in _clips(video, cut):
            found = scores.get(name, {"error": lost.get(name, "it was not scored")})
            yield _entry(name, clip, cut, found, source)


def _entry(name: str, clip: Record, cut: Record, found: Record, source: str | None) -> Entry:
    shared: dict[str, Any] = {"clip": name, **clip, "fps": cut["fps"], "notes": tuple(cut["notes"])}
    if "error" in found:
        return Entry(**shared, fault=found["error"])
    return Entry(
        **shared,
        size=tuple(found["size"]),
        scores=found["scores"],
        fingerprint=found["fingerprint"],
        source=source or group(found["scores"].get("people")),
        caption=_caption(Path(clip["video"])),
    )


def group(people: float | None) -> str:
    """The source of a clip by the people in it; who did not count says nothing of them."""
    return {1: "single_person", 2: "two_persons"}.get(round(people or 0), "general")


def _caption(video: Path) -> str:
    words = video.with_suffix(".txt")
    return " ".join(words.read_text(encoding="utf-8").split()) if words.is_file() else ""
