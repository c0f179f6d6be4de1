"""Weights and adapters in the names that other programs read: `python -m unity.model.layouts export ...`.

--to diffusers   a folder for WanTransformer3DModel.from_pretrained: the RGB half
--to wan         the same half as Wan's own programs and ComfyUI have it
--to release     both streams as the authors' 5B has them, where it can say them
--to unity       a model folder of this project: one file and its card, adapters merged, of all that can be opened
An adapter becomes a LoRA file of the first two, or with --merged the whole model.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor

from unity.command import check_bounds, real
from unity.config import ModelConfig
from unity.files import check_folder_free, check_space, whole_folder, write_json
from unity.model.adapter import Adapter, Lora, is_adapter, read_adapter
from unity.model.card import ModelCard
from unity.model.hub import local
from unity.model.layouts import LAYOUTS, diffusers_modules, find_layout
from unity.model.reader import Reader, block_of
from unity.model.readme import read_scores, write_readme
from unity.model.stored import Stored, model_folder
from unity.model.weights import check_fit, open_weights, read_card, stream_model

# what is asked for → the row of LAYOUTS, what stands before the names of a LoRA, and its file
_LAYOUT = {"diffusers": "diffusers", "wan": "Wan", "release": "the 5B release"}
_BEFORE = {"diffusers": "transformer.", "wan": "diffusion_model."}
LORA_FILE = "pytorch_lora_weights.safetensors"
_FILES = "diffusion_pytorch_model{suffix}.safetensors"
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# writes the page that goes with what is written: `write_readme` with the scores that were given
_Readme = Callable[[ModelCard, Path, str], Path]


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write weights in another layout, or say what they are."""

    # export, or show: what they are, in a line each
    do: tyro.conf.Positional[Literal["export", "show"]]
    # what --checkpoint of unity.infer takes
    checkpoint: tyro.conf.Positional[Path]
    # the layout
    to: Literal["diffusers", "wan", "release", "unity"] = "diffusers"
    # a new folder
    out: Path = Path("export")
    # adapter to merge into them first
    lora: Path | None = None
    # how often it counts
    lora_strength: Annotated[float, real(-100, 100)] = 1.0
    # an adapter as the whole model that it makes of its base
    merged: bool = False
    # JSON that `python -m unity.evaluate` wrote of them, for the README
    scores: Path | None = None
    # by default as they are stored
    dtype: Literal["bf16", "fp16", "fp32"] | None = None


def export(options: Export, say: Callable[[str], None] = print) -> list[Path]:
    """Write a folder, whole or not at all; returns its files. Raises ValueError for what cannot be said so."""
    check_bounds(options)
    path = local(options.checkpoint)
    folder = model_folder(path) if path.is_dir() else path
    check_folder_free(options.out)
    about = partial(write_readme, scores=options.scores and read_scores(options.scores))
    apart = not (options.merged or options.lora or options.to == "unity")
    if folder.is_dir() and is_adapter(folder) and apart:
        return _export_adapter(options, folder, about)
    lora = options.lora and Lora(options.lora, options.lora_strength)
    stored, card = open_weights(path, lora=lora)
    check_fit(stored, card.model)
    if options.to == "unity":
        return _export_ours(stored, card, options, about, say)
    target = _target(stored, card.model, options)
    check_space(options.out, sum(value.numel() * value.element_size() for value in target.shapes.values()))
    with whole_folder(options.out) as part:
        _write(target, part)
        if options.to == "diffusers":
            _diffusers_config(card.model, target, part)
        about(card, part, {"diffusers": "rgb"}.get(options.to, options.to))
    say(f"{options.out}: {len(target.shapes)} tensors in the layout of {_LAYOUT[options.to]}")
    return sorted(options.out.iterdir())


def lora_state(adapter: Adapter, layout: str, config: ModelConfig) -> dict[str, Tensor]:
    """The factors as a LoRA of Wan's RGB half, named as diffusers does, or as Wan (and so ComfyUI) does.

    The scale goes into B, so that alpha is the rank: what every program reads alike. Raises ValueError for an
    adapter that changes what no LoRA of Wan can.
    """
    beside = sorted((*adapter.parts, *adapter.differences, *(n for n in adapter.factors if "_aux" in n)))
    if beside:
        raise ValueError(
            f"{adapter.path} changes {len(beside)} tensors that a LoRA of Wan has no place for ({beside[0]}): "
            f"write it merged into its base, or train it with --lora.parts 0"
        )
    names = {ours: theirs for theirs, ours in diffusers_modules(config).items()} if layout == "diffusers" else {}
    state = {}
    for name, (down, up, scale) in adapter.factors.items():
        module = name.removesuffix(".weight")
        start = _BEFORE[layout] + names.get(module, module)
        state[f"{start}.lora_A.weight"] = down.contiguous()
        state[f"{start}.lora_B.weight"] = (up if scale == 1 else (up.float() * scale).to(up.dtype)).contiguous()
    return state


