"""Which way the arms differ, as JSON, Markdown, a page and a picture of curves."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev

from unity.evaluate.ablate.arms import ARMS
from unity.evaluate.ablate.direction import Difference, common, difference, paper_side, verdict
from unity.evaluate.ablate.runs import Result, jobs, result_of, with_first
from unity.evaluate.ablate.scales import SCALES
from unity.evaluate.ablate.tables import TABLES, Column, Comparison
from unity.files import whole_file, write_json, write_text
from unity.report.page import Curves, Section, Table, curves_png, number, page

# arm → seed → what came of it
Results = Mapping[str, Mapping[int, Result]]
HEAD = ("first", "second", "measure", "first: mean ± deviation", "second", "first is better by", "paper", "here")
NOTE = (
    "First and second are arms from the same seeds: same clips, noise and order. By how much the first is better "
    "comes with the 95% interval (Student's t) of the pairs' differences; a direction counts where that leaves 0 "
    "out, and with few seeds it seldom does. The paper's own numbers are of a 10B model, other clips and VBench's "
    "networks: their direction alone is compared."
)
_SAYS = {1: "first is better", -1: "second is better", 0: "mixed"}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One measure of one comparison, over all seeds that both arms have."""

    table: str
    first: str
    second: str
    measure: str
    # of both arms, by seed
    values: tuple[list[float], list[float]]
    found: Difference
    # 1, -1 or 0, where the paper's numbers disagree among themselves
    paper: int
    verdict: str

    @property
    def cells(self) -> list[str]:
        gap = f"{self.found.mean:+.3g} ± {number(self.found.half)} (seeds: {self.found.seeds})"
        means = map(_mean, self.values)
        return [self.first, self.second, self.measure, *means, gap, _SAYS[self.paper], self.verdict]


def _mean(values: Sequence[float]) -> str:
    """With the deviation between seeds."""
    return f"{number(fmean(values))} ± {number(stdev(values) if len(values) > 1 else float('nan'))}"


def gather(tables: Sequence[str], scale: str, seeds: int, folder: Path) -> Results:
    """What is done of the tables' runs."""
    found: dict[str, dict[int, Result]] = {}
    for job in jobs(tables, seeds):
        result = result_of(job, SCALES[scale], folder)
        if result is not None:
            found.setdefault(job.arm, {})[job.seed] = result
    return found


def lines(table: str, results: Results) -> list[Line]:
    """Every measure that both arms of a comparison have from some seed."""
    rows = (_line(table, row, column, results) for row in TABLES[table].comparisons for column in row.columns)
    return [line for line in rows if line is not None]


def _line(table: str, row: Comparison, column: Column, results: Results) -> Line | None:
    first, second = (results.get(arm, {}) for arm in row.arms)
    shared = [(with_first(first[seed]), with_first(second[seed])) for seed in sorted({*first} & {*second})]
    pairs = [pair for numbers in shared if (pair := common(*numbers, column.keys))]
    if not pairs:
        return None
    ours, theirs = map(list, zip(*pairs, strict=True))
    found, paper = difference(ours, theirs, column.more), paper_side(row.paper) if row.paper else 1
    said = verdict(found, paper) if paper else _plainly(found)
    return Line(table=table, first=row.first, second=row.second, measure=column.words, values=(ours, theirs),
                found=found, paper=paper, verdict=said)  # fmt: skip


def _plainly(found: Difference) -> str:
    """Which side is better where the paper takes none."""
    if not abs(found.mean) > found.half:
        return "undecided"
    return "first is better" if found.mean > 0 else "second is better"


def panels(tables: Sequence[str], results: Results) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Numbers that are followed through the runs: the mean over seeds, by arm."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for table in tables:
        for key in TABLES[table].curves:
            curves = {arm: _curve(results[arm], key) for arm in TABLES[table].arms if arm in results}
            found[key] = {arm: curve for arm, curve in curves.items() if curve}
    return {key: curves for key, curves in found.items() if curves}


