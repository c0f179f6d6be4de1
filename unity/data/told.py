"""What the commands that write datasets say at their ends, whichever it is."""

import re
from collections.abc import Mapping, Sequence

from unity.data.clips import MODALITY_NAMES


def told(
    head: str,
    views: Mapping[str, str],
    wordless: int,
    left_out: Mapping[str, int],
    why: Mapping[str, str],
    work: str,
    more: Sequence[str] = (),
) -> str:
    """What there is, `views` by modality, what there is `more` to say, what is not there and why."""
    lines = [f"{name}: {views.get(name, 'absent')}" for name in MODALITY_NAMES]
    lines += [*more, *[f"{wordless} without a caption"] * bool(wordless), *left(left_out, why)]
    return "\n  ".join([head, *lines, f"{work} may be deleted"])


def left(left_out: Mapping[str, int], why: Mapping[str, str]) -> list[str]:
    """A line for each kind of what was left out: how many, and an example."""
    return [f"left out {count} × {kind}: {why[kind]}" for kind, count in left_out.items()]


def example(name: str, why: str) -> str:
    """One that was left out, and why; many a fault names it already."""
    return why if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", why) else f"{name}: {why}"


def lasting(seconds: float) -> str:
    """A time in the unit that it is read in."""
    units = {"hours": 3600, "minutes": 60}
    unit = next((unit for unit, long in units.items() if seconds >= long), "seconds")
    value = seconds / units.get(unit, 1)
    return f"{value:,.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"
