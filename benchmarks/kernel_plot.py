"""The picture of kernel_bench: bytes per second of every row under the roof that the copy sets.

None of these ops does enough arithmetic per byte to leave the bandwidth side of the roofline, so the picture is
that side alone: how close to the copy each form comes.
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MARKS = {"eager": ("o", "#c0c0c0"), "compile": ("s", "#e0954f"), "diffusers": ("^", "#7f8fb3")}
OTHER_MARK = ("v", "#8fb37f")


def draw(source: Path, target: Path) -> Path:
    """Draw the rows of a result file of kernel_bench as a PNG."""
    found = json.loads(source.read_text())
    rows = found["rows"][::-1]
    figure, axes = plt.subplots(figsize=(9, 1.6 + 0.24 * len(rows)), layout="constrained")
    axes.barh(
        range(len(rows)), [row["of_copy"] for row in rows], color="#2a7f8f", height=0.62, label="this project"
    )
    for name in sorted({name for row in rows for name in row["other_ms"]}):
        points = [(_fraction(row, name), at) for at, row in enumerate(rows) if name in row["other_ms"]]
        mark, color = MARKS.get(name, OTHER_MARK)
        axes.scatter(*zip(*points, strict=True), marker=mark, color=color, edgecolor="black", linewidth=0.4, s=26,
                     zorder=3, label=name)  # fmt: skip
    axes.axvline(1, color="black", linewidth=1)
    names = [f"{row['op']}  {row['shape']} × {row['tokens']}  {row['direction']}" for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(0)
    axes.set_xlabel(
        f"bytes per second, as a fraction of the copy ({found['copy_gb_per_s']:.0f} GB/s at large size)"
    )
    axes.set_title(
        f"{_machine(found['machine'])}, {found['dtype']}, {found['date'][:10]}, {found['commit']}", fontsize=9
    )
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(target, dpi=130)
    plt.close(figure)
    return target


def _fraction(row: dict, name: str) -> float:
    return row["of_copy"] / row["times_faster_than"][name]


def _machine(machine: dict) -> str:
    return machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} threads"
