"""What belongs to a checkpoint travels in its card: words, colours, conventions and rate."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from unity.config import MODELS
from unity.encoders import Encoders
from unity.flow_matching import TimeConfig
from unity.generate import Footage, Generator, generate
from unity.modality.encodings import ENCODINGS, OURS
from unity.modality.table import MODALITIES
from unity.model.card import ModelCard, Schedule, read_card_file, write_card
from unity.model.codec import load_codec
from unity.model.dit import UnityDiT
from unity.model.heritage import heritage
from unity.model.layouts import LAYOUTS, RELEASE_MODALITIES
from unity.model.weights import read_card, save_model
from unity.sampler import Guidance, Sampling
from unity.tasks import TASKS
from unity.train.run import schedules

TINY = replace(MODELS["debug"], num_layers=1)
CARD = ModelCard(model=TINY, modalities=tuple(MODALITIES), stage=2, step=3, frames=5, size=(16, 16))


@pytest.fixture(scope="module")
def release(tmp_path_factory, hollow):
    """Headers as those of the authors' checkpoint: whole in shape, its data a hole in the file."""
    path = tmp_path_factory.mktemp("release") / "model.safetensors"
    config = replace(MODELS["5b"], num_layers=1)
    with torch.device("meta"):
        model = UnityDiT(config)
    wan = LAYOUTS["Wan"].write(model.state_dict(), config)
    state: dict[str, Tensor] = {f"base.{name}": value for name, value in wan.items()}
    state |= {
        name.replace(".0.", f".{i}."): v for name, v in state.items() for i in range(30) if ".blocks.0." in name
    }
    d, c = config.dim, config.latent_channels
    state |= {"flow_patch_embedding.weight": torch.empty(d, c, 1, 2, 2, device="meta")}
    return hollow(path, state)


def test_the_release_brings_its_words_colours_and_conventions(release):
    """Nothing but its header is read: it has 10 GB."""
    assert release.stat().st_size > 9e9
    found = heritage(release)
    card = found.card
    assert found.preset == "5b" and card.learning_rate == 5e-5 and card.modalities == tuple(RELEASE_MODALITIES)
    assert (card.model.clean_time, card.model.input, card.model.prediction) == ("shared", "expert", "velocity")
    assert card.modality("depth").type_prompt.endswith("near in warm colors and far in cool colors.")
    assert card.modality("depth").decode is ENCODINGS["depth"]["spectral"].decode
    assert card.modality("flow").decode is ENCODINGS["flow"]["linear"].decode
    assert card.modality("skeleton").decode is MODALITIES["skeleton"].decode
    assert found.line(card.model, "adamw", 5e-5) == (
        f"starting from the weights of {release}: 5b, 30 blocks of width 3072, input expert, clean_time shared, "
        f"depth drawn as spectral, flow drawn as linear, adamw at lr 5e-05"
    )


def test_a_size_may_be_named_if_it_is_the_weights_own(release):
    assert heritage(release, "5b").preset == "5b"
    with pytest.raises(ValueError, match="30 blocks of width 3072, 5b, and not tiny: leave --model out"):
        heritage(release, "tiny")


def test_weights_of_a_shape_of_their_own_are_near_a_preset(tmp_path):
    save_model(UnityDiT(TINY).state_dict(), replace(CARD, learning_rate=2e-3), tmp_path / "model")
    found = heritage(tmp_path / "model")
    assert found.preset == "debug" and found.card.learning_rate == 2e-3
    with pytest.raises(ValueError, match="1 blocks of width 64 and not debug"):
        heritage(tmp_path / "model", "debug")


def test_a_card_comes_back_whole_and_speaks_our_words_where_it_says_nothing(tmp_path):
    card = replace(
        CARD,
        type_prompts={"depth": "far is blue"},
        encodings={"depth": "spectral"},
        learning_rate=1e-3,
        optimizer="muon",
        schedules={"estimate": Schedule(steps=4, shift=20.0)},
    )
    # at whatever rate a run may be asked for
    for rate in (1e-3, 1e-30, 1000.0):
        card = replace(card, learning_rate=rate)
        write_card(card, tmp_path)
        assert read_card_file(tmp_path) == card
    assert card.modality("depth").type_prompt == "far is blue" and card.encodings["flow"] == OURS
    for name, row in MODALITIES.items():
        assert CARD.modality(name) == row


