"""Pipelines of diffusers with small random networks, answering as contestants."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)
from transformers import (
    ByT5Tokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    UMT5Config,
    UMT5EncoderModel,
)

from unity.data.clips import Clip
from unity.evaluate.contestants import of_baseline
from unity.evaluate.exam import Effort
from unity.evaluate.peers import PEERS, known_size

SHAPE = (5, 24, 32)
RANDOM = np.random.default_rng(0)
CLIP = Clip(
    name="x",
    source="general",
    caption="a ball rolls",
    fps=16.0,
    video={name: RANDOM.integers(0, 256, (*SHAPE, 3)).astype(np.uint8) for name in ("rgb", "depth", "skeleton")},
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Wan's pipelines as save_pretrained leaves them."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("peers")
    sizes = {"vocab_size": 384, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}
    parts = {
        "vae": AutoencoderKLWan(base_dim=8, num_res_blocks=1, z_dim=16),
        "text_encoder": UMT5EncoderModel(UMT5Config(**sizes, tie_word_embeddings=False)),
        "tokenizer": ByT5Tokenizer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }
    net = {"num_attention_heads": 2, "attention_head_dim": 16, "ffn_dim": 48, "num_layers": 2, "text_dim": 32}
    led = WanVACETransformer3DModel(**net, vace_layers=[0, 1], vace_in_channels=96)
    # what leads starts from nothing
    for block in led.vace_blocks:
        torch.nn.init.normal_(block.proj_out.weight, std=0.5)
    WanPipeline(**parts, transformer=WanTransformer3DModel(**net)).save_pretrained(root / "wan2.1")
    WanVACEPipeline(**parts, transformer=led).save_pretrained(root / "wan-vace")
    _hunyuan().save_pretrained(root / "hunyuanvideo")
    return root


def _hunyuan():
    """Its tokenizers read bytes."""
    words = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    blocks = {"in_channels": 16, "out_channels": 16, "num_attention_heads": 2, "attention_head_dim": 16}
    layers = {"num_layers": 1, "num_single_layers": 1, "num_refiner_layers": 1}
    texts = {"text_embed_dim": 16, "pooled_projection_dim": 16, "rope_axes_dim": (4, 6, 6)}
    return HunyuanVideoPipeline(
        text_encoder=LlamaModel(LlamaConfig(**words, vocab_size=384)),
        tokenizer=ByT5Tokenizer(),
        text_encoder_2=CLIPTextModel(CLIPTextConfig(**words, vocab_size=384)),
        tokenizer_2=ByT5Tokenizer(),
        transformer=HunyuanVideoTransformer3DModel(**blocks, **layers, **texts, guidance_embeds=True),
        vae=AutoencoderKLHunyuanVideo(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    )


@pytest.fixture
def answers(folders, monkeypatch):
    def load(name, **effort):
        monkeypatch.setitem(PEERS, name, replace(PEERS[name], side=48))
        return of_baseline(name, {name: folders / name}, "cpu", Effort(steps=2, **effort))

    return load


@pytest.mark.slow
@pytest.mark.parametrize("name, kind", [("wan2.1", WanPipeline), ("hunyuanvideo", HunyuanVideoPipeline)])
def test_words_alone_make_one_video_for_all_modalities(answers, folders, name, kind):
    answer = answers(name, guidance=3.0)
    first, again = (answer("joint", modality, CLIP, 7).rgb for modality in ("depth", "flow"))
    assert first is again and first.shape == (*SHAPE, 3)
    assert answer("control", "depth", CLIP, 7) is answer("estimate", "depth", CLIP, 7) is None
    assert not np.array_equal(first, answer("joint", "depth", CLIP, 8).rgb)
    pipe = kind.from_pretrained(folders / name)
    asked = {"height": 48, "width": 64, "num_frames": 5, "num_inference_steps": 2, "guidance_scale": 3.0}
    found = pipe("a ball rolls", output_type="np", **asked, generator=torch.Generator().manual_seed(7)).frames[0]
    # twice as large as the clip
    small = found.reshape(5, 24, 2, 32, 2, 3).mean((2, 4))
    np.testing.assert_allclose(first / 255, small, atol=1.5 / 255)


@pytest.mark.slow
def test_vace_follows_what_it_is_shown(answers):
    answer = answers("wan-vace")
    made = answer("control", "depth", CLIP, 7).rgb
    assert made.shape == (*SHAPE, 3) and answer("control", "segmentation", CLIP, 7) is None
    dark = replace(CLIP, video=CLIP.video | {"depth": np.zeros((*SHAPE, 3), np.uint8)})
    assert np.array_equal(made, answer("control", "depth", CLIP, 7).rgb)
    assert not np.array_equal(made, answer("control", "depth", dark, 7).rgb)
    assert not np.array_equal(made, answer("control", "skeleton", CLIP, 7).rgb)


def test_sizes_are_those_that_the_models_know():
    assert known_size((64, 64), 480) == (480, 480) and known_size((480, 832), 480) == (480, 832)
    assert known_size((375, 1242), 480) == (480, 1584)


def test_a_folder_without_a_pipeline_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"has no model_index.json of diffusers; fetch Wan-AI"):
        of_baseline("wan2.1", {"wan2.1": tmp_path})
