"""Names and repositories: out of a cache of the hub without a network, from a hub of our own, or in a sentence."""

import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, file_download
from safetensors.torch import save_file

from unity.config import MODELS
from unity.encoders import load_encoders
from unity.generate import load_generator
from unity.model import hub
from unity.model.dit import UnityDiT
from unity.model.layouts import to_diffusers, to_wan
from unity.model.weights import load_model, read_card

# of 1.3b's names, and a few kilobytes
SMALL = replace(MODELS["1.3b"], dim=48, ffn_dim=80, num_heads=2, num_layers=2, text_dim=384, text="minilm")
WAN, COMMIT = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(MODELS, "1.3b", SMALL)
    for function in (hub._fetched, hub._listed):
        function.cache_clear()
    yield
    for function in (hub._fetched, hub._listed):
        function.cache_clear()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def model(seed=0):
    torch.manual_seed(seed)
    made = UnityDiT(SMALL)
    for value in made.parameters():
        value.data.normal_(std=0.1)
    return made.requires_grad_(False)


def repository(folder: Path, state, pieces=1, **more: dict) -> Path:
    """A repository of diffusers, its transformer in pieces with their index; `more`: other parts' settings."""
    (folder / "transformer").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "transformer" / "config.json").write_text('{"_class_name": "WanTransformer3DModel"}')
    places, names = {}, sorted(state)
    for piece in range(pieces):
        file = f"diffusion_pytorch_model-{piece + 1:05}-of-{pieces:05}.safetensors"
        part = {name: state[name].contiguous() for name in names[piece::pieces]}
        save_file(part, folder / "transformer" / file)
        places |= dict.fromkeys(part, file)
    index = json.dumps({"metadata": {}, "weight_map": places})
    (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text(index)
    for part, settings in more.items():
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(settings))
    return folder


def cached(cache: Path, repo: str, fill) -> Path:
    """A snapshot of a repository where huggingface_hub keeps it."""
    place = cache / f"models--{repo.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    fill(place / "snapshots" / COMMIT)
    return place / "snapshots" / COMMIT


