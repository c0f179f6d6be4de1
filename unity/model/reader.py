"""Tensors of a UnityDiT by name, out of weights in any layout, a block at a time."""

import re
from collections.abc import Callable, Collection, Iterator

from torch import Tensor

from unity.config import ModelConfig
from unity.model.layouts import State, to_unity
from unity.model.stored import Stored


def block_of(name: str) -> int:
    """The number of the block that a tensor belongs to, in any layout; -1 for what is in none."""
    found = re.search(r"(?:^|\.)blocks\.(\d{1,4})\.", name)
    return int(found[1]) if found else -1


class Reader:
    """reader(name) is one tensor of a UnityDiT of `config`; only one block of the model is in memory.

    `convert` maps from the names that are stored; another than the default gives tensors of another layout. It is
    quick where names come block by block. Raises ValueError where a file is not as its header says, and for
    values that are no numbers.
    """

    def __init__(
        self,
        stored: Stored,
        config: ModelConfig,
        convert: Callable[[State, ModelConfig], dict[str, Tensor]] = to_unity,
    ):
        self.stored, self.config, self.convert = stored, config, convert
        self._block: int | None = None
        self._state: dict[str, Tensor] = {}

    def __call__(self, name: str) -> Tensor:
        block = block_of(name)
        if block != self._block:
            # the old one goes before the new one comes
            self._state.clear()
            self._state, self._block = self._read(block), block
        return _finite(self.stored, name, self._state[name])

    def each(self, names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
        """These tensors with their names, block by block, which is quick."""
        for name in sorted(names, key=block_of):
            yield name, self(name)

    def hollow(self) -> dict[str, Tensor]:
        """All of them, without their values."""
        return self.convert(self.stored.shapes, self.config)

    def _read(self, block: int) -> dict[str, Tensor]:
        wanted = {name for name in self.stored.shapes if block_of(name) == block}
        # a layout maps block by block: all other tensors can stay hollow
        state = self.convert(self.stored.shapes | self.stored.read(wanted), self.config)
        return {name: value for name, value in state.items() if block_of(name) == block}


def _finite(stored: Stored, name: str, value: Tensor) -> Tensor:
    # the sum is one pass without memory of its own; it alone may overflow
    if not value.sum().isfinite() and not value.isfinite().all():
        raise ValueError(
            f"{stored.path} holds values that are no numbers (in {name}): its training had failed, take another"
        )
    return value
