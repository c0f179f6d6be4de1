"""Weights on disk: our folders, and the layouts of Wan, diffusers and the authors' 5B release.

A folder of ours holds `model.safetensors` and `config.json`, the model card. Foreign layouts are read by their
key names; `to_wan` and `to_diffusers` write the RGB half of a model for the tools that read those.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unity.config import MODELS, ModelConfig
from unity.model.dit import UnityDiT

State = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a checkpoint is: its shape, and what it has been trained on."""

    model: ModelConfig
    modalities: tuple[str, ...]
    stage: int
    step: int
    frames: int
    # height, width
    size: tuple[int, int]
    data: str = ""


def save_model(state: State, card: ModelCard, folder: Path | str, dtype: torch.dtype | None = None) -> Path:
    """Write a model folder; an existing one is replaced only when the new one is whole on disk."""
    folder = Path(folder)
    temporary = folder.with_name(folder.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(
        {k: v.detach().to(dtype or v.dtype).contiguous().cpu() for k, v in state.items()},
        temporary / "model.safetensors",
    )
    (temporary / "config.json").write_text(json.dumps(asdict(card), indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    return folder


def load_model(
    path: Path | str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    config: ModelConfig | None = None,
) -> tuple[UnityDiT, ModelCard]:
    """A model in evaluation mode, and its card.

    `path` is a model folder, a folder of safetensors, or one file, in any layout that `load_state` knows. `config`
    is for foreign weights whose shape is none of `MODELS`. Raises ValueError where weights and shape disagree.
    """
    path = Path(path)
    state = read_state(path)
    card = _own_card(path) or _foreign_card(state, config)
    with torch.device("meta"):
        model = UnityDiT(card.model)
    state = to_unity(state, card.model)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        rows = ", ".join(f"{n} (expected {expected.get(n)}, found {found.get(n)})" for n in wrong[:4])
        raise ValueError(
            f"{path} does not fit its model in {len(wrong)} tensors: {rows}; check --model or the file"
        )
    model.load_state_dict({k: v.to(device=device, dtype=dtype) for k, v in state.items()}, assign=True)
    return model.eval().requires_grad_(False), card


def read_card(path: Path | str) -> ModelCard:
    """The card of a model folder, or that of foreign weights, whose shape is looked up among `MODELS`."""
    return _own_card(Path(path)) or _foreign_card(read_state(path), None)


def read_state(path: Path | str) -> dict[str, Tensor]:
    """Tensors of a file, or of all the safetensors files of a folder."""
    path = Path(path)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise ValueError(f"no weights at {path}: give a model folder, or a .safetensors or .pt file")
    state: dict[str, Tensor] = {}
    for file in files:
        try:
            state |= load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
        except (SafetensorError, RuntimeError, EOFError) as error:
            raise ValueError(
                f"{file} cannot be read as weights ({error}); it may be cut short, copy it again"
            ) from error
    return state


def to_unity(state: State, config: ModelConfig) -> dict[str, Tensor]:
    """Any known layout as a UnityDiT state; what the source lacks starts as the function it had."""
    if "modality_embedding" in state:
        return dict(state)
    if "base.patch_embedding.weight" in state:
        return _from_release(state, config)
    if "condition_embedder.time_proj.weight" in state:
        names = {theirs: ours for ours, theirs in _diffusers_names(config).items()}
        state = {names.get(key, key): value for key, value in state.items()}
    if "head.head.weight" not in state:
        raise ValueError(
            f"unknown layout of weights, with keys such as {sorted(state)[:3]}; see unity.model.weights"
        )
    return _from_wan(state, config)


def to_wan(state: State, config: ModelConfig) -> dict[str, Tensor]:
    """The RGB half in Wan's original layout; RGB's modality embedding folds into the bias of the time MLP."""
    if config.cross_modulation:
        raise ValueError(
            "Wan has no modulation on cross-attention: a model with cross_modulation cannot be written so"
        )
    if config.prediction != "velocity":
        raise ValueError(f"Wan predicts velocities: one that predicts {config.prediction} cannot be written so")
    wan = {_wan_name(key): value for key, value in state.items() if not _is_aux(key)}
    row = config.num_modalities
    for key in [key for key in wan if key.startswith("blocks.") and key.endswith(".modulation")]:
        wan[key] = wan[key][row : row + 1]
    bias = wan["time_embedding.2.bias"]
    wan["time_embedding.2.bias"] = (bias.float() + state["modality_embedding"][row].float()).to(bias.dtype)
    return wan


def to_diffusers(state: State, config: ModelConfig) -> dict[str, Tensor]:
    """The RGB half in the layout of diffusers.WanTransformer3DModel."""
    names = _diffusers_names(config)
    return {names.get(key, key): value for key, value in to_wan(state, config).items()}


def _from_wan(wan: State, config: ModelConfig) -> dict[str, Tensor]:
    """Each modality starts as a copy of RGB; what Wan lacks (embeddings, cross-attention's modulation) at zero."""
    rows, copies = config.num_modalities + 1, config.num_modalities
    state = {_unity_name(key): value for key, value in wan.items()}
    for key in [key for key in state if key.startswith("blocks.") and key.endswith("modulation.table")]:
        state[key] = _widened(state[key].expand(rows, -1, -1), config, dim=1, unit=1)
    for part in ("weight", "bias"):
        key = f"time_projection.1.{part}"
        state[key] = _widened(state[key], config, dim=0, unit=config.dim)
    state["modality_embedding"] = torch.zeros(rows, config.dim, dtype=state["patch_embedding.weight"].dtype)
    if config.input == "expert":
        state |= _repeated(state, "patch_embedding.", "patch_embedding_aux.", copies)
    if config.output == "expert":
        state |= _repeated(state, "head.", "head_aux.", copies)
    if config.cross_attention == "separate":
        state |= {
            k.replace(".cross_attn.", ".cross_attn_aux."): v.clone()
            for k, v in state.items()
            if ".cross_attn." in k
        }
    return state


def _from_release(release: State, config: ModelConfig) -> dict[str, Tensor]:
    """The authors' 5B: its second input, a Linear and a modality vector are one affine map, our input expert.

    Their single aux head is copied into every expert. The card's `clean_time` must be "shared".
    """
    names = ("depth", "raft", "densepose", "skeleton", "segmentation")
    state = _from_wan({k.removeprefix("base."): v for k, v in release.items() if k.startswith("base.")}, config)
    conv, inner = release["flow_patch_embedding.weight"].double(), release["flow_in.weight"].double()
    weight = torch.einsum("ed,d...->e...", inner, conv)
    bias = inner @ release["flow_patch_embedding.bias"].double() + release["flow_in.bias"].double()
    dtype = state["patch_embedding.weight"].dtype
    shifts = torch.stack([release[f"modality_embeddings.{name}"].reshape(-1).double() for name in names])
    state["patch_embedding_aux.weight"] = weight.to(dtype).expand(len(names), *weight.shape).contiguous()
    state["patch_embedding_aux.bias"] = (bias + shifts).to(dtype)
    head = {
        _unity_name(k.replace("flow_head.", "head.")): v for k, v in release.items() if k.startswith("flow_head.")
    }
    return state | _repeated(head, "head.", "head_aux.", len(names))


def _repeated(state: State, old: str, new: str, copies: int) -> dict[str, Tensor]:
    """`copies` experts from one projection; a one-row modulation table becomes a row for each."""
    parts = {key: value for key, value in state.items() if key.startswith(old)}
    tables = {k: v.expand(copies, *v.shape[1:]) for k, v in parts.items() if k.endswith("table")}
    stacked = {k: v.expand(copies, *v.shape) for k, v in parts.items() if not k.endswith("table")}
    return {key.replace(old, new, 1): value.clone() for key, value in (tables | stacked).items()}


def _widened(value: Tensor, config: ModelConfig, dim: int, unit: int) -> Tensor:
    """Room for the modulation of cross-attention behind Wan's six parts, zero: the identity."""
    shape = list(value.shape)
    shape[dim] = 3 * unit if config.cross_modulation else 0
    return torch.cat((value, value.new_zeros(shape)), dim=dim)


def _is_aux(key: str) -> bool:
    return key == "modality_embedding" or "_aux." in key


def _unity_name(wan: str) -> str:
    if wan.endswith("modulation"):
        return wan + ".table"
    return wan.replace("head.head.", "head.")


def _wan_name(unity: str) -> str:
    if unity.endswith("modulation.table"):
        return unity.removesuffix(".table")
    return unity.replace("head.", "head.head.") if unity.startswith("head.") else unity


def _diffusers_names(config: ModelConfig) -> dict[str, str]:
    """Wan's name → diffusers' name of every tensor whose names differ; diffusers swaps norm2 and norm3."""
    modules = {
        "text_embedding.0": "condition_embedder.text_embedder.linear_1",
        "text_embedding.2": "condition_embedder.text_embedder.linear_2",
        "time_embedding.0": "condition_embedder.time_embedder.linear_1",
        "time_embedding.2": "condition_embedder.time_embedder.linear_2",
        "time_projection.1": "condition_embedder.time_proj",
        "head.head": "proj_out",
    }
    attention = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
    block = {"norm3": "norm2", "ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2"}
    for ours, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2")):
        block |= {f"{ours}.{a}": f"{theirs}.{b}" for a, b in attention.items()}
    names = {"head.modulation": "scale_shift_table"}
    for n in range(config.num_layers):
        modules |= {f"blocks.{n}.{a}": f"blocks.{n}.{b}" for a, b in block.items()}
        names[f"blocks.{n}.modulation"] = f"blocks.{n}.scale_shift_table"
    return names | {f"{a}.{p}": f"{b}.{p}" for a, b in modules.items() for p in ("weight", "bias")}


def _own_card(folder: Path) -> ModelCard | None:
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text()) if path.is_file() else {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}); copy the model folder again") from error
    if "model" not in content:
        return None
    known = {field.name for field in fields(ModelConfig)}
    unknown = sorted(content["model"].keys() - known)
    if unknown:
        raise ValueError(f"{path} has unknown model settings {unknown}; it was written by another version")
    as_tuple = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items() if k != "model"}
    model = {k: tuple(v) if isinstance(v, list) else v for k, v in content["model"].items()}
    try:
        return ModelCard(model=ModelConfig(**model), **as_tuple)
    except TypeError as error:
        raise ValueError(f"{path} is no whole model card ({error}); copy the model folder again") from error


def _foreign_card(state: State, config: ModelConfig | None) -> ModelCard:
    """The card of weights that carry none: the shape is looked up among MODELS by width and depth."""
    release = "base.patch_embedding.weight" in state
    if config is None:
        dim = state["base.patch_embedding.weight" if release else "patch_embedding.weight"].shape[0]
        depth = 1 + max(int(k.split("blocks.")[1].split(".")[0]) for k in state if "blocks." in k)
        matches = [c for c in MODELS.values() if (c.dim, c.num_layers) == (dim, depth)]
        if not matches:
            raise ValueError(
                f"weights of width {dim} and {depth} blocks are none of {', '.join(MODELS)}; give a config"
            )
        # whatever the preset has for models trained here
        config = replace(matches[0], prediction="velocity", rope_theta=1e4)
    if release:
        config = ModelConfig(**{**asdict(config), "input": "expert", "output": "expert", "clean_time": "shared"})
    modalities = ("depth", "flow", "densepose", "skeleton", "segmentation") if release else ()
    return ModelCard(model=config, modalities=modalities, stage=0, step=0, frames=33, size=(256, 256))
