"""Films longer than a clip: do values change more where windows meet than elsewhere?

    python benchmarks/film_bench.py [--films 24] [--frames 65]

The shipped model estimates simulated films window by window. For each modality, mean changes from one frame to
the next: in the truth, in the windows one behind the other, and in what `unity.windows` joins them to. A model's
values change with a rhythm of their own, that of its latent frames; so steps are averaged by their place after a
window's beginning, and the worst place from the first frame that two windows share to the one behind the last of
them is held against the worst of the other places. Scores are those of all frames of a film at once.
"""

import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from harness import write_result

from unity.command import check_bounds, end, whole
from unity.data.clips import SOURCES
from unity.data.simulate.clip import simulate
from unity.generate import Footage, Generator, generate, load_generator
from unity.modality.base import Modality
from unity.reel import joined
from unity.request import SHIPPED
from unity.sampler import Sampling
from unity.windows import as_many, cut, places


@dataclass(frozen=True, kw_only=True)
class Options:
    films: Annotated[int, whole(1, 10_000)] = 24
    # windows that all share as many frames, by default 5 of 17 frames
    frames: Annotated[int, whole(29, 10_000)] = 65
    # of the first film; far from what the model was trained on
    seed: Annotated[int, whole(0)] = 900_000
    # folder of the JSON; benchmarks/results by default
    out: Path | None = None


def inverse_change(before: np.ndarray, after: np.ndarray) -> float:
    """Of inverse depth, which pictures show: the share of its mean."""
    return float(np.abs(1 / after - 1 / before).mean() / (1 / before).mean())


def log_change(before: np.ndarray, after: np.ndarray) -> float:
    """Of the logarithm, in which what is far counts most; of what is no sky in either."""
    seen = np.isfinite(before) & np.isfinite(after)
    return float(np.abs(np.log(after[seen] / before[seen])).mean()) if seen.any() else np.nan


def flow_change(before: np.ndarray, after: np.ndarray) -> float:
    """Pixels."""
    return float(np.linalg.norm(after - before, axis=-1).mean())


def label_change(before: np.ndarray, after: np.ndarray) -> float:
    """Share of the pixels that are of a thing in either frame, and not of the same in both."""
    there = (before > 0) | (after > 0)
    return float((before != after)[there].mean()) if there.any() else np.nan


def point_change(before: np.ndarray, after: np.ndarray) -> float:
    """Pixels, of points that are seen in both."""
    people = min(len(before), len(after))
    one, other = before[:people], after[:people]
    seen = (one[..., 2] > 0) & (other[..., 2] > 0)
    return float(np.linalg.norm((other - one)[..., :2], axis=-1)[seen].mean()) if seen.any() else np.nan


# modality → how a frame differs from the next, by what that is told in
CHANGES: dict[str, dict[str, Callable[[np.ndarray, np.ndarray], float]]] = {
    "depth": {"share of the mean inverse depth": inverse_change, "logarithm": log_change},
    "flow": {"pixels": flow_change},
    "densepose": {"share of bodies' pixels": lambda before, after: label_change(before[..., 0], after[..., 0])},
    "segmentation": {"share of things' pixels": label_change},
    "skeleton": {"pixels": point_change},
}


def estimated(generator: Generator, row: Modality, frames: np.ndarray, starts: Sequence[int]) -> list[np.ndarray]:
    """Videos of the windows that begin at `starts`, each estimated by itself."""
    found = []
    for clip in cut(frames, starts, generator.card.frames):
        _, (video,) = generate(generator, "estimate", row.name, [""], Footage(rgb=clip[None]), Sampling())
        found.append(video)
    return found


def apart(clips: Sequence[np.ndarray], starts: Sequence[int]) -> np.ndarray:
    """One behind the other: of what two share, the later one's."""
    ends = [*(later - start for start, later in itertools.pairwise(starts)), len(clips[-1])]
    most = max(clips, key=lambda clip: clip.shape[1])
    return np.concatenate([as_many(clip[:end], most) for clip, end in zip(clips, ends, strict=True)])


def at_seams(films: np.ndarray, starts: Sequence[int], window: int) -> tuple[float, float]:
    """Mean change in the worst place of a seam, and in the worst elsewhere."""
    period = starts[1]
    # the step into a frame is the one before it
    by_place = [
        float(np.nanmean(films[:, [start + after - 1 for start in starts[1:]]])) for after in range(period)
    ]
    shared = window - period
    return max(by_place[: shared + 1]), max(by_place[shared + 1 :])


def mean(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.nanmean([score[name] for score in scores])) for name in scores[0]}


def values_of(
    options: Options, generator: Generator, starts: Sequence[int]
) -> dict[tuple[str, str], list[tuple[np.ndarray, np.ndarray | None]]]:
    """(modality, way) → values of each film, and the truth where it has one."""
    found = {}
    for film in range(options.films):
        clip = simulate(options.seed + film, SOURCES[film % len(SOURCES)], options.frames, generator.card.size)
        for name in CHANGES:
            row, truth = generator.card.modality(name), clip.values.get(name)
            size, videos = generator.card.size, estimated(generator, row, clip.video["rgb"], starts)
            clips = [row.decode(video, row.unknown_constants(*size)) for video in videos]
            ways = {} if truth is None else {"truth": truth}
            ways |= {"windows apart": apart(clips, starts)}
            named = ({name: video} for video in videos)
            ways |= {"joined": joined({name: row}, named, starts, size, Path(tempfile.gettempdir()))[name]}
            for way, values in ways.items():
                found.setdefault((name, way), []).append((values, truth))
        print(f"film {film + 1} of {options.films}", flush=True)
    return found


def measured(options: Options) -> list[dict]:
    """A row for each way of joining a modality, and each way to tell how it changes."""
    generator = load_generator(SHIPPED, "cpu")
    card, rows = generator.card, []
    starts = places(options.frames, card.frames)
    if len(set(np.diff(starts))) > 1:
        raise ValueError(f"of {options.frames} frames the last window shares more than the others; give 65 or 113")
    for (name, way), films in values_of(options, generator, starts).items():
        scores = [card.modality(name).score(values, truth) for values, truth in films if truth is not None]
        for unit, change in CHANGES[name].items():
            steps = [[change(*pair) for pair in itertools.pairwise(values)] for values, _ in films]
            seam, elsewhere = at_seams(np.array(steps), starts, card.frames)
            told = {"at_seam": seam, "elsewhere": elsewhere, "ratio": seam / elsewhere, "score": mean(scores)}
            rows.append({"modality": name, "way": way, "in": unit, "films": len(films)} | told)
            print(
                f"{name:13} {way:14} {seam:.4f} at a seam, {elsewhere:.4f} elsewhere: "
                f"{seam / elsewhere:.2f} x ({unit})"
            )
    return rows


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    check_bounds(options)
    # small matrices
    torch.set_num_threads(1)
    write_result("film_bench", measured(options), folder=options.out)


if __name__ == "__main__":
    end("film_bench", main)
