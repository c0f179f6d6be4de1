"""Training on latents: the same bits as on clips, no encoder loaded, and what it cannot have said before that."""

import json
import shutil
from dataclasses import replace

import pytest

from unity import encoders
from unity.config import MODELS
from unity.data.latents import __main__ as command
from unity.data.latents.facts import read_facts
from unity.data.shards import open_shards, read_about
from unity.model.fingerprint import fingerprint
from unity.train import loop
from unity.train.config import resolve
from unity.train.latents import check_weights

# of a record: what differs from run to run
CLOCK = ("seconds", "tokens_per_second", "wait_seconds", "memory_gib")


@pytest.fixture(scope="module")
def latents(dataset, tmp_path_factory):
    """Of all clips, by the command."""
    out = tmp_path_factory.mktemp("latents") / "latents"
    command.run(command.Options(shards=dataset, out=out, model="debug"))
    return out


@pytest.fixture
def options(dataset, four_steps):
    """Two micro-batches a step."""
    return four_steps(dataset, micro_batch=4, picture_every=0)


def _metrics(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]


def _none(*_):
    raise AssertionError("an encoder was loaded")


@pytest.mark.slow
def test_latents_train_to_the_bits_that_clips_do(options, dataset, world, monkeypatch, capsys):
    """Unbroken on clips; on latents cut after the second step and gone on with.

    The texts are encoded after an engine was built, whose linear layers round as those that training encodes with.
    """
    loop.train(options, world)
    latents = options.out.with_name("shards")
    command.run(command.Options(shards=dataset, out=latents, model="debug"))
    for name in ("load_codec", "load_text"):
        monkeypatch.setattr(encoders, name, _none)
    kept = replace(options, data=latents, picture_every=None, out=options.out.with_name("latents"))
    loop.train(kept, world)
    assert "no encoder is loaded" in capsys.readouterr().out
    shutil.rmtree(kept.out / "checkpoints/step-00000004")
    loop.train(replace(kept, resume=kept.out), world)
    assert _metrics(kept.out) == _metrics(options.out) and len(_metrics(kept.out)) == 4
    one, other = (run / "checkpoints/step-00000004" for run in (options.out, kept.out))
    names = sorted(path.relative_to(one) for path in one.rglob("*.safetensors"))
    assert len(names) >= 5
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"augment": 0.5}, "--augment changes pixels"),
        ({"picture_every": 10}, "--picture-every 0"),
        ({"frames": 1}, "cannot be cut to 1 frames"),
        ({"size": (16, 16)}, "--size 16 16"),
        ({"architecture": replace(MODELS["debug"], codec="dct")}, "the model works with dct"),
        ({"architecture": replace(MODELS["debug"], text_dim=8)}, "384 wide"),
        ({"type_prompts": {"depth": "how far"}}, "no states of 'how far'"),
        ({"encodings": {"depth": "spectral"}}, "depth drawn as 'ours'"),
    ],
)
def test_what_latents_cannot_give_is_one_sentence(options, latents, changes, words):
    with pytest.raises(ValueError, match=words):
        resolve(replace(options, data=latents, **changes), read_about(latents))


def test_latents_of_other_weights_are_refused(options, latents):
    facts = open_shards(latents).latents
    assert facts.codec_key == fingerprint("cells") and facts.text_key == fingerprint("minilm")
    assert "cells" in check_weights(options, facts)
    with pytest.raises(ValueError, match="other weights of cells gave .their key is 00000000"):
        check_weights(options, replace(facts, codec_key="0" * 64))


def test_weights_are_known_by_their_bytes(options, latents, tmp_path):
    facts = replace(open_shards(latents).latents, codec="wan2.1")
    (tmp_path / "vae").mkdir()
    assert fingerprint("wan2.1", tmp_path) is None
    (tmp_path / "vae/config.json").write_text("{}")
    first = fingerprint("wan2.1", tmp_path)
    assert first is not None and first == fingerprint("wan2.1", tmp_path / "vae")
    (tmp_path / "vae/config.json").write_text("[]")
    assert fingerprint("wan2.1", tmp_path) != first
    there = replace(options, codec_weights=tmp_path)
    with pytest.raises(ValueError, match="make others with python -m unity.data.latents"):
        check_weights(there, replace(facts, codec_key=str(first)))
    (tmp_path / "vae/config.json").unlink()
    assert "wan2.1 not on this machine" in check_weights(there, facts)


def test_the_same_command_again_finds_it_there(dataset, latents, capsys):
    options = command.Options(shards=dataset, out=latents, model="debug")
    command.run(options)
    assert "is there already" in capsys.readouterr().err
    with pytest.raises(ValueError, match="exists"):
        command.run(replace(options, numbers="bf16"))
    with pytest.raises(ValueError, match="4k.1, at most 5"):
        command.run(replace(options, out=latents.with_name("new"), frames=4))


def test_latents_say_whether_they_were_made_in_tiles(dataset, latents):
    """Those of older versions, which say nothing, were not."""
    options = command.Options(shards=dataset, out=latents.with_name("new"), model="debug", tiled_vae=True)
    with pytest.raises(ValueError, match="cells is no VAE that could work in tiles; leave --tiled-vae out"):
        command.run(options)
    facts = open_shards(latents).latents
    silent = {name: value for name, value in facts.plain.items() if name != "tiled"}
    assert read_facts({"latents": silent}) == facts and not facts.tiled
    assert read_facts({"latents": silent | {"tiled": True}}) != facts
