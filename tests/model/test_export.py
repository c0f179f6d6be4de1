"""Weights out of here: the same bits when they come back, and what diffusers computes with them."""

import json
from dataclasses import replace
from functools import partial

import huggingface_hub
import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from unity.config import MODELS, ModelConfig
from unity.model import export as exporting
from unity.model.card import ModelCard
from unity.model.dit import UnityDiT
from unity.model.export import Export, export, show
from unity.model.layouts import to_diffusers, to_release, to_unity, to_wan
from unity.model.readme import readme
from unity.model.weights import load_model, save_model

SMALL = ModelConfig(dim=48, ffn_dim=80, num_heads=2, num_layers=2, latent_channels=4, text_dim=16, text_len=12)
RELEASE = replace(SMALL, input="expert", clean_time="shared")
CARD = ModelCard(model=SMALL, modalities=("depth",), stage=1, step=7, frames=9, size=(32, 48))


def randomised(config=SMALL, seed=0):
    torch.manual_seed(seed)
    model = UnityDiT(config).requires_grad_(False)
    for value in model.parameters():
        value.normal_(std=0.1)
    return model


@pytest.fixture
def foreign(monkeypatch):
    """1.3b's names on a few kilobytes."""
    monkeypatch.setitem(MODELS, "1.3b", SMALL)


@pytest.fixture
def ours(tmp_path):
    return save_model(randomised().state_dict(), CARD, tmp_path / "ours")


