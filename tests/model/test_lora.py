"""Adapters against peft and diffusers: what they compute, what they write, and what they read of each other."""

import json
import shutil
from dataclasses import replace

import peft
import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch.multiprocessing.reductions import StorageWeakRef

from unity.config import ModelConfig
from unity.files import sha256
from unity.model.adapter import Lora, read_adapter, stream_adapter
from unity.model.card import NAME, ModelCard
from unity.model.convert import convert
from unity.model.dit import UnityDiT
from unity.model.export import Export, export, lora_state
from unity.model.fp8 import Fp8Config, Fp8Linear
from unity.model.layouts import to_diffusers, to_wan
from unity.model.lora import LoraConfig, inject
from unity.model.names import is_factor, is_part
from unity.model.weights import TENSORS, load_model, read_card, save_model

SMALL = ModelConfig(dim=48, ffn_dim=80, num_heads=2, num_layers=2, latent_channels=4, text_dim=16, text_len=12)
CARD = ModelCard(model=SMALL, modalities=("depth",), stage=1, step=7, frames=9, size=(32, 48))
LORA = LoraConfig(rank=3, alpha=6.0)
WITHOUT_PARTS = replace(LORA, parts=0.0)
# as large as a step of training would make them
SIZE = 0.1


def randomise(model, names=lambda name: True, seed=0):
    g = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        if names(name):
            value.data.normal_(std=SIZE, generator=g)
    return model


def inputs(b=2, seed=1):
    g = torch.Generator().manual_seed(seed)
    rgb, aux = torch.randn(2, b, 4, 3, 4, 6, generator=g).unbind(0)
    caption, prompt = torch.randn(2, b, 5, 16, generator=g)
    length = torch.tensor([5, 2])
    return rgb, aux, torch.rand(b, 2, generator=g), torch.tensor([0, 3]), caption, length, prompt, length


def wan_side():
    """A base that is Wan's in all streams: what a LoRA of Wan can be compared on."""
    model = randomise(UnityDiT(SMALL))
    with torch.no_grad():
        model.modality_embedding.zero_()
        for block in model.blocks:
            block.modulation.table.copy_(block.modulation.table[-1:].expand_as(block.modulation.table))
    return model


@pytest.fixture
def trained(tmp_path):
    """trained(config): folder of a base, folder of its adapter, and the adapted model itself."""

    def make(config=LORA):
        model = wan_side()
        base = save_model(model.state_dict(), CARD, tmp_path / "base")
        inject(model, config)
        randomise(model, lambda name: model.get_parameter(name).requires_grad, seed=5)
        state = {name: value for name, value in model.named_parameters() if value.requires_grad}
        card = replace(CARD, base=str(base), step=9)
        folder = tmp_path / "adapter"
        stream_adapter(state, lambda name: state[name].split(2), config, card, folder)
        return base, folder, model

    return make


@pytest.mark.parametrize("targets", ["attention", "self_attention", "cross_attention", "ffn", "all"])
def test_the_table_says_what_is_adapted_and_all_else_is_frozen(targets):
    model = UnityDiT(replace(SMALL, cross_attention="separate"))
    count = {"attention": 12, "self_attention": 4, "cross_attention": 8, "ffn": 2, "all": 14}[targets]
    before = [value.clone() for value in model(*inputs())]
    changed = inject(model, replace(LORA, targets=targets))
    assert len(changed) == SMALL.num_layers * count
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert {name for name in trained if not is_factor(name)} == {
        n for n, _ in model.named_parameters() if is_part(n)
    }
    assert {"modality_embedding", "head_aux.weight", "blocks.1.modulation.table"} <= trained
    for fresh, value in zip(model(*inputs()), before, strict=True):
        assert torch.equal(fresh, value)


