"""Where the shots of a film begin and end."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

from unity.data.film import Facts, look, shown
from unity.extras import extra

# longer side of the pictures that cuts are looked for in
_SIDE = 320
# a shot of this many frames at least follows a cut (PySceneDetect's own default)
_SHORTEST = 15


def clips_of(path: Path, most: float) -> tuple[list[tuple[float, float]], dict]:
    """Start and end of each clip of a video in seconds from its first frame, and what the file is.

    A clip is a shot, or an even part of one that is longer than `most` seconds. Both ends are shown. Raises
    ValueError for a file that cannot be read.
    """
    facts = look(path)
    times, cuts = _cuts(facts)
    edges = [0, *cuts, len(times)]
    shots = [(times[first], times[last - 1]) for first, last in itertools.pairwise(edges)]
    about = {"frames": len(times), "fps": float(facts.rate), "size": list(facts.size)}
    about["notes"] = [*facts.notes, *facts.faults]
    return [part for shot in shots for part in _parts(*shot, most)], about


def _cuts(facts: Facts) -> tuple[list[float], list[int]]:
    """Times of all frames, and the numbers of those that begin a shot (PySceneDetect's adaptive detector)."""
    with extra("data"):
        from scenedetect.common import FrameTimecode
        from scenedetect.detectors import AdaptiveDetector
    scale = min(1.0, _SIDE / max(facts.size))
    size = (max(2, round(facts.size[0] * scale)), max(2, round(facts.size[1] * scale)))
    detector, times, cuts = AdaptiveDetector(min_scene_len=_SHORTEST), [], set()
    for number, (time, frame) in enumerate(shown(facts, size)):
        times.append(time)
        # it wants blue first
        found = detector.process_frame(FrameTimecode(number, float(facts.rate)), frame[..., ::-1])
        cuts |= {cut.frame_num for cut in found}
    if not times:
        raise ValueError(f"{facts.path} has no frames that can be decoded")
    cuts |= {cut.frame_num for cut in detector.post_process(FrameTimecode(len(times), float(facts.rate)))}
    return times, sorted(cut for cut in cuts if 0 < cut < len(times))


def _parts(start: float, end: float, most: float) -> Iterator[tuple[float, float]]:
    count = max(1, math.ceil((end - start) / most))
    step = (end - start) / count
    for number in range(count):
        yield start + number * step, start + (number + 1) * step
