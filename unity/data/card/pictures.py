"""The pictures of a card: bars of what there is and is not, and views drawn over their frames."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from unity.data.card.facts import Facts
from unity.data.clips import MODALITY_NAMES, Clip
from unity.data.shards import Shards
from unity.data.told import lasting
from unity.extras import extra
from unity.files import whole_file
from unity.modality.table import MODALITIES
from unity.report.strip import labelled_strip

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Video = UInt8[np.ndarray, "t h w 3"]
# apart for colour-blind eyes too (Okabe & Ito, 2008)
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#f0e442")
_LEFT = "#d55e00"
# clips in the strip, frames of each, and how much of a view lies over its frame
_CLIPS, _FRAMES, _OVER = 4, 5, 0.65
_MOST_REASONS = 12


def draw(facts: Facts, path: Path) -> None:
    """Clips by source and bucket, by view and source, and what was left out."""
    with extra("report"):
        import matplotlib
        from matplotlib.figure import Figure
    with matplotlib.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(11, 3.2), layout="constrained")
        axes = figure.subplots(1, 3)
        sources = sorted({part.source for part in facts.parts})
        _stacked(axes[0], facts, sources)
        _grouped(axes[1], facts, sources)
        _reasons(axes[2], facts)
        data = io.BytesIO()
        figure.savefig(data, dpi=110, format="png")
    with whole_file(path) as file:
        file.write_bytes(data.getvalue())


def _stacked(axes: "Axes", facts: Facts, sources: Sequence[str]) -> None:
    below = np.zeros(len(sources))
    for bucket, colour in zip(facts.rates, _COLOURS * len(facts.rates), strict=False):
        found = {part.source: part.clips for part in facts.parts if part.bucket == bucket}
        heights = np.array([found.get(source, 0) for source in sources])
        axes.bar(sources, heights, bottom=below, color=colour, label=bucket)
        below += heights
    axes.set_title(f"{facts.clips} clips, {lasting(3600 * facts.hours)}, by source", loc="left")
    _legend(axes, "frames × height × width")


def _grouped(axes: "Axes", facts: Facts, sources: Sequence[str]) -> None:
    wide = 0.8 / max(len(sources), 1)
    for place, (source, colour) in enumerate(zip(sources, _COLOURS, strict=False)):
        parts = [part for part in facts.parts if part.source == source]
        counts = [sum(part.views[name] for part in parts) for name in MODALITY_NAMES]
        axes.bar(np.arange(len(counts)) + wide * place, counts, wide, color=colour, label=source)
    axes.set_xticks(np.arange(len(MODALITY_NAMES)) + 0.4 - wide / 2, MODALITY_NAMES, rotation=20)
    axes.set_title("clips that have a view", loc="left")
    _legend(axes)


def _legend(axes: "Axes", title: str = "") -> None:
    """Above the bars, which count whole things."""
    axes.locator_params(axis="y", integer=True)
    axes.set_ylim(top=1.4 * axes.get_ylim()[1])
    axes.legend(title=title, frameon=False, ncols=2, loc="upper left")


def _reasons(axes: "Axes", facts: Facts) -> None:
    shown = facts.left_out[:_MOST_REASONS]
    names = [f"{row.what}\n{row.why[:48]}".strip() for row in shown]
    bars = axes.barh(range(len(shown)), [row.count for row in shown], color=_LEFT)
    axes.set_yticks(range(len(shown)), names)
    axes.bar_label(bars, padding=3)
    axes.locator_params(axis="x", integer=True)
    axes.invert_yaxis()
    axes.set_title(f"{sum(row.count for row in facts.left_out)} left out, and why", loc="left")


def strip(shards: Sequence[Shards], path: Path) -> None:
    """Frames of some clips, and below them each of their views over the same frames."""
    rows: dict[str, Video] = {}
    for clip in _some(shards):
        rows[f"{clip.name}: {clip.source}"] = clip.video["rgb"]
        told = clip.meta.get("annotators", {})
        for name in clip.available:
            who = f" by {told[name]['name']}" if name in told else ""
            rows[f"{clip.name}: {name}{who}"] = _drawn(clip, name)
    with whole_file(path) as file:
        labelled_strip(rows, _FRAMES, 128).save(file, format="png")


def _some(shards: Sequence[Shards]) -> Iterator[Clip]:
    """Of every source the clip with the most views, then others."""
    found = []
    for one in shards:
        for source in one.counts:
            views = one.available[source].sum(1)
            found += [(one, source, int(place), int(views[place])) for place in np.argsort(-views)[:_CLIPS]]
    ranked = sorted(found, key=lambda row: -row[3])
    best = {source: (one, source, place, views) for one, source, place, views in reversed(ranked)}
    for one, source, place, _ in list(dict.fromkeys([*best.values(), *ranked]))[:_CLIPS]:
        yield one.clip(source, place)


def _drawn(clip: Clip, name: str) -> Video:
    """A view's picture over its grey frames; where it shows nothing, the frame alone."""
    row, video = MODALITIES[name], clip.video[name]
    constants = clip.constants.get(name) or row.unknown_constants(*video.shape[1:3])
    picture = row.picture(row.decode(video, constants), constants).astype(np.float32)
    grey = clip.video["rgb"].mean(-1, keepdims=True) + np.zeros(3, np.float32)
    share = _OVER * picture.any(-1, keepdims=True)
    return (share * picture + (1 - share) * grey + 0.5).astype(np.uint8)
