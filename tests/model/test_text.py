import html
import re

import ftfy
import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, ByT5Tokenizer, UMT5Config, UMT5EncoderModel

from unity.model import text
from unity.model.text import check_sha256, clean, load_text

TEXTS = ["depth map", "a dense depth map of a person", "a man walks his dog", ""]


@pytest.fixture(scope="module")
def minilm():
    return load_text("minilm")


@pytest.fixture(scope="module")
def umt5_folder(tmp_path_factory):
    """A Wan repository with a small random UMT5 and a tokenizer of bytes."""
    torch.manual_seed(0)
    config = UMT5Config(
        vocab_size=384, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, tie_word_embeddings=False
    )
    folder = tmp_path_factory.mktemp("wan")
    UMT5EncoderModel(config).save_pretrained(folder / "text_encoder")
    ByT5Tokenizer().save_pretrained(folder / "tokenizer")
    return folder


def test_minilm_equals_transformers_with_padding(minilm):
    folder = text._minilm_folder()
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        truth = AutoModel.from_pretrained(folder)(**tokens).last_hidden_state
    mask = tokens["attention_mask"]
    states, lengths = minilm(TEXTS)
    assert states.dtype == torch.float32 and minilm.dim == 384
    torch.testing.assert_close(lengths, mask.sum(1))
    torch.testing.assert_close(states, truth * mask[..., None], atol=2e-5, rtol=1e-4)


def test_minilm_knows_what_words_mean(minilm):
    states, lengths = minilm(TEXTS[:3])
    means = (states.sum(1) / lengths[:, None]).numpy()
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    near, far = means[0] @ means[1], means[0] @ means[2]
    assert near > 0.6 and far < 0.2


def test_states_do_not_depend_on_the_batch(minilm):
    together, lengths = minilm(TEXTS)
    for index, (words, length) in enumerate(zip(TEXTS, lengths.tolist(), strict=True)):
        fresh = load_text("minilm")
        alone, _ = fresh([words])
        assert torch.equal(alone[0], together[index, :length])
        assert not together[index, length:].any()


def test_long_texts_are_cut_at_512_tokens(minilm, umt5_folder):
    for encoder in (minilm, load_text("umt5", umt5_folder)):
        states, lengths = encoder(["word " * 2000, "word"])
        assert states.shape == (2, 512, encoder.dim) and lengths[0] == 512


def test_spaces_and_entities_are_cleaned(minilm):
    a, b = minilm(["a cat &amp; a dog"])[0], minilm(["  a cat &\n a  dog "])[0]
    assert torch.equal(a, b)


# (as it is given, as it is read)
PROMPTS = [
    ("  a \n\t b  ", "a b"),
    ("a &amp; b", "a & b"),
    ("a &amp;amp; b", "a & b"),
    ("a &amp;lt;b&amp;gt;", "a <b>"),
    ("l\u2019homme", "l'homme"),
    ("\u201cquoted\u201d", '"quoted"'),
    ("schÃ¶n", "schön"),
    ("naÃ¯ve cafÃ©", "naïve café"),
    ("\ufb01lm", "film"),
    ("ｗｉｄｅ", "wide"),
    ("a\u00a0b\u3000c", "a b c"),
    ("\x1b[31mred\x1b[0m", "red"),
    ("🐈", "🐈"),
    ("日本語の猫", "日本語の猫"),
    ("", ""),
]


@pytest.mark.parametrize("given, read", PROMPTS)
def test_prompts_are_cleaned_as_wan_cleans_them(given, read):
    # basic_clean and whitespace_clean of Wan's tokenizers.py
    theirs = re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(given))).strip()).strip()
    assert clean(given) == theirs == read


def test_a_text_that_is_cut_is_said_once_with_its_count(minilm, capsys):
    for _ in range(2):
        minilm(["walk " * 700])
    assert capsys.readouterr().err.count("a text of 702 tokens is cut after 512") == 1
    minilm(["walk " * 300, "walk " * 510])
    assert not capsys.readouterr().err


def test_words_that_the_encoder_does_not_know_are_said(minilm, capsys):
    cat, car = minilm(["a 🐈"])[0], minilm(["a 🚗"])[0]
    assert torch.equal(cat, car)
    said = capsys.readouterr().err
    assert "does not know 🐈," in said and "does not know 🚗," in said
    minilm(["a cat"])
    assert not capsys.readouterr().err


def test_umt5_from_a_folder_of_wan(umt5_folder):
    encoder = load_text("umt5", umt5_folder)
    words = ["a person", "two people dance"]
    states, lengths = encoder(words)
    # one token a byte, and the end
    assert lengths.tolist() == [len(word) + 1 for word in words]
    tokens = ByT5Tokenizer()(words, padding=True, return_tensors="pt")
    with torch.no_grad():
        truth = UMT5EncoderModel.from_pretrained(umt5_folder / "text_encoder")(**tokens).last_hidden_state
    torch.testing.assert_close(states, truth * tokens["attention_mask"][..., None], atol=1e-5, rtol=1e-4)


def test_each_text_is_encoded_once_and_the_oldest_forgotten(umt5_folder, monkeypatch):
    encoder = load_text("umt5", umt5_folder)
    # two letters and their ends: of four states in all
    monkeypatch.setattr(text, "_CACHED", 4 * encoder.dim * 4)
    seen = []
    encode = encoder._encode
    monkeypatch.setattr(encoder, "_encode", lambda words: seen.append(words) or encode(words))
    encoder(["a", "b", "a"])
    encoder(["a", "c"])
    encoder(["a", "b"])
    assert seen == ["a", "b", "c", "b"]


def test_absent_weights_and_unknown_names(tmp_path):
    with pytest.raises(ValueError, match="huggingface-cli download Wan-AI"):
        load_text("umt5", tmp_path)
    with pytest.raises(ValueError, match="minilm or umt5"):
        load_text("clip")
    with pytest.raises(ValueError, match="force-reinstall"):
        load_text("minilm", tmp_path)


def test_a_changed_file_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"abc")
    check_sha256(path, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    path.write_bytes(b"abd")
    with pytest.raises(ValueError, match="sha256"):
        check_sha256(path, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
