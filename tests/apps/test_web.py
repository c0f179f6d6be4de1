"""The page's server: jobs, their results, what it refuses, and what it survives. The model obeys its prompt."""

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tyro

from unity.apps.web.ask import Ask, requests
from unity.apps.web.models import find_models
from unity.apps.web.names import SAMPLER_NAMES
from unity.apps.web.options import Options
from unity.apps.web.serve import application
from unity.apps.web.service import Service
from unity.data.video import write_video
from unity.request import SAMPLE, Request
from unity.sampler import SAMPLERS
from unity.thrift import thrift_of

ROOT = Path(__file__).parents[2]
ASK = {"task": "estimate", "modalities": ["depth"], "input": "people", "steps": 2}
JOINT = {"task": "joint", "modalities": ["depth"], "prompt": "a ball", "steps": 2}


def test_a_job_runs_and_its_results_are_all_there(client):
    job = client.wait(client.post("/api/jobs", ASK | {"modalities": ["depth", "flow"], "seed": 3}))
    assert job["state"] == "done" and job["notes"] == ["the model that obeys its prompt"] * 2
    assert set(job["results"]) == {"depth", "flow"}
    depth = job["results"]["depth"]
    assert depth["valued"] and not job["results"]["flow"]["valued"]
    for name, size in depth["sizes"].items():
        with client.open(f"/api/jobs/{job['id']}/files/depth/{name}") as file:
            assert len(file.read()) == size
    with client.open(f"/api/jobs/{job['id']}/all.zip") as file:
        names = zipfile.ZipFile(io.BytesIO(file.read())).namelist()
    assert sorted(names) == sorted(f"{m}/{name}" for m, row in job["results"].items() for name in row["sizes"])


def test_values_are_those_of_the_files(client):
    job = client.wait(client.post("/api/jobs", ASK))
    with client.open(f"/api/jobs/{job['id']}/values/depth") as answer:
        about, data = json.loads(answer.headers["values"]), answer.read()
    values = np.frombuffer(data, "<f4").reshape(about["shape"])
    with client.open(f"/api/jobs/{job['id']}/files/depth/depth.npz") as file:
        np.testing.assert_array_equal(values[..., 0], np.load(io.BytesIO(file.read()))["depth"])
    assert client.refused(f"/api/jobs/{job['id']}/values/flow")[0] == 404


def test_the_command_line_that_makes_a_result_again(client):
    job = client.wait(client.post("/api/jobs", ASK | {"seed": 3, "guidance": 1.0, "size": [32, 48]}))
    words = shlex.split(job["results"]["depth"]["command"])
    assert words[:3] == ["python", "-m", "unity.infer"]
    again = tyro.cli(Request, args=words[3:])
    assert (again.modality, again.video, again.out) == ("depth", SAMPLE, Path("runs/again/depth"))
    assert (again.steps, again.guidance, again.seed, again.size) == (2, 1.0, 3, (32, 48))


def events(client, job) -> list[dict]:
    with client.open(f"/api/events?job={job['id']}") as stream:
        return [json.loads(line[6:]) for line in stream.read().decode().splitlines() if line.startswith("data: ")]


def test_events_tell_of_a_job_until_it_has_ended(client):
    job = client.post("/api/jobs", JOINT | {"prompt": "wait", "steps": 20})
    told = events(client, job)
    assert told[-1]["state"] == "done"
    steps = [status["progress"]["step"] for status in told if status["progress"]]
    assert steps == sorted(steps) and max(steps) > 1
    assert events(client, job) == told[-1:]


def test_cancelling_what_waits_and_what_runs(client):
    first = client.post("/api/jobs", JOINT | {"prompt": "wait", "steps": 200})
    second = client.post("/api/jobs", JOINT)
    assert client.post(f"/api/jobs/{second['id']}/cancel")["state"] == "cancelled"
    client.wait(first, "running")
    client.post(f"/api/jobs/{first['id']}/cancel")
    assert client.wait(first)["state"] == "cancelled"
    # what has ended stays as it is
    assert client.post(f"/api/jobs/{first['id']}/cancel")["state"] == "cancelled"


