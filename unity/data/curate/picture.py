"""A ledger on one page: what each rule left out, and where its bound lies among the clips."""

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unity.data.rules import Rule
from unity.extras import extra
from unity.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from unity.data.curate.ledger import Entry

# apart for colour-blind eyes too (Okabe & Ito, 2008)
_KEPT, _LEFT, _BOUND = "#0072b2", "#d55e00", "#222222"
_COLUMNS = 4


def draw(entries: "Sequence[Entry]", rules: Sequence[Rule], path: Path) -> None:
    """Write the page: counts by reason, then a histogram of each number with the rules' bounds in it."""
    with extra("report"):
        import matplotlib
        from matplotlib.figure import Figure
    known = [rule for rule in rules if any(rule.score in entry.scores for entry in entries)]
    rows = 1 + -(-len(known) // _COLUMNS)
    with matplotlib.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(11, 2.4 * rows), layout="constrained")
        grid = figure.add_gridspec(rows, _COLUMNS)
        _counts(figure.add_subplot(grid[0, :]), entries)
        for number, rule in enumerate(known):
            _spread(figure.add_subplot(grid[1 + number // _COLUMNS, number % _COLUMNS]), entries, rule)
        if len(figure.axes) > 1:
            figure.legend(*figure.axes[1].get_legend_handles_labels(), loc="upper right", ncols=2, frameon=False)
        data = io.BytesIO()
        figure.savefig(data, dpi=110, format="png")
    with whole_file(path) as file:
        file.write_bytes(data.getvalue())


def _counts(axes: "Axes", entries: "Sequence[Entry]") -> None:
    counts = Counter("kept" if entry.kept else str(entry.rule) for entry in entries).most_common()
    names = [name for name, _ in counts]
    bars = axes.barh(names, [count for _, count in counts])
    for name, bar in zip(names, bars, strict=True):
        bar.set_color(_KEPT if name == "kept" else _LEFT)
    axes.bar_label(bars, padding=3)
    axes.invert_yaxis()
    axes.locator_params(axis="x", integer=True)
    broken = sum(entry.clip is None for entry in entries)
    of = f"{len(entries) - broken} clips" + f" and {broken} videos without any" * bool(broken)
    axes.set_title(f"{of}, by the first rule that each broke", loc="left")


def _spread(axes: "Axes", entries: "Sequence[Entry]", rule: Rule) -> None:
    known = [entry for entry in entries if rule.score in entry.scores]
    groups = [[entry.scores[rule.score] for entry in known if entry.kept is kept] for kept in (True, False)]
    axes.hist(groups, bins=20, stacked=True, color=[_KEPT, _LEFT], label=["kept", "left out"])
    axes.axvline(rule.threshold, color=_BOUND, linewidth=1)
    axes.locator_params(axis="y", integer=True)
    name = rule.name if rule.name == rule.score else f"{rule.name}: {rule.score}"
    axes.set_title(f"{name} {rule.keep} {rule.threshold:g}", loc="left")
