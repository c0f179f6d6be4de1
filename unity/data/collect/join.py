"""Pieces to clips, as a table names them or by the key that their files share; what does not fit is told of."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from unity.data.alignment import check_aligned
from unity.data.clips import MODALITY_NAMES
from unity.data.collect.index import Index
from unity.data.collect.layouts import WORDS, Named, caption
from unity.data.collect.pieces import Taken, Where, facts_of
from unity.data.shards.columns import sealed
from unity.data.shards.write import Sample, encoded
from unity.modality.table import MODALITIES


@dataclass
class Ledger:
    """What became of everything that was found: a line for each thing that is not as it should be."""

    # kind, name, why
    lines: list[tuple[str, str, str]] = field(default_factory=list)
    # by stream
    taken: Counter[str] = field(default_factory=Counter)
    wordless: int = 0
    names: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, name: str, why: str) -> None:
        self.lines.append((kind, name, " ".join(why.split())))

    def name(self, wanted: str) -> str:
        """A name that no other clip has."""
        self.names[wanted] += 1
        return wanted if self.names[wanted] == 1 else f"{wanted}-{self.names[wanted]}"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A clip and its pieces by stream; of some nothing but the reason why they are not there."""

    name: str
    group: str
    pieces: Mapping[str, Where]
    caption: str = ""
    faults: Mapping[str, str] = field(default_factory=dict)


def named(rows: Iterator[Named], index: Index) -> Iterator[Found]:
    """The clips of tables."""
    for row in rows:
        pieces, faults = {}, {} if row.fault is None else {"rgb": row.fault}
        for stream, path in row.files.items():
            try:
                pieces[stream] = index.find(row.group, stream, path)
            except ValueError as error:
                faults[stream] = str(error)
        yield Found(name=row.name, group=row.group, pieces=pieces, caption=row.caption, faults=faults)


def keyed(index: Index) -> Iterator[Found]:
    """The clips whose files have one key."""
    for group, key, streams in index.clips():
        faults = {s: f"it is there {len(found)} times" for s, found in streams.items() if len(found) > 1}
        yield Found(name=key, group=group, pieces={s: found[0] for s, found in streams.items()}, faults=faults)


def samples(
    clips: Iterator[Found], index: Index, sources: Mapping[str, str], taken: Taken, ledger: Ledger
) -> Iterator[Sample]:
    """Every clip that has its video, with those of its views that agree with it."""
    for clip in clips:
        try:
            yield _sample(clip, index, sources, taken, ledger)
        except ValueError as error:
            ledger.add("clip", clip.name, str(error))
    for left in index.unread():
        why = f"no clip asks for them, such as {left.example}"
        ledger.add("file", f"{left.files} files of {left.stream} {left.group}".strip(), why)
    if not ledger.taken["rgb"]:
        kind, name, why = ledger.lines[0] if ledger.lines else ("place", "", "it holds nothing")
        raise ValueError(f"no clip can be made of it; {len(ledger.lines)} faults, the first: {kind} {name}: {why}")


def _sample(clip: Found, index: Index, sources: Mapping[str, str], taken: Taken, ledger: Ledger) -> Sample:
    """Of a clip; ValueError where it has no video; a view or words that are amiss are left out and told of."""
    rgb, video = _read(clip, "rgb", index)
    if clip.group not in sources:
        raise ValueError(f"its group {clip.group} has no tars")
    name, words, videos = ledger.name(clip.name), clip.caption, {"rgb": video}
    for stream in sorted({*clip.pieces, *clip.faults} - {"rgb"}):
        try:
            facts, data = _read(clip, stream, index)
            if stream == WORDS:
                words = caption(facts["words"], clip.pieces[stream].member)
                continue
            member = clip.pieces[stream].member
            check_aligned({"rgb": facts_of("rgb", rgb), stream: facts_of(member, facts)}, taken.frames)
            videos[stream] = data
        except ValueError as error:
            ledger.add(stream, name, str(error))
    ledger.taken.update(videos.keys())
    ledger.wordless += not words
    return _encoded(videos, {"name": name, "source": sources[clip.group], "caption": words}, clip, taken)


def _encoded(videos: Mapping[str, bytes], told: Mapping[str, str], clip: Found, taken: Taken) -> Sample:
    sample: dict[str, Any] = {**told, "fps": taken.fps}
    sample |= {stream: videos.get(stream, b"") for stream in ("rgb", *MODALITY_NAMES)}
    views = [name for name in MODALITY_NAMES if name in videos]
    sample["constants"] = {name: MODALITIES[name].unknown_constants(*taken.size) for name in views}
    sample["meta"] = {"file": clip.pieces["rgb"].member, "group": clip.group}
    return encoded(sealed(sample), {"frames": taken.frames, "size": list(taken.size), "fps": taken.fps})


def _read(clip: Found, stream: str, index: Index) -> tuple[dict, bytes]:
    if stream in clip.faults:
        raise ValueError(clip.faults[stream])
    if stream not in clip.pieces:
        raise ValueError("there is no video beside its views")
    index.take(clip.pieces[stream])
    return clip.pieces[stream].read()