def test_a_crash_is_one_sentence_and_the_next_job_runs(client):
    crashed = client.post("/api/jobs", JOINT | {"prompt": "crash"})
    failed = client.post("/api/jobs", JOINT | {"prompt": "fail"})
    fine = client.post("/api/jobs", JOINT)
    assert "signal 6" in client.wait(crashed)["error"]
    assert client.wait(failed)["error"] == "the model does not like it; ask for something else"
    assert client.wait(fine)["state"] == "done"


def test_a_job_that_does_not_listen_is_killed(client, monkeypatch):
    monkeypatch.setattr("unity.apps.web.runner._GRACE", 0.2)
    job = client.post("/api/jobs", JOINT | {"prompt": "hang"})
    while not (client.get(f"/api/jobs/{job['id']}")["progress"] or {}).get("step"):
        time.sleep(0.02)
    client.post(f"/api/jobs/{job['id']}/cancel")
    assert client.wait(job)["state"] == "cancelled"


def test_nothing_half_written_stays_and_a_job_can_be_deleted(client, client_folder):
    job = client.wait(client.post("/api/jobs", JOINT))
    done = {one["id"] for one in client.get("/api/jobs?most=200") if one["state"] == "done"}
    # of jobs that crashed, failed or were cancelled there is nothing
    assert set(os.listdir(client_folder / "jobs")) == done and job["id"] in done
    running = client.post("/api/jobs", JOINT | {"prompt": "wait", "steps": 200})
    code, words = client.refused(f"/api/jobs/{running['id']}", method="DELETE")
    assert code == 400 and "cancel it first" in words
    client.post(f"/api/jobs/{running['id']}/cancel")
    client.wait(running)
    with client.open(f"/api/jobs/{job['id']}", method="DELETE"):
        pass
    assert client.refused(f"/api/jobs/{job['id']}")[0] == 404
    assert set(os.listdir(client_folder / "jobs")) == done - {job["id"]}


def test_the_queue_and_the_gallery_outlive_the_program(serve_stub, tmp_path):
    with serve_stub(tmp_path) as client:
        done = client.wait(client.post("/api/jobs", JOINT))
        running = client.post("/api/jobs", JOINT | {"prompt": "wait", "steps": 150})
        waiting = client.post("/api/jobs", JOINT)
        client.wait(running, "running")
    for folder in ("jobs", "inputs"):
        (tmp_path / folder / ".part-1-abc").mkdir(parents=True)
    with serve_stub(tmp_path) as client:
        assert client.get(f"/api/jobs/{done['id']}") == done
        assert client.wait(running)["state"] == client.wait(waiting)["state"] == "done"
        assert [job["id"] for job in client.get("/api/jobs")] == [job["id"] for job in (waiting, running, done)]
    assert not list(tmp_path.glob("*/.part-*"))


def test_one_program_holds_a_folder(serve_stub, tmp_path):
    with serve_stub(tmp_path), pytest.raises(ValueError, match="another program serves"):
        Service(Options(out=tmp_path))


def test_a_client_has_only_so_many_jobs_that_wait(serve_stub, tmp_path):
    with serve_stub(tmp_path, queue=2) as client:
        client.wait(client.post("/api/jobs", JOINT | {"prompt": "wait", "steps": 200}), "running")
        for _ in range(2):
            client.post("/api/jobs", JOINT)
        code, words = client.refused(
            "/api/jobs", json.dumps(JOINT).encode(), "POST", content_type="application/json"
        )
        assert code == 429 and "2 of your jobs wait" in words


def test_its_own_flags_say_how_models_lie(tmp_path):
    """Nobody who asks for a job does."""
    options = Options(out=tmp_path, storage="fp8", offload="blocks", tiled_vae=True)
    (model,) = find_models(()).values()
    asked = Ask(task="joint", modalities=["depth", "flow"], prompt="a ball", steps=2)
    made = requests(asked, model, None, tmp_path, options)
    assert [thrift_of(one) for one in made.values()] == 2 * [thrift_of(options)]
    assert thrift_of(options).storage == "fp8"


