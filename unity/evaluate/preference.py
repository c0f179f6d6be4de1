"""What people prefer: ranks of models from votes on which of a few videos is the best, with intervals.

The model is Luce's (1959), for pairs that of Bradley and Terry (1952): of those shown, i is chosen with a
probability of w_i / Σ w. A tie is an equal share of the vote for each of them. So that a model which never lost
has a strength, each two models count one tie more than was voted (the half of Haldane and Anscombe).
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float

from unity.evaluate.metrics import LEVEL, RESAMPLES
from unity.randomness import Purpose, draw

# relative change of the strengths at which their iteration ends, and its most steps
_CLOSE, _MOST = 1e-10, 10_000
_ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)

Sets = Bool[np.ndarray, "sets models"]
Wins = Float[np.ndarray, "... sets models"]


@dataclass(frozen=True, kw_only=True)
class Vote:
    """A rater's answer to one question about one comparison; models by their number."""

    rater: int
    # what was looked at, whichever models showed it
    clip: Hashable
    shown: tuple[int, ...]
    # None: a tie
    winner: int | None


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A number with the percentiles of its bootstrap over raters; those are NaN with fewer than two raters."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What the votes came to for one model."""

    model: int
    # from 1, and the interval of it
    rank: Interval
    # logarithm; the mean over models is 0, and a difference of d means odds of exp(d)
    strength: Interval
    # share of its comparisons that it won, ties in equal shares
    win_rate: Interval
    comparisons: int


def standings(votes: Sequence[Vote], models: int) -> list[Standing]:
    """All models, the strongest first. Raters are resampled with all their votes, clips are not.

    Raises ValueError where there is no vote.
    """
    if not votes:
        raise ValueError("nobody has voted yet")
    sets, wins = tally(votes, models)
    measures: dict[str, Callable[[Wins], np.ndarray]] = {
        "rank": lambda wins: ranks(strengths(sets, wins)),
        "strength": lambda wins: strengths(sets, wins),
        "win_rate": lambda wins: win_rates(sets, wins),
    }
    total, resampled = wins.sum(0), _resamples(wins) if len(wins) > 1 else None
    found = {name: _intervals(measure, total, resampled) for name, measure in measures.items()}
    counts = total.sum(1) @ sets
    rows = [
        Standing(model=m, comparisons=round(counts[m]), **{name: column[m] for name, column in found.items()})
        for m in range(models)
    ]
    return sorted(rows, key=lambda row: row.rank.value)


def tally(votes: Sequence[Vote], models: int) -> tuple[Sets, Float[np.ndarray, "raters sets models"]]:
    """Which models each kind of comparison shows, and how often each won in it, by rater."""
    kinds = sorted({tuple(sorted(vote.shown)) for vote in votes})
    raters = sorted({vote.rater for vote in votes})
    place, row = {kind: s for s, kind in enumerate(kinds)}, {rater: r for r, rater in enumerate(raters)}
    sets, wins = np.zeros((len(kinds), models), bool), np.zeros((len(raters), len(kinds), models))
    for kind, s in place.items():
        sets[s, list(kind)] = True
    for vote in votes:
        s = place[tuple(sorted(vote.shown))]
        share = sets[s] / len(vote.shown) if vote.winner is None else np.arange(models) == vote.winner
        wins[row[vote.rater], s] += share
    return sets, wins


def strengths(sets: Sets, wins: Wins) -> Float[np.ndarray, "... models"]:
    """Logarithms of the w that make the wins most likely, their mean 0: Hunter's MM iteration (2004)."""
    sets, wins = _with_ties(sets, wins)
    votes, won = wins.sum(-1), wins.sum(-2)
    w = np.ones_like(won)
    for _ in range(_MOST):
        new = won / ((votes / (w @ sets.T)) @ sets)
        new /= np.exp(np.log(new).mean(-1, keepdims=True))
        done = np.abs(new / w - 1).max() < _CLOSE
        w = new
        if done:
            break
    return np.log(w)


