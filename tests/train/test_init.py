"""What a run takes over from the weights that it starts from, and what of that goes on to its own."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from unity.config import MODELS
from unity.encoders import Encoders
from unity.flow_matching import TimeConfig
from unity.modality.encodings import OURS
from unity.modality.table import MODALITIES
from unity.model import stored
from unity.model.card import ModelCard
from unity.model.dit import UnityDiT
from unity.model.layouts import LAYOUTS, RELEASE_MODALITIES
from unity.model.weights import load_model, read_card, save_model
from unity.train import config as cfg
from unity.train import loop
from unity.train.config import parse, resolve
from unity.train.config_file import read_config
from unity.train.options import SMALL_TIMES
from unity.train.run import build

ABOUT = {"frames": 17, "size": [64, 64]}
RELEASE = LAYOUTS["the 5B release"].card
DEBUG = MODELS["debug"]
# a 5B of a few kilobytes, with the embedded codec and text encoder
SMALL_5B = replace(DEBUG, dim=48, ffn_dim=80, stem=0, prediction="velocity", rope_theta=1e4, patch=(1, 2, 2))


def as_release(state: dict, config) -> dict:
    """A model's state in the layout of the release, what it has beside Wan's parts at zero."""
    wan = LAYOUTS["Wan"].write(state, config)
    d, c, zeros = config.dim, config.latent_channels, next(iter(state.values())).new_zeros
    shapes = {"flow_patch_embedding.weight": (d, c, 1, 2, 2), "flow_patch_embedding.bias": (d,)}
    shapes |= {"flow_in.weight": (d, d), "flow_in.bias": (d,), "flow_head.head.weight": (4 * c, d)}
    shapes |= {"flow_head.head.bias": (4 * c,), "flow_head.modulation": (1, 2, d)}
    shapes |= {f"modality_embeddings.{name}": (d,) for name in RELEASE_MODALITIES.values()}
    parts = {name: zeros(shape) for name, shape in shapes.items()}
    return {f"base.{name}": value.contiguous() for name, value in wan.items()} | parts


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def export(folder: Path, config, **card) -> Path:
    about = ModelCard(model=config, modalities=tuple(MODALITIES), stage=2, step=3, frames=5, size=(32, 32))
    return save_model(UnityDiT(config).state_dict(), replace(about, **card), folder)


def empty(config) -> dict:
    with torch.device("meta"):
        return UnityDiT(config).state_dict()


@pytest.fixture(scope="module")
def weights(tmp_path_factory, hollow) -> Path:
    """All kinds of weights by name; of the large ones only the headers take a place on the disk."""
    folder = tmp_path_factory.mktemp("weights")
    five, wan = MODELS["5b"], MODELS["1.3b"]
    hollow(folder / "release.safetensors", as_release(empty(five), five))
    hollow(folder / "wan.safetensors", LAYOUTS["Wan"].write(empty(wan), wan))
    hollow(folder / "diffusers.safetensors", LAYOUTS["diffusers"].write(empty(wan), wan))
    narrow = replace(wan, dim=48, num_heads=2, num_layers=2)
    hollow(folder / "narrow.safetensors", LAYOUTS["Wan"].write(empty(narrow), narrow))
    broken = {n: v for n, v in as_release(empty(five), five).items() if n != "flow_in.weight"}
    hollow(folder / "broken.safetensors", broken)
    export(folder / "debug", replace(DEBUG, clean_time="shared", cross_modulation=True))
    export(folder / "one_block", replace(DEBUG, num_layers=1))
    export(folder / "taught", DEBUG, optimizer="adamw", learning_rate=2e-4)
    export(folder / "fast", replace(DEBUG, num_layers=1), optimizer="muon", learning_rate=1e-3)
    export(folder / "slow", DEBUG, learning_rate=1e-5)
    export(folder / "run" / "checkpoints" / "step-00000003" / "model", DEBUG)
    (folder / "run" / "model").symlink_to("checkpoints/step-00000003/model")
    (folder / "run" / "config.json").write_text("{}")
    (folder / "unsaved" / "checkpoints").mkdir(parents=True)
    (folder / "unsaved" / "config.json").write_text("{}")
    return folder


@pytest.fixture(params=["cpu", "cuda"])
def machine(request, monkeypatch):
    monkeypatch.setattr(cfg, "device_kind", lambda: request.param)


@pytest.fixture
def headers_alone(monkeypatch):
    def refuse(path, names):
        raise AssertionError(f"the values of {path} were read")

    monkeypatch.setattr(stored, "_read_safetensors", refuse)


PAPER, FIVE = ("adamw", 5e-5), {"dim": 3072, "num_layers": 30, "codec": "wan2.2"}
THEIRS = FIVE | {"clean_time": "shared", "input": "expert"}
WAN = {"dim": 1536, "clean_time": "zero", "input": "shared", "cross_attention": "shared", "codec": "wan2.1"}
OURS_DEBUG = {"dim": 64, "num_layers": 2, "stem": 16, "clean_time": "shared", "cross_modulation": True}
CHANGED = "--architecture.input expert --architecture.cross-attention separate --architecture.clean-time shared"
NARROW = "--model 1.3b --architecture.dim 48 --architecture.num-heads 2 --architecture.num-layers 2"
# weights and flags → size, optimizer and rate, times, settings of the shape
INHERITED = {
    "release.safetensors": ("5b", PAPER, TimeConfig(), THEIRS),
    "release.safetensors --model 5b": ("5b", PAPER, TimeConfig(), THEIRS),
    "release.safetensors --architecture.clean-time zero": (
        "5b", PAPER, TimeConfig(), THEIRS | {"clean_time": "zero"},
    ),
    "release.safetensors --model 5b --architecture.clean-time zero": (
        "5b", PAPER, TimeConfig(), THEIRS | {"clean_time": "zero"},
    ),
    "release.safetensors --optim.lr 1e-4 --optim.kind muon": ("5b", ("muon", 1e-4), TimeConfig(), THEIRS),
    "wan.safetensors": ("1.3b", PAPER, TimeConfig(), WAN),
    "wan.safetensors --model 1.3b": ("1.3b", PAPER, TimeConfig(), WAN),
    f"wan.safetensors {CHANGED}": (
        "1.3b", PAPER, TimeConfig(), {"input": "expert", "cross_attention": "separate", "clean_time": "shared"},
    ),
    f"wan.safetensors --model 1.3b {CHANGED}": ("1.3b", PAPER, TimeConfig(), {"input": "expert"}),
    "wan.safetensors --architecture.cross-modulation": ("1.3b", PAPER, TimeConfig(), {"cross_modulation": True}),
    "diffusers.safetensors": ("1.3b", PAPER, TimeConfig(), WAN),
    f"narrow.safetensors {NARROW}": ("1.3b", PAPER, TimeConfig(), {"dim": 48, "num_layers": 2}),
    "debug": ("debug", ("muon", 4e-3), SMALL_TIMES, OURS_DEBUG),
    "debug/model.safetensors": ("debug", ("muon", 4e-3), SMALL_TIMES, OURS_DEBUG),
    "debug --model debug": ("debug", ("muon", 4e-3), SMALL_TIMES, OURS_DEBUG),
    "debug --optim.lr 1e-3 --time.shift 2": (
        "debug", ("muon", 1e-3), replace(SMALL_TIMES, shift=2.0), OURS_DEBUG,
    ),
    "run": ("debug", ("muon", 4e-3), SMALL_TIMES, {"dim": 64}),
    "run/checkpoints/step-00000003": ("debug", ("muon", 4e-3), SMALL_TIMES, {"dim": 64}),
    "one_block": ("debug", PAPER, SMALL_TIMES, {"num_layers": 1}),
    "one_block --optim.kind muon": ("debug", ("muon", 5e-5), SMALL_TIMES, {"num_layers": 1}),
    # what the card tells goes before what is usual for the size
    "taught": ("debug", ("adamw", 2e-4), SMALL_TIMES, {"num_layers": 2}),
    "taught --model debug": ("debug", ("adamw", 2e-4), SMALL_TIMES, {"num_layers": 2}),
    "taught --optim.lr 1e-2": ("debug", ("adamw", 1e-2), SMALL_TIMES, {"num_layers": 2}),
    "taught --optim.kind muon": ("debug", ("muon", 2e-4), SMALL_TIMES, {"num_layers": 2}),
    "fast": ("debug", ("muon", 1e-3), SMALL_TIMES, {"num_layers": 1}),
    "slow": ("debug", ("muon", 1e-5), SMALL_TIMES, {"num_layers": 2}),
    "one_block --model debug --architecture.num-layers 1": (
        "debug", ("muon", 4e-3), SMALL_TIMES, {"num_layers": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("flags", INHERITED)
def test_shape_conventions_and_recipe_follow_the_weights(weights, machine, headers_alone, flags):
    name, *more = flags.split()
    size, recipe, times, settings = INHERITED[flags]
    config = resolve(parse(["--init", str(weights / name), *more]), ABOUT)
    assert (config.model, (config.optim.kind, config.optim.lr), config.time) == (size, recipe, times)
    assert {key: getattr(config.architecture, key) for key in settings} == settings
    assert config.micro_batch == (1 if config.architecture.dim >= 1536 else config.batch_size)


# weights and flags → the sentence
REFUSED = {
    "release.safetensors --model tiny": "30 blocks of width 3072, 5b, and not tiny: leave --model out",
    "release.safetensors --model 14b": "5b, and not 14b: leave --model out",
    "debug --model 5b": "2 blocks of width 64, debug, and not 5b: leave --model out",
    "wan.safetensors --model 5b --architecture.dim 1536": "1.3b, and not 5b with .*heads 24.*leave --model out",
    "one_block --model debug": "1 blocks of width 64 and not debug: leave --model out",
    "release.safetensors --architecture.num-layers 29": "not one of num_layers 29: leave --architecture.num-la",
    "debug --architecture.num-heads 4": "not one of num_heads 4: leave --architecture.num-heads out",
    "run --architecture.cross-modulation": "does not fit its model in 4 tensors: blocks.0.modulation.table",
    "release.safetensors --architecture.input shared": "does not fit its model in 2 tensors: patch_embedding_aux",
    "debug --architecture.stem 0": "does not fit its model",
    "broken.safetensors": "lack the tensor 'flow_in.weight'",
    "narrow.safetensors": "are none of 1.3b, 5b, 10b, 14b; give their shape .--model",
    "narrow.safetensors --model 1.3b": "of width 48 and 2 blocks are none of .*; give their shape .--model",
    f"narrow.safetensors {NARROW} --architecture.ffn-dim 80": "does not fit its model",
    "unsaved": "has saved no model yet",
    "nowhere": "no weights at",
}


@pytest.mark.parametrize("flags", REFUSED)
def test_what_does_not_go_together_is_a_sentence_and_changes_nothing(
    weights, headers_alone, tmp_path, flags, world
):
    name, *more = flags.split()
    before = {path: path.stat().st_mtime_ns for path in weights.rglob("*")}
    with pytest.raises(ValueError, match=REFUSED[flags]) as refused:
        loop.train(parse(["--init", str(weights / name), "--out", str(tmp_path / "run"), *more]), world)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()
    assert {path: path.stat().st_mtime_ns for path in weights.rglob("*")} == before


# weights and flags → what the first line says after their name
DRAWN = "depth drawn as spectral, flow drawn as linear, adamw at lr 5e-05"
FIRST_LINES = {
    "release.safetensors": f"5b, 30 blocks of width 3072, input expert, clean_time shared, {DRAWN}",
    "release.safetensors --architecture.clean-time zero": (
        f"5b, 30 blocks of width 3072, input expert, clean_time zero (the weights': shared), {DRAWN}"
    ),
    "wan.safetensors --optim.lr 1e-4": "1.3b, 30 blocks of width 1536, adamw at lr 0.0001",
    "debug": "debug, 2 blocks of width 64, cross_modulation True, clean_time shared, muon at lr 0.004",
    "taught": "debug, 2 blocks of width 64, adamw at lr 0.0002",
    "one_block": "of no preset's size (nearest: debug), 1 blocks of width 64, adamw at lr 5e-05",
}


@pytest.mark.parametrize("flags", FIRST_LINES)
def test_the_first_line_says_what_the_run_is(weights, headers_alone, dataset, tmp_path, flags):
    name, *more = flags.split()
    said = []
    options = parse(["--init", str(weights / name), "--data", str(dataset), "--out", str(tmp_path / "run"), *more])
    loop.prepare(options, 1, said.append)
    assert said[0] == f"starting from the weights of {weights / name}: {FIRST_LINES[flags]}"


@pytest.fixture
def release(tmp_path, monkeypatch) -> Path:
    """The release, shrunken: the size 5b is, too."""
    monkeypatch.setitem(MODELS, "5b", SMALL_5B)
    save_file(as_release(UnityDiT(SMALL_5B).state_dict(), SMALL_5B), tmp_path / "release.safetensors")
    return tmp_path / "release.safetensors"


@pytest.fixture
def spoken(monkeypatch) -> set[str]:
    """All that the text encoder is asked for."""
    said, words = set(), Encoders.words

    def heard(self, texts, known):
        said.update(texts)
        return words(self, texts, known)

    monkeypatch.setattr(Encoders, "words", heard)
    return said


@pytest.fixture
def start(dataset, tmp_path, world):
    """start(name, *flags): a run of a few steps of the command line."""

    def run(name: str, *flags) -> Path:
        out = tmp_path / name
        short = [
            "--steps",
            "2",
            "--batch-size",
            "4",
            "--picture-every",
            "0",
            "--save-every",
            "2",
            "--workers",
            "0",
        ]
        return loop.train(parse([*short, "--data", str(dataset), "--out", str(out), *map(str, flags)]), world)

    return run


@pytest.mark.slow
def test_words_and_colours_go_on_from_run_to_run(release, start, spoken):
    prompts = RELEASE["type_prompts"]
    first = start("first", "--stage", 1, "--init", release, "--optim.lr", 1e-3)
    runs = [first, start("second", "--stage", 2, "--init", first), start("third", "--stage", 2, "--resume", first)]
    runs.append(start("fourth", "--stage", 2, "--init", runs[1] / "model", "--batch-size", 8))
    for run in runs:
        card = load_model(run / "model")[1]
        assert card == read_card(run) and card.type_prompts == prompts
        assert card.encodings == dict.fromkeys(MODALITIES, OURS) | RELEASE["encodings"]
        assert (card.model.clean_time, card.model.input) == ("shared", "expert")
        assert read_config(run).type_prompts == prompts
        # what the first was told is what the others take over
        assert (card.optimizer, card.learning_rate) == ("adamw", 1e-3)
        assert (read_config(run).optim.kind, read_config(run).optim.lr) == ("adamw", 1e-3)
    # what was trained on, but for the captions
    kinds = {text for text in spoken if text and "number" not in text}
    assert kinds and kinds <= set(prompts.values())


def test_the_data_is_drawn_as_the_weights_know_it(release, dataset, tmp_path, world):
    """Of the same batches, depth and flow are in the colours of the release, the rest is as it was."""
    flags = ["--stage", "2", "--data", str(dataset), "--out", str(tmp_path / "run"), "--batch-size", "16"]
    flags += ["--workers", "0"]
    configs = [parse([*flags, *more]) for more in (["--model", "debug"], ["--init", str(release)])]
    runs = [build(loop.prepare(config, 1, print), world, print) for config in configs]
    ours, theirs = (next(loop.batches(run)) for run in runs)
    assert torch.equal(ours["rgb"], theirs["rgb"]) and torch.equal(ours["modality"], theirs["modality"])
    changed = {
        list(MODALITIES)[m]: not torch.equal(one, other)
        for m, one, other in zip(ours["modality"].tolist(), ours["aux"], theirs["aux"], strict=True)
    }
    assert {name for name, differs in changed.items() if differs} == {"depth", "flow"} and len(changed) > 2


@pytest.mark.slow
def test_a_run_of_before_words_were_kept_goes_on_with_ours(start, dataset):
    run = start("old", "--model", "debug")
    kept = ("type_prompts", "encodings")
    for path in (run / "config.json", run / "checkpoints/step-00000002/state.json"):
        content = json.loads(path.read_text())
        for settings in (content, content.get("config", {})):
            for name in kept:
                settings.pop(name, None)
        path.write_text(json.dumps(content))
    assert resolve(parse(["--resume", str(run)]), ABOUT).encodings == dict.fromkeys(MODALITIES, OURS)


def test_a_refused_start_from_a_run_leaves_it_byte_for_byte(start, tmp_path, world):
    run = start("first", "--model", "debug")
    before = tree(tmp_path)
    for more in (
        ["--model", "tiny"],
        ["--architecture.cross-attention", "separate"],
        ["--text-weights", "nowhere"],
    ):
        with pytest.raises(ValueError):
            start("second", "--init", run, *more)
    assert tree(tmp_path) == before
    shutil.rmtree(run / "checkpoints" / "step-00000002")
    with pytest.raises(ValueError, match="has saved no model"):
        start("second", "--init", run)
