"""Weights on disk: a model folder of ours, or foreign weights in any layout of `unity.model.layouts`.

A folder of ours holds `model.safetensors` and `config.json`, the model card.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from unity.config import MODELS, ModelConfig
from unity.files import whole_folder
from unity.model.adapter import Lora, is_adapter, read_adapter, with_adapter
from unity.model.card import NAME, ModelCard, read_card_file, write_card
from unity.model.dit import UnityDiT
from unity.model.hub import local
from unity.model.layouts import LAYOUTS, State, find_layout, to_unity
from unity.model.packed import pack, packed_rows, packing
from unity.model.reader import Reader, block_of
from unity.model.rows import grown
from unity.model.sniff import stranger
from unity.model.stored import Stored, model_folder, open_stored
from unity.model.streamed import write_stream
from unity.model.told import told_shape
from unity.model.widen import widened

TENSORS = "model.safetensors"


def save_model(state: State, card: ModelCard, folder: Path | str, dtype: torch.dtype | None = None) -> Path:
    """Write a model folder; an existing one is replaced only when the new one is whole on disk."""
    folder = Path(folder)
    with whole_folder(folder, last=NAME, mine=lambda name: name in (TENSORS, NAME)) as part:
        tensors = {k: v.detach().to(dtype or v.dtype).contiguous().cpu() for k, v in state.items()}
        save_file(tensors, part / TENSORS)
        write_card(card, part)
    return folder


def stream_model(
    shapes: Mapping[str, Tensor],
    parts: Callable[[str], Iterable[Tensor]],
    card: ModelCard,
    folder: Path | str,
    beside: Callable[[Path], object] = lambda part: None,
) -> dict[str, dict]:
    """The same, of tensors that are never whole in memory; returns the file's size and SHA-256, by its name.

    `beside` writes what else is to be in the folder. See `unity.model.streamed`.
    """
    folder = Path(folder)
    with whole_folder(folder, last=NAME, mine=lambda name: name in (TENSORS, NAME)) as part:
        row = write_stream(part / TENSORS, shapes, parts)
        write_card(card, part)
        beside(part)
    return {TENSORS: row}


def load_model(
    path: Path | str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    config: ModelConfig | None = None,
    lora: Lora | None = None,
    storage: str = "wide",
) -> tuple[UnityDiT, ModelCard]:
    """A model in evaluation mode, and its card.

    `path` is a model folder, a run folder, a folder of weights, or one file, in any layout of
    `unity.model.layouts`, a folder of `unity.model.adapter`, or a name of `unity.model.hub`. `config` is for
    foreign weights whose shape is none of `MODELS`. `lora` is merged in. `storage`, a row of
    `unity.config.STORAGE`, says how the Linears of its blocks are packed, one by one as they are read. Raises
    ValueError for what is no such thing, and where weights and shape disagree, before anything but headers (and
    adapters) has been read.
    """
    stored, card = open_weights(Path(path), config, lora)
    model = _hollow(stored, card.model)
    if storage != "wide":
        model = _waiting(card.model, storage, dtype)
    packed, state = packed_rows(model), {}
    for name, value in Reader(stored, card.model).each(model.state_dict()):
        there = value.to(device=device, dtype=dtype)
        state[name] = pack(there, packed[name], dtype) if name in packed else there
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False), card


def _waiting(config: ModelConfig, storage: str, dtype: torch.dtype) -> UnityDiT:
    """A model without values, whose packed matrices bear the name of `dtype`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            return UnityDiT(config, packing(storage))
    finally:
        torch.set_default_dtype(before)


def open_weights(
    path: Path, config: ModelConfig | None = None, lora: Lora | None = None
) -> tuple[Stored, ModelCard]:
    """Weights and their card, of which only headers have been read, adapters merged in; see `load_model`."""
    path = local(path)
    folder = model_folder(path) if path.is_dir() else path
    if folder.is_dir() and is_adapter(folder):
        stored, card = _open_adapter(folder)
    else:
        stored = widened(open_stored(path))
        card = _card(stored, config)
    if config is not None and config.num_modalities > card.model.num_modalities:
        stored = grown(stored, card.model, config.num_modalities)
        card = replace(card, model=replace(card.model, num_modalities=config.num_modalities))
    if lora is None:
        return stored, card
    lora = lora._replace(path=local(lora.path))
    card = _card_with(card, lora)
    return with_adapter(stored, read_adapter(lora.path, card.model), card.model, lora.strength), card


def _open_adapter(folder: Path) -> tuple[Stored, ModelCard]:
    """An adapter's folder as the weights that it and its base are together."""
    card = read_card_file(folder)
    if card is None or not card.base:
        raise ValueError(
            f"{folder} is an adapter that does not name the weights that it belongs to: give those as the "
            f"checkpoint, and it as the adapter (--lora)"
        )
    try:
        base, _ = open_weights(Path(card.base), card.model)
    except ValueError as error:
        raise ValueError(
            f"{folder} is an adapter for the weights of {card.base}, which cannot be opened ({error}); give them "
            f"as the checkpoint, and it as the adapter (--lora)"
        ) from error
    return with_adapter(base, read_adapter(folder, card.model), card.model), card


def _card_with(card: ModelCard, lora: Lora) -> ModelCard:
    """What weights are with an adapter: an adapter of ours says what it has learnt."""
    folder = local(lora.path)
    own = read_card_file(folder) if folder.is_dir() else None
    return card if own is None else own


