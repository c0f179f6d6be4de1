"""Ablations: arms differ in what they say alone, runs are done once, directions are what statistics says."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from unity.command import share_of
from unity.config import MODELS
from unity.data.clips import Clip
from unity.evaluate.ablate import runs
from unity.evaluate.ablate.arms import ARMS
from unity.evaluate.ablate.crossing import crossing
from unity.evaluate.ablate.direction import common, difference, paper_side, verdict
from unity.evaluate.ablate.measure import confused, marks
from unity.evaluate.ablate.report import lines, markdown, panels
from unity.evaluate.ablate.runs import Job, Result, jobs
from unity.evaluate.ablate.scales import SCALES
from unity.evaluate.ablate.tables import TABLES
from unity.evaluate.ablate.training import options_of
from unity.model.card import ModelCard

LEAST = SCALES["least"]


def result(seed: int, rgb: float) -> Result:
    marks = [{"step": 1, "video/rgb": 2 * rgb}, {"step": 2, "video/rgb": rgb}]
    return Result(measures={"video/rgb": rgb}, marks=marks, seconds={"training": 1.0, "measuring": 1.0})


def test_an_arm_differs_from_the_method_in_what_it_says_alone():
    def flat(arm: str) -> dict:
        options = asdict(options_of(ARMS[arm], LEAST, 0, Path("data"), Path("run")))
        inner = {name: options.pop(name) for name in ("architecture", "routing")}
        return {("options", k): v for k, v in options.items()} | {
            (n, k): v for n, i in inner.items() for k, v in i.items()
        }

    method = flat("unified")
    for name, arm in ARMS.items():
        said = {(part, key): value for part in ("architecture", "routing", "options")
                for key, value in getattr(arm, part).items()}  # fmt: skip
        found = flat(name)
        assert {key for key in found if found[key] != method[key]} <= said.keys()
        assert all(found[key] == value for key, value in said.items())
        assert name == "unified" or found != method, f"{name} is the method"


def test_all_arms_of_all_tables_are_known_and_named_once():
    assert {arm for table in TABLES.values() for arm in table.arms} == ARMS.keys()
    assert set(TABLES) == {"2", "3", "4", "a1", "a2", "a3", "a4", "fig2", "figa1"}


@pytest.mark.parametrize("count", [1, 4, 50])
def test_parts_share_all_runs_and_none_twice(count):
    todo = jobs(tuple(TABLES), 3)
    shares = [todo[share_of(f"{part}/{count}")] for part in range(1, count + 1)]
    assert sorted(job.name for share in shares for job in share) == sorted({job.name for job in todo})
    # a seed of every arm before the next seed
    assert [job.seed for job in todo] == sorted(job.seed for job in todo)


def test_what_is_done_is_not_done_again_and_other_settings_are_refused(tmp_path, monkeypatch):
    todo, done = jobs(("2",), 2), []

    def worker(scale, folder, data):
        def one(job: Job) -> Result:
            done.append(job)
            if len(done) == 4:
                raise KeyboardInterrupt
            made = result(job.seed, 1.0)
            content = {"asked": runs.asked(job, scale), **asdict(made)}
            (folder / job.name / runs.RESULT).write_text(json.dumps(content))
            return made

        return one

    monkeypatch.setattr(runs, "worker", worker)
    data = (tmp_path, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        runs.do(todo, LEAST, tmp_path, data)
    runs.do(todo, LEAST, tmp_path, data)
    # the interrupted one twice, all others once
    assert sorted(job.name for job in done) == sorted([*(job.name for job in todo), todo[3].name])
    runs.do(todo, LEAST, tmp_path, data)
    assert len(done) == len(todo) + 1
    with pytest.raises(ValueError, match="other settings; give another --out"):
        runs.result_of(todo[0], SCALES["cpu"], tmp_path)
    (tmp_path / todo[0].name / runs.RESULT).write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        runs.result_of(todo[0], LEAST, tmp_path)


def test_what_a_signal_left_is_no_mark(tmp_path):
    for step in (25, 50, 61, 100):
        (tmp_path / f"checkpoints/step-{step:08}/model").mkdir(parents=True)
    assert [step for step, _ in marks(tmp_path, 25)] == [25, 50, 100]


def test_a_direction_is_that_of_paired_intervals():
    random = np.random.default_rng(0)
    base = random.normal(size=5)
    worse = base + 0.3 + 0.1 * random.normal(size=5)
    found = difference(list(base), list(worse), more=False)
    # an independent implementation of the paired t-test
    truth = stats.ttest_rel(worse, base).confidence_interval(0.95)
    assert np.allclose([found.mean - found.half, found.mean + found.half], [truth.low, truth.high])
    assert verdict(found, 1) == "as in the paper" and verdict(found, -1) == "the other way"
    turned = difference(list(base), list(worse), more=True)
    assert turned.mean == -found.mean and verdict(turned, 1) == "the other way"
    assert verdict(difference([1.0], [5.0], more=False), 1) == "undecided"
    assert verdict(difference([1.0, 2.0], [2.0, 1.0], more=False), 1) == "undecided"


def test_the_papers_side_is_that_of_all_its_numbers():
    assert paper_side(((2, 1), (3, 3), (5, 4))) == 1 and paper_side(((1, 2),)) == -1
    assert paper_side(((2, 1), (1, 2))) == 0
    sides = [paper_side(row.paper) for row in TABLES["2"].comparisons]
    assert sides == [1, 1, 1, 0], "one depth is better in two numbers, five modalities in the other two"


def test_means_are_over_modalities_that_both_arms_have():
    first = {"joint/depth/rgb": 1.0, "joint/flow/rgb": 2.0, "joint/flow/aux": 9.0}
    second = {"joint/flow/rgb": 4.0, "joint/skeleton/rgb": 50.0}
    assert common(first, second, ("joint/*/rgb",) * 2) == (2.0, 4.0)
    assert common(first, second, ("joint/*/aux",) * 2) is None


def test_a_report_says_what_the_numbers_say():
    found = {"unified": {s: result(s, 1.0 + 0.01 * s) for s in range(3)},
             "t2v": {s: result(s, 1.5 + 0.011 * s) for s in range(4)}}  # fmt: skip
    (line,) = lines("fig2", found)
    assert (line.first, line.second, line.verdict) == ("unified", "t2v", "as in the paper")
    assert line.found.seeds == 3 and line.found.mean == pytest.approx(0.501)
    text = markdown({"runs": "7 of 15"}, {"fig2": [line], "4": []})
    assert "| unified | t2v | RGB from its caption: error | 1.01 ± 0.01 |" in text and "Not done." in text
    (curves,) = panels(("fig2",), found).values()
    assert curves["unified"] == [(1, pytest.approx(2.02)), (2, pytest.approx(1.01))]


def test_an_estimate_is_taken_for_the_modality_that_it_is_nearest_to(unchecked):
    random = np.random.default_rng(0)
    names = ("depth", "skeleton", "segmentation")
    shown = {name: random.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8) for name in ("rgb", *names)}
    clip = Clip(name="a", source="general", caption="", fps=8.0, video=shown)
    alone = Clip(name="b", source="general", caption="", fps=8.0, video={n: shown[n] for n in ("rgb", "depth")})
    card = ModelCard(model=MODELS["debug"], modalities=names, stage=2, step=0, frames=5, size=(8, 8))
    generator = SimpleNamespace(card=card)
    blurred = {name: (video // 2 + 64)[None] for name, video in shown.items()}
    assert confused(generator, "depth", blurred["depth"], [clip]) == [False]
    assert confused(generator, "depth", blurred["skeleton"], [clip]) == [True]
    assert confused(generator, "depth", blurred["skeleton"], [alone]) == [], "there is nothing to take it for"


def test_attention_between_streams_is_counted_by_the_queries_stream():
    # every query of rgb looks at aux's one key that is like it, every one of aux spreads over all
    q = torch.zeros(1, 4, 1, 2)
    q[:, :2, :, 0] = 1000
    k = torch.zeros(1, 4, 1, 2)
    k[:, 3, :, 0] = 1
    assert torch.allclose(crossing(q, k), torch.tensor([1.0, 0.5]))


@pytest.mark.slow
def test_a_table_from_nothing_to_its_report(tmp_path):
    def ablate(*flags: str) -> subprocess.CompletedProcess:
        words = [sys.executable, "-m", "unity.evaluate.ablate", "--table", "a1", "figa1", "--scale", "least"]
        return subprocess.run([*words, "--seeds", "1", "--out", tmp_path, *flags], capture_output=True, text=True)

    planned = ablate("--dry-run")
    assert "2 runs, 2 still to do" in planned.stdout and "differs in output shared" in planned.stdout
    assert not list(tmp_path.iterdir())
    first = ablate("--part", "1/2")
    assert first.returncode == 0, first.stderr
    assert [path.parent.name for path in tmp_path.glob("least/*/measures.json")] == ["unified-0"]
    second = ablate()
    assert second.returncode == 0 and "2 runs, of which 1 are done already" in second.stderr, second.stderr
    report = json.loads((tmp_path / "least/ablations.json").read_text())
    measured = {line["measure"] for line in report["lines"]}
    assert {"RGB of a pair: error", "estimates taken for another modality"} <= measured
    assert any("attention" in words for words in measured)
    assert {line["verdict"] for line in report["lines"]} == {"undecided"}, "one seed decides nothing"
    assert all((tmp_path / f"least/ablations.{kind}").stat().st_size for kind in ("md", "html", "png"))
    assert not list(tmp_path.glob("least/*/run"))