def check_same(found, expected):
    for name, value in expected.state_dict().items():
        # the layouts of Wan have no modality embedding: RGB's is folded, and all tables are RGB's
        if "modality_embedding" not in name and "table" not in name and "_aux" not in name and "time" not in name:
            torch.testing.assert_close(found.state_dict()[name], value, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("name", ["wan2.1-1.3b", WAN])
def test_a_name_is_found_in_the_cache_without_a_network(cache, name):
    made = model()
    state = to_diffusers(made.state_dict(), SMALL)
    snapshot = cached(cache, WAN, lambda folder: repository(folder, state, pieces=3, vae={}))
    loaded, card = load_model(name)
    check_same(loaded, made)
    assert card == read_card(Path(name)) and hub.local(name) == snapshot
    assert hub.beside(name) == Path(WAN) and hub.local(hub.beside(name), "vae") == snapshot


def test_a_file_of_a_repository_and_original_names(cache):
    made, repo = model(), "Comfy-Org/Wan_2.1_ComfyUI_repackaged"
    inside = "split_files/diffusion_models/wan2.1_t2v_1.3B_bf16.safetensors"

    def fill(folder: Path) -> None:
        (folder / inside).parent.mkdir(parents=True)
        state = {f"model.diffusion_model.{k}": v.contiguous() for k, v in to_wan(made.state_dict(), SMALL).items()}
        save_file(state, folder / inside)

    cached(cache, repo, fill)
    check_same(load_model(f"{repo}/{inside}")[0], made)
    assert hub.beside(f"{repo}/{inside}") is None


def test_paths_of_this_machine_are_no_names(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    for path in ("runs/stage1", str(tmp_path / "a" / "b"), "model", "model.safetensors", "../a/b"):
        assert not hub.is_name(path), path
        with pytest.raises(ValueError, match="no weights at"):
            load_model(path)


@pytest.mark.parametrize("name", ["wan2.1-14b", "wan2.2-5b", "unityvideo-5b", "KlingTeam/UnityVideo", "a/b/c.pt"])
def test_without_a_network_and_a_copy_it_is_a_sentence(cache, name):
    with pytest.raises(
        ValueError, match=r"neither a path nor in the cache .* `huggingface-cli download \S+"
    ) as refused:
        load_model(name)
    assert "\n" not in str(refused.value)


def test_what_is_half_there_names_what_is_missing(cache):
    state = to_diffusers(model().state_dict(), SMALL)
    snapshot = cached(cache, WAN, lambda folder: repository(folder, state, pieces=3))
    next((snapshot / "transformer").glob("*00002-of-00003.safetensors")).unlink()
    with pytest.raises(ValueError, match="names 3 files, 1 of them absent .*00002-of-00003"):
        load_model("wan2.1-1.3b")


def test_vae_and_text_come_from_beside_the_weights(cache, tmp_path):
    """Asked for where nobody names them: here they are not whole, and the sentence says where it looked."""
    config = replace(SMALL, codec="wan2.1")
    state = to_diffusers(model().state_dict(), SMALL)
    snapshot = cached(
        cache, WAN, lambda folder: repository(folder, state, vae={"_class_name": "AutoencoderKLWan"})
    )
    with pytest.raises(ValueError, match=f"cannot load AutoencoderKLWan from {snapshot}/vae"):
        load_generator("wan2.1-1.3b", "cpu")
    folder = repository(tmp_path / "copy", state, vae={}, text_encoder={})
    assert hub.beside(folder) == hub.beside(folder / "transformer") == folder
    with pytest.raises(ValueError, match=f"cannot load AutoencoderKLWan from {folder}/vae"):
        load_generator(folder / "transformer", "cpu")
    with pytest.raises(ValueError, match="Give `Wan-AI/Wan2.1-T2V-1.3B-Diffusers` as its weights to download it"):
        load_encoders(config, torch.device("cpu"))


class Hub(BaseHTTPRequestHandler):
    """The hub's protocol, as far as huggingface_hub needs it for downloads."""

    root: Path
    asked: list[str]

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.asked.append(self.path)
        if self.path.startswith(f"/api/models/{WAN}"):
            files = [p.relative_to(self.root).as_posix() for p in sorted(self.root.rglob("*")) if p.is_file()]
            answer = {"id": WAN, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
            if "/tree/" in self.path:
                answer = [{"type": "file", "path": file, "size": 1, "oid": "0"} for file in files]
            return self.give(json.dumps(answer).encode(), {"Content-Type": "application/json"})
        file = self.root / self.path.partition(f"/{WAN}/resolve/{COMMIT}/")[2]
        if not self.path.startswith(f"/{WAN}/") or not file.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        return self.give(file.read_bytes(), {"ETag": f'"{file.stat().st_size}"', "X-Repo-Commit": COMMIT})

    def give(self, content: bytes, headers: dict):
        start = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
        self.send_response(206 if start else 200)
        for name, value in ({"Content-Length": str(len(content) - start)} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[start:])

    def log_message(self, *_):
        pass


@pytest.fixture
def served(cache, tmp_path, monkeypatch):
    """A hub of our own with one repository."""
    state = to_diffusers(model().state_dict(), SMALL)
    Hub.root, Hub.asked = repository(tmp_path / "served", state, pieces=2, vae={}, text_encoder={}), []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    huggingface_hub.utils.reset_sessions()
    yield Hub
    server.shutdown()
    server.server_close()
    huggingface_hub.utils.reset_sessions()


def test_what_is_asked_for_is_downloaded_and_nothing_else(served, cache, monkeypatch):
    check_same(load_model("wan2.1-1.3b")[0], model())
    fetched = {path.partition(f"/resolve/{COMMIT}/")[2] for path in served.asked if "/resolve/" in path}
    assert "transformer/diffusion_pytorch_model-00002-of-00002.safetensors" in fetched
    assert not any(file.startswith(("vae", "text_encoder")) for file in fetched)
    assert (hub.local(hub.beside("wan2.1-1.3b"), "vae") / "vae" / "config.json").is_file()
    # and from then on without the hub
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.utils.reset_sessions()
    for function in (hub._fetched, hub._listed):
        function.cache_clear()
    served.asked.clear()
    check_same(load_model(WAN)[0], model())
    assert not served.asked


def test_what_the_hub_does_not_have_is_a_sentence(served):
    with pytest.raises(ValueError, match="nobody/nothing is no path on this machine and no repository of the hub"):
        load_model("nobody/nothing")
    with pytest.raises(ValueError, match="on the hub has no transformer/other.safetensors"):
        load_model(f"{WAN}/transformer/other.safetensors")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("scaled", [False, True])
def test_weights_in_8_bits_load_as_the_numbers_that_they_are(tmp_path, dtype, scaled):
    state = {k: v.clone() for k, v in to_wan(model().state_dict(), SMALL).items()}
    narrow = [name for name in state if name.startswith("blocks.") and name.endswith(("q.weight", "ffn.0.weight"))]
    expected, stored = dict(state), {k: v.contiguous() for k, v in state.items()}
    for number, name in enumerate(narrow):
        scale = torch.tensor(0.37 + number) if scaled else torch.tensor(1.0)
        stored[name] = (state[name] / scale).to(dtype)
        expected[name] = stored[name].float() * scale
        if scaled:
            stored |= {name.removesuffix("weight") + end: scale for end in ("scale_weight",)}
    stored |= {"scaled_fp8": torch.zeros(2, dtype=dtype)} if scaled else {}
    save_file(stored, tmp_path / "fp8.safetensors")
    loaded = load_model(tmp_path / "fp8.safetensors")[0].state_dict()
    for name in narrow:
        assert torch.equal(loaded[name], expected[name]), name