def test_an_adapter_is_never_whole_in_memory(tmp_path):
    """Of ever so many factors and parts, the piece that is written and the one that was before it."""
    shapes = {f"blocks.{i}.ffn.0.lora_A.default.weight": torch.empty(64, 48, device="meta") for i in range(9)}
    shapes |= {f"blocks.{i}.modulation.table": torch.empty(64, 48, device="meta") for i in range(9)}
    held, most = [], []

    def parts(name):
        for row in range(0, 64, 16):
            piece = torch.full((16, 48), float(row))
            held.append(StorageWeakRef(piece.untyped_storage()))
            most.append(sum(not one.expired() for one in held))
            yield piece

    rows = stream_adapter(shapes, parts, LORA, CARD, tmp_path / "adapter")
    assert len(held) == 18 * 4 and max(most) <= 2
    for file, row in rows.items():
        tensors = load_file(tmp_path / "adapter" / file)
        assert row["sha256"] == sha256(tmp_path / "adapter" / file) and len(tensors) == 9
        assert all((value[:, 0] == torch.arange(64) // 16 * 16).all() for value in tensors.values())


def test_a_folder_loads_as_the_model_that_was_trained(trained):
    base, folder, model = trained()
    loaded, card = load_model(folder)
    assert card.step == 9 and card.base == str(base)
    for got, expected in zip(loaded(*inputs()), model(*inputs()), strict=True):
        torch.testing.assert_close(got, expected, atol=2e-6, rtol=2e-6)
    # merged into a folder of its own it is an ordinary model
    whole = save_model(loaded.state_dict(), replace(card, base=""), folder.parent / "whole")
    assert torch.equal(load_model(whole)[0](*inputs())[0], loaded(*inputs())[0])


def test_peft_reads_what_is_written(trained):
    base, folder, model = trained(WITHOUT_PARTS)
    theirs = peft.PeftModel.from_pretrained(load_model(base)[0], folder)
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (3, 6.0)
    assert settings["base_model_name_or_path"] == str(base)
    merged = theirs.merge_and_unload()
    for name, value in load_model(folder)[0].state_dict().items():
        torch.testing.assert_close(value, merged.state_dict()[name], atol=1e-6, rtol=1e-6)
    for got, expected in zip(merged(*inputs()), model(*inputs()), strict=True):
        torch.testing.assert_close(got, expected, atol=2e-6, rtol=2e-6)


def diffusers_wan(state):
    model = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=4, text_dim=16, freq_dim=256,
        ffn_dim=80, num_layers=2, cross_attn_norm=True, qk_norm="rms_norm_across_heads", rope_max_seq_len=64,
    )  # fmt: skip
    model.load_state_dict(state)
    return model.requires_grad_(False)


def rgb_alone(model):
    rgb, _, time, _, caption, length, _, _ = inputs()
    return model(rgb, None, time[:, :1], None, caption, length)[0]


def wan_velocity(model):
    rgb, _, time, _, caption, length, _, _ = inputs()
    words = torch.zeros(2, 12, 16)
    words[:, :5] = caption * (torch.arange(5) < length[:, None])[..., None]
    return model(rgb, 1000 * time[:, 0], words, return_dict=False)[0]


def test_diffusers_loads_what_is_exported(trained, tmp_path):
    base, folder, model = trained(WITHOUT_PARTS)
    state = lora_state(read_adapter(folder, SMALL), "diffusers", SMALL)
    save_file(state, tmp_path / "pytorch_lora_weights.safetensors")
    theirs = diffusers_wan(to_diffusers(load_model(base)[0].state_dict(), SMALL))
    plain = wan_velocity(theirs)
    theirs.load_lora_adapter(str(tmp_path), weight_name="pytorch_lora_weights.safetensors", adapter_name="ours")
    got, expected = wan_velocity(theirs), rgb_alone(load_model(folder)[0])
    # the weights are merged on one side, and added as activations on the other
    torch.testing.assert_close(got, expected, atol=5e-5, rtol=5e-5)
    assert (got - plain).abs().max() > 0.01
    # and what diffusers saves of it comes back as it was
    theirs.save_lora_adapter(str(tmp_path / "theirs"), adapter_name="ours")
    again = load_model(base, lora=Lora(tmp_path / "theirs" / "pytorch_lora_weights.safetensors"))[0]
    torch.testing.assert_close(rgb_alone(again), expected, atol=1e-6, rtol=1e-6)


def test_what_others_write_is_read_alike(trained, tmp_path):
    """Names of Wan and ComfyUI, of kohya, and as often as is asked for."""
    base, folder, _ = trained(WITHOUT_PARTS)
    whole = load_model(folder)[0].state_dict()
    wan = lora_state(read_adapter(folder, SMALL), "wan", SMALL)
    raw = load_file(folder / "adapter_model.safetensors")
    kohya, comfy = {}, {}
    for name, value in raw.items():
        module, factor = name.removeprefix("base_model.model.").rsplit(".lora_", 1)
        end = "lora_down.weight" if factor.startswith("A") else "lora_up.weight"
        for state, start in (
            (kohya, f"lora_unet_{module.replace('.', '_')}"),
            (comfy, f"diffusion_model.{module}"),
        ):
            state |= {f"{start}.{end}": value, f"{start}.alpha": torch.tensor(6.0)}
    files = {"wan": wan, "kohya": kohya, "comfy": comfy}
    for name, state in files.items():
        save_file(state, tmp_path / f"{name}.safetensors")
        merged = load_model(base, lora=Lora(tmp_path / f"{name}.safetensors"))[0].state_dict()
        for key, value in whole.items():
            torch.testing.assert_close(merged[key], value, atol=1e-6, rtol=1e-6)
    plain = load_model(base)[0].state_dict()
    half = load_model(base, lora=Lora(folder, 0.5))[0].state_dict()
    for key, value in whole.items():
        torch.testing.assert_close(half[key], (value + plain[key]) / 2, atol=1e-6, rtol=1e-6)


def test_an_adapter_goes_on_foreign_weights(trained, tmp_path):
    """Base and adapter named apart, the base in Wan's own layout: what the adapter knows counts for both."""
    base, folder, model = trained()
    save_file({k: v.contiguous() for k, v in to_wan(wan_side().state_dict(), SMALL).items()}, tmp_path / "wan.pt")
    loaded, card = load_model(tmp_path / "wan.pt", config=SMALL, lora=Lora(folder))
    assert card == read_card(tmp_path / "wan.pt", SMALL, Lora(folder)) and card.modalities == ("depth",)
    for got, expected in zip(loaded(*inputs()), model(*inputs()), strict=True):
        torch.testing.assert_close(got, expected, atol=2e-6, rtol=2e-6)


BLOCK = "diffusion_model.blocks.0.self_attn.q"
REFUSED = {
    "which is no part of a LoRA": {f"{BLOCK}.lora_A.weight": (3, 48), f"{BLOCK}.lora_magnitude_vector": (48,)},
    "'blocks.7.self_attn.q.lora_A": {"diffusion_model.blocks.7.self_attn.q.lora_A.weight": (3, 48)},
    "no two matrices": {f"{BLOCK}.lora_A.weight": (3, 48)},
    "no two matrices that": {f"{BLOCK}.lora_A.weight": (3, 48), f"{BLOCK}.lora_B.weight": (48, 2)},
    r"changes blocks.0.self_attn.q.weight \(40, 48\), which is \(48, 48\) there": {
        f"{BLOCK}.lora_A.weight": (3, 48), f"{BLOCK}.lora_B.weight": (40, 3),
    },
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_what_does_not_fit_is_a_sentence(trained, tmp_path, reason):
    base, *_ = trained()
    save_file({name: torch.zeros(shape) for name, shape in REFUSED[reason].items()}, tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match=reason) as refused:
        load_model(base, lora=Lora(tmp_path / "bad.safetensors"))
    assert "\n" not in str(refused.value)


def test_a_folder_without_its_base_or_with_other_settings_says_so(trained):
    base, folder, _ = trained()
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"use_dora": True}))
    with pytest.raises(ValueError, match="an adapter with use_dora, which is not known here: merge it with peft"):
        load_model(folder)
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(ValueError, match="settings of the adapter .* cannot be read"):
        load_model(folder)
    base.rename(base.with_name("moved"))
    with pytest.raises(ValueError, match="for the weights of .*base, which cannot be opened .*no weights at"):
        load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="give those as the checkpoint, and it as the adapter"):
        load_model(folder)


