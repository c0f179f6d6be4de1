"""A study with raters whose preferences are known: do its ranks, strengths and checks say what they prefer?

    python benchmarks/study_bench.py [--careful 60] [--careless 10]

The shipped model makes videos of 12 prompts with few and with more steps; four folders of them are the study's
models. Raters vote through the HTTP API of a server of its own, several at once, and see what a browser sees: the
careful ones choose as Luce's model says, by strengths that differ from question to question and say nothing of how
the videos look; the careless ones by chance, of whom one in 23 guesses well enough to count. No figure is written
when the report gets an order wrong or leaves out a careful rater.
"""

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from harness import write_result

from unity.command import check_bounds, end, whole
from unity.files import write_text

ROOT = Path(__file__).parents[1]
# sampling steps of each model
MODELS = {"one": 1, "two": 2, "four": 4, "eight": 8}
# question → the models' strengths in the raters' eyes, whose mean is 0
STRENGTHS = {
    "physical": (-1.2, -0.4, 0.4, 1.2),
    "semantic": (0.0, 0.9, -0.9, 0.0),
    "overall": (0.6, -1.0, -0.2, 0.6),
}
PROMPTS = [
    f"{who} {does}"
    for who in ("a man", "a woman", "two persons")
    for does in ("walks in a park", "waves on a beach", "dances in a studio", "stands in a street")
]
# raters who vote at the same time
VOTERS = 8
# (question, models of the videos shown) → place of the chosen one
Choose = Callable[[str, Sequence[int]], int]


@dataclass(frozen=True, kw_only=True)
class Options:
    careful: Annotated[int, whole(2, 1000)] = 60
    careless: Annotated[int, whole(0, 1000)] = 10
    # of the study, and of what raters choose
    seed: Annotated[int, whole(0)] = 0
    # folder of the JSON and of the report's page; benchmarks/results by default
    out: Path | None = None


