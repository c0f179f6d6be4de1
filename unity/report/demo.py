"""What the demo says of itself: its findings as sections of a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from unity.evaluate.held_out import TIMES, Exam
from unity.modality.depth import CAP
from unity.modality.table import MODALITIES
from unity.model.weights import ModelCard
from unity.report.page import Curves, Section, Strips, Table, smooth
from unity.tasks import TASKS

Video = UInt8[np.ndarray, "t h w 3"]

# what the paper trained: steps of both stages, clips a step
PAPER_STEPS, PAPER_BATCH = 56_000, 32

# points that a curve is averaged over
WINDOW = 25


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that one run of the demo found out."""

    machine: str
    # part → seconds, and seconds of all cores together
    seconds: Mapping[str, tuple[float, float]]
    # the model that training started from, if any
    start: ModelCard | None
    card: ModelCard
    parameters: int
    # clips to learn from, clips a step
    clips: int
    batch: int
    # stage → the lines of its metrics.jsonl
    journals: Mapping[int, Sequence[Mapping[str, float]]]
    exams: Mapping[str, Exam]
    # the real video, and each modality estimated from it as the model drew it
    film: Mapping[str, Video]
    guidance: float
    sampling: int


def lead(findings: Findings) -> str:
    steps = sum(len(journal) for journal in findings.journals.values())
    better, all_ = _tally(findings.exams)
    start, card = findings.start, findings.card
    begin = "from nothing" if start is None else f"on from stage {start.stage}, step {start.step:,}"
    return (
        f"A model of {findings.parameters / 1e6:.1f}M parameters, trained {begin} for {_minutes(findings)} "
        f"on {findings.clips} simulated clips ({findings.machine}), and then asked for all five modalities in "
        f"all three tasks on clips it had not seen.\n\n"
        f"What to expect: {steps} steps of {findings.batch} clips here, where the paper's schedule has "
        f"{PAPER_STEPS:,} of {PAPER_BATCH}, for a model a thousand times smaller, on {card.frames} frames of "
        f"{card.size[0]}x{card.size[1]} pixels. In {better} of {all_} measures below the estimates are better "
        f"than knowing nothing."
    )


def sections(findings: Findings) -> list[Section]:
    return [
        _learning(findings),
        _estimates(findings.exams),
        _errors(findings.exams),
        *(_pictures(name, exam, findings) for name, exam in findings.exams.items()),
        _film(findings),
        _times(findings.seconds),
    ]


def _learning(findings: Findings) -> Section:
    panels = {}
    for kind, names in (("task", TASKS), ("modality", MODALITIES)):
        for stage, journal in findings.journals.items():
            lines = {name: _line(journal, f"loss/{name}") for name in names}
            panels[f"stage {stage}, by {kind}"] = {name: line for name, line in lines.items() if line}
    rows = [list(panels.items())[i : i + 2] for i in range(0, len(panels), 2)]
    text = (
        "Stage 1 learns the pixel-aligned modalities on clips of one person, stage 2 all five on all four "
        "sources. In every step each sample has a task of its own. The loss is the squared error of the velocity "
        f"on the noisy streams; each line is the mean of its last {WINDOW} values, as a step's own is noisy."
    )
    return Section(title="Learning", text=text, parts=[Curves(panels=dict(row)) for row in rows])


def _line(journal: Sequence[Mapping[str, float]], key: str) -> list[tuple[int, float]]:
    return smooth([(record["step"] + 1, record[key]) for record in journal if key in record], WINDOW)


def _estimates(exams: Mapping[str, Exam]) -> Section:
    rows, better = [], set()
    for modality, exam in exams.items():
        for name, measure in MODALITIES[modality].measures.items():
            model, trivial, codec = (exam.scores[who][name] for who in ("model", "trivial", "codec"))
            if _beats(model, trivial, measure.more):
                better.add((len(rows), 2))
            words = f"{measure.words} {'↑' if measure.more else '↓'}"
            guess = MODALITIES[modality].baselines["trivial"].words
            classical = exam.scores.get("classical", {}).get(name, "–")
            rows.append([modality, words, model, trivial, guess, classical, codec, str(exam.clips)])
    head = ("modality", "measure", "model", "knowing nothing", "that is", "no learning", "codec alone", "clips")
    text = (
        "Estimates from the RGB video of held-out clips, against the exact values of the simulation. Bold: "
        "better than knowing nothing, where that scores at all. “No learning” is a classical method, where "
        "one is at hand: inverse depth that rises from the top to the bottom, and OpenCV's optical flow. "
        "“Codec alone” is the true modality video after coding and decoding: what a perfect model would "
        "score with the embedded codec at this size of picture. Depth is fitted by one scale and shift of "
        "inverse depth per clip, for the guesses too, and scored "
        f"up to {CAP:g} m."
    )
    return Section(
        title="Estimates in numbers", text=text, parts=[Table(head=head, rows=rows, better=frozenset(better))]
    )