def show(options: Export) -> list[str]:
    """What weights are: layout, shape, what they have learnt, and how they are stored."""
    stored, card = open_weights(local(options.checkpoint))
    model, numbers = card.model, sum(value.numel() for value in stored.shapes.values())
    dtypes = sorted({str(value.dtype).removeprefix("torch.") for value in stored.shapes.values()})
    learnt, layout = ", ".join(card.modalities) or "video alone", find_layout(stored.shapes)
    return [
        f"layout: {layout}; {len(stored.shapes)} tensors, {numbers:,} numbers, {', '.join(dtypes)}",
        f"shape: {model.num_layers} blocks of width {model.dim}, codec {model.codec}, text {model.text}",
        f"learnt: {learnt}; stage {card.stage}, step {card.step}, {card.frames} frames of "
        f"{card.size[0]}x{card.size[1]}",
    ]


def main() -> None:
    options = tyro.cli(Export, prog="python -m unity.model.layouts", description=__doc__)
    for line in show(options) if options.do == "show" else export(options):
        print(line)


def _export_adapter(options: Export, folder: Path, about: _Readme) -> list[Path]:
    if options.to == "release":
        raise ValueError("the release knows no adapters: give --merged for the whole model, or --to wan")
    card = read_card(folder)
    state = lora_state(read_adapter(folder, card.model), options.to, card.model)
    dtype = _DTYPES[options.dtype] if options.dtype else None
    with whole_folder(options.out) as part:
        tensors = {name: value.to(dtype or value.dtype) for name, value in state.items()}
        save_file(tensors, part / LORA_FILE, metadata={"format": "pt"})
        about(card, part, "adapter")
    return sorted(options.out.iterdir())


def _export_ours(
    stored: Stored, card: ModelCard, options: Export, about: _Readme, say: Callable[[str], None]
) -> list[Path]:
    """A tensor in memory at a time."""
    reader, wide = Reader(stored, card.model), _DTYPES[options.dtype] if options.dtype else None
    hollow = reader.hollow()
    shapes = {name: hollow[name].to(wide or hollow[name].dtype) for name in sorted(hollow, key=block_of)}
    check_space(options.out, sum(value.nbytes for value in shapes.values()))
    alone, beside = replace(card, base=""), lambda part: about(card, part, "unity")
    stream_model(shapes, lambda name: [reader(name).to(shapes[name].dtype)], alone, options.out, beside)
    say(f"{options.out}: {len(shapes)} tensors and their card, for unity.infer --checkpoint {options.out}")
    return sorted(options.out.iterdir())


def _target(stored: Stored, config: ModelConfig, options: Export) -> Stored:
    """The weights in the layout that is asked for, converted as they are read."""
    write = LAYOUTS[_LAYOUT[options.to]].write
    assert write is not None
    reader = Reader(stored, config)
    source = Stored(path=stored.path, shapes=reader.hollow(), read=lambda wanted: dict(reader.each(wanted)))
    convert = Reader(source, config, write)
    wide = _DTYPES[options.dtype] if options.dtype else None
    shapes = {name: value.to(wide or value.dtype) for name, value in convert.hollow().items()}
    return Stored(
        path=stored.path,
        shapes=shapes,
        read=lambda wanted: {n: value.to(shapes[n].dtype).contiguous() for n, value in convert.each(wanted)},
    )


def _write(target: Stored, folder: Path) -> None:
    """Files of at most 5 GB with their index, or one, a file in memory at a time."""
    shapes = {name: target.shapes[name] for name in sorted(target.shapes, key=block_of)}
    plan = split_torch_state_dict_into_shards(shapes, filename_pattern=_FILES, max_shard_size="5GB")
    for file, names in plan.filename_to_tensors.items():
        save_file(target.read(names), folder / file, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_json(folder / f"{_FILES.format(suffix='')}.index.json", index)


def _diffusers_config(config: ModelConfig, target: Stored, folder: Path) -> None:
    """The settings with which diffusers builds a model of these very tensors."""
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        model = WanTransformer3DModel(
            patch_size=config.patch, num_attention_heads=config.num_heads, attention_head_dim=config.head_dim,
            in_channels=config.latent_channels, out_channels=config.latent_channels, text_dim=config.text_dim,
            freq_dim=config.freq_dim, ffn_dim=config.ffn_dim, num_layers=config.num_layers, cross_attn_norm=True,
            qk_norm="rms_norm_across_heads", eps=config.eps,
        )  # fmt: skip
    expected = {name: value.shape for name, value in model.state_dict().items()}
    assert expected == {name: value.shape for name, value in target.shapes.items()}
    model.save_config(folder)
