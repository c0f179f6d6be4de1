"""Sequence parallelism: equal to one process, refused before anything is loaded where it cannot be."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from unity.config import MODELS
from unity.train import loop
from unity.train.config import parse, resolve
from unity.train.config_file import read_config, write_config
from unity.train.options import Options
from unity.train.sequence import SequenceGroup, check, tokens
from unity.train.zero import settings

BASE = json.loads((Path(__file__).parents[2] / "launchers/zero3.json").read_text())
ABOUT = {"frames": 17, "size": [64, 64]}
QUICK = ("gradients",)
NAMES = (*QUICK, "adamw", "group", "muon", "bf16", "fp8", "compiled", "recomputed", "resume")


@pytest.mark.parametrize("name", QUICK)
def test_two_ranks(two_ranks, name):
    """See sequence_on_ranks.py: both ranks say the name of a check when it has passed."""
    said, _ = two_ranks
    assert said.count(f"check_sequence_{name}") == 2


@pytest.mark.slow
def test_compiled_on_two_ranks(two_ranks_more):
    assert two_ranks_more.count("check_sequence_inductor") == 2


@pytest.mark.slow
def test_four_ranks(run_on_ranks, dataset, tmp_path):
    said = run_on_ranks(4, "sequence_on_ranks.py", dataset, tmp_path)
    assert {name: said.count(f"check_sequence_{name}") for name in NAMES} == dict.fromkeys(NAMES, 4)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((3, 4, 12, 30), "3 does not divide 4 ranks; .* it can be 1, 2"),
        ((4, 8, 6, 32), "4 does not divide 6 heads; .* it can be 1, 2"),
        ((8, 8, 32, 12), "8 does not divide 12 tokens of a stream; .* it can be 1, 2, 4"),
        ((2, 1, 2, 32), "2 does not divide 1 ranks; .* it can be 1"),
    ],
)
def test_what_does_not_divide_is_a_sentence_with_what_does(sizes, words):
    with pytest.raises(ValueError, match=words):
        check(*sizes)


def test_the_papers_clip_can_be_cut_over_a_node():
    assert tokens(MODELS["10b"], 81, (480, 832)) == 32_760
    check(8, 64, MODELS["10b"].num_heads, 32_760)


def test_it_is_refused_before_data_and_weights(tmp_path, monkeypatch):
    """Not a clip is simulated for a run that cannot be; and what only the data tells comes before the model."""
    monkeypatch.chdir(tmp_path)
    options = parse(["--model", "debug", "--sequence-parallel", "2"])
    with pytest.raises(ValueError, match="does not divide 3 ranks"):
        loop.prepare(options, 3, print)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="does not divide 3 tokens"):
        resolve(replace(options, frames=9, size=(16, 16)), ABOUT, ranks=2)


def test_a_group_counts_as_one_rank(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = resolve(parse(["--model", "debug", "--sequence-parallel", "2", "--batch-size", "8"]), ABOUT, ranks=4)
    assert (config.sequence_parallel, config.micro_batch) == (2, 4)
    sizes = dict(precision="bf16", batch_size=8, micro_batch=2, world_size=4, clip=1.0)
    found = settings(BASE, **sizes, sequence_parallel=2)
    assert found["gradient_accumulation_steps"] == 2
    with pytest.raises(ValueError, match="12 is not a multiple of 2 groups of 2 ranks x micro batch 5"):
        settings(BASE, **(sizes | {"batch_size": 12, "micro_batch": 5}), sequence_parallel=2)
    with pytest.raises(ValueError, match="--sequence-parallel decides it"):
        settings(BASE | {"sequence_parallel_size": 2}, **sizes)


def test_a_run_keeps_its_cut_until_another_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--model", "debug", "--sequence-parallel", "2", "--batch-size", "8", "--out", "run"]
    write_config(resolve(parse(flags, ranks=2), ABOUT, ranks=2), Path("run/config.json"))
    Path("run/checkpoints/step-00000007").mkdir(parents=True)
    # a micro batch of 8 is too much where two ranks share 8 samples
    for given, expected in (([], (2, 8)), (["--sequence-parallel", "1"], (1, 4))):
        resumed = resolve(parse(["--resume", "run", *given], ranks=2), ABOUT, ranks=2)
        assert (resumed.sequence_parallel, resumed.micro_batch) == expected


def test_a_run_from_before_was_not_cut(tmp_path):
    write_config(Options(model="debug"), tmp_path / "config.json")
    content = json.loads((tmp_path / "config.json").read_text())
    del content["sequence_parallel"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert read_config(tmp_path).sequence_parallel is None


def test_a_rank_alone_has_no_peers_and_does_all_jobs():
    alone, tensors = SequenceGroup(), list(torch.eye(3))
    done = alone.share_out([partial(tensor.add, 1) for tensor in tensors])
    assert alone.peers() is None and torch.equal(torch.stack(done), torch.eye(3) + 1)
