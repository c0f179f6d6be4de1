"""The nodes as ComfyUI loads and runs them, against a stub of its interface."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from unity.config import MODELS
from unity.generate import Footage, generate, load_generator
from unity.model.card import ModelCard
from unity.model.dit import UnityDiT
from unity.model.weights import save_model
from unity.sampler import Guidance, Sampling

ROOT = Path(__file__).parents[2]
# of ComfyUI, which a link names by their type
KNOWN = {"INT", "FLOAT", "STRING", "BOOLEAN", "IMAGE"}
SETTINGS = {"steps": 2, "guidance": 1.0, "sampler": "euler", "seed": 3}


class Interrupted(Exception):
    """ComfyUI's InterruptProcessingException."""


@pytest.fixture
def comfy(monkeypatch):
    """ComfyUI's modules that nodes may import; what the progress bar was told, and whether to interrupt."""
    state = SimpleNamespace(steps=[], interrupt=False)

    class ProgressBar:
        def __init__(self, total):
            self.total, self.done = total, 0

        def update(self, value):
            self.done += value
            state.steps.append((self.done, self.total))

    def throw():
        if state.interrupt:
            raise Interrupted

    package, utils, management = (
        ModuleType("comfy"),
        ModuleType("comfy.utils"),
        ModuleType("comfy.model_management"),
    )
    utils.ProgressBar, management.throw_exception_if_processing_interrupted = ProgressBar, throw
    package.utils, package.model_management = utils, management
    for module in (package, utils, management):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return state


@pytest.fixture
def nodes(comfy, monkeypatch):
    """NODE_CLASS_MAPPINGS, found as ComfyUI finds them: from the folder's __init__.py."""
    folder = ROOT / "integrations" / "comfyui"
    name = f"custom_nodes_{folder.name}"
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    yield module.NODE_CLASS_MAPPINGS
    sys.modules.pop(f"{name}.nodes")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    model = UnityDiT(MODELS["debug"])
    state = {name: value + 0.05 * torch.randn_like(value) for name, value in model.state_dict().items()}
    card = ModelCard(model=model.config, modalities=("depth",), stage=1, step=1, frames=5, size=(32, 48))
    return save_model(state, card, tmp_path_factory.mktemp("comfy") / "model")


def run(nodes, name: str, **inputs):
    """A node's results, its inputs checked as ComfyUI checks a graph before it runs."""
    kind = nodes[name]
    types = kind.INPUT_TYPES()
    known = types["required"] | types.get("optional", {})
    assert types["required"].keys() <= inputs.keys() <= known.keys()
    for key, value in inputs.items():
        choices, *more = known[key]
        if isinstance(choices, list):
            assert value in choices
        elif more and "min" in more[0]:
            assert more[0]["min"] <= value <= more[0]["max"]
    results = getattr(kind(), kind.FUNCTION)(**inputs)
    assert isinstance(results, tuple) and len(results) == len(kind.RETURN_TYPES)
    return results


def test_nodes_declare_what_comfyui_wants(nodes):
    made = {kind for node in nodes.values() for kind in node.RETURN_TYPES}
    for node in nodes.values():
        assert callable(getattr(node, node.FUNCTION)) and node.CATEGORY
        for group in node.INPUT_TYPES().values():
            for kind, *_ in group.values():
                assert isinstance(kind, list) or kind in KNOWN | made


@pytest.fixture(scope="module")
def generator(checkpoint):
    return load_generator(checkpoint)


@pytest.fixture
def both(nodes, generator):
    """The model and the settings, as the nodes before `run` give them."""
    (sampling,) = run(nodes, "UnityVideoSettings", **SETTINGS)
    return {"model": generator, "sampling": sampling, "modality": "depth", "prompt": ""}


def test_estimating_gives_what_generate_gives(nodes, comfy, both, generator, checkpoint):
    (model,) = run(nodes, "UnityVideoLoadModel", path=str(checkpoint))
    both = both | {"model": model}
    draw = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3), np.uint8)
    frames = torch.from_numpy(draw).float() / 255
    video, view = run(nodes, "UnityVideoRun", task="estimate", frames=frames, **both)
    sampling = Sampling(steps=2, sampler="euler", guidance=Guidance(scale=1.0), seed=3)
    _, wanted = generate(generator, "estimate", "depth", [""], Footage(rgb=draw[None]), sampling)
    assert torch.equal(video, frames)
    assert torch.equal(view, torch.from_numpy(wanted[0]).float() / 255)
    assert comfy.steps == [(1, 2), (2, 2)]


def test_a_model_is_loaded_as_its_card_needs_it(nodes, checkpoint):
    """Without these settings, as workflows of before have none, it lies whole on its device."""
    loaded = [
        run(nodes, "UnityVideoLoadModel", path=str(checkpoint), **more)[0] for more in ({}, {"storage": "fp8"})
    ]
    assert [model.thrift.storage for model in loaded] == ["wide", "fp8"]
    held = [sum(p.nbytes for p in model.model.parameters()) for model in loaded]
    assert held[1] < 0.8 * held[0]
    choices = nodes["UnityVideoLoadModel"].INPUT_TYPES()["optional"]
    assert choices["offload"] == (["none", "parts", "blocks"],) and choices["storage"][0][0] == "wide"


def test_frames_of_any_number_and_size(nodes, both):
    frames = torch.rand(11, 90, 120, 3)
    for task in ("estimate", "control"):
        video, view = run(nodes, "UnityVideoRun", task=task, frames=frames, **both)
        assert video.shape == view.shape and len(video) == 5
        height, width = video.shape[1:3]
        assert abs(width / height - 4 / 3) < 0.1 and video.min() >= 0 and video.max() <= 1
    video, view = run(nodes, "UnityVideoRun", task="joint", **both)
    assert video.shape == view.shape == (5, 32, 48, 3)


def test_interrupting_and_missing_frames(nodes, comfy, both):
    with pytest.raises(ValueError, match="connect them"):
        run(nodes, "UnityVideoRun", task="control", **both)
    comfy.interrupt = True
    with pytest.raises(Interrupted):
        run(nodes, "UnityVideoRun", task="joint", **both)
    assert comfy.steps == []
