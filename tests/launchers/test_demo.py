import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "launchers" / "demo.py"


def run(*flags):
    command = [sys.executable, str(DEMO), *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_quick_demo_runs_every_part_and_reports_it(tmp_path):
    """Two steps of the debug model teach nothing; that everything ran, and was counted, is what is asked here."""
    out = tmp_path / "demo"
    done = run("--scale", "quick", "--out", out)
    assert done.returncode == 0, done.stderr[-3000:]
    html = (out / "report.html").read_text()
    numbers = json.loads((out / "report.json").read_text())
    for part in numbers["seconds"]:
        assert f"== {part}: " in done.stdout and part in html
    assert len(numbers["seconds"]) == 8
    # five modalities of three rows and of five, six rows of the real video, one row of curves
    assert html.count("<img") == 5 * 3 + 5 * 5 + 6 + 1
    assert set(numbers["learners"]) == {"as shipped", "trained on", "from nothing"}
    assert set(numbers["scores"]) == {"depth", "flow", "densepose", "skeleton", "segmentation"}
    for errors in numbers["errors"].values():
        assert set(errors) == {"joint", "control", "estimate"}
        assert all(0 < row["model"] < 20 for row in errors.values())
    stage2 = [json.loads(line) for line in (out / "fresh2" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in stage2] == [0, 1]
    assert "starts from the weights" in done.stdout


def test_it_does_not_delete_what_is_not_its_own(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    done = run("--scale", "quick", "--out", tmp_path)
    assert done.returncode == 2 and "holds something else" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_less_is_learnt_from_nothing_where_a_step_takes_long(monkeypatch):
    monkeypatch.syspath_prepend(DEMO.parent)
    parts = importlib.import_module("demo_parts")
    scale = parts.SCALES["full"]
    first, second = scale.fresh
    quick, middling, slow = ([{"seconds": 30.0}, *[{"seconds": pace}] * (first - 1)] for pace in (0.5, 1.5, 9.0))
    assert parts._affordable(scale, quick) == second
    assert parts._affordable(scale, middling) == (scale.seconds - 1.5 * first) / 1.5
    assert parts._affordable(scale, slow) == 2
