"""A running average of the weights, cut up over the ranks exactly as ZeRO-3 cuts the weights themselves."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from unity.train.zero import Flats


class Ema:
    """Float32 average of this rank's fragments.

    Early on it forgets faster, decay = min(decay, (1 + n) / (10 + n)) after n updates, or the random start would
    dominate short runs.
    """

    def __init__(self, masters: Flats, decay: float):
        if not 0 <= decay < 1:
            raise ValueError(f"ema is {decay}; give a share in [0, 1), such as 0.9999")
        self.masters, self.decay = masters, decay
        self.flats = [flat.clone() for flat in masters]
        self.updates = 0

    @torch.no_grad()
    def restart(self) -> None:
        """Begin again from the present weights."""
        for average, master in zip(self.flats, self.masters, strict=True):
            average.copy_(master)
        self.updates = 0

    @torch.no_grad()
    def update(self) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for average, master in zip(self.flats, self.masters, strict=True):
            average.lerp_(master, 1 - decay)

    @contextmanager
    def in_place_of_weights(self, refresh: Callable[[], None]) -> Iterator[None]:
        """Inside, the model computes with the average; `refresh` follows every exchange, on all ranks."""
        self._exchange()
        refresh()
        try:
            yield
        finally:
            self._exchange()
            refresh()

    @torch.no_grad()
    def _exchange(self) -> None:
        for average, master in zip(self.flats, self.masters, strict=True):
            kept = master.clone()
            master.copy_(average)
            average.copy_(kept)
