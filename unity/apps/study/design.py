"""What a study is: its questions, its comparisons, and which of them a rater sees in which order."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np

from unity.randomness import Purpose, draw

# most videos of a comparison, and most comparisons of a study
SHOWN, MOST = 4, 100_000
# the place of ruined copies among models
RUINED = -1


class Question(NamedTuple):
    """As raters read it, and what to look at; `worded`: it needs the prompt."""

    words: str
    more: str
    worded: bool = False


# the paper's three
QUESTIONS = {
    "physical": Question(
        "Which video moves as the real world does?",
        "Weight, contact, light and shape: nothing melts, floats, or passes through another.",
    ),
    "semantic": Question("Which video shows best what the words say?", "All that is named, and doing that.", True),
    "overall": Question("Which video do you prefer?", "All in all."),
}


@dataclass(frozen=True, kw_only=True)
class Design:
    """All that is settled before the first vote; models and clips are numbered by their places here."""

    models: tuple[str, ...]
    clips: tuple[str, ...]
    # "" where no question needs it
    prompts: tuple[str, ...]
    # SHA-256 of each model's file for each clip, model by model
    digests: tuple[str, ...]
    questions: tuple[str, ...]
    at_once: int
    asks: int
    checks: int
    missed: int
    invite: int
    seed: int


class Comparison(NamedTuple):
    """Videos of one clip: of which models, in the order of the page; a check has one model's and ruined ones."""

    clip: int
    shown: tuple[int, ...]

    @property
    def is_check(self) -> bool:
        return RUINED in self.shown

    @property
    def alike(self) -> tuple[int, tuple[int, ...]]:
        """What is the same comparison, in whatever order."""
        return self.clip, tuple(sorted(self.shown))


def count(design: Design) -> int:
    """Of the comparisons of a study, checks left out."""
    return comb(len(design.models), design.at_once) * len(design.clips)


def comparisons(design: Design) -> list[Comparison]:
    """All of a study, checks left out."""
    sets = combinations(range(len(design.models)), design.at_once)
    return [Comparison(clip, shown) for shown in sets for clip in range(len(design.clips))]


def checks(design: Design) -> list[Comparison]:
    """Of clips and models by chance, the same for all raters."""
    random = np.random.default_rng(draw(Purpose.STUDY, design.seed))
    clips = random.permutation(len(design.clips))[: design.checks].tolist()
    models = random.integers(len(design.models), size=len(clips)).tolist()
    ruined = (RUINED,) * (design.at_once - 1)
    return [Comparison(clip, (model, *ruined)) for clip, model in zip(clips, models, strict=True)]


def asked(design: Design, rater: int, seen: Mapping[tuple[int, tuple[int, ...]], int]) -> list[Comparison]:
    """What a rater is asked, in order: of the comparisons those least `seen` by others, and a check in each part.

    Order and sides are a function of (seed, rater) and of what others were asked.
    """
    random = np.random.default_rng(draw(Purpose.STUDY, design.seed, rater))
    every = comparisons(design)
    mixed = [every[place] for place in random.permutation(len(every))]
    chosen = sorted(mixed, key=lambda one: seen.get(one.alike, 0))[: design.asks]
    chosen = [chosen[place] for place in random.permutation(len(chosen))]
    known = checks(design)
    # from behind, so that places in front stay what they are
    for part in reversed(range(len(known))):
        first, last = (len(chosen) * p // len(known) for p in (part, part + 1))
        chosen.insert(int(random.integers(first, last + 1)), known[part])
    return [one._replace(shown=tuple(random.permutation(one.shown).tolist())) for one in chosen]