def ranks(strength: Float[np.ndarray, "... models"]) -> Float[np.ndarray, "... models"]:
    """1 for the strongest; equal ones share the mean of their ranks."""
    behind = (strength[..., None, :] > strength[..., :, None]).sum(-1)
    equal = (strength[..., None, :] == strength[..., :, None]).sum(-1)
    return behind + (equal + 1) / 2


def win_rates(sets: Sets, wins: Wins) -> Float[np.ndarray, "... models"]:
    """Share of its comparisons that each model won; NaN for one that was in none."""
    return _share(wins.sum(-2), wins.sum(-1) @ sets)


def duels(sets: Sets, wins: Float[np.ndarray, "sets models"]) -> Float[np.ndarray, "models models"]:
    """Of the votes for i or j in comparisons that show both, the share for i; NaN where there are none."""
    against = wins.T @ sets
    shares = _share(against, against + against.T)
    np.fill_diagonal(shares, np.nan)
    return shares


def agreement(votes: Iterable[Vote]) -> float:
    """Krippendorff's α of the raters; 1 where all agree, about 0 where they choose by chance.

    A value is the chosen one's place among those shown, or a tie. Places mean nothing, so each comparison counts
    once in each rotation of them: which place is common is no reason for raters to agree.
    """
    units: dict[tuple, list] = {}
    for vote in votes:
        shown = tuple(sorted(vote.shown))
        place = None if vote.winner is None else shown.index(vote.winner)
        units.setdefault((vote.clip, shown), []).append(place)
    return krippendorff(
        [None if place is None else (place + turn) % len(shown) for place in unit]
        for (_, shown), unit in units.items()
        for turn in range(len(shown))
    )


def krippendorff(units: Iterable[Sequence[Hashable]]) -> float:
    """Krippendorff's α for nominal values (Content Analysis, chapter 12); any number of raters a unit.

    Units with fewer than two values say nothing. NaN where no unit has two, or all values are the same.
    """
    paired = [Counter(unit) for unit in units if len(unit) > 1]
    values = sum(paired, Counter())
    n = values.total()
    # ordered pairs of different values, within units and among all
    within = sum((_unlike(unit) / (unit.total() - 1) for unit in paired), 0.0)
    return 1 - within * (n - 1) / _unlike(values) if len(values) > 1 else float("nan")


def _unlike(values: Counter) -> int:
    return values.total() ** 2 - sum(count**2 for count in values.values())


def _with_ties(
    sets: Sets, wins: Wins
) -> tuple[Bool[np.ndarray, "more models"], Float[np.ndarray, "... more models"]]:
    """One tie more between each two models."""
    models = sets.shape[1]
    pairs = np.zeros((models * (models - 1) // 2, models), bool)
    for row, pair in zip(pairs, combinations(range(models), 2), strict=True):
        row[list(pair)] = True
    ties = np.broadcast_to(pairs / 2, (*wins.shape[:-2], *pairs.shape))
    return np.concatenate([sets, pairs]), np.concatenate([wins, ties], -2)


def _resamples(wins: Float[np.ndarray, "raters sets models"]) -> Float[np.ndarray, "resamples sets models"]:
    random = np.random.default_rng(draw(Purpose.BOOTSTRAP, 0))
    raters = len(wins)
    counts = random.multinomial(raters, np.full(raters, 1 / raters), RESAMPLES)
    return np.tensordot(counts.astype(float), wins, 1)


def _intervals(measure: Callable[[Wins], np.ndarray], total: Wins, resampled: Wins | None) -> list[Interval]:
    """The measure of each model."""
    values = measure(total)
    columns = np.full((len(values), 1), np.nan) if resampled is None else measure(resampled).T
    # a model may be in no comparison of a resample
    known = [column[~np.isnan(column)] for column in columns]
    ends = [np.quantile(column, _ENDS) if len(column) else (np.nan, np.nan) for column in known]
    return [
        Interval(value=float(value), low=float(low), high=float(high))
        for value, (low, high) in zip(values, ends, strict=True)
    ]


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
