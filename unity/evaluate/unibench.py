"""UniBench: answers to clips whose truth is known, scored clip by clip, resumable, by several processes.

estimate  values of a clip's video against the exact ones, beside the modality's baselines and witnesses
control   a video made to follow a clip's exact modality: what is read from it anew, by the referee model and by
          witnesses, against that modality; and what witnesses read from the clip's own video, which bounds what
          they can say
joint     a video and a modality made from words: the same against the modality that came with it

Witnesses are classical methods that look at the video, and annotators whose weights are given.

A line of a journal holds what one clip, track and modality came to; what is there is not done again. Noise is a
function of the seed and the clip's place, so that neither parts nor interruptions change a number.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from filelock import FileLock, Timeout

from unity.command import say
from unity.data.clips import Clip
from unity.evaluate import video
from unity.evaluate.contestants import Answer, Answers
from unity.evaluate.exam import Effort
from unity.evaluate.held_out import reread
from unity.evaluate.metrics import benchmark_scores
from unity.evaluate.truth import Bench, checksum, facts_of
from unity.evaluate.vbench import Judge
from unity.evaluate.witnesses import Witness, readings
from unity.files import json_text
from unity.generate import Generator
from unity.modality.base import Facts
from unity.modality.coco import Detections
from unity.modality.table import MODALITIES
from unity.randomness import fold

Track = Literal["estimate", "control", "joint"]
TRACKS: tuple[Track, ...] = get_args(Track)
# what a line of a journal holds beside what was asked
_HELD = {"scores", "detections", "checksum", "seconds"}
# behind the name of who read the clip's own video
OWN = ", own video"
# who judged, or was judged
Scores = dict[str, dict[str, float]]


class Found(NamedTuple):
    """What one clip came to, by who: its numbers, and what a score of all clips needs of it."""

    scores: Scores
    detections: dict[str, Detections]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One clip of a track, looked at as one modality."""

    track: str
    modality: str
    place: int


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Who answers to what, and who judges generated videos."""

    bench: Bench
    answers: Answers
    # None: witnesses alone
    referee: Generator | None
    witnesses: tuple[Witness, ...] = ()
    # of generated videos, by dimension of VBench
    judges: Mapping[str, Judge] = field(default_factory=dict)
    effort: Effort
    # what makes answers the same as earlier ones, as JSON has it
    asked: dict


class Journal:
    """Scores by item, of all parts of a folder. Lines of other questions and torn ones count as none."""

    def __init__(self, folder: Path, asked: dict):
        self.found: dict[Item, dict] = {}
        self.asked = json.loads(json_text(asked))
        for path in sorted(folder.glob("journal*.jsonl")):
            for line in path.read_text(errors="replace").splitlines():
                self._read(line)

    def _read(self, line: str) -> None:
        try:
            entry = json.loads(line)
            item = Item(**entry["item"])
            known = entry["asked"] == self.asked and entry.keys() >= _HELD
        except (ValueError, KeyError, TypeError):
            return
        if known:
            self.found[item] = entry


def items(contest: Contest, tracks: tuple[str, ...], modalities: tuple[str, ...]) -> list[Item]:
    """All that is to be done, clip by clip."""
    places = range(len(contest.bench.names))
    return [Item(track=t, modality=m, place=p) for t in tracks for p in places for m in modalities]


def run(contest: Contest, todo: Sequence[Item], folder: Path, part: str) -> None:
    """Do the items of this process that are not in a journal yet; ValueError where another one does them."""
    suffix = "" if part == "1/1" else "-" + part.replace("/", "-of-")
    path = folder / f"journal{suffix}.jsonl"
    try:
        with FileLock(path.with_suffix(".lock"), timeout=0), path.open("a") as file:
            done = Journal(folder, contest.asked).found
            waiting = [item for item in todo if item not in done]
            say(f"unibench: {len(todo)} to do, of which {len(todo) - len(waiting)} are done already")
            # whatever a killed process left of a line ends here
            file.write("\n")
            for number, entry in enumerate(_entries(contest, waiting), 1):
                file.write(json_text(entry, indent=None) + "\n")
                file.flush()
                _tell(number, len(waiting), entry)
    except Timeout:
        raise ValueError("another process does this part; give each its own --part, or another --out") from None


def _tell(number: int, count: int, entry: dict) -> None:
    item = entry["item"]
    name = f"{item['track']} {item['modality']} {item['place']}"
    say(f"[{number}/{count}] {name}: {entry['seconds']:.1f} s" + ("" if entry["scores"] else ", nothing to score"))


def _entries(contest: Contest, waiting: Sequence[Item]) -> Iterator[dict]:
    # the next item is mostly of the same clip
    @lru_cache(maxsize=1)
    def clip(track: str, place: int) -> tuple[Clip, str]:
        found = contest.bench.clip(track, place)
        return replace(found, name=contest.bench.names[place]), checksum(found)

    for item in waiting:
        begun = time.process_time()
        shown, digest = clip(item.track, item.place)
        scores, detections = score(contest, item, shown)
        seconds = round(time.process_time() - begun, 2)
        yield {
            "item": asdict(item),
            "checksum": digest,
            "scores": scores,
            "detections": detections,
            "seconds": seconds,
            "asked": contest.asked,
        }


def score(contest: Contest, item: Item, clip: Clip) -> Found:
    """What one item comes to; empty where the clip has no such values, or the contestant no answer."""
    # a view with holes has values, and no video that could be followed
    needed = {"estimate": clip.values, "control": clip.video}.get(item.track, MODALITIES)
    if item.modality not in needed:
        return Found({}, {})
    answer = contest.answers(item.track, item.modality, clip, fold(contest.effort.seed, item.place))
    if answer is None:
        return Found({}, {})
    if item.track == "estimate":
        return _estimated(contest, item.modality, clip, answer)
    return _generated(contest, item, clip, answer)


def _estimated(contest: Contest, modality: str, clip: Clip, answer: Answer) -> Found:
    truth, rgb = clip.values[modality], clip.video["rgb"]
    found = {} if answer.values is None else {"answer": answer.values}
    found |= {name: guess.predict(rgb, truth) for name, guess in MODALITIES[modality].baselines.items()}
    found |= readings(contest.witnesses, modality, rgb, truth)
    return _judged(modality, clip, found, truth, facts_of(clip))


def _generated(contest: Contest, item: Item, clip: Clip, answer: Answer) -> Found:
    """Scores of the generated video itself, and of what is read from it."""
    if answer.rgb is None:
        return Found({}, {})
    control = item.track == "control"
    truth = clip.values[item.modality] if control else answer.values
    own: Scores = {"video": video.scores(answer.rgb)}
    own["video"] |= {name: judge(answer.rgb) for name, judge in contest.judges.items()}
    if truth is None:
        return Found(own, {})
    read = {} if contest.referee is None else {
        "referee": reread(contest.referee, item.modality, answer.rgb[None], [clip], contest.effort.seed)[0]
    }  # fmt: skip
    read |= readings(contest.witnesses, item.modality, answer.rgb, truth)
    if control:
        seen = readings(contest.witnesses, item.modality, clip.video["rgb"], truth)
        read |= {who + OWN: values for who, values in seen.items()}
    found = _judged(item.modality, clip, read, truth, facts_of(clip) if control else {})
    return found._replace(scores=own | found.scores)


def _judged(modality: str, clip: Clip, found: Mapping[str, np.ndarray], truth: np.ndarray, facts: Facts) -> Found:
    """Values by who against the truth."""
    for values in found.values():
        _check(clip, modality, values, truth)
    detect = MODALITIES[modality].detections
    return Found(
        {who: benchmark_scores(modality, values, truth, facts) for who, values in found.items()},
        {who: detect(values, truth) for who, values in found.items()} if detect else {},
    )


def _check(clip: Clip, modality: str, values: np.ndarray, truth: np.ndarray) -> None:
    """ValueError for an answer of another extent; people may be any number."""
    axes = 1 if modality == "skeleton" else 3
    if values.shape[:axes] != truth.shape[:axes]:
        raise ValueError(
            f"{modality} of clip {clip.name} is {list(values.shape)} and the truth {list(truth.shape)}; "
            f"bring it to the clip's frames and size"
        )