def test_what_no_lora_of_wan_can_hold_is_not_written_as_one(trained):
    _, folder, _ = trained()
    with pytest.raises(ValueError, match="no place for .*: write it merged into its base"):
        lora_state(read_adapter(folder, SMALL), "wan", SMALL)


def test_adapters_stand_beside_linears_in_8_bits():
    """The same base, rounded to 8 bits; adapters and their gradients stay wide, and only they have any."""
    config = replace(SMALL, dim=64)
    wide, narrow = (randomise(UnityDiT(config)) for _ in range(2))
    lines = convert(narrow, WITHOUT_PARTS, Fp8Config())
    assert "rank 3 on 20 Linears (all)" in lines[0] and "16 Linears of the blocks" in lines[1]
    convert(wide, WITHOUT_PARTS, None)
    for model in (wide, narrow):
        randomise(model, is_factor, seed=5)
    assert isinstance(narrow.blocks[0].self_attn.q.base_layer, Fp8Linear)
    expected, got = wide(*inputs())[0], narrow(*inputs())[0]
    assert 0 < (got - expected).norm() / expected.norm() < 0.1
    for model in (wide, narrow):
        model(*inputs())[0].square().mean().backward()
    gradients = [
        {n: p.grad for n, p in model.named_parameters() if p.grad is not None} for model in (wide, narrow)
    ]
    assert gradients[0].keys() == gradients[1].keys() == {n for n, _ in wide.named_parameters() if is_factor(n)}
    for name, gradient in gradients[0].items():
        if gradient.norm() > 1e-6:
            assert (gradients[1][name] - gradient).norm() / gradient.norm() < 0.3, name


def test_a_folder_for_anywhere_needs_its_base_no_more(trained, tmp_path):
    base, adapter, _ = trained()
    expected, card = load_model(adapter)
    export(Export(do="export", checkpoint=adapter, to="unity", out=tmp_path / "out"))
    shutil.rmtree(base)
    found, own = load_model(tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert own == replace(card, base="") and names == {TENSORS, NAME, "README.md"}
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