class Client:
    """A rater's browser."""

    def __init__(self, address: str):
        self.address = address

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(f"{self.address}/api/{path}") as answer:
            return json.load(answer)

    def post(self, path: str, **said: object) -> dict:
        body, kind = json.dumps(said).encode(), {"content-type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(f"{self.address}/api/{path}", body, kind)) as answer:
            return json.load(answer)


def luce(random: np.random.Generator) -> Choose:
    """A careful rater; ruined videos never win."""

    def choose(question: str, shown: Sequence[int]) -> int:
        odds = [STRENGTHS[question][model] if model >= 0 else -np.inf for model in shown]
        return int(np.argmax(odds + random.gumbel(size=len(shown))))

    return choose


def chance(random: np.random.Generator) -> Choose:
    return lambda question, shown: int(random.integers(len(shown)))


def vote(client: Client, code: str, model_of: Mapping[str, int], choose: Choose) -> int:
    """Answer all that a rater is asked; how many comparisons that were."""
    standing = client.get(f"raters/{code}")
    while ask := standing["next"]:
        shown = [model_of[name] for name in ask["videos"]]
        choices = {question: choose(question, shown) for question in STRENGTHS}
        standing = client.post(f"raters/{code}/votes", place=ask["place"], choices=choices)
    return standing["done"]


def make_videos(scratch: Path, environment: Mapping[str, str]) -> list[Path]:
    """A folder of videos for each model."""
    lines = [json.dumps({"name": f"{place:02}", "prompt": words}) for place, words in enumerate(PROMPTS)]
    jobs = write_text(scratch / "prompts.jsonl", "\n".join(lines) + "\n")
    for name, steps in MODELS.items():
        words = [sys.executable, "-m", "unity.jobs", str(jobs), "--modality", "depth", "--steps", str(steps)]
        subprocess.run([*words, "--out", str(scratch / name)], env=environment, check=True, stdout=sys.stderr)
    return [scratch / name for name in MODELS]


@contextmanager
def serving(words: Sequence[str], environment: Mapping[str, str]) -> Iterator[Client]:
    command = [sys.executable, "-m", "unity.apps.study", "--port", "0", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        yield Client(process.stdout.readline().split()[1].rstrip("/"))
    finally:
        process.terminate()
        process.wait()


def told(study: Path) -> dict[str, int]:
    """What the program alone knows: of which model each video is; -1 for ruined ones."""
    with closing(sqlite3.connect(study / "study.sqlite")) as base:
        return dict(base.execute("select id, model from videos"))


def hold(options: Options, scratch: Path, environment: Mapping[str, str]) -> tuple[dict, float]:
    """A study from its videos to its report; the report, and seconds of a vote in the eyes of who asks."""
    study = scratch / "study"
    models = [str(folder) for folder in make_videos(scratch, environment)]
    words = ["--models", *models, "--out", str(study), "--seed", str(options.seed)]
    everybody = range(options.careful + options.careless)
    with serving(words, environment) as client, ThreadPoolExecutor(VOTERS) as pool:
        model_of = told(study)
        randoms = [np.random.default_rng([options.seed, rater]) for rater in everybody]
        kinds = [luce if rater < options.careful else chance for rater in everybody]
        # raters are numbered as they come
        codes = [client.post("raters")["code"] for _ in everybody]
        start = time.perf_counter()
        waiting = [
            pool.submit(vote, client, code, model_of, kind(random))
            for code, kind, random in zip(codes, kinds, randoms, strict=True)
        ]
        votes = sum(one.result() for one in waiting)
        seconds = VOTERS * (time.perf_counter() - start) / votes
    report = [sys.executable, "-m", "unity.apps.study", "--report", "--out", str(study)]
    subprocess.run(report, env=environment, check=True, stdout=sys.stderr)
    return json.loads((study / "study.json").read_text()), seconds


def rows_of(found: dict) -> list[dict]:
    """A row for each question and model: what is true, and what came back."""
    names = list(MODELS)
    return [
        {
            "question": question,
            "model": standing["model"],
            "true": STRENGTHS[question][names.index(standing["model"])],
            **{key: round(standing["strength"][key], 3) for key in ("value", "low", "high")},
            "rank": standing["rank"]["value"],
            "win_rate": round(standing["win_rate"]["value"], 4),
            "comparisons": standing["comparisons"],
        }
        for question, outcome in found["questions"].items()
        for standing in outcome["standings"]
    ]


def counted(found: dict) -> set[int]:
    """Raters whose votes count, by number: from 1, the careful ones first."""
    return {rater["number"] for rater in found["raters"]["voted"] if rater["counts"]}


def check(rows: Sequence[dict], found: dict, options: Options) -> None:
    """ValueError where the report does not say what the raters prefer."""
    for question in STRENGTHS:
        true = [row["true"] for row in rows if row["question"] == question]
        if true != sorted(true, reverse=True):
            raise ValueError(f"{question}: the strongest first, their true strengths are {true}")
    if lost := set(range(1, options.careful + 1)) - counted(found):
        raise ValueError(f"raters {sorted(lost)} are careful and do not count")


def main(options: Options) -> None:
    check_bounds(options)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        found, seconds = hold(options, scratch, environment)
        rows = rows_of(found)
        check(rows, found, options)
        inside = sum(row["low"] <= row["true"] <= row["high"] for row in rows)
        about = {
            "raters": options.careful + options.careless,
            "careless": options.careless,
            "careless_that_count": len(counted(found)) - options.careful,
            "inside_95": f"{inside} of {len(rows)}",
            "agreement": {q: round(outcome["agreement"], 3) for q, outcome in found["questions"].items()},
            "ms_a_vote": round(1e3 * seconds, 1),
        }
        page = (scratch / "study/study.html").read_text()
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    written = write_result("study_bench", rows, folder=options.out, **about)
    print(written, write_text(written.with_suffix(".html"), page), sep="\n")


if __name__ == "__main__":
    end("study_bench", lambda: main(tyro.cli(Options, description=__doc__)))
