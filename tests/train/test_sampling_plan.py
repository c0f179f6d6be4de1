"""The planner's bytes of inference against those of tensors that are alive; VAE and text encoder at full width."""

import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from unity.config import MODELS
from unity.model.card import ModelCard
from unity.model.dit import UnityDiT
from unity.model.weights import load_model, save_model
from unity.thrift import Thrift
from unity.train.planner import sampling
from unity.train.planner.count import Sample
from unity.train.planner.sampling import WAYS, Options, computing, decoding, lines

ROOT = Path(__file__).parents[2]
WAN = replace(MODELS["debug"], dim=128, num_heads=16, num_layers=3, stem=0, patch=(1, 2, 2), latent_channels=8)
WORDS = 5


class Alive(TorchDispatchMode):
    """`most`: bytes of the storages that ops have made, where most of them lived at once."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.now, self.most = 0, 0
        # views of weights are no new bytes
        self.sizes = {p.untyped_storage()._cdata: 0 for p in model.parameters()}

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        found = op(*args, **(kwargs or {}))
        for tensor in tree_iter(found):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return found

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self.sizes:
            self.sizes[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._forget, storage._cdata)

    def _forget(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


@pytest.mark.usefixtures("plain_linear")
@pytest.mark.parametrize(("hidden", "passes"), [(512, 2), pytest.param(1024, 1, marks=pytest.mark.slow)])
def test_a_forward_holds_what_is_counted(hidden, passes):
    config = replace(WAN, ffn_dim=hidden)
    model = UnityDiT(config).requires_grad_(False)
    latents = torch.randn(2, passes, config.latent_channels, 2, 32, 32)
    texts = torch.randn(passes, WORDS, config.text_dim), torch.full((passes,), WORDS)
    with torch.no_grad(), Alive(model) as alive:
        model(*latents, torch.rand(passes, 2), torch.full((passes,), 2), *texts, *texts)
    size = Sample(tokens=2 * 16 * 16, cells=2 * 32 * 32, words=WORDS)
    assert alive.most == pytest.approx(computing(config, size, passes, number=4), rel=0.05)


def test_the_guide_has_the_table_that_the_planner_prints():
    said = (ROOT / "docs/weights.md").read_text()
    assert "\n".join(lines(Options())) in said


def test_parts_that_lie_apart_take_less():
    size = Sample(tokens=32_760, cells=131_040, words=64)
    apart = [sampling.moments(MODELS["14b"], size, (81, 480, 832), way) for way in WAYS]
    peaks = [max(parts["model"], parts["VAE"]) for parts in apart]
    assert peaks == sorted(peaks, reverse=True) and len(set(peaks)) == len(peaks)
    tiled = sampling.moments(MODELS["14b"], size, (81, 480, 832), Thrift(tiled_vae=True))
    assert tiled["VAE"] < apart[0]["VAE"] and tiled["model"] == apart[0]["model"]
    with pytest.raises(ValueError, match="give --frames 77 or 81"):
        lines(Options(frames=80))


@pytest.mark.parametrize("storage", ["fp8", "nf4"])
def test_packed_weights_are_those_that_are_loaded(storage, tmp_path):
    card = ModelCard(model=WAN, modalities=("depth",), stage=1, step=0, frames=1, size=(16, 16))
    folder = save_model(UnityDiT(WAN).state_dict(), card, tmp_path / "model")
    model, _ = load_model(folder, dtype=torch.bfloat16, storage=storage)
    held = sum(p.nbytes for p in model.parameters())
    widest = 2 * WAN.dim * max(WAN.dim, WAN.ffn_dim)
    assert sampling.weights(WAN, Thrift(storage=storage)) == held + widest
    # of a block two, and all that is in none
    block = sum(p.nbytes for p in model.blocks[0].parameters())
    outside = held - len(model.blocks) * block
    assert sampling.weights(WAN, Thrift(storage=storage, offload="blocks")) == outside + 2 * block + widest


@pytest.mark.slow
@pytest.mark.parametrize("name", sampling.DECODING)
def test_a_vae_holds_what_is_counted(name):
    from diffusers import AutoencoderKLWan

    wide = dict(base_dim=160, decoder_base_dim=256, z_dim=48, is_residual=True, in_channels=12, out_channels=12)
    wide |= dict(patch_size=2, temperal_downsample=[False, True, True], scale_factor_spatial=16)
    with torch.device("meta"):
        vae = AutoencoderKLWan(**(wide if name == "wan2.2" else {})).eval().to(torch.bfloat16)
        side = 16 if name == "wan2.2" else 8
        latent = torch.empty(1, vae.config.z_dim, 3, 128 // side, 192 // side, dtype=torch.bfloat16)
        with torch.no_grad(), Alive(vae) as alive:
            assert vae.decode(latent).sample.shape == (1, 3, 9, 128, 192)
    config = replace(WAN, codec=name)
    assert alive.most == pytest.approx(decoding(config, (9, 128, 192), tiled=False), rel=0.01)


@pytest.mark.slow
def test_a_text_encoder_holds_what_is_counted():
    from transformers import UMT5Config, UMT5EncoderModel

    words = UMT5Config(d_model=4096, d_ff=10240, d_kv=64, num_heads=64, num_layers=24, vocab_size=256384)
    with torch.device("meta"):
        model = UMT5EncoderModel(words).eval().to(torch.bfloat16)
        with torch.no_grad(), Alive(model) as alive:
            assert model(torch.zeros(1, 512, dtype=torch.long)).last_hidden_state.shape == (1, 512, 4096)
    assert max(p.numel() for p in model.parameters()) == sampling.LARGEST
    assert alive.most == pytest.approx(sampling.READING, rel=0.01)