def _curve(by_seed: Mapping[int, Result], key: str) -> list[tuple[int, float]]:
    """At the steps that all seeds have."""
    values: dict[int, list[float]] = {}
    for result in by_seed.values():
        for mark in result.marks:
            if key in mark:
                values.setdefault(int(mark["step"]), []).append(mark[key])
    return [(step, fmean(found)) for step, found in sorted(values.items()) if len(found) == len(by_seed)]


def write(tables: Sequence[str], scale: str, seeds: int, folder: Path) -> list[Path]:
    """`ablations.json`, `.md`, `.html` and, where there are curves, `.png`, of what is done by now."""
    results = gather(tables, scale, seeds, folder)
    found = {table: lines(table, results) for table in tables}
    about, shown = _about(tables, scale, seeds, results), panels(tables, results)
    record = {
        "about": about,
        "lines": [asdict(line) for rows in found.values() for line in rows],
        "curves": shown,
        "runs": {arm: {str(seed): asdict(one) for seed, one in row.items()} for arm, row in results.items()},
    }
    sections = [_section(table, rows) for table, rows in found.items()]
    curves = Curves(panels=shown, y="held out")
    if shown:
        sections.append(Section(title="Through the runs", text="Means over seeds.", parts=[curves]))
    text = "\n\n".join(f"{key}: {value}" for key, value in about.items())
    paths = [
        write_json(folder / "ablations.json", record),
        write_text(folder / "ablations.md", markdown(about, found)),
        write_text(folder / "ablations.html", page("Ablations", f"{text}\n\n{NOTE}", sections)),
    ]
    return [*paths, _picture(curves, folder / "ablations.png")] if shown else paths


def _picture(curves: Curves, path: Path) -> Path:
    with whole_file(path) as part:
        part.write_bytes(curves_png(curves))
    return path


def _about(tables: Sequence[str], scale: str, seeds: int, results: Results) -> dict[str, str]:
    row, done = SCALES[scale], [one for by_seed in results.values() for one in by_seed.values()]
    spent = {what: sum(one.seconds[what] for one in done) / 60 for what in ("training", "measuring")}
    return {
        "tables": ", ".join(tables),
        "scale": f"{scale}: {row.model}, {row.architecture.dim} wide, {row.architecture.num_layers} layers; "
        f"{row.clips} clips of each source, {row.frames} frames of {row.size}x{row.size}; {row.steps} steps of "
        f"{row.batch}; {4 * row.held_out} held-out clips",
        "runs": f"{len(done)} of {len(jobs(tables, seeds))}",
        "spent": ", ".join(f"{minutes:.1f} processor minutes {what}" for what, minutes in spent.items()),
        "arms": "; ".join(f"{arm} (seeds: {len(by_seed)}): {ARMS[arm].words}" for arm, by_seed in results.items()),
    }


def _section(table: str, rows: Sequence[Line]) -> Section:
    title = f"{table}: {TABLES[table].words}"
    if not rows:
        return Section(title=title, text="Nothing is done of it yet.")
    better = frozenset((r, len(HEAD) - 1) for r, line in enumerate(rows) if line.verdict == "as in the paper")
    return Section(title=title, parts=[Table(head=HEAD, rows=[line.cells for line in rows], better=better)])


def markdown(about: Mapping[str, str], found: Mapping[str, Sequence[Line]]) -> str:
    """The same tables for people who read files."""
    parts = [f"- {key}: {value}" for key, value in about.items()] + ["", NOTE]
    for table, rows in found.items():
        parts += ["", f"## {table}: {TABLES[table].words}", ""]
        parts += (
            [_row(HEAD), _row(["---"] * len(HEAD)), *(_row(line.cells) for line in rows)]
            if rows
            else ["Not done."]
        )
    return "\n".join(parts) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
