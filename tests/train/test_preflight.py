"""What would end a run after hours is said before it starts, with the way out."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unity.data.shards import read_about
from unity.train import checkpoint, loop
from unity.train import preflight as looking
from unity.train.config import TrainConfig, parse, resolve
from unity.train.meeting import check_gpus
from unity.train.planner.gpus import GPUS
from unity.train.preflight import (
    Facts,
    bandwidth_line,
    checkpoint_bytes,
    compare,
    expected,
    facts,
    link,
    preflight,
)

WHOLE = Facts(host="n1", clock=1000.0, data="f00d", versions={"torch": "2.11", "triton": "3.6", "code": "abc"})


@pytest.fixture
def config(dataset, world, tmp_path) -> TrainConfig:
    flags = ["--model", "debug", "--steps", "2", "--batch-size", "4", "--picture-every", "0", "--workers", "0"]
    zero = Path(__file__).parents[2] / "launchers/zero3.json"
    options = parse([*flags, "--data", str(dataset), "--out", str(tmp_path / "run"), "--deepspeed", str(zero)])
    return resolve(options, read_about(dataset))


# what rank 1 finds → words of the sentence
DIFFERENT = {
    "data": (replace(WHOLE, host="n2", data="beef"), "rank 1 on n2 .beef. has another dataset.json .*same"),
    "no data": (
        replace(WHOLE, host="n2", data="", fault="no such file"),
        "rank 1 on n2 cannot read --data: no such file. Put the dataset",
    ),
    "version": (
        replace(WHOLE, host="n2", versions=WHOLE.versions | {"triton": ""}),
        "rank 1 on n2 .none. has another triton than the others .3.6.; use one environment",
    ),
    "code": (
        replace(WHOLE, host="n2", versions=WHOLE.versions | {"code": "abd"}), "another code .*one checkout",
    ),
    "clock": (replace(WHOLE, host="n2", clock=1100.0), "clocks of n1 and n2 are 100 s apart, .*NTP"),
}  # fmt: skip


@pytest.mark.parametrize("what", DIFFERENT)
def test_machines_that_differ_are_named(what):
    odd, words = DIFFERENT[what]
    with pytest.raises(ValueError, match=words):
        compare([WHOLE, odd, WHOLE])
    compare([WHOLE, replace(WHOLE, host="n2", clock=1010.0), WHOLE])


def test_a_machine_with_other_gpus_than_were_asked_for_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 7)
    monkeypatch.setenv("UNITY_GPUS_PER_NODE", "8")
    with pytest.raises(ValueError, match="has 7 GPUs that can be used, and the job asked for 8.*exclude="):
        check_gpus(0)
    monkeypatch.delenv("UNITY_GPUS_PER_NODE")
    with pytest.raises(ValueError, match="at most 7 ranks"):
        check_gpus(7)
    check_gpus(6)


def test_a_disk_without_room_for_two_checkpoints_is_told_before_anything_is_written(config, world, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(ValueError, match="has 0 MB left, and .* MB are needed"):
        loop.train(replace(config, preflight=True), world)
    assert not config.out.exists()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_checkpoint_is_as_large_as_it_is_said_to_be(config, world, optimizer):
    config = replace(config, optim=replace(config.optim, kind=optimizer))
    loop.train(config, world)
    newest = checkpoint.newest_whole(world, config.out, print)
    size = sum(path.stat().st_size for path in newest.rglob("*.safetensors"))
    assert checkpoint_bytes(config) == pytest.approx(size, rel=0.03)


def test_a_rank_with_other_code_stops_both_before_anything_is_written(two_ranks):
    assert two_ranks[0].count("check_preflight") == 2


def test_a_shard_that_a_machine_does_not_have_is_told_before_anything_is_written(config, world, tmp_path):
    copy = shutil.copytree(config.data, tmp_path / "copy")
    lacking = next(copy.glob(f"{config.curriculum.sources[0]}/*.mds"))
    lacking.unlink()
    with pytest.raises(ValueError, match=f"rank 0 on .* cannot read --data: .*{lacking.name}.*same path"):
        loop.train(replace(config, data=copy, preflight=True), world)
    assert not config.out.exists()
    shutil.rmtree(copy)
    assert "dataset.json" in facts(replace(config, data=copy)).fault


def test_code_that_has_changed_since_it_was_submitted_is_a_warning(config, world):
    said, record = [], config.out / "slurm/submission.json"
    record.parent.mkdir(parents=True)
    for digest in (facts(config).versions["code"], "0" * 12):
        record.write_text(json.dumps({"code": {"digest": f"{digest}0000"}}))
        preflight(config, world, said.append)
    (warning,) = [line for line in said if "WARNING" in line]
    assert "no longer that which was submitted (digest 000000000000)" in warning and said.index(warning) == 1


def test_one_rank_says_what_it_found(config, world):
    said = []
    preflight(config, world, said.append)
    assert len(said) == 1 and said[0].startswith("preflight: 1 ranks on 1 machine; room for two checkpoints")


def test_a_slow_network_is_a_warning(monkeypatch):
    gpu = GPUS["H100"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for here, wanted in ((gpu, gpu.link), (None, None)):
        monkeypatch.setattr(looking, "here", lambda here=here: here)
        assert expected(8, 1) == wanted
    assert link(gpu, 8, 1) == gpu.link and link(gpu, 16, 2) == min(gpu.link, 8 * gpu.network)
    assert link(gpu, 2, 2) == gpu.network
    assert "WARNING: sums at 100 GB/s a rank, 25% of the 400 expected" in bandwidth_line(100e9, 400e9)
    assert "WARNING" not in bandwidth_line(300e9, 400e9) and "expected" not in bandwidth_line(1e9, None)
