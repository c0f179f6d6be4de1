"""A run that trains adapters: what it leaves, how it goes on, and what becomes of it at inference."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from unity.answer import answer
from unity.config import MODELS
from unity.modality.table import MODALITIES
from unity.model.card import ModelCard
from unity.model.dit import UnityDiT
from unity.model.names import is_part
from unity.model.weights import load_model, read_card, save_model
from unity.request import Request
from unity.train import loop
from unity.train.config import parse

DEBUG = MODELS["debug"]
FLAGS = {"steps": 4, "batch-size": 4, "picture-every": 0, "save-every": 2, "workers": 0, "keep": 9, "stage": 2}
FLAGS |= {"precision": "fp32"}
LORA = {"lora.rank": 2, "lora.targets": "all", "optim.lr": 1e-2}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model = UnityDiT(DEBUG)
    for value in model.parameters():
        value.data += 0.02 * torch.randn(value.shape)
    card = ModelCard(model=DEBUG, modalities=tuple(MODALITIES), stage=1, step=3, frames=5, size=(32, 32))
    return save_model(model.state_dict(), card, tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def start(dataset, world):
    """start(out, settings): a short run of the command line."""

    def run(out: Path, settings: dict) -> Path:
        given = FLAGS | {"data": dataset, "out": out} | settings
        return loop.train(
            parse([str(part) for name, value in given.items() for part in (f"--{name}", value)]), world
        )

    return run


@pytest.fixture(scope="module")
def run(start, base, tmp_path_factory) -> Path:
    return start(tmp_path_factory.mktemp("runs") / "lora", {"init": base, "picture-every": 4, **LORA})


@pytest.mark.slow
def test_only_adapters_and_parts_are_kept_and_the_base_stays(run, base):
    folder = run / "model"
    assert {p.name for p in folder.iterdir()} == {
        "adapter_model.safetensors", "adapter_config.json", "parts.safetensors", "config.json",
    }  # fmt: skip
    card = read_card(run)
    assert card.base == str(base) and card.step == 4
    merged, before = load_model(run)[0].state_dict(), load_model(base)[0].state_dict()
    changed = {name for name, value in merged.items() if not torch.equal(value, before[name])}
    parts = set(load_file(folder / "parts.safetensors"))
    factors = load_file(folder / "adapter_model.safetensors")
    adapted = {name.removeprefix("base_model.model.").split(".lora_")[0] + ".weight" for name in factors}
    assert adapted and changed <= adapted | parts and len(changed) > len(adapted) / 2
    assert "blocks.0.norm3.weight" not in changed and "blocks.0.self_attn.q.weight" in changed
    kept = sum(p.stat().st_size for p in (run / "checkpoints/step-00000004").glob("weight-*"))
    assert kept < 0.4 * (base / "model.safetensors").stat().st_size


@pytest.mark.slow
def test_it_goes_on_exactly(run, start, base, tmp_path):
    """Cut after its second step and resumed by its folder alone, it ends in the same bits."""
    cut = shutil.copytree(run, tmp_path / "cut", symlinks=True)
    shutil.rmtree(cut / "checkpoints/step-00000004")
    start(cut, {"resume": cut})
    for name in ("adapter_model.safetensors", "parts.safetensors"):
        one, other = (load_file(folder / "model" / name) for folder in (cut, run))
        assert one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.slow
@pytest.mark.parametrize(("storage", "offload"), [("fp8", "optimizer"), ("nf4", "weights")])
def test_beside_a_packed_base_it_learns_and_goes_on_exactly(start, base, tmp_path, storage, offload, capsys):
    """What is written is an adapter as ever, with the wide base it was rounded from; the host does the updates."""
    flags = {"base-storage": storage, "offload": offload, "optim.kind": "adamw8", "picture-every": 4, **LORA}
    whole = start(tmp_path / "whole", {"init": base, **flags})
    assert f"of which 20 matrices in {8 if storage == 'fp8' else 4} bits" in capsys.readouterr().out
    cut = shutil.copytree(whole, tmp_path / "cut", symlinks=True)
    shutil.rmtree(cut / "checkpoints/step-00000004")
    start(cut, {"resume": cut})
    one, other = (load_file(folder / "model/adapter_model.safetensors") for folder in (cut, whole))
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    merged, before = load_model(whole)[0].state_dict(), load_model(base)[0].state_dict()
    assert torch.equal(merged["blocks.0.norm3.weight"], before["blocks.0.norm3.weight"])
    assert not torch.equal(merged["blocks.0.self_attn.q.weight"], before["blocks.0.self_attn.q.weight"])


@pytest.mark.slow
def test_a_run_starts_from_one_that_adapted(run, start, tmp_path):
    """Its merged weights, of which all are trained now."""
    again = start(tmp_path / "again", {"init": run, "steps": 1, "optim.lr": 1e-12})
    one, other = (load_model(folder)[0].state_dict() for folder in (run, again))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=1e-6, rtol=1e-6)
    assert (again / "model/model.safetensors").is_file()


def test_inference_takes_the_run_or_base_and_adapter(run, base, tmp_path):
    asked = dict(modality="depth", steps=1, frames=5, size=(32, 32), device="cpu")
    whole = answer(Request(checkpoint=run, out=tmp_path / "whole", **asked), tell=lambda line: None)
    two = Request(checkpoint=base, lora=run / "model", out=tmp_path / "two", **asked)
    pair, plain = (
        answer(request, tell=lambda line: None)
        for request in (two, Request(checkpoint=base, out=tmp_path / "plain", **asked))
    )
    assert (whole.values == pair.values).all() and (whole.values != plain.values).any()
    assert pair.record["lora"] == {"path": str(run / "model"), "strength": 1.0}


def test_what_cannot_be_adapted_is_a_sentence(start, run, tmp_path):
    with pytest.raises(ValueError, match="--lora adapts weights that are there already; name them with --init"):
        start(tmp_path / "a", {"model": "debug", **LORA})
    with pytest.raises(ValueError, match="holds another model"):
        start(run, {"resume": run, "steps": 6, "lora.rank": 3})
    assert not (tmp_path / "a").exists()


def test_one_modality_learns_alone_under_zero(start, base, tmp_path):
    """Rows of depth alone change, of what tells modalities apart; the model is whole, also without its base."""
    mine = shutil.copytree(base, tmp_path / "base")
    run = start(
        tmp_path / "only", {"init": mine, "only": "depth", "optim.lr": 1e-2, "steps": 2, "precision": "bf16"}
    )
    shutil.rmtree(mine)
    after, card = load_model(run)
    before, state = load_model(base, dtype=torch.bfloat16)[0].state_dict(), after.state_dict()
    assert card.modalities == tuple(MODALITIES) and before.keys() == state.keys()
    changed = {name for name, value in state.items() if not torch.equal(value.bfloat16(), before[name])}
    assert "modality_embedding" in changed and all(is_part(name) for name in changed)
    for name in changed:
        pairs = zip(state[name].bfloat16(), before[name], strict=True)
        rows = [not torch.equal(one, other) for one, other in pairs]
        assert rows == [row == list(MODALITIES).index("depth") for row in range(len(rows))], name
