"""Losses by task and modality, and the journal of a run that was cut."""

import json
import time

import psutil
import pytest
import torch

from unity.train.loop import timed
from unity.train.metrics import Journal, Tally, high_water, require_finite_norm


def test_tally_means_by_task_and_modality(world):
    tally = Tally(world)
    noisy = torch.tensor([[True, True], [True, False], [False, True]])
    # the second and third sample's clean streams have errors that must not count
    losses = torch.tensor([[1.0, 3.0], [5.0, 99.0], [99.0, 7.0]])
    tally.add(losses[:2], noisy[:2], torch.tensor([0, 1]), torch.tensor([4, 0]))
    tally.add(losses[2:], noisy[2:], torch.tensor([2]), torch.tensor([4]))
    means, stop = tally.reduce(step=0, stop=False)
    assert means == {
        "loss": pytest.approx(14 / 3),
        "loss/joint": 2.0,
        "loss/control": 5.0,
        "loss/estimate": 7.0,
        "loss/depth": 5.0,
        "loss/segmentation": 4.5,
    }
    assert stop is False
    assert tally.reduce(step=0, stop=True)[1] is True


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_told_with_step_and_rank(world, value):
    tally = Tally(world)
    tally.add(torch.tensor([[value, 1.0]]), torch.tensor([[True, True]]), torch.tensor([0]), torch.tensor([0]))
    with pytest.raises(FloatingPointError, match="step 12 is not finite on rank 0"):
        tally.reduce(step=12, stop=False)
    with pytest.raises(FloatingPointError, match="gradient of step 3"):
        require_finite_norm(value, 3)


def test_a_resumed_journal_drops_what_lies_beyond_and_what_is_half_written(tmp_path):
    record = {"loss": 1.0, "grad_norm": 1.0, "lr": 0.1, "tokens": 10}
    journal = Journal(tmp_path, start=0, steps=9, every=100)
    for step in range(5):
        journal.write(step, record)
    journal.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    journal = Journal(tmp_path, start=3, steps=9, every=100)
    journal.write(3, record | {"loss": 2.0})
    journal.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 2.0)]
    assert all(line["tokens_per_second"] == pytest.approx(10 / line["seconds"]) for line in lines)


def test_a_line_has_speed_mfu_waiting_and_memory(tmp_path, capsys):
    record = {"loss": 1.0, "grad_norm": 1.0, "lr": 0.1, "tokens": 10, "wait_seconds": 0.25, "memory_gib": 1.5}
    journal = Journal(tmp_path, start=0, steps=2, every=1, ideal=0.002)
    for step in range(2):
        time.sleep(0.01)
        journal.write(step, record)
    journal.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    said = capsys.readouterr().out.splitlines()
    for line, words in zip(lines, said, strict=True):
        # of the time since the step before, what the peak would have taken
        assert line["seconds"] > 0.01 and line["mfu"] == pytest.approx(0.002 / line["seconds"])
        assert words.endswith(f"tokens/s MFU {line['mfu']:.1%} waited 0.25 s 1.5 GiB")


def test_waiting_for_data_is_what_the_data_takes_and_not_the_step():
    def coming():
        for step in range(2):
            time.sleep(0.05)
            yield {"step": step}

    for _, waited in timed(coming()):
        assert 0.05 <= waited < 0.1
        time.sleep(0.1)


def test_the_most_memory_is_at_least_what_is_held_now():
    held = psutil.Process().memory_info().rss / 2**30
    assert 0.9 * held < high_water(torch.device("cpu")) < psutil.virtual_memory().total / 2**30
