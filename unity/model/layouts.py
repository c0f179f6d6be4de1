"""Layouts of weights: the names and shapes of Wan, diffusers and the 5B release, and the way from and to ours.

A layout is a row of `LAYOUTS`. All of it works on meta tensors too, so that shapes can be checked before anything
is read. As a program (`python -m unity.model.layouts export wan2.1-1.3b --to wan --out wan`) it is
`unity.model.export`.
"""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unity.config import ModelConfig

State = Mapping[str, Tensor]


class WeightLayout(NamedTuple):
    """One way to name and shape the tensors of a model."""

    # whether these are the names of its tensors
    recognises: Callable[[Collection[str]], bool]
    # a UnityDiT state from one in this layout, and back where the layout can hold a model of ours
    read: Callable[[State, ModelConfig], dict[str, Tensor]]
    write: Callable[[State, ModelConfig], dict[str, Tensor]] | None = None
    # the tensor whose shape [d, c, t, h, w] tells width and channels
    patches: str = "patch_embedding.weight"
    # settings of the model that all weights of this layout have, and entries of their card
    settings: Mapping[str, Any] = MappingProxyType({})
    card: Mapping[str, Any] = MappingProxyType({})


def find_layout(names: Collection[str]) -> str | None:
    """The name of the layout that tensors of these names are in."""
    return next((name for name, layout in LAYOUTS.items() if layout.recognises(names)), None)


def to_unity(state: State, config: ModelConfig) -> dict[str, Tensor]:
    """Any known layout as a UnityDiT state; what the source lacks starts as the function it had.

    Raises ValueError for an unknown layout, and for tensors that are missing or do not fit each other.
    """
    name = find_layout(state.keys())
    if name is None:
        raise ValueError(f"unknown layout of weights, with names such as {sorted(state)[:3]}")
    try:
        return LAYOUTS[name].read(state, config)
    except KeyError as error:
        raise ValueError(f"weights in the layout of {name} lack the tensor {error}") from error
    except (RuntimeError, IndexError, TypeError) as error:
        words = " ".join(str(error).split())
        raise ValueError(f"weights in the layout of {name} have tensors of wrong shapes ({words})") from error


def to_wan(state: State, config: ModelConfig) -> dict[str, Tensor]:
    """The RGB half in Wan's original layout; RGB's modality embedding folds into the bias of the time MLP."""
    if config.cross_modulation:
        raise ValueError(
            "Wan has no modulation on cross-attention: a model with cross_modulation cannot be written so"
        )
    if config.stem:
        raise ValueError("Wan has patches of its latent and no stem: a model with a stem cannot be written so")
    if config.prediction != "velocity":
        raise ValueError(f"Wan predicts velocities: one that predicts {config.prediction} cannot be written so")
    wan = {_wan_name(key): value for key, value in state.items() if not _is_aux(key)}
    rgb = config.num_modalities
    for key in [key for key in wan if key.startswith("blocks.") and key.endswith(".modulation")]:
        wan[key] = wan[key][rgb : rgb + 1]
    bias = wan["time_embedding.2.bias"]
    wan["time_embedding.2.bias"] = (bias.float() + state["modality_embedding"][rgb].float()).to(bias.dtype)
    return wan


def to_diffusers(state: State, config: ModelConfig) -> dict[str, Tensor]:
    """The RGB half in the layout of diffusers.WanTransformer3DModel."""
    names = _diffusers_names(config)
    return {names.get(key, key): value for key, value in to_wan(state, config).items()}


def to_release(state: State, config: ModelConfig) -> dict[str, Tensor]:
    """The layout of the authors' 5B, which has one aux input, one aux head and no other tables for all modalities.

    Raises ValueError for a model that is more than that can say. Read again, it is the same to the last bit.
    """
    whole = {("cross_attention", "shared"), ("in_context_learner", True), ("switcher", True)}
    for name, value in LAYOUTS["the 5B release"].settings.items() | whole:
        if getattr(config, name) != value:
            raise ValueError(f"the release has {name} {value}: a model with {getattr(config, name)} is not one")
    release = {f"base.{name}": value for name, value in to_wan(state, config).items()}
    for name in ("modality_embedding", *(n for n in state if n.startswith("blocks.") and n.endswith(".table"))):
        _one_for_all(state, name)
    conv, d = _one_for_all(state, "patch_embedding_aux.weight"), config.dim
    shifts = state["patch_embedding_aux.bias"]
    release |= {
        "flow_patch_embedding.weight": conv,
        "flow_patch_embedding.bias": conv.new_zeros(d),
        "flow_in.weight": torch.eye(d, dtype=conv.dtype, device=conv.device),
        "flow_in.bias": conv.new_zeros(d),
        "flow_head.head.weight": _one_for_all(state, "head_aux.weight"),
        "flow_head.head.bias": _one_for_all(state, "head_aux.bias"),
        "flow_head.modulation": _one_for_all(state, "head_aux.modulation.table").unsqueeze(0),
    }
    names = RELEASE_MODALITIES.values()
    return release | {f"modality_embeddings.{name}": shift for name, shift in zip(names, shifts, strict=True)}


