"""Which clips and modalities a training step sees: a pure function of (seed, step).

Nothing is remembered between steps, so a run resumes by naming a step, with any number of workers and ranks.
"""

import functools
import logging
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from unity.config import StageConfig
from unity.data.clips import MODALITY_NAMES, SOURCES
from unity.randomness import Purpose, draw, uniform

# clips of this many shards are shuffled together, so that few shards are in use at a time
SHUFFLED_SHARDS = 16


class Row(NamedTuple):
    """One sample of a global batch; source and modality are ids, and clip its number in its source and bucket."""

    step: int
    slot: int
    source: int
    clip: int
    modality: int
    bucket: int = 0


class Plan:
    """The global batches of a stage.

    Every batch holds each of the stage's sources equally often, in an order of its own. Per source every clip
    is seen once per epoch. A sample's modality is drawn from `balance`'s table, so that over all samples the
    stage's modalities are uniform although not every clip has each of them.

    `shard_sizes` are the clips in each shard per source; `available` is bool [count, modalities] per source.
    Raises ValueError for a batch that cannot be balanced, a source or modality that is not there, or a clip
    that has none of the stage's modalities.
    """

    def __init__(
        self,
        stage: StageConfig,
        batch_size: int,
        seed: int,
        shard_sizes: Mapping[str, Sequence[int]],
        available: Mapping[str, Bool[np.ndarray, "count modalities"]],
    ):
        _check_sources(stage, batch_size, shard_sizes)
        self.stage, self.batch_size, self.seed = stage, batch_size, seed
        self._sizes = {source: tuple(shard_sizes[source]) for source in stage.sources}
        self._ids = np.array([MODALITY_NAMES.index(name) for name in stage.modalities])
        possible = {source: available[source][:, self._ids] for source in stage.sources}
        _check_modalities(stage, possible)
        self._pattern, self.table = _tables(possible)

    def batch(self, step: int) -> list[Row]:
        """The samples of the global batch of a step, in the order of their slots."""
        order = random_at(Purpose.ORDER, self.seed, step).permutation(self.batch_size)
        return [self._row(step, slot, int(item)) for slot, item in enumerate(order)]

    @property
    def share(self) -> int:
        """Samples of each source in a global batch."""
        return self.batch_size // len(self.stage.sources)

    def _row(self, step: int, slot: int, item: int) -> Row:
        source = self.stage.sources[item // self.share]
        sizes = self._sizes[source]
        epoch, place = divmod(step * self.share + item % self.share, sum(sizes))
        index = int(epoch_order(self.seed, (SOURCES.index(source), epoch), sizes)[place])
        return Row(step, slot, SOURCES.index(source), index, self.modality(step, slot, source, index))

    def modality(self, step: int, slot: int, source: str, index: int) -> int:
        """The modality, by its id, that a source's clip of this number shows there."""
        chances = np.cumsum(self.table[self._pattern[source][index]])
        drawn = np.searchsorted(chances / chances[-1], uniform(Purpose.MODALITY, self.seed, step, slot), "right")
        return int(self._ids[drawn])


def balance(
    weights: Float[np.ndarray, " r"], possible: Bool[np.ndarray, "r m"], rounds: int = 1000
) -> Float[np.ndarray, "r m"]:
    """Chances of each modality per row, such that overall every modality is as likely as the others.

    Row r holds `weights[r]` of the samples (they sum to 1) and allows the modalities `possible[r]`. Iterative
    proportional fitting (Deming & Stephan, 1940): scale columns to 1/m, rows to their weight, and again. Where
    no table is uniform (a modality rarer than 1/m) rows still sum to 1, and columns come as near as they can.
    """
    joint = weights[:, None] * possible / possible.sum(1, keepdims=True)
    for _ in range(rounds):
        joint = joint / (joint.sum(0) * possible.shape[1])
        joint = joint * (weights / joint.sum(1))[:, None]
    return joint / weights[:, None]


def window_start(seed: int, step: int, slot: int, choices: int) -> int:
    """Where in its stored clip a sample's frames begin: one of `choices` places."""
    return draw(Purpose.WINDOW, seed, step, slot) % choices


@functools.lru_cache(maxsize=64)
def epoch_order(seed: int, position: tuple[int, ...], sizes: tuple[int, ...]) -> np.ndarray:
    """A permutation of clips: shards of these sizes in random order, clips shuffled within groups of shards.

    `position` is the source and the epoch.
    """
    random, starts = random_at(Purpose.EPOCH, seed, *position), np.cumsum((0, *sizes))
    shards = random.permutation(len(sizes))
    groups = [shards[i : i + SHUFFLED_SHARDS] for i in range(0, len(shards), SHUFFLED_SHARDS)]
    clips = [np.concatenate([np.arange(starts[s], starts[s + 1]) for s in group]) for group in groups]
    return np.concatenate([random.permutation(group) for group in clips])


def random_at(purpose: Purpose, seed: int, *position: int) -> np.random.Generator:
    """A generator of its own for a position."""
    return np.random.Generator(np.random.Philox(draw(purpose, seed, *position)))


def _tables(possible: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Per source and clip a row of the table of chances; clips with the same modalities share a row."""
    pattern, rows, weights = {}, [], []
    for source, flags in possible.items():
        distinct, inverse, counts = np.unique(flags, axis=0, return_inverse=True, return_counts=True)
        pattern[source] = len(rows) + inverse.reshape(-1)
        rows.extend(distinct)
        weights.extend(counts / len(flags) / len(possible))
    table = balance(np.array(weights), np.array(rows))
    _tell_shares(np.array(weights) @ table)
    return pattern, table


def _tell_shares(shares: np.ndarray):
    if np.abs(shares * len(shares) - 1).max() > 0.01:
        said = ", ".join(f"{share:.1%}" for share in shares)
        logging.getLogger(__name__).warning(
            "too few clips have some modality for a uniform draw; the stage's modalities get %s", said
        )


def _check_sources(stage: StageConfig, batch_size: int, shard_sizes: Mapping[str, Sequence[int]]):
    if batch_size < 1 or batch_size % len(stage.sources):
        nearest = max(1, math.ceil(batch_size / len(stage.sources))) * len(stage.sources)
        raise ValueError(
            f"a global batch of {batch_size} cannot hold the {len(stage.sources)} sources "
            f"{stage.sources} equally; use a multiple of {len(stage.sources)}, such as {nearest}"
        )
    for source in stage.sources:
        if not sum(shard_sizes.get(source, ())):
            raise ValueError(
                f"the dataset has no clips of source {source!r}, only of {sorted(shard_sizes)}; "
                f"add some (python -m unity.data.simulate --sources {source}) or train another stage"
            )


def _check_modalities(stage: StageConfig, possible: dict[str, np.ndarray]):
    for column, name in enumerate(stage.modalities):
        if not any(flags[:, column].any() for flags in possible.values()):
            raise ValueError(
                f"no clip of {stage.sources} has modality {name!r}; annotate some, or leave it out of the stage"
            )
    for source, flags in possible.items():
        if not (usable := flags.any(1)).all():
            raise ValueError(
                f"{(~usable).sum()} clips of {source!r} (the first is clip {int(np.argmin(usable))}) have none "
                f"of the modalities {stage.modalities}; leave them out when the dataset is written"
            )
