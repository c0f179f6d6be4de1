"""The rows of a model's stacked parameters that belong to a modality: added for a new one, or trained alone."""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from unity.config import ModelConfig
from unity.modality.table import MODALITIES
from unity.model.names import is_part
from unity.model.reader import Reader
from unity.model.stored import Stored


def grown(stored: Stored, config: ModelConfig, modalities: int) -> Stored:
    """The weights of a model of `config` as those of one with more modalities, in the layout of this project.

    Each new modality starts as the one that it is like (`Modality.like`); what the others compute stays the same.
    """
    rows = list(MODALITIES.values())[config.num_modalities : modalities]
    sources = [list(MODALITIES).index(row.like) if row.like else 0 for row in rows]
    reader = Reader(stored, config)

    def more(name: str, value: Tensor) -> Tensor:
        if not is_part(name):
            return value
        count = config.num_modalities
        # a source may be new itself
        for source in sources:
            value = torch.cat((value[:count], value[source : source + 1], value[count:]))
            count += 1
        return value

    def read(names: Collection[str]) -> dict[str, Tensor]:
        return {name: more(name, value) for name, value in reader.each(names)}

    shapes = {name: more(name, value) for name, value in reader.hollow().items()}
    return Stored(path=stored.path, shapes=shapes, read=read)


def train_alone(model: nn.Module, modality: int) -> str:
    """Freeze all but one modality's rows, in place; returns a line about it. Parameters may be cut up by ZeRO-3.

    A stack is trained as a whole with the gradients of its other rows at zero, under which AdamW leaves them as
    they are, to the last bit, if it does not let them decay.
    """
    kept = trained = 0
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_part(name))
        shape = getattr(parameter, "ds_shape", parameter.shape)
        if not is_part(name):
            kept += torch.Size(shape).numel()
            continue
        parameter.register_hook(_of_row(modality))
        trained += torch.Size(shape[1:]).numel()
        kept += torch.Size(shape).numel() - torch.Size(shape[1:]).numel()
    return f"trained: {trained:,} parameters, those of {list(MODALITIES)[modality]} alone; frozen: {kept:,}"


def _of_row(row: int):
    def hook(gradient: Tensor) -> Tensor:
        masked = torch.zeros_like(gradient)
        masked[row] = gradient[row]
        return masked

    return hook