def _one_for_all(state: State, name: str) -> Tensor:
    """The entry of a stack that is the same for all modalities; hollow tensors are believed."""
    stack = state[name]
    if not stack.is_meta and not all(torch.equal(one, stack[0]) for one in stack):
        raise ValueError(
            f"the release has one {name} for all modalities, and this model has learnt its own for each: it "
            f"cannot be written so"
        )
    return stack[0]


def _from_diffusers(state: State, config: ModelConfig) -> dict[str, Tensor]:
    names = {theirs: ours for ours, theirs in _diffusers_names(config).items()}
    return _from_wan({names.get(key, key): value for key, value in state.items()}, config)


def _from_wan(wan: State, config: ModelConfig) -> dict[str, Tensor]:
    """Each modality starts as a copy of RGB; what Wan lacks (embeddings, cross-attention's modulation) at zero."""
    ids, copies = config.num_modalities + 1, config.num_modalities
    state = {_unity_name(key): value for key, value in wan.items()}
    for key in [key for key in state if key.startswith("blocks.") and key.endswith("modulation.table")]:
        state[key] = _widened(state[key].expand(ids, -1, -1), config, dim=1, unit=1)
    for part in ("weight", "bias"):
        key = f"time_projection.1.{part}"
        state[key] = _widened(state[key], config, dim=0, unit=config.dim)
    state["modality_embedding"] = state["patch_embedding.weight"].new_zeros(ids, config.dim)
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
    names = RELEASE_MODALITIES.values()
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
    """`copies` experts from one projection; a modulation table of one entry gets an entry for each."""
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


def diffusers_modules(config: ModelConfig) -> dict[str, str]:
    """Name of a module in diffusers → in a UnityDiT."""
    return {
        theirs.removesuffix(".weight"): _unity_name(ours).removesuffix(".weight")
        for ours, theirs in _diffusers_names(config).items()
        if ours.endswith(".weight")
    }


# ours → the release's
RELEASE_MODALITIES = {
    "depth": "depth",
    "flow": "raft",
    "densepose": "densepose",
    "skeleton": "skeleton",
    "segmentation": "segmentation",
}
# the words that it was trained with
_RELEASE_PROMPTS = {
    "depth": "depth map visualization, scene depth from camera, near in warm colors and far in cool colors.",
    "densepose": "densepose visualization with body part UV coordinates.",
    "flow": "optical flow visualization showing motion direction with color and magnitude with intensity.",
    "segmentation": "segmentation mask of foreground objects against background.",
    "skeleton": "human skeleton pose visualization with body keypoints and limbs.",
}
LAYOUTS: dict[str, WeightLayout] = {
    "this project": WeightLayout(
        recognises=lambda names: "modality_embedding" in names, read=lambda state, config: dict(state)
    ),
    "the 5B release": WeightLayout(
        recognises=lambda names: "base.patch_embedding.weight" in names,
        read=_from_release,
        write=to_release,
        patches="base.patch_embedding.weight",
        settings={"input": "expert", "output": "expert", "clean_time": "shared", "num_modalities": 5},
        card={
            "modalities": tuple(RELEASE_MODALITIES),
            "frames": 33,
            "size": (256, 256),
            "optimizer": "adamw",
            "learning_rate": 5e-5,
            "type_prompts": _RELEASE_PROMPTS,
            # see unity.modality.encodings for what is known of them
            "encodings": {"depth": "spectral", "flow": "linear"},
        },
    ),
    "diffusers": WeightLayout(
        recognises=lambda names: "condition_embedder.time_proj.weight" in names,
        read=_from_diffusers,
        write=to_diffusers,
    ),
    "Wan": WeightLayout(recognises=lambda names: "head.head.weight" in names, read=_from_wan, write=to_wan),
}


if __name__ == "__main__":
    from unity.command import end
    from unity.model.export import main

    end("layouts", main)
