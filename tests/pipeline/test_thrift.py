"""What saves memory leaves the answers as they are, or changes them by what is said of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.hooks.group_offloading import ModuleGroup
from torch import nn

from unity.config import STORAGE
from unity.generate import load_generator
from unity.infer import infer
from unity.model.packed import PackedLinear, widen
from unity.model.weights import load_model
from unity.placement import Turns
from unity.request import SAMPLE, Request
from unity.thrift import Thrift, flags_of, thrift_of


@pytest.fixture
def asked(wan, tmp_path):
    """An estimate by a model of Wan's kind, with its VAE and text encoder."""
    checkpoint, parts = wan
    return Request(
        modality="depth", checkpoint=checkpoint, out=tmp_path / "out", steps=2, seed=7, size=(32, 48), frames=5,
        device="cpu", codec_weights=parts, text_weights=parts, video=SAMPLE,
    )  # fmt: skip


def answered(request: Request, **thrift) -> np.ndarray:
    result = infer(replace(request, **thrift), say=lambda line: None)
    assert result.record["thrift"] == vars(replace(Thrift(), **thrift))
    return result.values


def test_one_part_at_a_time_lies_there():
    """A copy of its own while it is there, what it was loaded with before and after."""
    parts = [nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), nn.Linear(3, 3)]
    first = [[p.data_ptr() for p in part.parameters()] for part in parts]
    values = [[p.clone() for p in part.parameters()] for part in parts]
    turns = Turns(torch.device("cpu"))
    for part in parts:
        turns.add(part)

    def away() -> list[bool]:
        return [[p.data_ptr() for p in part.parameters()] != was for part, was in zip(parts, first, strict=True)]

    assert not any(away())
    # the second is asked through what is in it, as a VAE is
    for number, asked in ((0, parts[0]), (1, parts[1][1]), (1, parts[1]), (2, parts[2]), (0, parts[0])):
        asked(torch.ones(3))
        assert away() == [place == number for place in range(3)]
    for part, had in zip(parts, values, strict=True):
        assert all(map(torch.equal, part.parameters(), had))


def assert_alike(found: np.ndarray, truth: np.ndarray) -> None:
    """But for one in a thousand, by one of 256 steps: products of weights that lie elsewhere round otherwise."""
    assert (found != truth).mean() < 1e-3
    np.testing.assert_allclose(found, truth, rtol=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("storage", STORAGE)
def test_offloaded_it_answers_the_same(asked, storage, monkeypatch):
    """By block: no weight is read but while it is there; elsewhere it holds no numbers."""
    truth = answered(asked, storage=storage)
    assert_alike(answered(asked, storage=storage, offload="parts"), truth)
    waiting: dict[torch.Tensor, torch.Tensor] = {}

    def held(group: ModuleGroup) -> list[torch.Tensor]:
        inside = [tensor for module in group.modules for tensor in (*module.parameters(), *module.buffers())]
        return [*inside, *group.parameters, *group.buffers]

    def leave(group: ModuleGroup) -> None:
        for tensor in held(group):
            waiting.setdefault(tensor, tensor.data)
            tensor.data = torch.full_like(tensor.data, 255 if tensor.dtype == torch.uint8 else torch.nan)

    def come(group: ModuleGroup) -> None:
        for tensor in held(group):
            tensor.data = waiting.get(tensor, tensor.data)

    monkeypatch.setattr(ModuleGroup, "_offload_to_memory", leave)
    monkeypatch.setattr(ModuleGroup, "_onload_from_memory", come)
    assert_alike(answered(asked, storage=storage, offload="blocks"), truth)
    # of the model and of the text encoder
    assert len(waiting) > 80


@pytest.mark.slow
def test_fewer_bits_change_little_and_tiles_of_a_small_picture_nothing(asked):
    truth = answered(asked)
    np.testing.assert_array_equal(answered(asked, tiled_vae=True), truth)
    off = {name: np.abs(1 / answered(asked, storage=name) - 1 / truth).mean() for name in ("fp8", "nf4")}
    assert 0 < off["fp8"] < off["nf4"] < 0.5 * (1 / truth).std()


@pytest.mark.parametrize("storage", ["fp8", pytest.param("nf4", marks=pytest.mark.slow)])
def test_weights_are_packed_as_they_are_read(wan, storage):
    wide, packed = (load_model(wan[0], dtype=torch.bfloat16, storage=name)[0] for name in ("wide", storage))
    most = {"fp8": 1 / 16, "nf4": 0.2}[storage]
    changed = 0
    for name, module in packed.named_modules():
        if isinstance(module, PackedLinear):
            weight = wide.get_submodule(name).weight.float()
            error = (widen(module.weight, module.row).float() - weight).abs()
            # half a step of three bits beside each number, and of what rounds to bf16
            assert (error <= 1.1 * most * weight.abs().amax(1, keepdim=True)).all()
            changed += error.any().item()
    assert changed > 10 and packed.get_parameter("modality_embedding").equal(wide.modality_embedding)


@pytest.mark.slow
def test_a_cache_of_steps_changes_little_and_begins_anew(asked):
    asked = replace(asked, steps=18)
    truth = answered(asked)
    checkpoint, *weights = asked.checkpoint, asked.device, asked.codec_weights, asked.text_weights
    generator = load_generator(checkpoint, *weights, thrift=Thrift(step_cache=3))
    cached, again = (infer(replace(asked, step_cache=3), generator).values for _ in range(2))
    np.testing.assert_array_equal(cached, again)
    error = np.abs(1 / cached - 1 / truth).mean() / (1 / truth).std()
    assert 0 < error < 0.2
    with pytest.raises(ValueError, match="15 are too few for that: take at least 16"):
        infer(replace(asked, step_cache=3, steps=15))


def test_flags_and_programs_say_the_same():
    thrift = Thrift(offload="parts", storage="fp8", tiled_vae=True, step_cache=3)
    assert flags_of(thrift) == ["--offload", "parts", "--storage", "fp8", "--tiled-vae", "--step-cache", "3"]
    assert thrift_of(Request(modality="depth", **vars(thrift))) == thrift
