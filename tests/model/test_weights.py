from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from unity.config import ModelConfig
from unity.model.card import ModelCard
from unity.model.dit import UnityDiT
from unity.model.layout import Layout
from unity.model.layouts import to_diffusers, to_wan
from unity.model.weights import load_model, read_card, save_model

SMALL = ModelConfig(dim=48, ffn_dim=80, num_heads=2, num_layers=2, latent_channels=4, text_dim=16, text_len=12)
CARD = ModelCard(model=SMALL, modalities=("depth",), stage=1, step=7, frames=9, size=(32, 48), data="simulated")
RELEASE_NAMES = ("depth", "raft", "densepose", "skeleton", "segmentation")


def randomised(config=SMALL):
    torch.manual_seed(0)
    model = UnityDiT(config).requires_grad_(False)
    for value in model.parameters():
        value.normal_(std=0.1)
    return model


def test_a_saved_model_loads_as_it_was(tmp_path):
    model = randomised()
    folder = save_model(model.state_dict(), CARD, tmp_path / "model")
    loaded, card = load_model(folder)
    assert card == CARD and not loaded.training
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=0, atol=0)
    save_model(model.state_dict(), replace(CARD, step=8), tmp_path / "model", dtype=torch.bfloat16)
    assert load_model(folder)[1].step == 8 and not (tmp_path / "model.part").exists()


def release_state(base, config):
    """Random weights in the layout of the authors' 5B release, on a small model."""
    d, c = config.dim, config.latent_channels
    state = {f"base.{k}": v for k, v in to_wan(base.state_dict(), config).items()}
    shapes = {"flow_patch_embedding.weight": (d, c, 1, 2, 2), "flow_patch_embedding.bias": (d,)}
    shapes |= {"flow_in.weight": (d, d), "flow_in.bias": (d,)}
    shapes |= {f"modality_embeddings.{name}": (d,) for name in RELEASE_NAMES}
    shapes |= {
        "flow_head.head.weight": (4 * c, d),
        "flow_head.head.bias": (4 * c,),
        "flow_head.modulation": (1, 2, d),
    }
    g = torch.Generator().manual_seed(5)
    return state | {name: torch.randn(*shape, generator=g) * 0.2 for name, shape in shapes.items()}


def release_velocities(base, state, rgb, aux, time, modality, caption, prompt):
    """The release's forward as RELEASE.md describes it, put together from the parts of a plain model.

    Its aux stream has an input of its own and one head; one time serves both streams; text is padded with zeros.
    """
    model = UnityDiT(base.config).requires_grad_(False)
    model.load_state_dict(base.state_dict())
    name = RELEASE_NAMES[modality]
    conv = F.conv3d(
        aux, state["flow_patch_embedding.weight"], state["flow_patch_embedding.bias"], stride=(1, 2, 2)
    )
    tokens = F.linear(conv.flatten(2).transpose(1, 2), state["flow_in.weight"], state["flow_in.bias"])
    tokens = tokens + state[f"modality_embeddings.{name}"]
    embed, model.patch_embedding = model.patch_embedding, None
    both = iter([embed(rgb, Layout((3, 2, 3))), tokens])
    model.patch_embedding = torch.nn.Module()
    model.patch_embedding.forward = lambda latent, layout: next(both)
    model.head_aux.weight.copy_(state["flow_head.head.weight"].expand_as(model.head_aux.weight))
    model.head_aux.bias.copy_(state["flow_head.head.bias"].expand_as(model.head_aux.bias))
    model.head_aux.modulation.table.copy_(state["flow_head.modulation"].expand_as(model.head_aux.modulation.table))
    length = [torch.tensor([12])] * 2
    times = torch.tensor([[time, time]])
    return model(rgb, aux, times, torch.tensor([modality]), caption, length[0], prompt, length[1])


def test_the_release_gives_the_same_velocities(tmp_path):
    base = randomised()
    base.modality_embedding.zero_()
    for block in base.blocks:
        block.modulation.table.copy_(block.modulation.table[-1:].expand_as(block.modulation.table))
    state = release_state(base, SMALL)
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "model.safetensors")
    model, card = load_model(tmp_path, config=SMALL)
    assert card.model.clean_time == "shared" and card.model.input == "expert"
    rgb, aux = torch.randn(2, 1, 4, 3, 4, 6).unbind(0)
    caption, prompt = torch.randn(2, 1, 12, 16).unbind(0)
    length = torch.tensor([12])
    for modality in range(5):
        expected = release_velocities(base, state, rgb, aux, 0.3, modality, caption, prompt)
        got = model(rgb, aux, torch.full((1, 2), 0.3), torch.tensor([modality]), caption, length, prompt, length)
        for ours, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-5)


def test_bad_weights_are_named(tmp_path):
    with pytest.raises(ValueError, match="no weights at"):
        load_model(tmp_path / "absent")
    folder = save_model(randomised().state_dict(), CARD, tmp_path / "model")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="may be cut short"):
        load_model(folder)
    state = randomised().state_dict()
    del state["blocks.1.ffn.0.bias"]
    save_model(state, CARD, folder)
    with pytest.raises(ValueError, match=r"in 1 tensors: blocks.1.ffn.0.bias \(expected \(80,\), found None\)"):
        load_model(folder)
    save_file({"a": torch.zeros(1)}, tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match="unknown layout|are none of"):
        load_model(tmp_path / "odd.safetensors", config=SMALL)


def test_what_wan_cannot_say_is_not_written_as_wan():
    state = randomised().state_dict()
    with pytest.raises(ValueError, match="Wan has no modulation on cross-attention"):
        to_wan(state, replace(SMALL, cross_modulation=True))
    with pytest.raises(ValueError, match="Wan predicts velocities"):
        to_diffusers(state, replace(SMALL, prediction="data"))
    with pytest.raises(ValueError, match="Wan has patches of its latent and no stem"):
        to_wan(state, replace(SMALL, stem=8))


def test_a_card_is_read_without_the_weights(tmp_path):
    folder = save_model(randomised().state_dict(), CARD, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    assert read_card(folder) == CARD
