"""Captions by a BLIP of random weights, beside transformers' pipeline, and whose words a clip then has."""

import numpy as np
import pytest

from unity.data.annotate.caption import Captioner, captioner
from unity.data.annotate.clip import annotated
from unity.data.video import write_video

torch = pytest.importorskip("torch")
VIDEO = np.random.default_rng(1).integers(0, 255, (5, 40, 56, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor

    folder = tmp_path_factory.mktemp("blip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{n}" for n in range(27))]
    (folder / "words.txt").write_text("\n".join(words))
    BertTokenizer(folder / "words.txt").save_pretrained(folder)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    names = {"vocab_size": len(words), "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    vision = small | {"image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(
        BlipConfig(text_config=small | names | {"encoder_hidden_size": 16}, vision_config=vision)
    )
    model.save_pretrained(folder)
    BlipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_words_are_those_of_the_middle_picture(blip):
    from PIL import Image
    from transformers import pipeline

    found = captioner(str(blip), "cpu")
    pipe = pipeline("image-to-text", model=str(blip), use_fast=False)
    options = {"max_new_tokens": 40, "num_beams": 3, "do_sample": False}
    wanted = pipe(Image.fromarray(VIDEO[2]), generate_kwargs=options)[0]["generated_text"]
    assert found.say(VIDEO) == " ".join(wanted.split()) and "word" in wanted
    assert found.made_by["name"] == str(blip) and found.made_by["settings"] == {"tokens": 40, "beams": 3}


def test_a_folder_without_all_of_it_is_refused(blip, tmp_path):
    with pytest.raises(ValueError, match="holds no network that describes pictures"):
        captioner(str(tmp_path), "cpu")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(blip / name)
    with pytest.raises(ValueError, match="holds no network that describes pictures"):
        captioner(str(tmp_path), "cpu")


def test_a_name_that_cannot_be_had_is_a_sentence(monkeypatch, tmp_path):
    """Without the hub, and nothing of it fetched before."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"nobody/blip is no folder.* download nobody/blip --local-dir FOLDER"):
        captioner("nobody/blip", "cpu")


def test_only_clips_without_words_are_described(tmp_path):
    path = write_video(VIDEO, tmp_path / "film.mp4", 8.0)
    film = {"video": str(path), "source": "general", "start": 0.0, "end": 0.5, "rate": 8.0}
    describes = Captioner(lambda video: f"{len(video)} pictures", {"name": "counts"})
    cases = {"stones": ("stones", None), "": ("5 pictures", {"name": "counts"})}
    for told, (said, who) in cases.items():
        clip, record = annotated("a", film | {"caption": told}, [], {}, 5, (32, 48), describes)
        assert clip.caption == record["caption"] == said
        assert clip.meta.get("captioner") == record.get("captioner") == who
    assert annotated("a", film | {"caption": ""}, [], {}, 5, (32, 48))[0].caption == ""
