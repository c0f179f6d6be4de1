"""Whether a difference between arms is there, and on which side: paired by seed, with an interval."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Verdict = Literal["as in the paper", "the other way", "undecided"]
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much better the first arm is than the second, in the measure's own units; negative: worse."""

    mean: float
    # half of the interval of LEVEL; infinite for a single seed
    half: float
    seeds: int


def difference(first: Sequence[float], second: Sequence[float], more: bool) -> Difference:
    """Of the same seeds, in their order: Student's interval of the paired differences; `more`: more is better."""
    from scipy.stats import t

    gaps = np.subtract(first, second) * (1 if more else -1)
    count = len(gaps)
    if count < 2:
        return Difference(mean=float(gaps.mean()) if count else math.nan, half=math.inf, seeds=count)
    half = t.ppf((1 + LEVEL) / 2, count - 1) * gaps.std(ddof=1) / math.sqrt(count)
    return Difference(mean=float(gaps.mean()), half=float(half), seeds=count)


def verdict(found: Difference, paper: int) -> Verdict:
    """`paper`: 1 where the paper's first arm is better, -1 where it is worse.

    Decided only where the interval leaves 0 out.
    """
    if not abs(found.mean) > found.half:
        return "undecided"
    return "as in the paper" if (found.mean > 0) == (paper > 0) else "the other way"


def paper_side(pairs: Sequence[tuple[float, float]]) -> int:
    """1 where the first number of all printed pairs is above the second, -1 where below, 0 where they disagree."""
    signs = {int(np.sign(round(first - second, 6))) for first, second in pairs} - {0}
    return signs.pop() if len(signs) == 1 else 0


def common(
    first: Mapping[str, float], second: Mapping[str, float], keys: tuple[str, str]
) -> tuple[float, float] | None:
    """The numbers of two arms under their names; `joint/*/rgb` is the mean over the modalities that both have.

    None where either has none.
    """
    (before, star, after), whole = keys[0].partition("*"), keys[1]
    if not star:
        return (first[keys[0]], second[whole]) if keys[0] in first and whole in second else None
    both = [name for name in first if name.startswith(before) and name.endswith(after) and name in second]
    return (float(np.mean([first[n] for n in both])), float(np.mean([second[n] for n in both]))) if both else None
