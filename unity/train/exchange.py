"""What the ranks' writers of a checkpoint tell each other: through the store by which the ranks met.

A collective would have to come in the same order as those of the steps, on every rank; these words need not.
"""

import threading
from contextlib import suppress
from dataclasses import dataclass

import torch.distributed as dist

# seconds between two looks into the store
_PERIOD = 0.05


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """Words of one save, by key."""

    store: dist.Store
    rank: int
    size: int
    # tells saves apart
    name: str
    # set when nobody is to be waited for any more
    over: threading.Event

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def tell(self, key: str, words: str = "") -> None:
        self.store.set(self._key(key), words)

    def fail(self, words: str) -> None:
        """Let everybody who waits for something know why it will not come, if there is still a way to."""
        with suppress(dist.DistError, RuntimeError):
            self.tell("fault", words)

    def hear(self, key: str) -> str:
        """What somebody tells, now or later. Raises ValueError with the reason if that will not be."""
        # the store answers one question at a time, so none may wait inside of it
        while not self.store.check([self._key(key)]):
            if self.store.check([self._key("fault")]):
                raise ValueError(self.store.get(self._key("fault")).decode())
            if self.over.wait(_PERIOD):
                raise ValueError("the run has ended before its checkpoint was whole")
        return self.store.get(self._key(key)).decode()

    def forget(self, *keys: str) -> None:
        for key in keys:
            self.store.delete_key(self._key(key))

    def _key(self, key: str) -> str:
        return f"save/{self.name}/{key}"
