"""What a study came to: ranks by question with intervals, win rates, raters' agreement; JSON, CSV and a page."""

import csv
import io
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from unity.apps.study.design import QUESTIONS, RUINED, Design
from unity.apps.study.store import Ballot, Store
from unity.evaluate.preference import Interval, Standing, Vote, agreement, duels, standings, tally
from unity.files import write_json, write_text
from unity.report.page import Section, Table, number, page


@dataclass(frozen=True, kw_only=True)
class Rater:
    """Who voted: comparisons, checks seen and missed, and whether the votes count."""

    number: int
    comparisons: int
    checks: int
    missed: int
    counts: bool
    # of a comparison, from when it was given; the median
    seconds: float


class People(NamedTuple):
    """How many began, and who voted, by number."""

    came: int
    voted: Mapping[int, Rater]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of one question, of the raters that count."""

    standings: list[Standing]
    # share of the votes for row against column
    duels: np.ndarray
    agreement: float
    votes: int
    ties: int
    # share of the choices that fell on the first video of the page
    first: float


def report(folder: Path) -> list[Path]:
    """Write `votes.csv`, `study.json` and `study.html`; ValueError where nobody's votes count yet."""
    with closing(Store(folder)) as store:
        design, ballots, came = store.design, store.ballots(), store.raters()
    raters = raters_of(design, ballots)
    counted = [ballot for ballot in ballots if raters[ballot.rater].counts and not ballot.ask.comparison.is_check]
    if not counted:
        raise ValueError(
            f"{folder} has no votes that count yet: {len(raters)} of {came} raters voted, and "
            f"{sum(rater.counts for rater in raters.values())} saw a check and missed no more than {design.missed}"
        )
    outcomes = {question: outcome(design, question, counted) for question in design.questions}
    people = People(came, raters)
    return [
        write_text(folder / "votes.csv", _sheet(design, ballots, raters)),
        write_json(folder / "study.json", _record(design, people, outcomes)),
        write_text(folder / "study.html", _page(design, people, outcomes)),
    ]


def raters_of(design: Design, ballots: Sequence[Ballot]) -> dict[int, Rater]:
    """Everybody who voted. With checks in a study, whoever saw none yet does not count."""
    by_rater: dict[int, list[Ballot]] = {}
    for ballot in ballots:
        by_rater.setdefault(ballot.rater, []).append(ballot)
    return {number: _rater(design, number, row) for number, row in by_rater.items()}


def _rater(design: Design, number: int, ballots: Sequence[Ballot]) -> Rater:
    checks = [ballot for ballot in ballots if ballot.ask.comparison.is_check]
    missed = sum(not is_right(ballot) for ballot in checks)
    return Rater(
        number=number,
        comparisons=len(ballots) - len(checks),
        checks=len(checks),
        missed=missed,
        counts=missed <= design.missed and len(checks) >= min(1, design.checks),
        seconds=median(ballot.voted - (ballot.ask.given or ballot.voted) for ballot in ballots),
    )


def is_right(ballot: Ballot) -> bool:
    """Of a check: the video that is not ruined was chosen, whatever was asked."""
    shown = ballot.ask.comparison.shown
    return all(choice is not None and shown[choice] != RUINED for choice in ballot.choices.values())


def outcome(design: Design, question: str, ballots: Sequence[Ballot]) -> Outcome:
    """What the votes on a question come to."""
    votes = [_vote(ballot, question) for ballot in ballots]
    sets, wins = tally(votes, len(design.models))
    places = [ballot.choices[question] for ballot in ballots if ballot.choices[question] is not None]
    return Outcome(
        standings=standings(votes, len(design.models)),
        duels=duels(sets, wins.sum(0)),
        agreement=agreement(votes),
        votes=len(votes),
        ties=len(votes) - len(places),
        first=places.count(0) / len(places) if places else float("nan"),
    )


def _vote(ballot: Ballot, question: str) -> Vote:
    (clip, shown), choice = ballot.ask.comparison, ballot.choices[question]
    winner = None if choice is None else shown[choice]
    return Vote(rater=ballot.rater, clip=clip, shown=shown, winner=winner)


_HEAD = ("rater", "counts", "place", "clip", "prompt", "check", "shown", "question", "choice", "given", "voted")


def _sheet(design: Design, ballots: Sequence[Ballot], raters: Mapping[int, Rater]) -> str:
    """A line for each answer; models in the order of the page, and the chosen one's name."""
    out = io.StringIO()
    sheet = csv.writer(out, lineterminator="\n")
    sheet.writerow(_HEAD)
    for rater, (place, comparison, _, given), choices, voted in ballots:
        shown = ["ruined" if model == RUINED else design.models[model] for model in comparison.shown]
        what = (design.clips[comparison.clip], design.prompts[comparison.clip], int(comparison.is_check))
        for question, choice in choices.items():
            chosen = "tie" if choice is None else shown[choice]
            when = (_utc(given or voted), _utc(voted))
            row = (rater, int(raters[rater].counts), place, *what, " | ".join(shown), question, chosen, *when)
            sheet.writerow(map(_harmless, row))
    return out.getvalue()


