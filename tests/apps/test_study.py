"""A study: what goes in, what raters are asked, that nothing tells a model, that a known preference comes back."""

import csv
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import studies
from serving import Client, serving
from studies import MODELS, asks, careless, grey, luce, vote

from unity.apps.study import store as store_module
from unity.apps.study.design import RUINED, Design, asked, comparisons
from unity.apps.study.make import make
from unity.apps.study.options import Options, start
from unity.apps.study.report import report
from unity.apps.study.serve import application
from unity.apps.study.store import Blind, Store, create
from unity.apps.web.store import Store as Jobs
from unity.data.video import read_video, write_video

ROOT = Path(__file__).parents[2]
DESIGN = Design(
    models=("a", "b", "c", "d"), clips=tuple("0123456789"), prompts=("words",) * 10, digests=("",) * 40,
    questions=("physical", "overall"), at_once=2, asks=12, checks=3, missed=1, invite=0, seed=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with models, and a study of them."""
    folder = tmp_path_factory.mktemp("study")
    make(studies.options(folder))
    return folder


@pytest.fixture
def ballot(tmp_path, monkeypatch):
    """ballot(**changes): the ballot of a study whose videos nobody looks at, kept without waiting for the disk."""
    monkeypatch.setattr(store_module, "_TABLES", store_module._TABLES.replace("= full", "= off"))

    def begin(codes=(), **changes):
        design = Design(**{**DESIGN.__dict__, **changes})
        places = [(c, m) for c in range(len(design.clips)) for m in (*range(len(design.models)), RUINED, RUINED)]
        create(tmp_path / "study.sqlite", design, [Blind(f"{i:016x}", *p) for i, p in enumerate(places)], codes)
        return closing(Store(tmp_path))

    return begin


def test_a_known_preference_comes_back(ballot, tmp_path):
    true = {"physical": [1.2, 0.4, -0.4, -1.2], "overall": [-1.2, 0.0, 1.2, 0.0]}
    with ballot() as store:
        for seed in range(24):
            vote(store, luce(true), seed)
        for seed in range(24, 32):
            vote(store, careless, seed)
        report(tmp_path)
    found = json.loads((tmp_path / "study.json").read_text())
    assert {r["number"] for r in found["raters"]["voted"] if not r["counts"]} == set(range(25, 33))
    rows = found["questions"]["physical"]["standings"]
    assert [row["model"] for row in rows] == ["a", "b", "c", "d"]
    for question, strengths in true.items():
        for row in found["questions"][question]["standings"]:
            assert row["strength"]["value"] == pytest.approx(strengths["abcd".index(row["model"])], abs=0.5)
            assert row["strength"]["low"] < row["strength"]["value"] < row["strength"]["high"]
    assert found["questions"]["overall"]["standings"][0]["model"] == "c"
    lines = list(csv.DictReader((tmp_path / "votes.csv").open()))
    assert len(lines) == 32 * (12 + 3) * 2
    # what the sheet says, counted another way
    won = [
        line["choice"]
        for line in lines
        if (line["check"], line["counts"], line["question"]) == ("0", "1", "physical")
    ]
    shown = Counter(
        m
        for line in lines
        if (line["check"], line["counts"], line["question"]) == ("0", "1", "physical")
        for m in line["shown"].split(" | ")
    )
    assert rows[0]["win_rate"]["value"] == pytest.approx(won.count("a") / shown["a"])
    assert "no" in (tmp_path / "study.html").read_text()


def test_comparisons_are_seen_alike_often_in_any_order_and_on_any_side():
    seen, first, places = Counter(), Counter(), []
    for rater in range(20):
        todo = asked(DESIGN, rater, seen)
        kinds = [one.is_check for one in todo]
        assert len(todo) == 15 and sum(kinds) == 3
        # one in each third or so
        assert all(any(kinds[part : part + 6]) for part in (0, 9))
        real = [one for one in todo if not one.is_check]
        assert len({one.alike for one in real}) == 12
        seen.update(one.alike for one in todo)
        first.update(one.shown[0] < one.shown[1] for one in real)
        places.append([one.alike for one in todo])
    counts = [seen[one.alike] for one in comparisons(DESIGN)]
    assert len(counts) == 60 and set(counts) == {4}
    assert 0.4 < first[True] / first.total() < 0.6
    assert len({tuple(map(str, row)) for row in places}) == 20
    assert asked(DESIGN, 3, {}) == asked(DESIGN, 3, {})


def test_a_rater_votes_once_and_goes_on_where_it_ended(ballot, tmp_path):
    with ballot() as store:
        code = store.enter()
        ask = store.standing(code).next
        answers = {"physical": 1, "overall": None}
        store.vote(code, ask.place, answers)
        # a line that broke sends it again
        store.vote(code, ask.place, answers)
        with pytest.raises(ValueError, match="a vote stays"):
            store.vote(code, ask.place, {"physical": 0, "overall": None})
        for wrong in ({"physical": 1}, {"physical": 2, "overall": 0}, {**answers, "semantic": 0}):
            with pytest.raises(ValueError, match="a vote answers physical, overall"):
                store.vote(code, store.standing(code).next.place, wrong)
        following = store.standing(code).next
        # not given yet, and nobody's
        for who, place in ((code, following.place + 1), (code, 99), ("0" * 12, 0)):
            with pytest.raises(KeyError):
                store.vote(who, place, answers)
        assert [b.choices for b in store.ballots()] == [answers]
    with closing(Store(tmp_path)) as again:
        standing = again.standing(code)
        assert (standing.done, standing.total, standing.next) == (1, 15, following)


def test_only_the_invited_vote(ballot):
    with ballot(codes=["abcdefabcdef"], invite=1) as store:
        assert store.standing("abcdefabcdef").total == 15
        with pytest.raises(ValueError, match="those who were invited"):
            store.enter()


@pytest.mark.slow
def test_sets_of_three_and_a_ruined_pair(ballot, tmp_path):
    with ballot(at_once=3) as store:
        for seed in range(12):
            vote(store, luce({q: [1.5, 0, 0, -1.5] for q in ("physical", "overall")}), seed)
        code = store.enter()
        check = next(ask for ask in _all(store, code) if ask.comparison.is_check)
        assert len(set(check.videos)) == 3 and check.comparison.shown.count(RUINED) == 2
        report(tmp_path)
    rows = json.loads((tmp_path / "study.json").read_text())["questions"]["overall"]["standings"]
    assert (rows[0]["model"], rows[-1]["model"]) == ("a", "d")


def _all(store, code):
    for ask in asks(store, code):
        store.vote(code, ask.place, {q: 0 for q in store.design.questions})
        yield ask


def test_nothing_tells_a_model(root):
    """All bytes that a rater's browser is sent: no name of a model, no date or trace of its file."""
    sent, stamps, greys = [], set(), {}
    with serving(application(Options(out=root / "study"))) as client:
        for path in (
            "/",
            "/static/study.js",
            "/static/style.css",
            "/static/common.js",
            "/api/study",
            "/openapi.json",
        ):
            sent.append(_all_of(client, path)[1])
        code = client.post("/api/raters")["code"]
        while (state := client.get(f"/api/raters/{code}"))["next"]:
            sent.append(json.dumps(state).encode())
            assert state["next"].keys() == {"place", "prompt", "videos"}
            clip = int(state["next"]["prompt"][-1])
            for name in state["next"]["videos"]:
                headers, data = _all_of(client, f"/api/videos/{name}")
                sent.append(data + str(headers.items()).encode())
                stamps.add(headers["last-modified"])
                greys[name] = clip
            vote = {
                "place": state["next"]["place"],
                "choices": dict.fromkeys(("physical", "semantic", "overall"), 0),
            }
            sent.append(json.dumps(client.post(f"/api/raters/{code}/votes", vote)).encode())
        assert client.refused("/api/videos/" + "0" * 16)[0] == client.refused("/api/raters/" + "0" * 12)[0] == 404
    everything = b"\n".join(sent).lower()
    assert not any(
        word in everything for word in (*(m.encode() for m in MODELS), b"clip0", b"ruined", str(root).encode())
    )
    assert len(stamps) == 1
    # ... and still each video is the one that it should be
    with closing(Store(root / "study")) as store:
        for name, clip, model in store._run("select id, clip, model from videos where model >= 0"):
            assert greys.get(name, clip) == clip
            pixels = read_video(root / "study/videos" / f"{name}.mp4")
            assert pixels.shape == (4, 32, 48, 3) and abs(pixels.mean() - grey(model, clip)) < 3


def _all_of(client, path):
    with client.open(path) as answer:
        return answer.headers, answer.read()


@pytest.mark.slow
def test_many_at_once_and_a_kill_lose_no_vote(root):
    """What the server said yes to is there when it was killed, and no two voters get into each other's way."""
    choices = dict.fromkeys(("physical", "semantic", "overall"), 1)

    def vote_all(client) -> str:
        code = client.post("/api/raters")["code"]
        state = client.get(f"/api/raters/{code}")
        while state["next"]:
            said = {"place": state["next"]["place"], "choices": choices}
            state = client.post(f"/api/raters/{code}/votes", said)
        return code

    def begin():
        words = [sys.executable, "-m", "unity.apps.study", "--port", "0", "--out", str(root / "study")]
        process = subprocess.Popen(
            words, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
        )
        return process, Client(process.stdout.readline().split()[1].rstrip("/"))

    process, client = begin()
    with ThreadPoolExecutor(12) as pool:
        codes = list(pool.map(vote_all, [client] * 12))
    process.kill()
    process.wait()
    process, client = begin()
    standings = [client.get(f"/api/raters/{code}") for code in codes]
    process.kill()
    process.wait()
    assert all(state["next"] is None and state["done"] == state["total"] == 12 for state in standings)
    with closing(Store(root / "study")) as store:
        rows = store._run(
            "select count(*), count(distinct rater) from votes join raters on rater = number "
            f"where code in ({','.join('?' * 12)})",
            *codes,
        )
    assert tuple(rows[0]) == (12 * 12 * 3, 12)


def test_ruined_videos_cannot_be_made_out():
    from unity.apps.study.make import ruined

    video = np.random.default_rng(0).integers(0, 255, (8, 36, 64, 3), np.uint8)
    found = ruined(video, 1)
    assert found.shape == video.shape and len(np.unique(found[0].reshape(-1, 3), axis=0)) <= 4 * 7
    means = [frame.mean() for frame in found]
    np.testing.assert_allclose(sorted(means), sorted(frame.mean() for frame in video), rtol=0.05)
    assert (ruined(video, 1) == found).all() and not (ruined(video, 2) == found).all()


@pytest.fixture
def models(root):
    return tuple(root / "models" / name for name in MODELS)


def test_layouts_that_others_write(tmp_path, models, root):
    """Files by themselves with words beside them or in a file, and answers to UniBench."""
    from unity.apps.study.folders import contestants

    film = models[0] / "clip0/rgb.mp4"
    for name in ("x", "y"):
        for place in ("flat/0.mp4", "bench/0/joint/depth/rgb.mp4", "bench/0/joint/depth/depth.mp4"):
            path = tmp_path / name / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(film)
        (tmp_path / name / "flat/0.txt").write_text("a dog\n")
    flat = contestants((tmp_path / "x/flat", tmp_path / "y/flat"), None, "rgb", 12)
    assert (flat.models, flat.clips, flat.prompts) == (("x/flat", "y/flat"), ("0",), ("a dog",))
    (tmp_path / "clips/0").mkdir(parents=True)
    (tmp_path / "clips/0/caption.txt").write_text("a cat\n")
    bench = tmp_path / "x/bench", tmp_path / "y/bench"
    found = contestants(bench, tmp_path / "clips", "rgb", 12)
    assert (found.clips, found.prompts) == (("0/joint/depth",), ("a cat",))
    assert contestants(bench, tmp_path / "clips", "depth", 12).files[0][0].name == "depth.mp4"
    (tmp_path / "lines.jsonl").write_text('{"name": "0", "prompt": "a fox"}\n')
    assert contestants((tmp_path / "x/flat", tmp_path / "y/flat"), tmp_path / "lines.jsonl", "rgb", 1).prompts == (
        "a fox",
    )
    assert contestants(models, None, "rgb", 2).clips == ("clip0", "clip1")
    assert contestants(models, None, "rgb", 12).prompts[2] == studies.WORDS.format(2)


def _lacking(folder, models):
    (folder / "one/clip0").mkdir(parents=True)
    write_video(np.zeros((2, 16, 16, 3), np.uint8), folder / "one/clip0/rgb.mp4", 8)
    return {"models": (models[0], folder / "one")}


def _other_words(folder, models):
    other = _lacking(folder, models)["models"][1]
    (other / "clip0/run.json").write_text('{"prompt": "something else"}')
    shutil.copytree(models[0] / "clip0", folder / "two/clip0")
    return {"models": (other, folder / "two")}


def _no_video(folder, models):
    (folder / "bad").mkdir()
    (folder / "bad/clip0.mp4").write_bytes(b"no video")
    (folder / "good").mkdir()
    (folder / "good/clip0.mp4").symlink_to(models[0] / "clip0/rgb.mp4")
    return {"models": (folder / "bad", folder / "good"), "questions": ("overall",), "checks": 1}


def _silent(folder, models):
    return _no_video(folder, models) | {"questions": ("semantic",)}


def _foreign(folder, models):
    (folder / "study").mkdir()
    (folder / "study/notes.txt").write_text("mine")
    return {"models": models}


def _of_jobs(folder, models):
    Jobs(folder / "study/study.sqlite").close()
    return {}


def _no_base(folder, models):
    (folder / "study").mkdir()
    (folder / "study/study.sqlite").write_bytes(b"no database at all" * 99)
    return {}


def _damaged(folder):
    path = folder / "study.sqlite"
    path.write_bytes(path.read_bytes()[:9000])


def _without_a_video(folder):
    next((folder / "videos").iterdir()).unlink()


@pytest.mark.parametrize("harm, words", [(_damaged, "is damaged"), (_without_a_video, "has lost 1 videos")])
def test_a_study_that_was_harmed_is_a_sentence(root, tmp_path, harm, words):
    shutil.copytree(root / "study", tmp_path / "study")
    harm(tmp_path / "study")
    with pytest.raises(ValueError, match=words):
        start(Options(out=tmp_path / "study", port=0))


@pytest.mark.parametrize(
    "given, words",
    [
        ({}, "holds no study"),
        ({"asks": 3}, "--asks belongs to the making of a study"),
        ({"report": True}, "holds no study"),
        (_lacking, "lacks clip1, which"),
        (_other_words, "for 'something else'; compare what"),
        (_no_video, "cannot read"),
        (_silent, "nothing says what clip0 should show"),
        (_foreign, "holds 'notes.txt' already"),
        (_of_jobs, "is of something else"),
        (_no_base, "is no SQLite file"),
        (lambda folder, models: {"models": models[:1]}, "names one folder"),
        (lambda folder, models: {"models": (models[0], models[0])}, "names a folder twice"),
        (lambda folder, models: {"models": (models[0], folder / "none")}, "is no folder"),
        (lambda folder, models: {"models": models, "at_once": 4}, "there are 3 models"),
        (lambda folder, models: {"models": models, "checks": 4}, "there are 3 clips"),
        (lambda folder, models: {"models": models, "asks": 0}, "give --asks a number"),
        (lambda folder, models: {"models": models, "questions": ()}, "--questions names none"),
        (lambda folder, models: {"models": models, "view": "depth"}, "holds no video depth.mp4"),
        (lambda folder, models: {"models": models, "prompts": folder / "none"}, "there is no"),
        (lambda folder, models: {"models": models, "report": True}, "--models belongs to the making"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_a_sentence_and_writes_nothing(tmp_path, models, given, words):
    given = given(tmp_path, models) if callable(given) else given
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=re.escape(words)):
        start(Options(out=tmp_path / "study", port=0, **given))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_study_is_gone_on_with_and_never_another(root, models, tmp_path):
    study = Options(models=models, out=root / "study")
    before = (root / "study/study.sqlite").read_bytes()
    make(study)
    with pytest.raises(ValueError, match="is another study: models differ"):
        make(Options(models=models[:2], out=root / "study"))
    with pytest.raises(ValueError, match="is another study: seed differ"):
        make(Options(models=models, out=root / "study", seed=1))
    for model in models:
        shutil.copytree(model, tmp_path / model.name)
    changed = tuple(tmp_path / name for name in MODELS)
    shutil.copyfile(changed[1] / "clip2/rgb.mp4", changed[1] / "clip0/rgb.mp4")
    with pytest.raises(ValueError, match="the videos' bytes differ"):
        make(Options(models=changed, out=root / "study"))
    assert (root / "study/study.sqlite").read_bytes() == before
    base = sqlite3.connect(root / "study/study.sqlite")
    assert base.execute("select count(*) from videos").fetchone() == (3 * 3 + 3,)
    base.close()


def test_nobody_whose_votes_count_is_a_sentence(ballot, tmp_path):
    with ballot() as store:
        vote(store, careless, 0)
        with pytest.raises(ValueError, match="no votes that count yet: 1 of 1 raters voted, and 0 saw a check"):
            report(tmp_path)
    assert not (tmp_path / "study.json").exists()
