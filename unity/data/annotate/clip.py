"""One clip: its frames, what annotators say of them, what the gates say of that, and the sample for the shards."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from unity.data.annotate.base import Annotation, Annotator
from unity.data.annotate.caption import Captioner, captioner
from unity.data.annotate.values import measure, shrink
from unity.data.clips import Clip
from unity.data.engine import Record, Work
from unity.data.film import Facts, look, read_film
from unity.data.rules import Rule, judge
from unity.data.shards.columns import encode_clip, to_bytes
from unity.modality.table import MODALITIES

# shorter side, in pixels, that annotators get to see where the film has it
_SEEN = 512

Video = UInt8[np.ndarray, "t h w 3"]


def worker(
    names: Sequence[str],
    weights: Mapping[str, str],
    gates: Record,
    frames: int,
    size: Sequence[int],
    device: str,
    words: str | None = None,
) -> Work:
    """Annotates one clip; `words` is who describes those that have none, if anybody does."""
    from unity.data.annotate.table import ANNOTATORS

    cv2.setNumThreads(1)
    rows = [ANNOTATORS[name] for name in names]
    paths = {name: Path(path) for name, path in weights.items()}
    loaded = [(row, row.load(paths, row.settings, device)) for row in rows]
    rules = {modality: [Rule(**row) for row in table] for modality, table in gates.items()}
    describes = captioner(words, device) if words else None

    def work(name: str, record: Record) -> tuple[Record, bytes]:
        clip, told = annotated(name, record, loaded, rules, frames, (size[0], size[1]), describes)
        columns = to_bytes(encode_clip(clip))
        lengths = {column: len(data) for column, data in columns.items()}
        facts = {"columns": lengths, "source": clip.source, "available": list(clip.available)}
        facts |= {"frames": frames, "size": list(size), "fps": clip.fps}
        return told | {"sample": facts}, b"".join(columns.values())

    return work


def annotated(
    name: str,
    record: Record,
    loaded: Sequence[tuple[Annotator, Callable[[Video], Annotation]]],
    gates: Mapping[str, Sequence[Rule]],
    frames: int,
    size: tuple[int, int],
    describes: Captioner | None = None,
) -> tuple[Clip, Record]:
    """The clip with what passed its gate; for every annotator who it was, its numbers, and why it is left out.

    One without words gets some of who `describes`, and says of whom.
    """
    seen, by = _read(record, frames, size)
    video, constants, told = {"rgb": _smaller(seen, by)}, {}, {}
    for row, annotate in loaded:
        made = annotate(seen)
        told[row.modality] = judged(row, made, seen, gates.get(row.modality, ()))
        if told[row.modality]["kept"]:
            modality, values = MODALITIES[row.modality], shrink(row.modality, made.values, by)
            constants[row.modality] = modality.constants(values, size)
            video[row.modality] = modality.encode(values, constants[row.modality])
    who = {} if record["caption"] or describes is None else {"captioner": describes.made_by}
    meta = {"file": record["video"], "start": record["start"], "end": record["end"], "annotators": told} | who
    clip = Clip(
        name=name,
        source=record["source"],
        caption=describes.say(seen) if who and describes else record["caption"],
        fps=record["rate"],
        video=video,
        constants=constants,
        meta=meta,
    )
    return clip, {"clip": name, "source": clip.source, "caption": clip.caption, "annotators": told} | who


def judged(row: Annotator, made: Annotation, video: Video, gates: Sequence[Rule]) -> Record:
    """Who made an annotation, its numbers, and whether it passes its gates."""
    scores = measure(row.modality, made.values, video) | dict(made.scores)
    verdict = judge(gates, scores)
    return row.made_by() | {"scores": scores, "kept": not verdict.broken, "why": verdict.why}


def enlarged(facts: Facts, size: tuple[int, int]) -> int:
    """How many times as large as the wanted size annotators get to see a film, where it has as many pixels."""
    room = min(side // wanted for side, wanted in zip(facts.size, size, strict=True))
    return max(1, min(room, -(-_SEEN // min(size))))


def _read(record: Record, frames: int, size: tuple[int, int]) -> tuple[Video, int]:
    """Frames as large as annotators like them, and how many times larger than the clip's that is."""
    facts = look(record["video"])
    by = enlarged(facts, size)
    film = read_film(facts, frames, (by * size[0], by * size[1]), within=(record["start"], record["end"]))
    return film.frames, by


def _smaller(video: Video, by: int) -> UInt8[np.ndarray, "t new_h new_w 3"]:
    if by == 1:
        return video
    size = (video.shape[2] // by, video.shape[1] // by)
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in video])
