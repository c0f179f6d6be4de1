"""A benchmark whose contestant and clips are known: what it says, and that nothing is done twice or lost."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from unity.data.clips import Clip
from unity.evaluate import published
from unity.evaluate.contestants import Answer, of_baseline, of_files
from unity.evaluate.exam import Effort
from unity.evaluate.metrics import benchmark_scores
from unity.evaluate.options import Options, start
from unity.evaluate.peers import PEERS
from unity.evaluate.standing import standing, table_1, write
from unity.evaluate.truth import Bench
from unity.evaluate.unibench import OWN, Contest, Item, Journal, items, run
from unity.evaluate.witnesses import Witness, absent
from unity.jobs import share
from unity.modality.coco import average_precision
from unity.modality.table import MODALITIES

COUNT, SHAPE = 4, (3, 16, 16)
SHOWN = np.zeros((*SHAPE, 3), np.uint8)


def clip(track, place):
    random = np.random.default_rng(place)
    depth = np.cumsum(random.uniform(0.1, 1, SHAPE), axis=2).astype(np.float32)
    rgb = random.integers(0, 255, (*SHAPE, 3)).astype(np.uint8)
    return Clip(name="x", source="general", caption="", fps=8.0, video={"rgb": rgb}, values={"depth": depth})


def contest(answers, **asked):
    bench = Bench(names=tuple(f"{place:04}" for place in range(COUNT)), clip=clip)
    return Contest(bench=bench, answers=answers, referee=None, effort=Effort(), asked={"who": "files"} | asked)


@pytest.fixture
def files(tmp_path):
    """Answers that are right of all clips but one, of which there is none."""
    folder = tmp_path / "answers"
    for place in range(COUNT - 1):
        (folder / f"{place:04}").mkdir(parents=True)
        MODALITIES["depth"].save(3 * clip("", place).values["depth"], folder / f"{place:04}" / "depth", 8.0)
    return folder


def test_right_files_are_right(files, tmp_path):
    asked = contest(of_files(files))
    todo = items(asked, ("estimate",), ("depth", "flow"))
    run(asked, todo, tmp_path, "1/1")
    found = Journal(tmp_path, asked.asked).found
    # the clips have no flow
    assert list(found) == todo and not any(found[i]["scores"] for i in todo if i.modality == "flow")
    result = standing(found)["estimate"]["depth"]
    assert (
        result["answer"]["abs_rel"].mean == pytest.approx(0, abs=1e-5) and result["answer"]["abs_rel"].clips == 3
    )
    assert result["answer"]["metric_abs_rel"].mean > 1
    truth = [clip("", place).values["depth"] for place in range(COUNT - 1)]
    trivial = [benchmark_scores("depth", np.ones_like(t), t, {})["rmse"] for t in truth]
    assert result["trivial"]["rmse"].mean == pytest.approx(np.mean(trivial))


def test_parts_and_interruptions_change_nothing(files, tmp_path):
    asked, calls = contest(of_files(files)), []

    def counting(task, modality, clip, seed):
        calls.append((clip.name, seed))
        return asked.answers(task, modality, clip, seed)

    todo = items(asked, ("estimate",), ("depth",))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    run(asked, todo, whole, "1/1")
    for part in ("1/2", "2/2"):
        run(contest(counting), share(todo, part), parts, part)
    # a torn line is done again, and nothing else is
    path = parts / "journal-1-of-2.jsonl"
    path.write_text(path.read_text()[:-30])
    run(contest(counting), share(todo, "1/2"), parts, "1/2")
    assert len(calls) == COUNT + 1 and len(set(calls)) == COUNT
    first, second = (standing(Journal(folder, asked.asked).found) for folder in (whole, parts))
    # as text, in which what is undefined equals itself
    assert repr(first) == repr(second)
    assert not Journal(parts, {"who": "others"}).found


def test_witnesses_read_what_is_made_and_the_clips_own_videos(tmp_path, monkeypatch):
    """One sees depth as brightness, which the answer's video shows exactly, and the clip's own not at all."""

    def bright(video):
        return np.maximum(video[..., 0], 1).astype(np.float32)

    def follow(task, modality, shown, seed):
        made = np.repeat(np.rint(15 * shown.values["depth"]).astype(np.uint8)[..., None], 3, -1)
        return Answer(None if task == "estimate" else made, None)

    def of_depth(track, place):
        return replace(clip(track, place), video={"rgb": clip(track, place).video["rgb"], "depth": SHOWN})

    witness = Witness(name="bright", modality="depth", read=bright, made_by={"name": "bright"})
    bench = Bench(names=tuple(map(str, range(COUNT))), clip=of_depth)
    asked = replace(contest(follow), bench=bench, witnesses=(witness,))
    todo = items(asked, ("estimate", "control"), ("depth",))
    run(asked, todo, tmp_path, "1/1")
    found = standing(Journal(tmp_path, asked.asked).found)
    own, made = (found["control"]["depth"][who]["abs_rel"].mean for who in ("bright" + OWN, "bright"))
    assert made < 0.1 < 0.3 < own == pytest.approx(found["estimate"]["depth"]["bright"]["abs_rel"].mean)
    page = write(tmp_path, "follower", Journal(tmp_path, asked.asked).found, {})[2].read_text()
    assert "read by bright, of the clip&#x27;s own video" in page
    assert absent({"mediapipe": tmp_path}).keys() >= {"raft"} and "mediapipe-pose" not in absent(
        {"mediapipe": tmp_path}
    )


def test_an_annotator_answers_as_the_method_that_it_is(tmp_path):
    video = np.random.default_rng(1).integers(0, 255, (3, 32, 32, 3)).astype(np.uint8)
    shown = replace(clip("", 0), video={"rgb": video}, values={"flow": np.zeros((3, 32, 32, 2), np.float32)})
    ours, theirs = (of_baseline(name)("estimate", "flow", shown, 0).values for name in ("classical", "dis"))
    np.testing.assert_array_equal(ours, theirs)
    assert of_baseline("dis")("control", "flow", shown, 0) is None
    with pytest.raises(ValueError, match="depth-anything wants --weights depth-anything=PATH"):
        of_baseline("depth-anything")


def test_average_precision_is_of_all_clips_as_one_set(tmp_path, monkeypatch):
    pytest.importorskip("pycocotools", reason="needs pip install pycocotools")
    monkeypatch.setattr("unity.evaluate.metrics.RESAMPLES_OF_ALL", 40)

    def labels(place: int) -> np.ndarray:
        return np.kron(np.random.default_rng(place).integers(0, 3, (3, 4, 4)), np.ones((1, 4, 4))).astype(np.uint8)

    def masks(_, place):
        return replace(clip(_, place), values={"segmentation": labels(place)})

    def answer(task, modality, shown, seed):
        return Answer(None, np.roll(shown.values["segmentation"], int(shown.name), 2))

    asked = replace(contest(answer), bench=Bench(names=tuple(map(str, range(COUNT))), clip=masks))
    todo = items(asked, ("estimate",), ("segmentation",))
    run(asked, todo, tmp_path, "1/1")
    found = standing(Journal(tmp_path, asked.asked).found)["estimate"]["segmentation"]["answer"]
    told = [MODALITIES["segmentation"].detections(np.roll(labels(p), p, 2), labels(p)) for p in range(COUNT)]
    one_set = average_precision(told)[0, 0]
    assert found["ap_of_all"].mean == pytest.approx(one_set) and found["ap_of_all"].clips == COUNT
    assert 0 < found["ap_of_all"].low < one_set < found["ap_of_all"].high < 1
    assert found["ap"].mean != pytest.approx(one_set, abs=1e-3)
    head, rows = table_1("x", {"estimate": {"segmentation": {"answer": found}}})
    assert float(rows[-3][head.index("mAP")]) == pytest.approx(100 * one_set, rel=1e-3)


def test_the_report_marks_what_is_published(files, tmp_path):
    asked = contest(of_files(files))
    todo = items(asked, ("estimate",), ("depth",))
    run(asked, todo, tmp_path, "1/1")
    found = Journal(tmp_path, asked.asked).found
    write(tmp_path, "files", found, {"contestant": "files"})
    rows = list(csv.reader((tmp_path / "unibench.csv").open()))
    assert rows[0][2:] == list(published.COLUMNS) and len({len(row) for row in rows}) == 1
    notes = {row[0]: row[1] for row in rows}
    assert all(notes[name] == published.NOTE for name in published.ROWS)
    ours = dict(zip(rows[0], next(row for row in rows if row[0] == "files, estimate"), strict=True))
    assert ours["numbers"] == "measured here" and float(ours["AbsRel"]) < 1e-4 and float(ours["δ<1.25"]) == 100
    assert ours["aesthetic"] == "–"
    assert json.loads((tmp_path / "unibench.json").read_text())["clips"] == COUNT
    assert published.NOTE in (tmp_path / "unibench.html").read_text()
    found[Item(track="estimate", modality="flow", place=0)] = found[todo[0]] | {"checksum": "another"}
    with pytest.raises(ValueError, match="clip 0 of estimate is not the same in all parts"):
        write(tmp_path, "files", found, {})


def test_an_answer_of_another_extent_is_a_sentence(files, tmp_path):
    MODALITIES["depth"].save(np.ones((3, 8, 8), np.float32), files / "0000" / "depth", 8.0)
    asked = contest(of_files(files))
    with pytest.raises(ValueError, match=r"depth of clip 0000 is \[3, 8, 8\] and the truth \[3, 16, 16\]"):
        run(asked, items(asked, ("estimate",), ("depth",)), tmp_path, "1/1")


@pytest.mark.parametrize("name", PEERS)
def test_what_needs_weights_says_so(name, tmp_path):
    with pytest.raises(ValueError, match=f"--weights {name}=FOLDER, with {PEERS[name].repository} in it"):
        of_baseline(name)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ValueError, match=f"holds a FluxPipeline, no {PEERS[name].pipeline}; fetch"):
        of_baseline(name, {name: tmp_path})


@pytest.mark.parametrize(
    "given, words",
    [
        ({"part": "1/2"}, "--part belongs to a benchmark"),
        ({"baseline": "classical"}, "--baseline belongs to a benchmark"),
        ({"weights": ("raft=here",)}, "--weights belongs to a benchmark"),
        ({"bench": "unibench-sim", "weights": ("raft=nowhere",)}, "there is no nowhere"),
        ({}, "--data names no dataset"),
        ({"bench": "folder"}, "--bench folder has no --data"),
        ({"bench": "unibench-sim", "predictions": "nowhere"}, "is no folder"),
        ({"bench": "unibench-sim", "predictions": "nowhere", "baseline": "classical"}, "give one of them"),
        ({"bench": "unibench-sim", "baseline": "wan2.1"}, "wants --weights wan2.1=FOLDER"),
        ({"bench": "unibench-sim", "tracks": ()}, "--tracks names none"),
    ],
)
def test_what_cannot_be_done_is_refused_before_loading(given, words, tmp_path, monkeypatch):
    monkeypatch.setattr("unity.evaluate.options.load_generator", lambda *_, **__: pytest.fail("loaded"))
    given |= {"predictions": tmp_path / given["predictions"]} if "predictions" in given else {}
    with pytest.raises(ValueError, match=words):
        start(Options(out=tmp_path / "out", **given))
    assert not (tmp_path / "out").exists()
