"""Small random twins of what Wan's repositories hold."""

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKLWan
from transformers import ByT5Tokenizer, UMT5Config, UMT5EncoderModel

from unity.config import MODELS
from unity.model.card import ModelCard
from unity.model.dit import UnityDiT
from unity.model.weights import save_model


@pytest.fixture(scope="session")
def wan(tmp_path_factory):
    """A model of Wan's kind with small random twins of its VAE, UMT5 and tokenizer, as a repository has them."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("wan")
    spread = {"latents_mean": torch.linspace(-1, 1, 16).tolist(), "latents_std": torch.linspace(1, 3, 16).tolist()}
    AutoencoderKLWan(base_dim=8, num_res_blocks=1, z_dim=16, **spread).save_pretrained(folder / "vae")
    sizes = {"vocab_size": 384, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    UMT5EncoderModel(UMT5Config(**sizes, tie_word_embeddings=False)).save_pretrained(folder / "text_encoder")
    ByT5Tokenizer().save_pretrained(folder / "tokenizer")
    # rows that divide into blocks of 64, so that 4 bits hold them
    config = replace(MODELS["1.3b"], dim=64, ffn_dim=128, num_heads=2, num_layers=2, text_dim=32)
    model = UnityDiT(config)
    state = {name: value + 0.05 * torch.randn_like(value) for name, value in model.state_dict().items()}
    card = ModelCard(model=config, modalities=("depth",), stage=1, step=1, frames=5, size=(32, 48))
    return save_model(state, card, folder / "model"), folder