FOOTAGE = Footage(rgb=np.zeros((1, 5, 16, 16, 3), np.uint8))


def generator(card, said):
    """A new model under a card; the texts that it is given are said."""

    def text(words):
        said.extend(words)
        return torch.zeros(len(words), 1, TINY.text_dim), torch.ones(len(words), dtype=torch.long)

    model = UnityDiT(TINY).requires_grad_(False)
    encoders = Encoders(codec=load_codec(TINY.codec), text=text, device=torch.device("cpu"))
    return Generator(path=Path("none"), model=model, card=card, encoders=encoders, dtype=torch.float32)


def test_generation_speaks_the_checkpoints_words():
    said = []
    card = replace(CARD, type_prompts={"depth": "far is blue"})
    generate(generator(card, said), "estimate", "depth", [""], FOOTAGE, Sampling(steps=1))
    assert "far is blue" in said


@pytest.mark.parametrize(
    ("asked", "times"),
    [
        # 20·t / (1 + 19·t) of thirds; see unity.flow_matching
        ({}, [1, 40 / 41, 10 / 11]),
        ({"steps": 2}, [1, 20 / 21]),
        ({"shift": 1.0}, [1, 2 / 3, 1 / 3]),
        ({"steps": 1, "shift": 5.0}, [1]),
    ],
)
def test_generation_takes_the_checkpoints_steps_where_none_are_asked_for(asked, times):
    seen = []
    made = generator(replace(CARD, schedules={"estimate": Schedule(steps=3, shift=20.0)}), [])
    made.model.register_forward_pre_hook(lambda module, inputs: seen.append(float(inputs[2][0, 1])))
    generate(made, "estimate", "depth", [""], FOOTAGE, Sampling(guidance=Guidance(scale=1.0), **asked))
    assert seen == pytest.approx(times)


def test_generation_takes_the_checkpoints_sampler_where_none_is_asked_for():
    def drawn(sampler: str | None, own: str) -> np.ndarray:
        made = generator(replace(CARD, schedules={"estimate": Schedule(steps=3, sampler=own)}), [])
        # the same for all, and no model that says nothing yet
        torch.manual_seed(0)
        for parameter in made.model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        sampling = Sampling(guidance=Guidance(scale=1.0), sampler=sampler)
        return generate(made, "estimate", "depth", [""], FOOTAGE, sampling)[1]

    own = drawn(None, "stochastic")
    assert np.array_equal(own, drawn("stochastic", "unipc"))
    assert not np.array_equal(own, drawn(None, "unipc"))


def test_a_runs_card_draws_at_the_times_of_its_training():
    small = schedules(TimeConfig(shift=3.0, estimate_shift=20.0), MODELS["tiny"])
    assert small["estimate"] == Schedule(steps=3, shift=20.0)
    assert small["joint"] == Schedule(steps=12, shift=8.0, guidance=2.0, sampler="stochastic") == small["control"]
    assert schedules(TimeConfig(shift=3.0), MODELS["tiny"])["estimate"] == Schedule(shift=3.0)
    assert schedules(TimeConfig(shift=5.0), MODELS["5b"]) == dict.fromkeys(TASKS, Schedule(shift=5.0))


@pytest.mark.parametrize("name", ["1.3b", "14b"])
def test_wan_weights_find_their_preset(name, tmp_path, hollow):
    with torch.device("meta"):
        one = UnityDiT(replace(MODELS[name], num_layers=1))
    state = LAYOUTS["Wan"].write(one.state_dict(), one.config)
    last = f".{MODELS[name].num_layers - 1}."
    hollow(tmp_path / "w.safetensors", state | {n.replace(".0.", last): v for n, v in state.items()})
    assert read_card(tmp_path / "w.safetensors").model == MODELS[name]


def test_wan_alone_has_learnt_no_modality(tmp_path):
    config = replace(TINY, stem=0, prediction="velocity", rope_theta=1e4)
    state = {k: v.contiguous() for k, v in LAYOUTS["Wan"].write(UnityDiT(config).state_dict(), config).items()}
    save_file(state, tmp_path / "wan.safetensors")
    with pytest.raises(ValueError, match="are none of 1.3b, 5b, 10b, 14b"):
        heritage(tmp_path / "wan.safetensors")
