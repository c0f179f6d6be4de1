"""The pages over a run of training and over a dataset: what they are told is what the folders hold."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from unity.apps.web.options import Options
from unity.apps.web.serve import application
from unity.apps.web.training import read_metrics
from unity.data.clips import Clip
from unity.data.shards import open_shards, write_shards
from unity.data.video import read_video

ROWS = [{"step": step, "loss": 1 / (1 + step), "loss/joint": 0.5} for step in range(40)]
LINES = [json.dumps(row) + "\n" for row in ROWS]


def clip(name: str, source: str, *modalities: str) -> Clip:
    draw = np.random.default_rng(len(name))
    video = {stream: draw.integers(0, 255, (5, 16, 24, 3), np.uint8) for stream in ("rgb", *modalities)}
    meta = {"reason": "too dark", "long": list(range(1000))}
    return Clip(name=name, source=source, caption=f"words of {name}", fps=8.0, video=video, meta=meta)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    clips = [clip("a", "general", "depth"), clip("bb", "general", "depth", "flow"), clip("ccc", "subject", "flow")]
    folder = write_shards(clips, tmp_path_factory.mktemp("data") / "set")
    (folder / "refused.csv").write_text("csv,line,reason\nfilms.csv,7,the film is cut\n")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "config.json").write_text(json.dumps({"stage": 1, "steps": 60, "secret": "not shown"}))
    (folder / "metrics.jsonl").write_text("".join(LINES[:30]))
    (folder / "pictures").mkdir()
    for name in ("step-00000010.png", "step-00000020.png", "other.png"):
        Image.new("RGB", (8, 8)).save(folder / "pictures" / name)
    return folder


@pytest.fixture(scope="module")
def client(serve_stub, tmp_path_factory, run, data):
    with serve_stub(tmp_path_factory.mktemp("web"), run=(run,), data=(data,)) as found:
        yield found


@pytest.mark.parametrize("cut", [37, 100, 10_000])
def test_metrics_read_piece_by_piece_are_the_whole(cut, tmp_path):
    path, text = tmp_path / "metrics.jsonl", "".join(LINES)
    assert read_metrics(path, 0) == ([], 0)
    found, start = [], 0
    for end in range(cut, len(text) + cut, cut):
        path.write_text(text[:end])
        rows, start = read_metrics(path, start)
        found += rows
    assert found == ROWS and start == len(text)
    # a run that was resumed from an earlier step
    path.write_text("".join(LINES[:3]))
    assert read_metrics(path, start) == (ROWS[:3], len("".join(LINES[:3])))


def test_damaged_lines_of_metrics_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(LINES[0].encode() + b"\xff{]\n[1]\n" + LINES[1].encode())
    assert read_metrics(path, 0)[0] == ROWS[:2]


def test_a_run_is_told(client, run):
    assert client.get("/api/runs") == [{"number": 0, "name": str(run), "stage": 1, "steps": 60}]
    assert client.get("/api/runs/0/metrics")["rows"] == ROWS[:30]
    assert client.get("/api/runs/0/pictures") == ["step-00000010.png", "step-00000020.png"]
    with client.open("/api/runs/0/pictures/step-00000010.png") as answer:
        assert answer.read() == (run / "pictures/step-00000010.png").read_bytes()
    for path in ("0/pictures/other.png", "0/pictures/..%2fconfig.json", "1/metrics", "-1/metrics"):
        assert client.refused(f"/api/runs/{path}")[0] == 404


def test_a_dataset_is_told(client, data):
    (about,) = client.get("/api/datasets")
    assert (about["name"], about["frames"], about["size"]) == (str(data), 5, [16, 24])
    assert {name: row["clips"] for name, row in about["sources"].items()} == {"general": 2, "subject": 1}
    for query, wanted in (
        ("", 3),
        ("source=general", 2),
        ("modality=flow", 2),
        ("source=general&modality=flow", 1),
    ):
        found = client.get(f"/api/datasets/0/clips?{query}")
        assert found["count"] == len(found["clips"]) == wanted
    assert client.get("/api/datasets/0/clips?start=2&most=5")["clips"] == [{"source": "subject", "index": 0}]
    assert client.get("/api/datasets/0/refused") == [
        {"csv": "films.csv", "line": "7", "reason": "the film is cut"}
    ]


def test_a_clip_is_shown_as_it_is(client, data, tmp_path):
    about, truth = client.get("/api/datasets/0/general/1"), open_shards(data).clip("general", 1)
    assert about["caption"] == truth.caption and about["has"] == list(truth.available)
    assert about["meta"]["reason"] == '"too dark"' and len(about["meta"]["long"]) == 300
    with client.open("/api/datasets/0/general/1/flow.png") as answer:
        shown = np.asarray(Image.open(io.BytesIO(answer.read()))).astype(int)
    mixed = (truth.video["rgb"][2].astype(int) + truth.video["flow"][2]) // 2
    np.testing.assert_array_equal(shown, mixed)
    with client.open("/api/datasets/0/general/1/rgb.mp4") as answer:
        (tmp_path / "clip.mp4").write_bytes(answer.read())
    assert read_video(tmp_path / "clip.mp4").shape == truth.video["rgb"].shape
    for path in ("general/0/flow.png", "single_person/0/rgb.png", "general/2/rgb.png", "elsewhere/0/rgb.png"):
        assert client.refused(f"/api/datasets/0/{path}")[0] in (400, 404, 422)


def test_what_is_no_run_or_dataset_is_refused_at_the_start(tmp_path):
    for options, words in (({"run": (tmp_path,)}, "no run of training"), ({"data": (tmp_path,)}, "no dataset")):
        with pytest.raises(ValueError, match=words):
            application(Options(out=tmp_path / "web", **options))
    assert not (tmp_path / "web").exists()