def _harmless(cell: object) -> object:
    """Spreadsheets take words that begin so for formulas."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _record(design: Design, people: People, outcomes: Mapping[str, Outcome]) -> dict:
    def told(found: Outcome) -> dict:
        rows = [asdict(row) | {"model": design.models[row.model]} for row in found.standings]
        return asdict(found) | {"standings": rows}

    return {
        "design": asdict(design),
        "raters": {"came": people.came, "voted": [asdict(rater) for rater in people.voted.values()]},
        "questions": {question: told(found) for question, found in outcomes.items()},
    }


def _page(design: Design, people: People, outcomes: Mapping[str, Outcome]) -> str:
    counting = sum(rater.counts for rater in people.voted.values())
    lead = (
        f"{counting} raters count of {len(people.voted)} who voted, {people.came} came. {len(design.models)} "
        f"models, {len(design.clips)} clips, {design.at_once} videos at a time, in random order, without names."
    )
    sections = [_section(design, question, found) for question, found in outcomes.items()]
    last = [_people(design, people.voted), Section(title="How it is counted", text=_HOW)]
    return page("Study", lead, [*sections, *last])


def _section(design: Design, question: str, found: Outcome) -> Section:
    text = (
        f"{QUESTIONS[question].words}\n\n{found.votes} votes, of which {found.ties} ties. Raters' agreement, "
        f"Krippendorff's α: {number(found.agreement)}. The first video of the page had {_percent(found.first)} of "
        f"the choices, and by chance {_percent(1 / design.at_once)}."
    )
    names = [design.models[row.model] for row in found.standings]
    return Section(title=question.capitalize(), text=text, parts=[_ranks(names, found), _duels(names, found)])


def _ranks(names: Sequence[str], found: Outcome) -> Table:
    head = ["model", "rank", "strength", "95%", "win rate", "95%", "comparisons"]
    rows = [
        [
            name,
            f"{row.rank.value:g}" + _ends(row.rank, " ({:g} to {:g})", 1, ""),
            f"{row.strength.value:+.2f}",
            _ends(row.strength, "{:+.2f} to {:+.2f}"),
            _percent(row.win_rate.value, 1),
            _ends(row.win_rate, "{:.1f} to {:.1f}%", 100),
            f"{row.comparisons}",
        ]
        for name, row in zip(names, found.standings, strict=True)
    ]
    return Table(head=head, rows=rows)


def _duels(names: Sequence[str], found: Outcome) -> Table:
    order = [row.model for row in found.standings]
    shares = found.duels[np.ix_(order, order)]
    rows = [[name, *map(_percent, row)] for name, row in zip(names, shares.tolist(), strict=True)]
    won = frozenset((int(row), int(column) + 1) for row, column in np.argwhere(shares > 0.5))
    return Table(head=["row against column", *names], rows=rows, better=won)


def _people(design: Design, raters: Mapping[int, Rater]) -> Section:
    head = ["rater", "comparisons", "checks", "missed", "seconds each", "counts"]
    rows = [
        [*map(str, (r.number, r.comparisons, r.checks, r.missed)), f"{r.seconds:.1f}", "yes" if r.counts else "no"]
        for r in raters.values()
    ]
    text = (
        f"A check shows a video and copies of it in a few blocks and in any order of frames. Votes of a rater "
        f"who misses more than {design.missed}, or has seen none of {design.checks} yet, do not count."
    )
    text = text if design.checks else "There were no checks, and all raters count."
    return Section(title="Raters", text=text, parts=[Table(head=head, rows=rows)])


def _ends(interval: Interval, words: str, factor: float = 1, none: str = "–") -> str:
    return none if np.isnan(interval.low) else words.format(factor * interval.low, factor * interval.high)


def _percent(share: float, digits: int = 0) -> str:
    return "–" if np.isnan(share) else f"{100 * share:.{digits}f}%"


_HOW = (
    "Strengths are those of Luce's model, for pairs that of Bradley and Terry: a model's odds against another are "
    "exp of the difference of their strengths, whose mean is 0. A tie is an equal share of the vote for each one "
    "shown. Each two models count one tie more than was voted, so that one which never lost has a strength.\n\n"
    "A win rate is the share of its comparisons that a model won. In a table of duels a cell is the share of the "
    "votes for one of two where both were shown.\n\n"
    "Intervals are percentiles of 1,000 resamples of the raters, with all votes of each; they say how far other "
    "raters would differ on these clips, and nothing of other clips. With one rater there is none.\n\n"
    "α is 1 where all raters agree, and about 0 where they choose by chance."
)