def read_card(path: Path | str, config: ModelConfig | None = None, lora: Lora | None = None) -> ModelCard:
    """The card of a model or run folder, or that of foreign weights, whose shape is looked up among `MODELS`.

    `config` is for weights without a card whose shape is none of those; it is believed if it is as wide and deep.
    An adapter `lora` that has a card speaks for both.
    """
    path = local(path)
    card = read_card_file(model_folder(path)) if path.is_dir() else None
    if lora is not None:
        return _card_with(card or read_card(path, config), lora)
    if card is not None:
        return card
    stored = widened(open_stored(path))
    size = _size(stored)
    believed = config is not None and (size is None or size == (config.dim, config.num_layers))
    return _card(stored, config if believed and not _of_size(size) else None)


def check_fit(stored: Stored, config: ModelConfig) -> None:
    """Raises ValueError, from headers alone, where weights cannot fill a model of this shape."""
    _hollow(stored, config)


def _hollow(stored: Stored, config: ModelConfig) -> UnityDiT:
    """A model without values, whose tensors are of the shapes that are stored."""
    with torch.device("meta"):
        model = UnityDiT(config)
    _check_shapes(stored.path, model.state_dict(), to_unity(stored.shapes, config))
    return model


def _card(stored: Stored, config: ModelConfig | None) -> ModelCard:
    """The card beside weights that fit it, or that of foreign weights."""
    layout = find_layout(stored.shapes)
    if layout is None:
        raise ValueError(f"{stored.path} is {stranger(stored.shapes)}")
    path = stored.path
    own = read_card_file(model_folder(path) if path.is_dir() else path.parent)
    if own is not None and layout == next(iter(LAYOUTS)):
        _check_card(stored, own)
        return own
    if layout == next(iter(LAYOUTS)) and config is None:
        raise ValueError(f"{path} lacks its card: give the whole model folder, with {NAME} in it")
    return _foreign_card(stored, layout, config)


def _check_card(stored: Stored, card: ModelCard) -> None:
    """A card's width and depth are the weights' own: no memory is taken for what is not there."""
    width, depth = (0, *stored.shapes["modality_embedding"].shape)[-1], _depth(stored.shapes)
    if (width, depth) != (card.model.dim, card.model.num_layers):
        raise ValueError(
            f"{stored.path} does not fit its model: its weights have {depth} blocks of width {width}, "
            f"its card says {card.model.num_layers} of {card.model.dim}; copy the model folder again"
        )


def _foreign_card(stored: Stored, layout: str, config: ModelConfig | None) -> ModelCard:
    """The card of weights that carry none: the shape is looked up among MODELS by width, depth and channels."""
    row = LAYOUTS[layout]
    if config is None:
        config = _preset(stored, row.patches)
    entries = {"modalities": (), "frames": 33, "size": (256, 256)} | dict(row.card)
    return ModelCard(model=replace(config, **row.settings), stage=0, step=0, **entries)


def _preset(stored: Stored, patches: str) -> ModelConfig:
    size = _size(stored)
    if size is None:
        raise ValueError(f"{stored.path} lacks {patches}, the projection of its input; copy it again, whole")
    config = _of_size(size) or told_shape(
        model_folder(stored.path) if stored.path.is_dir() else stored.path.parent
    )
    if config is None or size != (config.dim, config.num_layers):
        raise ValueError(
            f"{stored.path}: weights of width {size[0]} and {size[1]} blocks are none of {', '.join(_foreign())}; "
            f"give their shape (--model with --architecture settings, or the config.json that lay beside them)"
        )
    channels = stored.shapes[patches].shape[1]
    if channels != config.latent_channels:
        raise ValueError(
            f"{stored.path} has {channels} input channels, not {config.latent_channels}: it is an "
            f"image-to-video or control variant; take a text-to-video one"
        )
    return config


def _size(stored: Stored) -> tuple[int, int] | None:
    """Width and depth of foreign weights."""
    layout = find_layout(stored.shapes)
    patches = stored.shapes.get(LAYOUTS[layout].patches) if layout not in (None, next(iter(LAYOUTS))) else None
    return None if patches is None or patches.ndim != 5 else (len(patches), _depth(stored.shapes))


def _of_size(size: tuple[int, int] | None) -> ModelConfig | None:
    return next((config for config in _foreign().values() if (config.dim, config.num_layers) == size), None)


def _foreign() -> dict[str, ModelConfig]:
    # those with a stem are ours alone
    return {name: config for name, config in MODELS.items() if not config.stem}


def _depth(names: Mapping[str, Tensor]) -> int:
    return 1 + max(map(block_of, names), default=-1)


def _check_shapes(path: Path, expected: State, found: State) -> None:
    shapes = [{name: tuple(value.shape) for name, value in state.items()} for state in (expected, found)]
    names = sorted(shapes[0].keys() | shapes[1].keys())
    wrong = [name for name in names if shapes[0].get(name) != shapes[1].get(name)]
    if wrong:
        few = ", ".join(f"{n[:80]} (expected {shapes[0].get(n)}, found {shapes[1].get(n)})" for n in wrong[:4])
        raise ValueError(
            f"{path} does not fit its model in {len(wrong)} tensors: {few}; check --model or the file"
        )
