"""How much of a model's attention crosses between its streams (paper, figure A.1)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from unity.data.clips import Clip
from unity.evaluate.held_out import stream_errors
from unity.generate import Generator
from unity.model.dit import UnityDiT
from unity.model.sequence import Peers


class _Looking(Peers):
    """A sequence that is cut over one process, to whose `exchange` goes the attention between its streams."""

    def attend(
        self, q: Float[Tensor, "b m n k"], k: Float[Tensor, "b l n k"], v: Float[Tensor, "b l n k"]
    ) -> Float[Tensor, "b m n k"]:
        self.exchange(crossing(q, k))
        return Peers(rank=0, size=1, exchange=_as_it_is).attend(q, k, v)

    def gather(self, x: Float[Tensor, "g l d"]) -> Float[Tensor, "g l d"]:
        return x


def _as_it_is(x: Tensor) -> Tensor:
    return x


def crossing(q: Float[Tensor, "b m n k"], k: Float[Tensor, "b l n k"]) -> Float[Tensor, "2"]:
    """Share of the attention of rgb's queries that goes to aux, and of aux's to rgb: 0.5 where all keys are alike.

    Tokens lie as [rgb ‖ aux]; queries are of both streams.
    """
    logits = torch.einsum("bmnk,blnk->bnml", q.float(), k.float()) / q.shape[-1] ** 0.5
    weights = logits.softmax(-1).unflatten(-1, (2, -1)).sum(-1).unflatten(-2, (2, -1)).mean((0, 1, 3))
    return torch.stack((weights[0, 1], weights[1, 0]))


def attention_between(generator: Generator, modality: str, clips: Sequence[Clip]) -> dict[str, float]:
    """Mean over blocks, heads, clips and noise levels of the joint task: rgb→aux and aux→rgb."""
    model, found = generator.model, list[Tensor]()

    def note(shares: Tensor) -> Tensor:
        found.append(shares)
        return shares

    assert isinstance(model, UnityDiT)
    before, model.peers = model.peers, _Looking(rank=0, size=1, exchange=note)
    try:
        stream_errors(generator, "joint", modality, clips)
    finally:
        model.peers = before
    there, back = torch.stack(found).mean(0).tolist()
    return {"rgb→aux": there, "aux→rgb": back}
