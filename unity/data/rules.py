"""Rules that clips and annotations must pass: a table of rows, each a number, a bound and the reason for it."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from unity.typed import typed

Scores = Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One number and its bound."""

    name: str
    # which number
    score: str
    # on which side of the threshold a clip is kept; the threshold itself is kept
    keep: Literal["at least", "at most"]
    threshold: float
    # why what does not pass is left out
    reason: str
    # False: only where it is asked for by name
    on: bool = True

    def holds(self, value: float) -> bool:
        """False for what is no number."""
        return value >= self.threshold if self.keep == "at least" else value <= self.threshold

    def why(self, value: float) -> str:
        return f"{self.reason} ({self.score} {value:.4g}, kept is {self.keep} {self.threshold:g})"


@dataclass(frozen=True)
class Verdict:
    """The first rule that was broken, and the rules whose number is not known."""

    broken: str | None
    why: str
    unknown: tuple[str, ...]


def judge(rules: Sequence[Rule], scores: Scores) -> Verdict:
    """By all rules whose number is known; one that is not known breaks nothing, and is said."""
    known = [(rule, value) for rule in rules if (value := scores.get(rule.score)) is not None]
    unknown = tuple(rule.name for rule in rules if scores.get(rule.score) is None)
    broken = next(((rule, value) for rule, value in known if not rule.holds(value)), None)
    return Verdict(broken[0].name, broken[0].why(broken[1]), unknown) if broken else Verdict(None, "", unknown)


def chosen(table: Sequence[Rule], names: Sequence[str] | None, changes: Path | None) -> tuple[Rule, ...]:
    """The rules of these names, or those that are on, with thresholds of a JSON file {name: number or null}.

    A name may carry a threshold (`motion=0.02`); null in the file leaves a rule out. Raises ValueError for a name
    that no rule has.
    """
    asked = dict(_split(name) for name in names) if names is not None else None
    told = _read(changes) if changes else {}
    known = {rule.name: rule for rule in table}
    if strange := sorted({*(asked or {}), *told} - known.keys()):
        raise ValueError(f"there is no rule {strange[0]!r}; there are {', '.join(known)}")
    kept = [rule for rule in table if (rule.on if asked is None else rule.name in asked) or told.get(rule.name)]
    kept = [rule for rule in kept if told.get(rule.name, 0) is not None]
    given = told | {name: value for name, value in (asked or {}).items() if value is not None}
    return tuple(replace(rule, threshold=given.get(rule.name, rule.threshold)) for rule in kept)


def _split(word: str) -> tuple[str, float | None]:
    name, mark, value = word.partition("=")
    try:
        threshold = float(value) if mark else None
    except ValueError:
        threshold = math.nan
    if threshold is not None and not math.isfinite(threshold):
        raise ValueError(f"{word!r} is no rule with a threshold; write it as {name}=0.5")
    return name, threshold


def _read(path: Path) -> dict[str, float | None]:
    try:
        told: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); write {{name of a rule: threshold or null}}") from None
    if not isinstance(told, dict):
        raise ValueError(f"{path} holds no rules; write {{name of a rule: threshold or null}}")
    return {name: typed(float | None, value, f"{path}: {name}") for name, value in told.items()}
