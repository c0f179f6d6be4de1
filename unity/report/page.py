"""Results as one HTML page that needs nothing but itself: pictures inside, no scripts."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from unity.extras import extra
from unity.report.strip import frame_row

Video = UInt8[np.ndarray, "t h w 3"]

# one colour a line, apart for colour-blind eyes too (Okabe & Ito, 2008)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells are words, or numbers; `better` marks cells (row, column) that are worth the reader's eye."""

    head: Sequence[str]
    rows: Sequence[Sequence[str | float]]
    better: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Strips:
    """Clips one above the other, each a labelled row of frames."""

    rows: Mapping[str, Video]
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Lines over optimizer steps: panel title → line name → (step, value)."""

    panels: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]
    y: str = "loss"


@dataclass(frozen=True, kw_only=True)
class Section:
    title: str
    text: str = ""
    parts: Sequence[Table | Strips | Curves] = field(default_factory=tuple)


def page(title: str, lead: str, sections: Iterable[Section]) -> str:
    """The whole document. Texts are plain words, except that a blank line starts a new paragraph."""
    sections = list(sections)
    links = "".join(f'<a href="#s{i}">{escape(s.title)}</a>' for i, s in enumerate(sections))
    body = "".join(_section(i, section) for i, section in enumerate(sections))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_CSS}</style></head>\n'
        f"<body><h1>{escape(title)}</h1>{_paragraphs(lead)}<nav>{links}</nav>\n{body}</body></html>\n"
    )


def number(value: float) -> str:
    """Three significant digits; a dash where there is no number."""
    if not np.isfinite(value):
        return "–"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def smooth(line: Sequence[tuple[int, float]], window: int) -> list[tuple[int, float]]:
    """Mean over the last `window` points, fewer at the start."""
    values = np.array([value for _, value in line])
    sums = np.concatenate([[0.0], values.cumsum()])
    last = np.arange(1, len(values) + 1)
    first = np.maximum(0, last - window)
    means = (sums[last] - sums[first]) / (last - first)
    return [(step, float(mean)) for (step, _), mean in zip(line, means, strict=True)]


def _section(index: int, section: Section) -> str:
    parts = "".join(_DRAW[type(part)](part) for part in section.parts)
    return f'<section id="s{index}"><h2>{escape(section.title)}</h2>{_paragraphs(section.text)}{parts}</section>\n'


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{escape(part)}</p>" for part in text.split("\n\n") if part)


def _table(table: Table) -> str:
    kinds = ["words" if isinstance(value, str) else "number" for value in table.rows[0]]

    def cell(r: int, c: int, value: str | float) -> str:
        words = value if isinstance(value, str) else number(value)
        return f'<td class="{kinds[c]}{" better" if (r, c) in table.better else ""}">{escape(words)}</td>'

    head = "".join(f'<th class="{kind}">{escape(word)}</th>' for kind, word in zip(kinds, table.head, strict=True))
    rows = ("".join(cell(r, c, value) for c, value in enumerate(row)) for r, row in enumerate(table.rows))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _strips(strips: Strips) -> str:
    rows = "".join(
        f"<tr><th>{escape(label)}</th><td>{_image(frame_row(video), label, 'strip')}</td></tr>"
        for label, video in strips.rows.items()
    )
    caption = f"<p class=caption>{escape(strips.caption)}</p>" if strips.caption else ""
    return f'<div class="wide">{caption}<table class="strips">{rows}</table></div>'


def _curves(curves: Curves) -> str:
    return _picture(curves_png(curves), ", ".join(curves.panels), "curves")


def curves_png(curves: Curves) -> bytes:
    """The panels as one picture; equal curves are equal bytes."""
    # the one part of a page that needs more than the core install
    with extra("report"):
        import matplotlib
        from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(5 * len(curves.panels), 3.2), dpi=160, layout="constrained")
        axes = figure.subplots(1, len(curves.panels), squeeze=False)[0]
        for axis, (title, lines) in zip(axes, curves.panels.items(), strict=True):
            for (name, line), colour in zip(lines.items(), COLOURS, strict=False):
                axis.plot(*zip(*line, strict=True), label=name, color=colour, linewidth=1.6)
            axis.set(title=title, xlabel="step", ylabel=curves.y)
            axis.grid(alpha=0.25)
            axis.legend(frameon=False)
        data = io.BytesIO()
        # without the name of the program and its version, equal curves are equal bytes
        figure.savefig(data, format="png", metadata={"Software": None})
    return data.getvalue()


def _image(pixels: UInt8[np.ndarray, "h w 3"], alt: str, kind: str) -> str:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format="png")
    return _picture(data.getvalue(), alt, kind)


def _picture(png: bytes, alt: str, kind: str) -> str:
    code = base64.b64encode(png).decode()
    return f'<img class="{kind}" alt="{escape(alt)}" src="data:image/png;base64,{code}">'


_DRAW = {Table: _table, Strips: _strips, Curves: _curves}

_CSS = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #1c2024; background: #fff;
  max-width: 1060px; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .6rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .4rem; padding-top: .6rem; border-top: 1px solid #e3e6e9; }
p { max-width: 46rem; margin: .5rem 0; }
nav { margin: 1.2rem 0; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; }
a { color: #0061a8; text-decoration: none; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .92rem; }
th { text-align: left; font-weight: 600; padding: .3rem .9rem .3rem 0; vertical-align: bottom; }
td { padding: .3rem .9rem .3rem 0; }
thead th { border-bottom: 2px solid #1c2024; }
tbody tr + tr > * { border-top: 1px solid #eceef0; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
td.better { font-weight: 700; color: #00694b; }
.caption { color: #555e66; margin: .2rem 0; }
table.strips th { width: 9.5rem; font-weight: 500; font-size: .85rem; vertical-align: middle; color: #3a4148; }
table.strips td, table.strips th { border: 0 !important; padding-top: 2px; padding-bottom: 2px; }
img.strip { display: block; width: 840px; max-width: none; image-rendering: pixelated; }
img.curves { width: 100%; }
"""
