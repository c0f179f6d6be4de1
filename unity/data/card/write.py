"""A dataset's card in Markdown, with its pictures beside it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from unity.data.card.facts import Facts, facts_of
from unity.data.card.pictures import draw, strip
from unity.data.clips import MODALITY_NAMES
from unity.data.told import lasting
from unity.files import write_text

CARD, PLOTS, STRIP = "CARD.md", "card.png", "views.png"


def write_card(folder: Path) -> list[Path]:
    """CARD.md, card.png and views.png in the folder of a dataset or of buckets; ValueError where there is none."""
    facts, shards = facts_of(folder)
    paths = [folder / name for name in (CARD, PLOTS, STRIP)[: 2 if facts.latents else 3]]
    draw(facts, folder / PLOTS)
    if not facts.latents:
        strip(shards, folder / STRIP)
    write_text(folder / CARD, "\n".join(_lines(facts)) + "\n")
    return paths


def _lines(facts: Facts) -> list[str]:
    lines = [f"# {facts.name}", "", f"{facts.clips} clips, {lasting(3600 * facts.hours)}{_kind(facts)}.", ""]
    lines += ["Written by `python -m unity.data.card`.", "", f"![{PLOTS}]({PLOTS})", ""]
    lines += _clips(facts)
    lines += _annotators(facts)
    lines += _left_out(facts)
    if not facts.latents:
        lines += ["## Views over their frames", "", f"![{STRIP}]({STRIP})"]
    return lines


def _kind(facts: Facts) -> str:
    return ", as latents" if facts.latents else ""


def _clips(facts: Facts) -> list[str]:
    head = ("frames × height × width", "frames/s", "source", "clips", "lasting", *MODALITY_NAMES)
    rows = [
        (p.bucket, f"{facts.rates[p.bucket]:g}", p.source, p.clips, lasting(3600 * p.hours), *p.views.values())
        for p in facts.parts
    ]
    whole = [sum(part.views[name] for part in facts.parts) for name in MODALITY_NAMES]
    rows.append(("all", "", "", facts.clips, lasting(3600 * facts.hours), *whole))
    return ["## Clips, and how many have each view", "", *_table(head, rows), ""]


def _annotators(facts: Facts) -> list[str]:
    if not facts.annotators:
        return []
    rows = [
        (name, who["name"], count, _said(who["versions"]), _said(who["settings"]))
        for name, made in facts.annotators.items()
        for count, who in made
    ]
    return ["## Who annotated", "", *_table(("view", "annotator", "clips", "versions", "settings"), rows), ""]


def _said(told: dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in told.items())


def _left_out(facts: Facts) -> list[str]:
    if not facts.left_out:
        return ["## Left out", "", "Nothing that a ledger here tells of.", ""]
    rows = [(row.what, row.count, row.why, row.example) for row in facts.left_out]
    return ["## Left out", "", *_table(("what", "how many", "why", "such as"), rows), ""]


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in lines]
