"""Films without some of a stage's views: it trains on those that there are, says so, and resumes exactly."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from unity.data.buckets import join
from unity.data.clips import Clip
from unity.data.shards import merge_parts, open_shards, write_part
from unity.model.weights import read_card
from unity.train import loop
from unity.train.config_file import read_config, write_config

DIS = {"name": "dis", "versions": {"opencv": "5"}, "settings": {}}
RAFT = {"name": "raft", "versions": {"torch": "2"}, "settings": {"updates": 12}}


def _clip(number, who, frames):
    """A film whose flow `who` made; of None it was refused."""
    random = np.random.default_rng(number)
    video = {
        s: random.integers(0, 256, (frames, 32, 32, 3)).astype(np.uint8) for s in ("rgb", "flow")[: 1 + bool(who)]
    }
    meta = {"annotators": {"flow": (who or DIS) | {"kept": bool(who), "scores": {}, "why": ""}}}
    return Clip(name=f"{number}", source="single_person", caption="", fps=8.0, video=video, meta=meta)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Two buckets without depth or DensePose: three clips by DIS and one by RAFT, one by RAFT; one has no view."""
    here = tmp_path_factory.mktemp("films")
    parts = [write_part([_clip(n, who, 5)], here / f"{n}") for n, who in enumerate((DIS, DIS, DIS, RAFT, None))]
    merge_parts(parts, here / "five")
    merge_parts([write_part([_clip(9, RAFT, 9)], here / "9")], here / "nine")
    join([here / "five", here / "nine"], here / "all")
    return here / "all"


@pytest.fixture
def options(films, four_steps):
    return four_steps(films, stage=1, batch_size=2, seed=2)


def test_what_is_left_out_and_who_annotated_is_said(options, films):
    said = []
    config = loop.prepare(options, 1, said.append)
    assert config.curriculum.modalities == ("flow",) and config.curriculum.sources == ("single_person",)
    about = said[[line.startswith("no clip of") for line in said].index(True) :]
    assert about[:3] == [
        f"no clip of {films} has depth, densepose: stage 1 trains on flow alone",
        "annotated by",
        "  flow, 5 clips: dis (opencv 5) 60%, raft (torch 2, updates 12) 40%",
    ]
    assert open_shards(films / "5x32x32").about["annotators"] == {"flow": [[3, DIS], [1, RAFT]]}
    # kept with the run, and the same after it
    write_config(config, options.out / "config.json")
    assert read_config(options.out).views == ("flow",)
    lone = loop.prepare(replace(options, only="flow"), 1, said.append)
    assert lone.curriculum.modalities == ("flow",)


@pytest.mark.slow
def test_it_trains_saves_a_card_of_what_it_learnt_and_resumes_exactly(options, world, caplog):
    loop.train(options, world)
    assert "1 of 6 clips of single_person have none of flow, and are left out" in caplog.text
    assert read_card(options.out / "model").modalities == ("flow",)
    cut = replace(options, out=options.out.with_name("cut"), resume=options.out.with_name("cut"))
    shutil.copytree(options.out, cut.out, symlinks=True)
    shutil.rmtree(cut.out / "checkpoints/step-00000004")
    loop.train(cut, world)
    one, other = (run / "checkpoints/step-00000004" for run in (options.out, cut.out))
    names = sorted(path.relative_to(one) for path in one.rglob("*.safetensors"))
    assert len(names) >= 5 and all((one / name).read_bytes() == (other / name).read_bytes() for name in names)
    lines = [json.loads(line) for line in (options.out / "metrics.jsonl").read_text().splitlines()]
    assert len({line["tokens"] for line in lines}) <= 2
