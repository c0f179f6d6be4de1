"""What the demo says of itself: its findings as sections of a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import UInt8

from unity.evaluate.held_out import TIMES, Exam
from unity.generate import Generator
from unity.modality.depth import CAP
from unity.modality.table import MODALITIES
from unity.model.weights import ModelCard
from unity.report.page import Curves, Section, Strips, Table, number, smooth
from unity.tasks import TASKS

Video = UInt8[np.ndarray, "t h w 3"]

# steps that a curve is averaged over
WINDOW = 15


@dataclass(frozen=True, kw_only=True)
class Learner:
    """A model at some point of its training."""

    card: ModelCard
    parameters: int
    # modality → measure → mean over the held-out clips
    scores: Mapping[str, Mapping[str, float]]
    # run → the lines of its metrics.jsonl, in the order of training
    journals: Mapping[str, Sequence[Mapping[str, float]]]

    @classmethod
    def of(cls, generator: Generator, scores: Mapping, journals: Mapping = MappingProxyType({})) -> "Learner":
        parameters = sum(p.numel() for p in generator.model.parameters())
        return cls(card=generator.card, parameters=parameters, scores=scores, journals=journals)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that one run of the demo found out; the shipped model is the first learner, and took the exams."""

    machine: str
    # part → seconds, and seconds of all cores together
    seconds: Mapping[str, tuple[float, float]]
    learners: Mapping[str, Learner]
    # clips to learn from, clips a step
    clips: int
    batch: int
    exams: Mapping[str, Exam]
    # the real video, and each modality estimated from it as the model drew it
    film: Mapping[str, Video]
    guidance: float
    sampling: int


def lead(findings: Findings) -> str:
    shipped = next(iter(findings.learners.values()))
    better, all_ = _tally(findings.exams)
    card, clips = shipped.card, max(exam.clips for exam in findings.exams.values())
    return (
        f"One model of {shipped.parameters / 1e6:.1f}M parameters estimates depth, optical flow, DensePose, "
        f"skeletons and segmentation from video, makes video from any of them, and makes both from words. It is "
        f"the model in the package (stage {card.stage}, step {card.step:,}, {card.frames} frames of "
        f"{card.size[0]}x{card.size[1]} pixels), which learnt in a simulated world; the method is "
        f"made for models a thousand times its size.\n\n"
        f"Everything on this page was made just now, on {findings.machine}, from up to {clips} simulated clips "
        f"that the model had never seen. In {better} of {all_} measures its estimates beat knowing nothing."
    )


def sections(findings: Findings) -> list[Section]:
    return [
        _seen(findings.exams),
        _film(findings),
        _estimates(findings),
        *(_pictures(name, exam, findings) for name, exam in findings.exams.items()),
        _errors(findings.exams),
        _learning(findings),
        _times(findings.seconds),
    ]


def _seen(exams: Mapping[str, Exam]) -> Section:
    rows = {}
    for name, exam in exams.items():
        rows |= {
            f"{name}: video": exam.shown.video["rgb"],
            f"{name}: truth": exam.shown.video[name],
            f"{name}: estimate": exam.samples["estimate"][1],
        }
    text = (
        "Held-out clips of the simulated world, the exact view of each, and what the model estimates from the "
        "video alone."
    )
    return Section(title="Estimates", text=text, parts=[Strips(rows=rows)])


def _learning(findings: Findings) -> Section:
    lines = {
        title: {task: _curve(learner.journals, f"loss/{task}") for task in TASKS}
        for title, learner in findings.learners.items()
        if learner.journals
    }
    steps = {title: len(next(iter(found.values()))) for title, found in lines.items()}
    told = ", ".join(f"{title}: {count} steps" for title, count in steps.items())
    text = (
        f"The loss by task while training ({told}, of {findings.batch} clips of {findings.clips}), the squared "
        f"error of the velocity on the noisy streams; in every step each sample has a task of its own. From "
        f"nothing, stage 1 learns the pixel-aligned modalities on clips of one person, stage 2 all five on all "
        f"four sources. Each line is the mean of its last {WINDOW} values. What it brought is in the table above."
    )
    return Section(title="Learning", text=text, parts=[Curves(panels=lines)])


def _curve(journals: Mapping[str, Sequence[Mapping[str, float]]], key: str) -> list[tuple[int, float]]:
    """One line through all runs, one after the other."""
    records = [record for journal in journals.values() for record in journal]
    return smooth([(i + 1, record[key]) for i, record in enumerate(records) if key in record], WINDOW)


def _estimates(findings: Findings) -> Section:
    rows, better = [], set()
    for modality, exam in findings.exams.items():
        kinds = MODALITIES[modality].baselines
        for name, measure in MODALITIES[modality].measures.items():
            trivial = exam.scores["trivial"][name]
            row = [modality, f"{measure.words} {'↑' if measure.more else '↓'}"]
            scores = [learner.scores[modality][name] for learner in findings.learners.values()]
            columns = enumerate(scores, start=len(row))
            better |= {(len(rows), column) for column, s in columns if _beats(s, trivial, measure.more)}
            scored = ((kinds[kind].words, exam.scores[kind][name]) for kind in kinds if kind in exam.scores)
            told = (f"{words} {number(score)}" for words, score in scored)
            rows.append([*row, *scores, ", ".join(told), str(exam.clips)])
    head = ("modality", "measure", *findings.learners, "without a model", "clips")
    text = (
        "Estimates against the exact values of the simulation, mean over held-out clips. "
        "Bold: better than knowing nothing, where that scores at all. Depth is aligned by one scale and shift of "
        f"inverse depth per clip, for every column alike, and scored up to {CAP:g} m."
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
        f"given: {modality}": shown.video[modality],
        "control: video": exam.samples["control"][0],
        "(the true video)": shown.video["rgb"],
        "joint: video": exam.samples["joint"][0],
        f"joint: {modality}": exam.samples["joint"][1],
    }
    text = (
        f"{row.meaning.capitalize()}. Control: a video that follows the given {modality}. Joint: both from the "
        f"caption alone. The words for it: “{row.type_prompt}”. {findings.sampling} steps, guidance "
        f"{findings.guidance:g}."
    )
    caption = f"Caption: {shown.caption}"
    return Section(title=f"Video and {modality}", text=text, parts=[Strips(rows=rows, caption=caption)])


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