def read(folder):
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def equal(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == other[name].dtype and torch.equal(value, other[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout, write", [("wan", to_wan), ("diffusers", to_diffusers)])
def test_what_came_from_a_layout_goes_back_in_the_same_bits(foreign, tmp_path, layout, write, dtype):
    state = {k: v.to(dtype).contiguous() for k, v in write(randomised().state_dict(), SMALL).items()}
    save_file(state, tmp_path / "given.safetensors")
    export(Export(do="export", checkpoint=tmp_path / "given.safetensors", to=layout, out=tmp_path / "out"))
    equal(read(tmp_path / "out"), state)
    # and from one layout into the other and back
    other = {"wan": "diffusers", "diffusers": "wan"}[layout]
    export(Export(do="export", checkpoint=tmp_path / "out", to=other, out=tmp_path / "other"))
    export(Export(do="export", checkpoint=tmp_path / "other", to=layout, out=tmp_path / "back"))
    equal(read(tmp_path / "back"), state)


def test_diffusers_opens_the_folder_and_gives_the_same_velocity(ours, tmp_path):
    export(Export(do="export", checkpoint=ours, to="diffusers", out=tmp_path / "out"))
    theirs = WanTransformer3DModel.from_pretrained(tmp_path / "out")
    rgb, caption, time = torch.randn(1, 4, 3, 4, 6), torch.zeros(1, 12, 16), torch.tensor([0.3])
    caption[:, :5] = torch.randn(1, 5, 16)
    expected = load_model(ours)[0](rgb, None, time[:, None], None, caption[:, :5], torch.tensor([5]))[0]
    with torch.no_grad():
        got = theirs(rgb, 1000 * time, caption, return_dict=False)[0]
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=2e-5)


def test_a_folder_of_ours_comes_out_narrower_in_one_file(ours, tmp_path):
    export(Export(do="export", checkpoint=ours, to="unity", out=tmp_path / "out", dtype="bf16"))
    found, expected = read(tmp_path / "out"), read(ours)
    equal(found, {name: value.bfloat16() for name, value in expected.items()})
    assert load_model(tmp_path / "out")[1] == load_model(ours)[1]


def test_large_models_come_in_pieces_with_an_index(ours, tmp_path, monkeypatch):
    small = partial(exporting.split_torch_state_dict_into_shards, max_shard_size="50KB")
    monkeypatch.setattr(
        exporting,
        "split_torch_state_dict_into_shards",
        lambda state, filename_pattern, max_shard_size: small(state, filename_pattern=filename_pattern),
    )
    export(Export(do="export", checkpoint=ours, to="diffusers", out=tmp_path / "out", dtype="bf16"))
    index = json.loads((tmp_path / "out/diffusion_pytorch_model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 3
    expected = {k: v.bfloat16() for k, v in to_diffusers(load_model(ours)[0].state_dict(), SMALL).items()}
    equal(read(tmp_path / "out"), expected)
    loaded = WanTransformer3DModel.from_pretrained(tmp_path / "out", torch_dtype=torch.bfloat16)
    # diffusers keeps some of them wide
    equal({name: value.bfloat16() for name, value in loaded.state_dict().items()}, expected)


def release():
    """A model that the release's layout can say: of its modalities only biases and heads' inputs differ."""
    state = randomised(RELEASE).state_dict()
    for name, value in state.items():
        if name == "modality_embedding" or name.startswith("blocks.") and name.endswith("table"):
            value.copy_(value[-1:].expand_as(value))
        elif name.startswith("head_aux") or name == "patch_embedding_aux.weight":
            value.copy_(value[:1].expand_as(value))
    return state


def test_the_release_comes_back_bit_for_bit(tmp_path):
    state = release()
    state["modality_embedding"].zero_()
    save_model(state, replace(CARD, model=RELEASE), tmp_path / "ours")
    export(Export(do="export", checkpoint=tmp_path / "ours", to="release", out=tmp_path / "out"))
    written = read(tmp_path / "out")
    assert {"base.head.head.weight", "flow_head.modulation", "modality_embeddings.raft"} <= written.keys()
    assert written["flow_head.modulation"].shape == written["base.head.modulation"].shape
    equal(to_unity(written, RELEASE), state)
    # once it is in this form, the layout itself comes back in the same bits
    equal(to_release(to_unity(written, RELEASE), RELEASE), written)


@pytest.mark.parametrize(
    "name", ["blocks.1.modulation.table", "modality_embedding", "patch_embedding_aux.weight", "head_aux.bias"]
)
def test_what_the_release_cannot_say_is_a_sentence_and_nothing_is_left(tmp_path, name):
    state = release()
    state[name][1] += 1
    save_model(state, replace(CARD, model=RELEASE), tmp_path / "ours")
    with pytest.raises(ValueError, match=f"the release has one {name} for all modalities"):
        export(Export(do="export", checkpoint=tmp_path / "ours", to="release", out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_other_conventions_and_taken_folders_are_refused(ours, tmp_path):
    with pytest.raises(ValueError, match="the release has .*: a model with .* is not one"):
        export(Export(do="export", checkpoint=ours, to="release", out=tmp_path / "out"))
    with pytest.raises(ValueError, match="give the name of a new or empty folder"):
        export(Export(do="export", checkpoint=ours, out=ours))
    with pytest.raises(ValueError, match="no weights at"):
        export(Export(do="export", checkpoint=tmp_path / "nowhere", out=tmp_path / "out"))


def test_show_says_what_weights_are(ours):
    lines = show(Export(do="show", checkpoint=ours))
    assert lines[0].startswith("layout: this project;") and "float32" in lines[0]
    assert lines[2] == "learnt: depth; stage 1, step 7, 9 frames of 32x48"


SCORES = {"results": {"depth": {"clips": 9, "scores": {
    "model": {"abs_rel": {"mean": 0.1234, "low": 0.1, "high": 0.2}},
    "trivial": {"abs_rel": {"mean": 0.5678, "low": None, "high": None}},
}}}}  # fmt: skip


@pytest.mark.parametrize("layout", ["unity", "diffusers", "wan"])
def test_what_leaves_says_what_was_trained_on_what(tmp_path, layout):
    """Each fact of the card and each score that was given is on the page, whose front the hub can read."""
    known = {
        "data": "films | of dogs",
        "optimizer": "muon",
        "learning_rate": 0.003,
        "history": {"hardware": "2 × X"},
    }
    save_model(randomised().state_dict(), replace(CARD, **known), tmp_path / "ours")
    (tmp_path / "exam.json").write_text(json.dumps(SCORES))
    asked = Export(do="export", checkpoint=tmp_path / "ours", to=layout, out=tmp_path / "out")
    export(replace(asked, scores=tmp_path / "exam.json"))
    page = huggingface_hub.ModelCard.load(tmp_path / "out" / "README.md")
    assert page.data.tags == ["unity-video", "depth"] and page.data.base_model is None
    assert "base_model: Wan-AI/Wan2.1-T2V-1.3B-Diffusers" in readme(replace(CARD, base="wan2.1-1.3b"), "unity")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.text.splitlines()]
    for row in (
        ["data", "films / of dogs"], ["stage, step", "1, 7"], ["optimizer", "muon, peak rate 0.003"],
        ["hardware", "2 × X"], ["clips", "9 frames of 32×48"], ["depth, 9 clips", "model", "trivial"],
    ):  # fmt: skip
        assert row in rows, page.text
    assert any(row[1:] == ["0.123 [0.100, 0.200]", "0.568"] for row in rows)
    for wrong in ("[]", "{}", '{"results": {"depth": {"scores": {"model": {"x": {}}}}}}'):
        (tmp_path / "exam.json").write_text(wrong)
        with pytest.raises(ValueError, match="no results of `python -m unity.evaluate`"):
            export(replace(asked, out=tmp_path / "none", scores=tmp_path / "exam.json"))
    assert not (tmp_path / "none").exists()


def test_a_page_tells_nobody_where_things_lie_on_a_disk():
    """Data, base and history may be paths: their last names stay, and what is none stays whole."""
    for place in ("/home/me and you/films/walk", "~/walk", "C:\\Users\\me\\walk"):
        page = readme(replace(CARD, data=place, base=place, history={"begun from": place}), "unity")
        assert page.count("| walk |") == 3 and not any(word in page for word in ("/home", "~", "C:", "Users"))
    kept = replace(CARD, data="runs/walk", base="owner/repository", history={"code": "https://a.b/c"})
    assert all(
        words in readme(kept, "unity") for words in ("| runs/walk |", "| owner/repository |", "https://a.b/c")
    )


def test_weights_of_any_size_have_the_shape_that_their_settings_tell(tmp_path):
    """diffusers' own narrow model, with its config.json and without; one that lies is refused by the tensors."""
    sizes = {"num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 80, "text_dim": 16, "num_layers": 3}
    WanTransformer3DModel(in_channels=16, out_channels=16, **sizes).save_pretrained(tmp_path / "narrow")
    model, card = load_model(tmp_path / "narrow")
    found = card.model
    assert (found.dim, found.num_heads, found.ffn_dim, found.text_dim, found.num_layers) == (48, 2, 80, 16, 3)
    assert (found.codec, found.latent_channels, card.stage, len(model.blocks)) == ("wan2.1", 16, 0, 3)
    path = tmp_path / "narrow" / "config.json"
    settings = json.loads(path.read_text())
    for lie, said in (
        ({"ffn_dim": 96}, "does not fit its model"), ({"num_layers": 2}, "are none of 1.3b"),
        ({"in_channels": 7}, "are none of 1.3b"), ({"num_attention_heads": "2"}, "are none of 1.3b"),
        ({"_class_name": "Other"}, "are none of 1.3b"),
    ):  # fmt: skip
        path.write_text(json.dumps(settings | lie))
        with pytest.raises(ValueError, match=said):
            load_model(tmp_path / "narrow")
    path.unlink()
    with pytest.raises(ValueError, match="or the config.json that lay beside them"):
        load_model(tmp_path / "narrow")
