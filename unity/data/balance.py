"""How often each modality is drawn for a clip, so that all are drawn alike although not every clip has each."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

Flags = Bool[np.ndarray, "clips modalities"]


def tables(
    possible: Mapping[str, Flags], names: Sequence[str]
) -> tuple[dict[str, Int[np.ndarray, " clips"]], Float[np.ndarray, "rows modalities"]]:
    """Per source and clip the row of the table of chances that is its own, and the table.

    Each source has an equal share of the samples; clips that have the same of the modalities `names` share a row.
    """
    rows_of, rows, weights = {}, [], []
    for source, flags in possible.items():
        distinct, inverse, counts = np.unique(flags, axis=0, return_inverse=True, return_counts=True)
        rows_of[source] = len(rows) + inverse.reshape(-1)
        rows.extend(distinct)
        weights.extend(counts / len(flags) / len(possible))
    table = balance(np.array(weights), np.array(rows))
    _tell_shares(np.array(weights) @ table, names)
    return rows_of, table


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


def _tell_shares(shares: Float[np.ndarray, " modalities"], names: Sequence[str]):
    if np.abs(shares * len(shares) - 1).max() > 0.01:
        said = ", ".join(f"{name} {share:.1%}" for name, share in zip(names, shares, strict=True))
        logging.getLogger(__name__).warning(
            "too few clips have some modality for a uniform draw; of the samples get %s", said
        )
