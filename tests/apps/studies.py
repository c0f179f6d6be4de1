"""Folders of models for studies, and raters who prefer what they are told to."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from unity.apps.study.design import RUINED, Comparison
from unity.apps.study.options import Options
from unity.apps.study.store import Store
from unity.data.video import write_video
from unity.files import write_json

# no word of the pages
MODELS = ("zebrafish", "quokka", "walrus")
WORDS = "a ball rolls over a floor, number {}"


def grey(model: int, clip: int) -> int:
    return 60 + 50 * model + 8 * clip


def folders(root: Path, models=MODELS, clips: int = 3, shape=(4, 32, 48)) -> tuple[Path, ...]:
    """As unity.jobs writes them: each model of its own grey, file dates and codec's leftovers."""
    for m, model in enumerate(models):
        for c in range(clips):
            place = root / model / f"clip{c}"
            video = np.full((*shape, 3), grey(m, c), np.uint8)
            write_video(video, place / "rgb.mp4", 12)
            write_json(place / "run.json", {"prompt": WORDS.format(c), "checkpoint": model})
            os.utime(place / "rgb.mp4", (1e9 + 1e6 * m, 1e9 + 1e6 * m))
    return tuple(root / model for model in models)


def options(root: Path, **rest) -> Options:
    return Options(models=folders(root / "models"), out=root / "study", **rest)


# (random, comparison, question) → place of the chosen video
Choose = Callable[[np.random.Generator, Comparison, str], int | None]


def luce(strengths: dict[str, list[float]]) -> Choose:
    """Careful raters, who choose as Luce's model says, by question."""

    def choose(random: np.random.Generator, comparison: Comparison, question: str) -> int:
        odds = [-np.inf if m == RUINED else strengths[question][m] for m in comparison.shown]
        return int(np.argmax([value + random.gumbel() for value in odds]))

    return choose


def careless(random: np.random.Generator, comparison: Comparison, question: str) -> int:
    return int(random.integers(len(comparison.shown)))


def vote(store: Store, choose: Choose, seed: int) -> str:
    """A rater who answers all; the code."""
    random, code = np.random.default_rng(seed), store.enter()
    for ask in asks(store, code):
        store.vote(code, ask.place, {q: choose(random, ask.comparison, q) for q in store.design.questions})
    return code


def asks(store: Store, code: str) -> Iterator:
    while (ask := store.standing(code).next) is not None:
        yield ask