def _errors(exams: Mapping[str, Exam]) -> Section:
    rows, better = [], set()
    for r, (modality, exam) in enumerate(exams.items()):
        row: list[str | float] = [modality]
        for task in TASKS:
            model, trivial = exam.errors[task]["model"], exam.errors[task]["trivial"]
            if model < trivial:
                better.add((r, len(row)))
            row += [model, trivial]
        rows.append(row)
    head = ["modality", *(word for task in TASKS for word in (task, "nothing"))]
    text = (
        "Squared error of the clean latent that one evaluation of the model leads to, on held-out clips, mean "
        f"over the noise levels {', '.join(map(str, TIMES))}. “Nothing” is the multiple of the noisy input itself "
        "that comes nearest, chosen with the answer in hand: all that can be said without having learnt anything "
        "of pictures."
    )
    return Section(
        title="All tasks in numbers", text=text, parts=[Table(head=head, rows=rows, better=frozenset(better))]
    )


def _pictures(modality: str, exam: Exam, findings: Findings) -> Section:
    row, shown = MODALITIES[modality], exam.shown
    rows = {
        "video, true": shown.video["rgb"],
        f"{modality}, true": shown.video[modality],
    }
    for name, task in TASKS.items():
        streams = zip(("video", modality), task.noisy, exam.samples[name], strict=True)
        rows |= {f"{name}: {what}": video for what, noisy, video in streams if noisy}
    caption = f"Caption: {shown.caption}"
    text = (
        f"One held-out clip ({shown.source.replace('_', ' ')}). {row.meaning.capitalize()}. "
        f"Its words: “{row.type_prompt}”. "
        f"{findings.sampling} steps; guidance {findings.guidance:g} where there is a caption."
    )
    return Section(title=modality.capitalize(), text=text, parts=[Strips(rows=rows, caption=caption)])


def _film(findings: Findings) -> Section:
    text = (
        "The short film of two people that the package carries, which is nothing like the simulated world the "
        "model grew up in. There is no truth to score against; this is to be looked at."
    )
    return Section(title="A real video", text=text, parts=[Strips(rows=findings.film)])


def _times(seconds: Mapping[str, tuple[float, float]]) -> Section:
    rows = [[part, *(f"{value:.0f} s" for value in values)] for part, values in seconds.items()]
    rows.append(["together", *(f"{sum(column):.0f} s" for column in zip(*seconds.values(), strict=True))])
    text = "“Work” adds up the time of all cores; on an idle machine of two it is at most twice the time."
    return Section(
        title="How long each part took", text=text, parts=[Table(head=("part", "time", "work"), rows=rows)]
    )


def _tally(exams: Mapping[str, Exam]) -> tuple[int, int]:
    """In how many measures the model beats the trivial guess, of those where that says something."""
    pairs = [
        (exam.scores["model"][name], exam.scores["trivial"][name], measure.more)
        for modality, exam in exams.items()
        for name, measure in MODALITIES[modality].measures.items()
    ]
    return sum(_beats(*pair) for pair in pairs), sum(_counts(trivial, more) for _, trivial, more in pairs)


def _beats(model: float, trivial: float, more: bool) -> bool:
    return _counts(trivial, more) and (model > trivial if more else model < trivial)


def _counts(trivial: float, more: bool) -> bool:
    """Where the trivial guess has no score, or 0 of something, being better proves nothing."""
    return not np.isnan(trivial) and not (more and trivial == 0)


def _minutes(findings: Findings) -> str:
    training = sum(values[0] for part, values in findings.seconds.items() if part.startswith("train"))
    return f"{training / 60:.0f} minutes" if training >= 90 else f"{training:.0f} seconds"