@pytest.mark.parametrize(
    "ask, words",
    [
        ({"task": "paint"}, "task"),
        ({"modalities": ["smell"]}, "modalities"),
        ({"modalities": []}, "modalities"),
        ({"model": "../../elsewhere"}, "there is no model"),
        ({"model": str(ROOT / "unity/assets/tiny")}, "there is no model"),
        ({"input": "../people"}, "there is no input"),
        ({"input": None}, "give the id of an input"),
        ({"steps": 0}, "steps"),
        ({"steps": 100_000}, "steps"),
        ({"seed": -1}, "seed"),
        ({"frames": 65_001}, "takes up to"),
        ({"size": [16_000, 64]}, "takes up to"),
        ({"size": [64]}, "size"),
        ({"guidance": 1e9}, "guidance"),
        ({"prompt": "x" * 5000}, "prompt"),
        ({"out": "/etc"}, "out"),
        ({"task": "joint", "input": None, "prompt": "  "}, "give a prompt"),
    ],
)
def test_what_cannot_be_is_one_sentence(client, ask, words):
    body = json.dumps(ASK | ask).encode()
    code, said = client.refused("/api/jobs", body, "POST", content_type="application/json")
    assert code in (400, 422) and words in said and "\n" not in said


def test_an_upload_is_read_and_kept(client, film):
    about = client.send(film.read_bytes(), "..%2F..%2Fetc%2Fa%20film.mp4")
    assert (about["name"], about["frames"], about["size"], about["fps"]) == ("a film.mp4", 11, [64, 96], 10.0)
    with client.open(f"/api/inputs/{about['id']}/video", range="bytes=0-99") as answer:
        assert answer.status == 206 and len(answer.read()) == 100
    assert about in client.get("/api/inputs")
    assert client.wait(client.post("/api/jobs", ASK | {"input": about["id"]}))["state"] == "done"


def test_a_result_becomes_an_input(client):
    job = client.wait(client.post("/api/jobs", ASK))
    about = client.post("/api/inputs/result", {"job": job["id"], "modality": "depth", "stream": "depth"})
    assert (about["frames"], about["size"], about["kind"]) == (5, [16, 24], "result")
    body = json.dumps({"job": job["id"], "modality": "depth", "stream": "../run"}).encode()
    assert client.refused("/api/inputs/result", body, "POST", content_type="application/json")[0] == 404


@pytest.mark.parametrize(
    "data, code, words",
    [
        (b"", 400, "empty"),
        (b"#!/bin/sh\nreboot\n", 400, "cannot read film.mp4"),
        (b"\0" * 2_000_000, 413, "more than 1 MB"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:/etc/passwd\n", 400, "cannot read film.mp4"),
    ],
)
def test_what_is_no_video_is_refused_and_leaves_nothing(client, data, code, words):
    before = client.get("/api/inputs")
    found, said = client.refused("/api/inputs?name=film.mp4", data, "POST")
    assert found == code and words in said
    assert client.get("/api/inputs") == before


@pytest.mark.parametrize(
    "shape, words",
    [((101, 16, 16), "101 frames, more than 100"), ((1, 512, 640), "640 x 512 pixels, more than 307,200")],
)
def test_a_video_of_too_many_frames_or_pixels_is_refused(client, shape, words, tmp_path):
    film = write_video(np.zeros((*shape, 3), np.uint8), tmp_path / "film.mp4", 8)
    assert words in client.refused("/api/inputs", film.read_bytes(), "POST")[1]


def test_reading_that_takes_too_long_is_ended(serve_stub, tmp_path, film, monkeypatch):
    monkeypatch.setattr("unity.apps.web.inputs._PATIENCE", -0.9)
    with serve_stub(tmp_path, most_seconds=1) as client:
        assert "takes more than 1 s" in client.refused("/api/inputs", film.read_bytes(), "POST")[1]
        assert list(tmp_path.glob("inputs/*")) == []


def test_another_address_makes_up_a_token(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "unity.apps.web", "--host", "0.0.0.0", "--port", "0", "--out", str(tmp_path)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    line = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert "?token=" in line and len(line.partition("?token=")[2].split()[0]) >= 20
    assert process.returncode in (0, 130)


def test_samplers_go_by_their_names():
    assert set(SAMPLER_NAMES) == set(SAMPLERS)


def test_every_operation_is_described(tmp_path):
    app = application(Options(out=tmp_path))
    operations = [route for methods in app.openapi()["paths"].values() for route in methods.values()]
    assert len(operations) > 12 and all(route.get("description") for route in operations)
